"""What an editing is given: everything that its result depends on, as one value.

Nothing here imports PyTorch, so that the command line can list its options at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from holdfast.errors import UsageError
from holdfast.settings import Settings, setting
from holdfast.spec import parse_one

PROTOCOLS = {
    "sequential": "one edit after another on one model, measured after the last",
    "batch": "many edits at once on one model",
    "single": "every edit on the model as it came",
}
"""How edits follow one another, in words."""


@dataclass(frozen=True)
class EditConfig(Settings):
    """Everything that editing facts of a language model is given.

    Attributes:
        model: Folder of a Hugging Face checkpoint.
        edits: File of requests.
        method: Spec of the editor.
        protocol: `sequential`, `batch` or `single` (which measures only, and writes no model).
        batch: Edits at once under `batch`; None: all.
        past: Files of text that the model knows, on which ROME and MEMIT take their statistics;
            none: text that the model writes itself.
        locality: File of further prompts whose answers must not change.
        measure: Numbers of edits after which all of them so far are measured.
        no_fluency: Do not write text to measure how the model writes.
        limit: At most so many edits; None: all.
        skip_bad: Pass over records that cannot be read, or that contradict an earlier one.
        length: Most tokens of a prompt with its target.
        seed: Of all random choices.
        checkpoint_every: Edits between checkpoints.
        keep_checkpoints: How many of the newest stay; `--undo` goes on from them.
        device: `cpu`, `cuda`, or `auto`.
        trust_remote_code: Run Python code that the checkpoint brings.

    Raises:
        UsageError: If a value has the wrong type or is out of range.

    Example:
        >>> EditConfig("models/tiny", "edits.jsonl", measure="10, 20").points
        (10, 20)
    """

    called: ClassVar[str] = "editing"

    model: str = setting("", "Folder of a Hugging Face checkpoint.")
    edits: str = setting("", "File of edits: prompt, target, subject and others")
    method: str = setting("wise", "The editor, such as 'wise(mode=retrieve)'.")
    protocol: str = setting("sequential", "sequential, batch or single.", choices=tuple(PROTOCOLS))
    batch: int | None = setting(None, "Edits at once, with --protocol batch.", least=1)
    past: tuple[str, ...] = setting((), "File of text that the model knows; again.")
    locality: str | None = setting(None, "File of prompts whose answers must not change.")
    measure: str = setting("1,10,100,1000", "Numbers of edits after which to measure.")
    no_fluency: bool = setting(False, "Do not measure how the model writes.")
    limit: int | None = setting(None, "At most so many edits.", least=1)
    skip_bad: bool = setting(False, "Pass over edits that cannot be made, and say so.")
    length: int = setting(256, "Most tokens of a prompt with its target.", least=2)
    seed: int = setting(0, "Seed of all random choices.", least=0, below=2**63)
    checkpoint_every: int = setting(100, "Save every so many edits.", least=1)
    keep_checkpoints: int = setting(2, "How many checkpoints stay.", least=1)
    device: str = setting("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))
    trust_remote_code: bool = setting(False, "Run Python code that the checkpoint brings.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise UsageError("Say which model is to be edited: --model FOLDER.")
        if not self.edits:
            raise UsageError("Say what is to be edited: --edits FILE.")
        if self.batch is not None and self.protocol != "batch":
            raise UsageError(f"batch goes with protocol='batch'; given: {self.protocol!r}.")
        object.__setattr__(self, "method", str(parse_one(self.method)))
        object.__setattr__(self, "measure", ",".join(map(str, self.points)))

    @property
    def points(self) -> tuple[int, ...]:
        """The numbers in `measure`, in order."""
        words = [word.strip() for word in self.measure.split(",") if word.strip()]
        if not all(word.isdecimal() and int(word) > 0 for word in words):
            raise UsageError(
                f"measure must be numbers of edits, such as '1,10,100'; given: {self.measure!r}."
            )
        return tuple(sorted({int(word) for word in words}))


EDIT_SETTINGS = {setting.name: setting for setting in fields(EditConfig)}
"""The fields of `EditConfig` by name."""
