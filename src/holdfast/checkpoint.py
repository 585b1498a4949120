"""Checkpoints: one safetensors file each, written atomically, verified when read, never pickled.

A state is a tree of dictionaries and lists whose leaves are tensors or JSON values. Tensors go
into the file as they are; the tree, with each tensor's name in its place, goes into the header as
JSON, beside a digest of everything. A file that was truncated, altered or not written by holdfast
is refused with a sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import CheckpointError

FORMAT = 1
"""Raised when older code could misread what newer code writes."""

_TENSOR = "tensor:"


def save(path: Path, state: Any) -> None:
    """Write `state` to `path`, wholly or not at all.

    Raises:
        CheckpointError: If the disk is full or the folder cannot be written; whatever was at
            `path` before is then still there.
    """
    from safetensors.torch import save as serialise

    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_flatten(state, "", tensors))
    version = str(FORMAT)
    header = {"holdfast": version, "tree": tree, "digest": _digest(version, tree, tensors)}
    write_atomically(path, serialise(tensors, header))


def load(path: Path) -> Any:
    """Read what `save` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, foreign or from a newer version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint (damaged, cut short, or another kind of file)."
        ) from error
    if "holdfast" not in header:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of holdfast.")
    version, tree = header["holdfast"], header.get("tree", "")
    if version.isdecimal() and int(version) > FORMAT:
        raise CheckpointError(
            f"{path} was written by a newer holdfast (format {version}; this one reads up to "
            f"{FORMAT}). Update holdfast to use it."
        )
    if header.get("digest") != _digest(version, tree, tensors):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest.")
    return _unflatten(json.loads(tree), tensors)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` through a temporary file, fsync and rename.

    Raises:
        CheckpointError: If it cannot be written; nothing is left half written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error.strerror or error}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it the owner's alone
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(
            f"Cannot write {path}: {error.strerror or error}. What was there before is untouched."
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flatten(value: Any, at: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with tensors replaced by their names; dictionaries become lists of pairs."""
    if isinstance(value, Tensor):
        name = at or "value"
        while name in tensors:  # the keys 0 and "0", or "a/b" and b within a, look alike in a path
            name += "'"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {
            "pairs": [[key, _flatten(item, f"{at}/{key}", tensors)] for key, item in value.items()]
        }
    if isinstance(value, (list, tuple)):
        return {"items": [_flatten(item, f"{at}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"A checkpoint holds tensors and JSON values; {at} is a {type(value).__name__}."
    )


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if "pairs" in value:
        return {key: _unflatten(item, tensors) for key, item in value["pairs"]}
    return [_unflatten(item, tensors) for item in value["items"]]


def _digest(version: str, tree: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b(f"{version} {tree}".encode(), digest_size=32)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
