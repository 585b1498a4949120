"""Prompts as an experimental factor: five levels, from the bare input to demonstrations.

P0 the input alone; P1 an instruction before it; P2 the labels and the form of the answer as well;
P3 a line before all that names the task; P4 four solved examples in place of that line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.errors import UsageError
from holdfast.language.fields import Sample

LEVELS = (0, 1, 2, 3, 4)
SHOTS = 4


@dataclass(frozen=True)
class Template:
    """How a task is put into words.

    Attributes:
        title: The name of the task, for P3.
        instruction: What to do, for P1 and above.
        labels: For P2 and above.
    """

    title: str
    instruction: str
    labels: tuple[str, ...]

    def prompt(self, text: str, level: int, shots: Sequence[Sample] = ()) -> str:
        """The prompt for an input at a level.

        Args:
            text: The input.
            level: 0 to 4.
            shots: Solved examples (inputs as prompts), for level 4.
        """
        check_level(level)
        if level == 0:
            return f"{text}\nAnswer:"
        head = [self.instruction]
        if level >= 2:
            head.append(f"Answer with one of: {', '.join(self.labels)}. Write nothing else.")
        if level == 3:
            head.insert(0, f"Task: {self.title}")
        if level == 4:
            head += [f"{shot.prompt}\nAnswer: {shot.answer}" for shot in shots]
        return "\n".join([*head, f"{text}\nAnswer:"])


def check_level(level: object) -> None:
    """Refuse what is no level."""
    if level not in LEVELS or isinstance(level, bool):
        raise UsageError(f"prompt must be a level from 0 to 4; given: {level!r}.")


def rendered(
    samples: Sequence[Sample], template: Template, level: int, source: Sequence[Sample]
) -> list[Sample]:
    """Samples whose prompts are bare inputs, put into words.

    Args:
        samples: To render.
        template: Of the task.
        level: 0 to 4.
        source: Training samples, whose first of each label in turn are the demonstrations of P4;
            they are never shown for themselves.
    """
    check_level(level)
    shots = demonstrations(source, template.labels) if level == 4 else []
    return [
        replace(
            sample,
            prompt=template.prompt(
                str(sample.prompt), level, [s for s in shots if s is not sample][:SHOTS]
            ),
        )
        for sample in samples
    ]


def demonstrations(source: Sequence[Sample], labels: Sequence[str]) -> list[Sample]:
    """Five samples, labels in turn: four to show, and one in the place of one that is shown."""
    by_label = {label: [s for s in source if s.answer == label] for label in labels}
    turns = zip(*(found[: SHOTS + 1] for found in by_label.values() if found), strict=False)
    return [sample for turn in turns for sample in turn][: SHOTS + 1]
