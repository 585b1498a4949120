"""A user's own arrays: `.npz` files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.streams.labels import Part, assemble, inputs
from holdfast.streams.source import Source

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]
COLUMNS = ("x_train", "y_train", "x_test", "y_test")


def read_arrays(
    path: Path, name: str | None = None, class_names: Sequence[str] | None = None
) -> Source:
    """The arrays `x_train`, `y_train`, `x_test` and `y_test` of an `.npz` file.

    Args:
        path: The file; nothing in it is unpickled.
        name: Of the source; None: the file's.
        class_names: What label 0, 1, ... is called; None: labels are their own names.

    Raises:
        DataError: If the file cannot be read, lacks an array, or cannot be learned from.
    """
    return from_arrays(load_arrays(path, COLUMNS), str(path), name or path.stem, class_names)


def from_arrays(
    arrays: Arrays, where: str, name: str, class_names: Sequence[str] | None = None
) -> Source:
    """A source from `x_train`, `y_train`, `x_test` and `y_test`; `where` is for messages."""
    train, test = (
        Part(
            f"{where} ({part})",
            Table({"x": inputs(arrays[f"x_{part}"], f"{where} (x_{part})")}),
            arrays[f"y_{part}"],
        )
        for part in ("train", "test")
    )
    return assemble(name, train, test, class_names=class_names)


def load_arrays(path: Path, names: Sequence[str]) -> Arrays:
    """The named arrays of an `.npz` file, without unpickling anything.

    Raises:
        DataError: If the file cannot be read or lacks one of them.
    """
    damaged = f"{path} is not a readable .npz file (damaged, cut short, or another kind of file)."
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(damaged) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds a single array; accepted: an .npz with {', '.join(names)}.")
    with file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise DataError(
                f"{path} has no {', '.join(missing)}; accepted: an .npz with {', '.join(names)}; "
                f"it has: {', '.join(file.files) or 'nothing'}."
            )
        arrays = {}
        for name in names:
            try:
                arrays[name] = file[name]
            except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(damaged) from error
            except ValueError as error:
                raise DataError(
                    f"{name} of {path} cannot be read as plain numbers or strings ({error})."
                ) from error
        return arrays
