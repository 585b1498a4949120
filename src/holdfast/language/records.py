"""Records: a user's text files as samples, read one at a time.

A sample is one of three kinds: a *text*, of which everything is to be predicted; a *prompt* with
the answer to it; or a *chat* of messages by turns. Which one a file holds is read off the names of
its fields.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from holdfast.errors import DataError
from holdfast.language.fields import Fields, Sample, detect, parse_fields
from holdfast.language.files import listed, rows

__all__ = ["Bad", "Sample", "Samples", "overlap", "read", "stream"]


@dataclass(frozen=True)
class Bad:
    """A record that was passed over.

    Attributes:
        where: File and line.
        why: What is wrong with it, as the error would have said.
    """

    where: str
    why: str


@dataclass(frozen=True)
class Samples(Sequence[Sample]):
    """Samples of one kind, in the order of their files.

    Attributes:
        items: The samples.
        bad: The records passed over with `skip_bad`.
    """

    items: tuple[Sample, ...]
    bad: tuple[Bad, ...] = field(default=())

    @property
    def kind(self) -> str:
        """`"text"`, `"prompt"` or `"chat"`."""
        return self.items[0].kind

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, key: int) -> Sample: ...
    @overload
    def __getitem__(self, key: slice) -> Samples: ...
    def __getitem__(self, key: int | slice) -> Sample | Samples:
        return Samples(self.items[key], self.bad) if isinstance(key, slice) else self.items[key]


def read(
    paths: str | Path | Iterable[str | Path],
    *,
    fields: str | Mapping[str, str] | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
) -> Samples:
    """The samples of one or several files or folders.

    Args:
        paths: `.jsonl`, `.json` (a list), `.csv` and `.parquet` files with one record an entry;
            `.txt`, `.md` and `.py` files, each one text; any of these compressed as `.gz` but
            Parquet; folders saved by `datasets`; or folders of such files, taken in the order of
            their names without README and LICENSE.
        fields: Which field is which, as `"prompt=question,answer=reply"` or a mapping. Keys:
            text, prompt, input, answer, messages, choices. None: by the usual names.
        skip_bad: Whether records that cannot be used are listed in `bad`, not raised.
        limit: At most so many samples are read; None for all.

    Raises:
        DataError: If a path does not exist or cannot be read, if a record cannot be used (its file
            and line are named), if no sample is found, or if files hold samples of several kinds.

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "new.jsonl"
        >>> _ = file.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}))
        >>> read(file)[0].answer
        '4'
    """
    bad: list[Bad] | None = [] if skip_bad else None
    found: list[Sample] = []
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise DataError("No file was given to read samples from.")
    for path in given:
        for sample in stream(path, fields=fields, bad=bad):
            if found and sample.kind != found[0].kind:
                raise DataError(
                    f"{sample.where} is a {sample.kind}, but {found[0].where} is a "
                    f"{found[0].kind}; samples that are read together must be of one kind."
                )
            found.append(sample)
            if limit is not None and len(found) >= limit:
                return Samples(tuple(found), tuple(bad or ()))
    if not found:
        reason = f"; the first of {len(bad)} bad records: {bad[0].why}" if bad else ""
        raise DataError(f"There is no sample in {', '.join(map(str, given))}{reason}.")
    return Samples(tuple(found), tuple(bad or ()))


def stream(
    path: str | Path,
    *,
    fields: str | Mapping[str, str] | None = None,
    bad: list[Bad] | None = None,
) -> Iterator[Sample]:
    """The samples of a file or folder, one after another, without holding them all.

    Args:
        path: As in `read`.
        fields: As in `read`.
        bad: Where records that cannot be used are listed; None: they are raised.

    Raises:
        DataError: As in `read`.
    """
    given = parse_fields(fields) if fields is not None else None
    for file in listed(Path(path)):
        known: Fields | None = None
        for row in rows(file):
            try:
                if row.fault is not None:
                    raise DataError(row.fault)
                if known is None:
                    known = detect(row.record, given, row.where)
                yield known.sample(row.record, row.where)
            except DataError as error:
                if bad is None:
                    raise
                bad.append(Bad(row.where, str(error)))


def overlap(a: Iterable[Sample], b: Iterable[Sample]) -> int:
    """The number of samples of `a` that occur in `b` too, whatever their case and white space.

    Example:
        >>> overlap([Sample(text="Once  upon"), Sample(text="a time")], [Sample(text="once upon")])
        1
    """
    known = {_digest(sample) for sample in b}
    return sum(_digest(sample) in known for sample in a)


def _digest(sample: Sample) -> bytes:
    text = unicodedata.normalize("NFKC", sample.joined()).casefold()
    return hashlib.blake2b(re.sub(r"\s+", " ", text).strip().encode(), digest_size=16).digest()
