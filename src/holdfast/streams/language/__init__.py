"""Streams of language: corpora after one another, and tasks of prompts and answers."""
