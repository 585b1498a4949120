"""What methods that keep tasks apart ask of the head: that its rows belong to one task each."""

from __future__ import annotations

from torch import nn

from holdfast.models.heads import CLASS_ROWS
from holdfast.stream import Stream


def refusal_of_head(name: str, stream: Stream, model: nn.Module) -> str | None:
    """Why a head cannot be kept apart by tasks, as a sentence; None if it can."""
    if not isinstance(getattr(model, "head", None), CLASS_ROWS):
        return (
            f"{name} keeps the rows of a head apart by tasks, and that of {type(model).__name__} "
            "has none: give a linear, growing, cosine or multi head."
        )
    seen: set[int] = set()
    for experience in stream:
        again = seen.intersection(experience.classes)
        if again:
            return (
                f"{name} gives every task rows of the head for itself, and class {min(again)} of "
                f"{stream.name!r} comes in several tasks: give each its own by "
                "stream.with_tasks(own_classes=True)."
            )
        seen.update(experience.classes)
    return None
