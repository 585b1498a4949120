"""CIFAR-10 from JPEG files packed end to end, decoded once and kept."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from holdfast import cache
from holdfast.checkpoint import write_atomically
from holdfast.errors import CheckpointError, DataError
from holdfast.streams.arrays import COLUMNS, Arrays, load_arrays


def decoded(packed: Path) -> Arrays:
    """`x_train`, `y_train`, `x_test` and `y_test` from the pictures in `packed`.

    They are decoded on first use and kept in the folder that HOLDFAST_CACHE names
    (`~/.cache/holdfast` if that is not set), until the size or the time of `packed` changes.

    Args:
        packed: `jpeg_train` (bytes end to end), `offset_train` (picture i is bytes
            `offset[i]:offset[i + 1]`) and `y_train`, and the same for test.

    Raises:
        DataError: If a picture cannot be decoded, or the result cannot be written.
    """
    state = packed.stat()
    path = cache.root() / f"cifar10-{state.st_size}-{state.st_mtime_ns}.npz"
    if path.is_file():
        # What has been damaged since it was written is made again.
        with suppress(DataError):
            return load_arrays(path, COLUMNS)
    names = [f"{kind}_{part}" for part in ("train", "test") for kind in ("jpeg", "offset", "y")]
    raw = load_arrays(packed, names)
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = _decode(raw[f"jpeg_{part}"], raw[f"offset_{part}"], packed)
        arrays[f"y_{part}"] = raw[f"y_{part}"]
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        write_atomically(path, content.getvalue())
    except CheckpointError as error:
        raise DataError(
            f"{error} It holds decoded pictures: set {cache.VARIABLE} to a folder with room for "
            f"{content.tell() >> 20} MiB."
        ) from error
    return arrays


def _decode(
    jpeg: np.ndarray[Any, np.dtype[Any]], offset: np.ndarray[Any, np.dtype[Any]], packed: Path
) -> np.ndarray[Any, np.dtype[Any]]:
    from PIL import Image

    content = jpeg.tobytes()
    pictures = np.empty((len(offset) - 1, 32, 32, 3), np.uint8)
    for index in range(len(pictures)):
        try:
            with Image.open(io.BytesIO(content[offset[index] : offset[index + 1]])) as image:
                pictures[index] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise DataError(f"Picture {index} of {packed} cannot be decoded ({error}).") from error
    return pictures
