"""Files of weights, known from their headers: none is loaded, and no pickle is opened."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast.errors import CheckpointError, UsageError

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a model (`stem="model"`) or an adapter (`"adapter_model"`).

    Raises:
        UsageError: If there are none, or pickled ones only.
        CheckpointError: If some are missing.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if (folder / f"{stem}.safetensors").is_file():
        return [folder / f"{stem}.safetensors"]
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing or not shards:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of its {len(shards)} files of weights"
                f"{': ' + missing[0] if missing else ''}."
            )
        return [folder / name for name in shards]
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLED)
    if pickled:
        load = "AutoModelForCausalLM.from_pretrained(folder)"
        raise UsageError(
            f"{folder} holds pickled weights ({pickled[0]}); loading these can run any code, so "
            "they are refused. Where you trust them, convert them once: "
            f"`from transformers import AutoModelForCausalLM` and "
            f"`{load}.save_pretrained(new_folder)`, which writes {stem}.safetensors."
        )
    raise UsageError(f"{folder} is not a model's folder: it has no {stem}.safetensors.")


def headers(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Name to dtype and shape of every tensor in safetensors files.

    Raises:
        CheckpointError: If a file is damaged or cut short.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        size = file.stat().st_size
        try:
            with file.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                if length > size:
                    raise ValueError("the header is longer than the file")
                header = json.loads(opened.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is not a safetensors file, or damaged.") from error
        if 8 + length + end != size:
            raise CheckpointError(
                f"{file} is damaged: it has {size} bytes and should have {8 + length + end}."
            )
        found |= header
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} must hold an object; it holds {type(found).__name__}.")
    return found


def first_line(error: BaseException) -> str:
    """What an error says first, as the end of a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ") + "."
