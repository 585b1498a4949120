"""Tensors of a model's folder, read when they are asked for and written one after another.

Reading maps a file for as long as a piece of a tensor is in use, so that what is in memory does not
grow with the model. Writing fixes all names, dtypes and shapes first and then takes the tensors
piece by piece in that order, which the safetensors package does for whole sets of tensors only.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from holdfast.errors import CheckpointError
from holdfast.language.weights import headers, weight_files

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""As safetensors calls them; what is not here cannot be computed with."""
SHARD = 5 * 10**9
"""Bytes of one file at most, as transformers writes them; a larger tensor has a file of its own."""


@dataclass(frozen=True)
class Entry:
    """What a header says of a tensor.

    Attributes:
        dtype: As safetensors calls it.
        shape: Of the tensor.
        bytes: As stored.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def real(self) -> bool:
        """Whether it holds real numbers that can be computed with."""
        return self.dtype in DTYPES and DTYPES[self.dtype].is_floating_point

    def of(self, dtype: torch.dtype) -> Entry:
        """The same in another dtype."""
        names = {value: name for name, value in DTYPES.items()}
        return Entry(names[dtype], self.shape, math.prod(self.shape) * dtype.itemsize)


class Tensors:
    """The tensors of a model's folder by name, in the order of its files.

    Args:
        folder: With safetensors, in one file or several.

    Raises:
        UsageError: If there are none.
        CheckpointError: If a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        self.entries: dict[str, Entry] = {}
        for file in weight_files(folder, "model"):
            for name, entry in headers([file]).items():
                begin, end = entry["data_offsets"]
                self._files[name] = file
                self.entries[name] = Entry(entry["dtype"], tuple(entry["shape"]), end - begin)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor; the whole of one without dimensions."""
        from safetensors import safe_open

        with safe_open(self._files[name], framework="pt") as file:
            if not self.shape(name):
                whole: Tensor = file.get_tensor(name)
                return whole
            part: Tensor = file.get_slice(name)[start:stop]
        return part

    @property
    def bytes(self) -> int:
        """Of all tensors as stored."""
        return sum(entry.bytes for entry in self.entries.values())


class Writer:
    """Writes a model's tensors in a fixed order, each in as many pieces as it comes in.

    The files are `model.safetensors`, or several with an index where there is too much for one.

    Args:
        folder: An existing one.
        entries: Name to what will be written, in that order.
        shard: Bytes of a file at most.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with Writer(Path(folder), {"w": Entry("F32", (2, 1), 8)}) as writer:
        ...         writer.write("w", torch.tensor([[1.0]]))
        ...         writer.write("w", torch.tensor([[2.0]]))
        ...     Tensors(Path(folder))["w"].tolist()
        [[1.0], [2.0]]
    """

    def __init__(self, folder: Path, entries: Mapping[str, Entry], shard: int = SHARD) -> None:
        self.folder, self.entries = folder, entries
        self.shards: list[list[str]] = [[]]
        held = 0
        for name, entry in entries.items():
            if self.shards[-1] and held + entry.bytes > shard:
                self.shards.append([])
                held = 0
            self.shards[-1].append(name)
            held += entry.bytes
        count = len(self.shards)
        self.names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        if count == 1:
            self.names = ["model.safetensors"]
        self._order = [(name, i) for i, names in enumerate(self.shards) for name in names]
        self._at, self._left = -1, 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            if self._file is not None:
                self._file.close()
            return
        if self._left or self._at + 1 != len(self._order):
            missing = self._order[self._at + (not self._left)][0]
            raise CheckpointError(f"{missing} was not written wholly into {self.folder}.")
        self._finish()
        if len(self.names) > 1:
            self._index()

    def write(self, name: str, piece: Tensor) -> None:
        """Append a piece of the tensor `name`, whose turn it must be.

        Raises:
            CheckpointError: If it is not, or if the piece is too long.
            OSError: If the disk is full.
        """
        while not self._left:  # tensors without entries take no bytes, and no pieces
            self._at += 1
            upcoming, shard = self._order[self._at]
            if self._at == 0 or self._order[self._at - 1][1] != shard:
                self._begin(shard)
            self._left = self.entries[upcoming].bytes
            if upcoming == name:
                break
        size = piece.numel() * piece.element_size()
        if self._order[self._at][0] != name or size > self._left:
            raise CheckpointError(f"{name} was written out of its turn.")
        assert self._file is not None
        self._left -= size
        self._file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def _begin(self, shard: int) -> None:
        self._finish()
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name in self.shards[shard]:
            entry = self.entries[name]
            end = offset + entry.bytes
            header[name] = {
                "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end],
            }  # fmt: skip
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = (self.folder / self.names[shard]).open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def _finish(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _index(self) -> None:
        places = {name: self.names[shard] for name, shard in self._order}
        total = sum(entry.bytes for entry in self.entries.values())
        content = {"metadata": {"total_size": total}, "weight_map": places}
        path = self.folder / "model.safetensors.index.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
