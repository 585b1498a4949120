"""A user's own data, whatever their kind: from a path to a source."""

from __future__ import annotations

from pathlib import Path

from holdfast.errors import DataError
from holdfast.streams.arrays import read_arrays
from holdfast.streams.images import holds_images, read_folder
from holdfast.streams.source import Source
from holdfast.streams.tabular import KINDS, is_saved, pair_in, read_dataset, read_files

ACCEPTED = (
    "an .npz file, a .csv, .jsonl, .json or .parquet file, a folder with train and test files of "
    "these, a folder of images, or a folder that datasets can load"
)


def read(path: Path, seed: int) -> Source:
    """Read what is at `path`.

    Args:
        path: An `.npz` file with `x_train`, `y_train`, `x_test` and `y_test`; a CSV, JSONL or
            Parquet file, or a folder with `train` and `test` files; a folder of images; a folder
            of the `datasets` library.
        seed: Draws the fifth held out to test on, where the data come undivided.

    Raises:
        DataError: If there is nothing at `path`, or nothing that can be learned from.
    """
    if path.is_dir():
        if is_saved(path):
            return read_dataset(path, seed)
        pair = pair_in(path)
        if pair:
            return read_files(*pair, name=path.name, seed=seed)
        if holds_images(path):
            return read_folder(path, seed)
        if not any(path.iterdir()):
            raise DataError(f"The folder {path} is empty; accepted: {ACCEPTED}.")
        try:
            return read_dataset(path, seed)
        except DataError as error:
            raise DataError(f"{error} Accepted: {ACCEPTED}.") from error
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    if path.suffix.lower() == ".npz":
        return read_arrays(path)
    if path.suffix.lower() in KINDS:
        return read_files(path, None, path.stem, seed)
    raise DataError(f"{path} ends in {path.suffix or 'nothing known'!r}; accepted: {ACCEPTED}.")
