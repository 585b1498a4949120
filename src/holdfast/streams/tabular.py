"""A user's own tables: CSV, JSONL and Parquet files, and saved `datasets`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.streams.images import stack
from holdfast.streams.labels import Labels, Part, assemble, inputs
from holdfast.streams.source import Source

KINDS = {".csv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""File ending to the reader in `datasets`."""
LABELS = ("label", "labels", "y")
SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder written by `save_to_disk` is known."""


def pair_in(folder: Path) -> tuple[Path, Path] | None:
    """`train.csv` and `test.csv` in a folder, or the same with another ending; None if not there.

    Raises:
        DataError: If there is only one of the two.
    """
    for ending in KINDS:
        train, test = folder / f"train{ending}", folder / f"test{ending}"
        if train.is_file() and test.is_file():
            return train, test
        if train.is_file() or test.is_file():
            there, missing = (train, test) if train.is_file() else (test, train)
            raise DataError(f"{folder} has {there.name} but no {missing.name}; both are needed.")
    return None


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in SAVED)


def read_files(train: Path, test: Path | None, name: str, seed: int) -> Source:
    """CSV, JSONL or Parquet files with one example a row.

    The column `label`, `labels` or `y` is the label. The input is the one column of fixed-length
    lists or of images if there is one, and all numeric columns in their order if not; other
    columns are passed over.

    Args:
        train: The training examples.
        test: The test examples; None: a fifth of each class of `train`, drawn by seed.
        name: Of the source.
        seed: Draws that fifth.

    Raises:
        DataError: If a file cannot be read or learned from.
    """
    for path in (train, test):
        if path is not None and not path.stat().st_size:
            raise DataError(f"{path} is empty.")
    with _quietly() as (datasets, cache):
        parts = {
            path: _reading(
                str(path),
                lambda path=path: datasets.load_dataset(
                    KINDS[path.suffix.lower()],
                    data_files=str(path),
                    split="train",
                    cache_dir=cache,
                    keep_in_memory=True,
                ),
            )
            for path in (train, test)
            if path is not None
        }
        return _assemble(name, [(str(path), part) for path, part in parts.items()], seed)


def read_dataset(folder: Path, seed: int) -> Source:
    """A folder written by `save_to_disk`, or one that `datasets.load_dataset` can read.

    Its splits `train` and `test` are used; a single split is divided by seed. Columns are taken
    as in `read_files`.

    Raises:
        DataError: If it cannot be read or learned from.
    """
    with _quietly() as (datasets, cache):
        where = str(folder)
        if is_saved(folder):
            found = _reading(where, lambda: datasets.load_from_disk(where))
        else:
            found = _reading(
                where, lambda: datasets.load_dataset(where, cache_dir=cache, keep_in_memory=True)
            )
        if isinstance(found, datasets.Dataset):
            return _assemble(folder.name, [(where, found)], seed)
        if len(found) == 1:
            return _assemble(folder.name, [(where, next(iter(found.values())))], seed)
        if not {"train", "test"} <= set(found):
            raise DataError(
                f"{folder} has the splits {', '.join(found)}; accepted: train and test, or one."
            )
        splits = [(f"{where} ({part})", found[part]) for part in ("train", "test")]
        return _assemble(folder.name, splits, seed)


@contextmanager
def _quietly() -> Iterator[tuple[Any, str]]:
    """`datasets` without bars and logs, and a folder for its files that is gone afterwards."""
    import datasets

    silent, verbosity = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    # It logs every error that it raises; ours are said once.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL + 1)
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as cache:
            yield datasets, cache
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not silent:
            datasets.enable_progress_bars()


def _reading(where: str, read: Any) -> Any:
    """What `read` returns; whatever stops it is said in one sentence."""
    try:
        return read()
    except Exception as error:  # the readers beneath raise errors of many libraries
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        if "corresponds to no data" in reason:  # how `datasets` speaks of a file without rows
            raise DataError(f"{where} is empty.") from error
        raise DataError(f"{where} cannot be read: {reason.rstrip('.!')}.") from error


def _assemble(name: str, found: list[tuple[str, Any]], seed: int) -> Source:
    parts, single = [], True
    columns: list[str] | None = None
    class_names = None
    for where, dataset in found:
        if not len(dataset):
            raise DataError(f"{where} is empty.")
        label = _label_column(where, dataset)
        if columns is None:
            columns, single = _input_columns(where, dataset, label)
        missing = [column for column in columns if column not in dataset.column_names]
        if missing:
            raise DataError(
                f"{where} lacks the column {missing[0]!r} of {found[0][0]}; it has: "
                f"{', '.join(dataset.column_names)}."
            )
        class_names = class_names or getattr(dataset.features[label], "names", None)
        x = _inputs(where, dataset, columns, single)
        parts.append(Part(where, Table({"x": x}), _labels(where, dataset, label)))
    test = parts[1] if len(parts) > 1 else None
    return assemble(name, parts[0], test, seed, class_names, by_feature=not single)


def _label_column(where: str, dataset: Any) -> str:
    there = [name for name in LABELS if name in dataset.column_names]
    if len(there) != 1:
        raise DataError(
            f"{where} has {' and '.join(there) or 'no label column'}; accepted: one column named "
            f"{', '.join(LABELS[:-1])} or {LABELS[-1]}. Its columns: "
            f"{', '.join(dataset.column_names)}."
        )
    return there[0]


def _input_columns(where: str, dataset: Any, label: str) -> tuple[list[str], bool]:
    """The columns that make the input, and whether it is one column of lists or images."""
    others = {name: kind for name, kind in dataset.features.items() if name != label}
    whole = [name for name, kind in others.items() if not _is_scalar(kind)]
    if len(whole) > 1:
        raise DataError(
            f"{where} has {len(whole)} columns of lists or images ({', '.join(whole)}); accepted: "
            "one, or numeric columns."
        )
    if whole:
        return whole, True
    numeric = [name for name, kind in others.items() if _is_number(kind)]
    if not numeric:
        kinds = ", ".join(f"{n} ({getattr(k, 'dtype', k)})" for n, k in others.items())
        raise DataError(
            f"{where} has no numeric columns and no column of lists or images to learn from; "
            f"beside the label it has: {kinds or 'nothing'}."
        )
    return numeric, False


def _is_scalar(kind: Any) -> bool:
    return type(kind).__name__ in ("Value", "ClassLabel")


def _is_number(kind: Any) -> bool:
    return str(kind.dtype).startswith(("int", "uint", "float", "bool"))


def _inputs(where: str, dataset: Any, columns: list[str], single: bool) -> Any:
    if not single:
        table = dataset.with_format("arrow")[:]
        # A missing value arrives as NaN, which is then refused with its row.
        features = [np.asarray(table.column(name).to_numpy(), dtype=np.float32) for name in columns]
        return inputs(np.stack(features, 1), where)
    (column,) = columns
    if type(dataset.features[column]).__name__ == "Image":
        names = [f"image {row} of {where}" for row in range(len(dataset))]
        return stack(_reading(where, lambda: list(dataset.with_format(None)[column])), names)
    rows = dataset.with_format("arrow")[:].column(column).to_pylist()
    lengths = np.array([-1 if row is None else len(row) for row in rows])
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd) or lengths[0] < 0:
        row = int(odd[0]) if len(odd) else 0
        raise DataError(
            f"The list in row {row} of column {column!r} of {where} has "
            f"{max(0, int(lengths[row]))} entries, that in row 0 {max(0, int(lengths[0]))}; "
            "accepted: lists of one length."
        )
    try:
        array = np.array(rows, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"Column {column!r} of {where} does not hold lists of numbers of one length ({error})."
        ) from error
    kind = str(dataset.features[column])
    return inputs(array.astype(np.uint8) if "uint8" in kind else array, where)


def _labels(where: str, dataset: Any, label: str) -> Labels:
    column = dataset.with_format("arrow")[:].column(label)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"The label in row {row} of {where} is missing.")
    return np.asarray(column.to_numpy())
