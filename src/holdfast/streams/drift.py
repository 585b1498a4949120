"""Drift: domains of images that arrive one after another, with labels or without.

Labels are for scoring alone. A stream's test images are what arrives, its first experience being
the source's condition; or what arrives lies in a user's own files.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.stream import Stream, white_in
from holdfast.streams import catalogue
from holdfast.streams.arrays import load_arrays
from holdfast.streams.images import ENDINGS, stack
from holdfast.streams.labels import inputs


@dataclass(frozen=True)
class Domain:
    """Images that arrive under one condition.

    Attributes:
        name: Of the condition.
        round: How often it has come, from 1.
        x: The images.
        y: Their labels, for scoring; None where they are not known.
    """

    name: str
    round: int
    x: Tensor
    y: Tensor | None


@dataclass(frozen=True)
class Drift:
    """What arrives at test time.

    Attributes:
        name: How it was asked for.
        domains: In order of arrival.
        class_names: By label; empty where labels are the model's own numbers.
        white: The value of white in the images.
        clean: Labelled test images under the source's condition, where there are any.
        past: Images like those that a source was trained on, where there are any.
    """

    name: str
    domains: tuple[Domain, ...]
    class_names: tuple[str, ...]
    white: float
    clean: Table | None = None
    past: Table | None = None

    @property
    def labelled(self) -> bool:
        return all(domain.y is not None for domain in self.domains)

    @property
    def rounds(self) -> int:
        return max(domain.round for domain in self.domains)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.domains[0].x.shape[1:])


def drift(text: str, known: Sequence[str] = (), seed: int = 0) -> Drift:
    """Drift from a stream's spec, or from a path.

    Args:
        text: A domain-incremental stream such as `corrupted-digits(severity=5, rounds=3)`; or the
            path of an `.npz` file with `x` (and `y`, and `domain` by row), of a folder of such
            files, one a domain, or of a folder of images: `DOMAIN/CLASS/*`, `CLASS/*`, `DOMAIN/*`
            or `*`, the last two without labels.
        known: Names of the model's classes, which tell folders of classes from those of domains.
        seed: Draws what the stream draws.

    Raises:
        UsageError: If there is no such stream, or its domains are not of one set of classes.
        DataError: If the data cannot be read.
    """
    path = Path(text).expanduser()
    if path.exists():
        return own(path, known)
    if catalogue.is_language(text):
        raise UsageError(f"{text} is language; adapt takes streams of images.")
    return of_stream(catalogue.build(text, seed=seed))


def of_stream(stream: Stream) -> Drift:
    """The test images of a domain-incremental stream, after its first experience.

    Raises:
        UsageError: If the stream is of another kind, or has no second experience.
    """
    if stream.scenario != "domain":
        raise UsageError(
            f"{stream.name} brings new classes, and at test time classes stay: give a stream whose "
            "conditions change, such as corrupted-digits or rotated-digits."
        )
    if len(stream) < 2:
        raise UsageError(
            f"{stream.name} has a single experience, which counts as the source's own condition: "
            "at least two are needed."
        )
    first, *later = stream.experiences
    white = white_in(first.test["x"], stream.white)
    tables = [(experience.name, experience.test["x"], experience.test["y"]) for experience in later]
    return Drift(stream.name, _numbered(tables), stream.class_names, white, first.test, first.train)


def own(path: Path, known: Sequence[str] = ()) -> Drift:
    """A user's own files; see `drift`.

    Raises:
        DataError: If they cannot be read, or images are not alike.
    """
    if path.is_file():
        tables = _arrays(path, known, None)
    else:
        files = sorted(path.glob("*.npz"))
        if files:
            tables = [part for file in files for part in _arrays(file, known, file.stem)]
        else:
            tables = _pictures(path, known)
    shapes = {tuple(x.shape[1:]) for _, x, _ in tables}
    if len(shapes) > 1:
        raise DataError(f"The images in {path} have shapes {sorted(shapes)}; accepted: one shape.")
    return Drift(str(path), _numbered(tables), tuple(known), white_in(tables[0][1]))


Part = tuple[str, Tensor, Tensor | None]


def _numbered(parts: Sequence[Part]) -> tuple[Domain, ...]:
    seen: Counter[str] = Counter()
    domains = []
    for name, x, y in parts:
        seen[name] += 1
        domains.append(Domain(name, seen[name], x, y))
    return tuple(domains)


def _arrays(path: Path, known: Sequence[str], name: str | None) -> list[Part]:
    """The domains in an `.npz` file, in order of their first row."""
    held: set[str] = set()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            held = {entry.removesuffix(".npy") for entry in file.namelist()}
    arrays = load_arrays(path, ["x", *sorted(held & {"y", "domain"})])
    x = inputs(arrays["x"], f"{path} (x)")
    y = _labels(arrays["y"], known, str(path)) if "y" in arrays else None
    for column, values in (("y", y), ("domain", arrays.get("domain"))):
        if values is not None and len(values) != len(x):
            raise DataError(f"{path} has {len(x)} images and {len(values)} in {column}.")
    if "domain" not in arrays:
        return [(name or path.stem, x, y)]
    of = arrays["domain"].astype(str)
    parts: list[Part] = []
    for domain in dict.fromkeys(of.tolist()):
        rows = torch.from_numpy(np.flatnonzero(of == domain))
        parts.append((domain, x[rows], None if y is None else y[rows]))
    return parts


def _labels(given: Any, known: Sequence[str], where: str) -> Tensor:
    """Labels as the model's numbers: they are numbers already, or names of its classes."""
    labels = np.asarray(given).reshape(-1)
    if labels.dtype.kind in "iu":
        return torch.from_numpy(labels.astype(np.int64))
    if labels.dtype.kind != "U":
        raise DataError(f"The labels of {where} must be whole numbers or names of classes.")
    strange = sorted(set(labels.tolist()) - set(known))
    if strange:
        raise DataError(
            f"{where} has the class {strange[0]!r}, which the model does not know; it knows: "
            f"{', '.join(known)}."
        )
    place = {name: label for label, name in enumerate(known)}
    return torch.tensor([place[name] for name in labels.tolist()])


def _pictures(folder: Path, known: Sequence[str]) -> list[Part]:
    """The domains in a folder of images."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not inside:
        return [(folder.name, _read(folder), None)]
    if {part.name for part in inside} <= set(known):
        return [_classes(folder, inside, known)]
    parts: list[Part] = []
    for domain in inside:
        within = sorted(p for p in domain.iterdir() if p.is_dir() and p.name[0] != ".")
        if within:
            parts.append(_classes(domain, within, known))
        else:
            parts.append((domain.name, _read(domain), None))
    return parts


def _classes(domain: Path, folders: Sequence[Path], known: Sequence[str]) -> Part:
    images = [_read(folder) for folder in folders]
    names = [f.name for f, x in zip(folders, images, strict=True) for _ in range(len(x))]
    return domain.name, torch.cat(images), _labels(np.array(names), known, str(domain))


def _read(folder: Path) -> Tensor:
    from PIL import Image

    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise DataError(
            f"{folder} has no images; accepted: files ending in {', '.join(sorted(ENDINGS))}, in "
            "it or in folders by class or by domain; or .npz files with x."
        )
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
                images.append(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} cannot be read as an image ({error}).") from error
    return stack(images, [str(file) for file in files])
