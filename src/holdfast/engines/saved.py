"""What methods remember, in the checkpoints of a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import checkpoint
from holdfast.errors import CheckpointError
from holdfast.evaluation import Record

if TYPE_CHECKING:
    from holdfast.engines.bridge import Bridge


def state(bridge: Bridge) -> dict[str, Any]:
    """Everything of this process from which `Bridge.meet` goes on exactly."""
    return {
        "methods": _names(bridge),
        "processes": bridge.trainer.accelerator.num_processes,
        "index": bridge.index,
        "before": bridge.before,
        "method": bridge.method.state_dict(),
        "generator": bridge.generator.get_state(),
        "record": bridge.record.to_dict(),
    }


def write(bridge: Bridge, folder: str) -> None:
    """Put the state into a trainer's checkpoint; each process has a file of its own."""
    checkpoint.save(_path(bridge, folder), state(bridge))


def read(bridge: Bridge, folder: str) -> dict[str, Any]:
    """The state in a trainer's checkpoint.

    Raises:
        CheckpointError: If there is none, or if it is of other methods or another number of
            processes.
    """
    found: dict[str, Any] = checkpoint.load(_path(bridge, folder))
    for what, was, now in (
        ("methods", " and ".join(found["methods"]), " and ".join(_names(bridge))),
        ("processes", found["processes"], bridge.trainer.accelerator.num_processes),
    ):
        if was != now:
            raise CheckpointError(
                f"The checkpoint in {folder} is of other {what}: {was}; given now: {now}."
            )
    return found


def restore(bridge: Bridge, found: Mapping[str, Any]) -> None:
    """Let methods remember what they did, and draw on from where they were."""
    bridge.method.load_state_dict(found["method"])
    bridge.method.to(bridge.device)
    bridge.generator.set_state(found["generator"])
    bridge.record = Record.from_dict(found["record"])


def _names(bridge: Bridge) -> list[str]:
    return [type(part).__name__ for part in bridge.method.parts()]


def _path(bridge: Bridge, folder: str) -> Path:
    process = bridge.trainer.accelerator.process_index
    return Path(folder) / (f"holdfast-{process}.safetensors" if process else "holdfast.safetensors")
