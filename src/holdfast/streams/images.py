"""A user's own images: folders of files, one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.streams.labels import Part, assemble
from holdfast.streams.source import Source

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
"""Modes that can be read, and what each becomes: bytes in 1, 3 or 4 channels."""


def holds_images(folder: Path) -> bool:
    """Whether the folder has folders with images in them, at most two levels down."""
    return any(
        path.suffix.lower() in ENDINGS
        for pattern in ("*/*", "*/*/*")
        for path in folder.glob(pattern)
    )


def read_folder(folder: Path, seed: int) -> Source:
    """Images from `train/CLASS/` and `test/CLASS/`, or from `CLASS/` alone.

    Without `train` and `test`, a fifth of each class is held out to test on. Files that are not
    named as images are passed over.

    Args:
        folder: Where to read; the class folders' names are the labels.
        seed: Draws what is held out.

    Raises:
        DataError: If a file is not an image, or differs in size or mode from the first; if a class
            folder is empty.
    """
    parts = [part for part in ("train", "test") if (folder / part).is_dir()]
    if len(parts) == 1:
        other = "test" if parts == ["train"] else "train"
        raise DataError(
            f"{folder} has a folder {parts[0]!r} but none called {other!r}; accepted: both, or "
            "one folder a class."
        )
    if not parts:
        return assemble(folder.name, _part(folder), None, seed)
    return assemble(folder.name, _part(folder / "train"), _part(folder / "test"))


def stack(images: Sequence[Any], names: Sequence[str]) -> Tensor:
    """Pillow images as one tensor of bytes (examples, channels, height, width).

    Args:
        images: At least one, all of one size and mode.
        names: What a message calls each.

    Raises:
        DataError: Naming the first image that differs from the first or cannot be decoded.
    """
    first = images[0]
    if first.mode not in MODES:
        raise DataError(
            f"{names[0]} is an image of mode {first.mode}; accepted: {', '.join(MODES)}."
        )
    channels = len(MODES[first.mode])
    if MODES[first.mode] == "L":
        channels = 1
    pixels = np.empty((len(images), first.height, first.width, channels), np.uint8)
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        if (image.size, image.mode) != (first.size, first.mode):
            raise DataError(
                f"{name} is {image.width}x{image.height} ({image.mode}), but {names[0]} is "
                f"{first.width}x{first.height} ({first.mode}); all images must be alike."
            )
        try:
            converted = (
                image if image.mode == MODES[image.mode] else image.convert(MODES[image.mode])
            )
            pixels[row] = np.asarray(converted).reshape(pixels.shape[1:])
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{name} cannot be decoded as an image ({error}).") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _part(folder: Path) -> Part:
    from PIL import Image

    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    files: list[Path] = []
    labels: list[str] = []
    for path in classes:
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        if not inside:
            raise DataError(
                f"The class folder {path} has no images; accepted: files ending in "
                f"{', '.join(sorted(ENDINGS))}."
            )
        files += inside
        labels += [path.name] * len(inside)
    if not files:
        raise DataError(f"{folder} has no class folders with images in them.")
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
                images.append(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} cannot be read as an image ({error}).") from error
    x = stack(images, [str(file) for file in files])
    return Part(str(folder), Table({"x": x}), np.array(labels))
