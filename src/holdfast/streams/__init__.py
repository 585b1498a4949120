"""Streams by name, from a user's own files, and from data at hand in Python."""

from holdfast.streams.catalogue import Entry, build, entries, entry, is_encoded, is_language
from holdfast.streams.given import made, occurring, permuted, rotated, split
from holdfast.streams.texts import split_texts as texts

__all__ = [
    "Entry",
    "build",
    "entries",
    "entry",
    "is_encoded",
    "is_language",
    "made",
    "occurring",
    "permuted",
    "rotated",
    "split",
    "texts",
]
