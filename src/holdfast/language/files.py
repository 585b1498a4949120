"""Files of text: from a path to records, one after another."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from holdfast.errors import DataError

TEXTS = (".txt", ".md", ".py")
UNREAD = ("readme", "license")
"""Files of a folder that speak of the data and are none."""
ACCEPTED = (
    ".jsonl, .json, .csv, .txt, .md and .py (also with .gz), .parquet, a folder of these, or a "
    "folder saved by datasets"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A record and its place, or what is wrong with it."""

    record: Any
    where: str
    fault: str | None = None


def listed(path: Path) -> list[Path]:
    """The files at `path`: itself, or what a folder holds, by name.

    Raises:
        DataError: If there is nothing at `path`, or nothing that can be read.
    """
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    if not path.is_dir() or _is_saved(path):
        return [path]
    found = sorted(
        file
        for file in path.iterdir()
        if file.is_file() and not file.name.lower().startswith((".", *UNREAD))
    )
    readable = [file for file in found if _ending(file) in _READERS]
    if not readable:
        raise DataError(f"The folder {path} has no file that can be read; accepted: {ACCEPTED}.")
    return readable


def rows(path: Path) -> Iterator[Row]:
    """The records of one file, or of one folder saved by `datasets`.

    A line that cannot be read is a row with a fault; a file that cannot be read is an error.

    Raises:
        DataError: If the file is empty, of an unknown kind, or cannot be read.
    """
    if path.is_dir():
        yield from _saved(path)
        return
    reader = _READERS.get(_ending(path))
    if reader is None:
        raise DataError(
            f"{path} ends in {''.join(path.suffixes[-2:]) or 'nothing known'!r}; accepted: "
            f"{ACCEPTED}."
        )
    if not path.stat().st_size:
        raise DataError(f"{path} is empty.")
    try:
        yield from reader(path)
    except (OSError, EOFError) as error:  # EOFError: a .gz cut short
        raise DataError(f"{path} cannot be read: {error}.") from error


def _ending(path: Path) -> str:
    """The ending without `.gz`; that of a compressed Parquet file is unknown."""
    if path.suffix.lower() == ".gz":
        inner = Path(path.stem).suffix.lower()
        return inner if inner != ".parquet" else ".parquet.gz"
    return path.suffix.lower()


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def _lines(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield Row(json.loads(text), where)
            except UnicodeDecodeError as error:
                yield Row(None, where, _undecodable(where, error))
            except ValueError as error:
                yield Row(None, where, f"{where} is not JSON: {error}.")
            except RecursionError:
                yield Row(None, where, f"{where} is not read: it is nested too deeply.")


def _list(path: Path) -> Iterator[Row]:
    try:
        found = json.loads(_whole(path))
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON: {error}. (One record a line is the ending .jsonl.)"
        ) from error
    if not isinstance(found, list):
        raise DataError(f"{path} holds {type(found).__name__}; accepted: a list of records.")
    for number, record in enumerate(found, 1):
        yield Row(record, f"{path}:{number}")


def _text(path: Path) -> Iterator[Row]:
    where = f"{path}:1"
    try:
        yield Row({"text": _whole(path)}, where)
    except DataError as error:
        yield Row(None, where, str(error))


def _table(path: Path) -> Iterator[Row]:
    # Texts are longer than what a field may be at first.
    csv.field_size_limit(sys.maxsize)
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(
            path, "rt", encoding="utf-8-sig", newline=""
        ) as file:
            reader = csv.DictReader(file, strict=True)
            for record in reader:
                where = f"{path}:{reader.line_num}"
                if None in record or None in record.values():
                    fields = len(reader.fieldnames or ())
                    yield Row(None, where, f"{where} does not have {fields} fields, as line 1 has.")
                else:
                    yield Row(record, where)
    except UnicodeDecodeError as error:
        raise DataError(_undecodable(str(path), error)) from error
    except csv.Error as error:
        raise DataError(f"{path} is not CSV: {error}.") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield Row(record, f"{path}:{number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}.") from error


def _saved(path: Path) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be loaded by datasets: {error}.") from error
    if isinstance(found, datasets.DatasetDict):
        splits = list(found)
        if "train" not in found and len(splits) > 1:
            raise DataError(f"{path} has the splits {', '.join(splits)}; accepted: train, or one.")
        found = found["train" if "train" in found else splits[0]]
    if not len(found):
        raise DataError(f"{path} is empty.")
    for number, record in enumerate(found, 1):
        yield Row(record, f"{path}:{number}")


def _is_saved(path: Path) -> bool:
    from holdfast.streams.tabular import is_saved

    return is_saved(path)


def _whole(path: Path) -> str:
    with _open(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(_undecodable(str(path), error)) from error


def _undecodable(where: str, error: UnicodeDecodeError) -> str:
    return (
        f"{where} is not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start} "
        "cannot be decoded."
    )


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _lines,
    ".json": _list,
    ".csv": _table,
    ".parquet": _parquet,
    **dict.fromkeys(TEXTS, _text),
}
