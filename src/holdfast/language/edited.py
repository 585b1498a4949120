"""Edited models as folders: the edits beside the weights.

The folder of an edited model is an ordinary one. `edits.json` lists its edits. Where they are in a
memory beside the model and not in its weights, `edits.safetensors` holds it, and whoever loads the
folder with `holdfast.language.checkpoints.load` has the memory on the model; other programs load
the model as it was before any edit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast import checkpoint
from holdfast.errors import CheckpointError, UsageError

LIST, MEMORY = "edits.json", "edits.safetensors"
FORMAT = 1
"""Of the list; raised when older code could misread what newer code writes."""


def write(model: Any, folder: Path) -> None:
    """Write the memory beside a model, if there is one, and its list of edits."""
    from holdfast.models.beside import beside

    memory = beside(model)
    if memory is None:
        return
    state = {"kind": memory.kind, "state": dict(memory.state_dict())}
    checkpoint.save(folder / MEMORY, state)
    (folder / LIST).write_bytes(content(memory.record))


def content(record: dict[str, Any]) -> bytes:
    """The list of edits as a file."""
    return (json.dumps({"format": FORMAT, **record}, indent=1) + "\n").encode()


def read(model: Any, folder: Path) -> None:
    """Put the memory that lies in a folder beside the model.

    Raises:
        CheckpointError: If it is damaged, of an unknown kind, or of another model.
    """
    if not (folder / MEMORY).is_file():
        return
    from holdfast.models.beside import seat
    from holdfast.models.codebook import Codebook
    from holdfast.models.side_memory import SideMemory

    found = checkpoint.load(folder / MEMORY)
    kinds = {made.kind: made for made in (SideMemory, Codebook)}
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind not in kinds:
        raise CheckpointError(
            f"{folder / MEMORY} holds a memory of the kind {kind!r}; this version reads: "
            f"{', '.join(kinds)}."
        )
    memory = kinds[kind]()
    memory.load_state_dict(found["state"])
    try:
        place = seat(model, memory.layer)
    except UsageError as unfit:
        raise CheckpointError(f"{folder / MEMORY} does not fit the model: {unfit}") from unfit
    memory.attach(model, place)


def listed(folder: Path) -> dict[str, Any]:
    """What `edits.json` in a folder says: `method`, `protocol`, `layer` and the `edits`.

    Raises:
        UsageError: If there is none, or if it comes from a newer version.
    """
    from holdfast.settings import read_json

    if not (folder / LIST).is_file():
        raise UsageError(f"{folder} lists no edits: it has no {LIST}.")
    found = read_json(folder / LIST, "a list of edits")
    if not isinstance(found.get("format"), int) or found["format"] > FORMAT:
        raise UsageError(
            f"{folder / LIST} was written by a newer holdfast (this one reads format {FORMAT})."
        )
    return found
