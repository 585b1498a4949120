"""What a fine-tuning is given: everything that its result depends on, as one value.

Nothing here imports PyTorch, so that the command line can list its options at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from holdfast.errors import UsageError
from holdfast.settings import Settings, setting
from holdfast.spec import parse, parse_one


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that fine-tuning a language model is given.

    Attributes:
        model: Folder of a Hugging Face checkpoint, or of a PEFT adapter.
        data: Files or folders with what is to be learned: one record a line, chat messages, prompts
            with completions, or plain text.
        method: Spec of the method, chained with `+`.
        guard: Files or folders with what the model can do now and is to keep: measured, not
            trained on. A file is a set; so is every file in a folder.
        past: Files or folders with examples of what the model has learned before, from which
            methods may rehearse or estimate what matters.
        test: Files held out of training, by which what is gained is measured; none: a share of the
            data.
        holdout: That share.
        fields: Names of the fields, as in `prompt=question,answer=reply`; None: by their names.
        template: A chat template in place of the tokenizer's; `simple` is built in.
        length: Most tokens a row; None: as many as the longest sample has, up to the context.
        overlong: `error`, `cut` or `skip` what is longer.
        pack: Fill rows with several samples.
        whole: Learn prompts too, not completions only.
        skip_bad: Pass over records that cannot be read, and count them.
        limit: At most so many records of the data; None: all.
        lora: Train an adapter beside frozen weights: a spec such as `lora(rank=8)`.
        epochs: Times that the data are gone through.
        batch_size: Rows a forward pass.
        accumulate: Forward passes an update.
        lr: Learning rate; None: 2e-5 for all weights, 2e-4 for adapters.
        schedule: Spec of the learning rate's schedule.
        weight_decay: Of AdamW, on matrices.
        clip: Largest norm of the gradient; 0: any.
        precision: `float32`, or `bfloat16` in forward passes.
        checkpointing: Recompute activations in the backward pass, which takes less memory.
        guard_limit: Stop when the loss on a guard set has risen by more than this share.
        baseline: Also train plainly, to show what the method changes.
        generate: Score answers to prompts by what the model writes.
        max_drop: Loss of score on a guard set above which the report calls it too large.
        seed: Of all random choices.
        checkpoint_every: Updates between checkpoints; None: none but at the end.
        keep_checkpoints: How many of the newest stay.
        device: `cpu`, `cuda`, or `auto`.
        trust_remote_code: Run Python code that the checkpoint brings.

    Raises:
        UsageError: If a value has the wrong type or is out of range.

    Example:
        >>> Recipe("models/tiny", ("new.jsonl",), method="replay( fraction = 0.1 )").method
        'replay(fraction=0.1)'
    """

    called: ClassVar[str] = "recipe"

    model: str = setting("", "Folder of a Hugging Face checkpoint or PEFT adapter.")
    data: tuple[str, ...] = setting((), "File or folder to learn from; may be given again.")
    method: str = setting("finetune", "What keeps the model from forgetting, such as 'hft'.")
    guard: tuple[str, ...] = setting((), "File or folder with what is to be kept; again.")
    past: tuple[str, ...] = setting((), "File or folder of what the model learned before; again.")
    test: tuple[str, ...] = setting((), "File held out to measure what is gained; again.")
    holdout: float = setting(0.05, "Share of the data held out without --test.", least=0, below=1)
    fields: str | None = setting(None, "Names of fields: prompt=question,answer=reply.")
    template: str | None = setting(None, "Chat template (Jinja), or 'simple'.")
    length: int | None = setting(
        None, "Most tokens a row (default: the longest, up to the context).", least=2
    )
    overlong: str = setting(
        "error", "Samples that are longer: error, cut or skip.", choices=("error", "cut", "skip")
    )
    pack: bool = setting(False, "Fill rows with several samples.")
    whole: bool = setting(False, "Learn prompts too, not completions only.")
    skip_bad: bool = setting(False, "Pass over records that cannot be read.")
    limit: int | None = setting(None, "At most so many records.", least=1)
    lora: str | None = setting(None, "Train an adapter: 'lora(rank=8)'.")
    epochs: int = setting(1, "Times that the data are gone through.", least=1)
    batch_size: int = setting(8, "Rows a forward pass.", least=1)
    accumulate: int = setting(1, "Forward passes an update.", least=1)
    lr: float | None = setting(None, "Learning rate (default: 2e-5; 2e-4 for adapters).", above=0)
    schedule: str = setting("warmup_cosine", "Of the learning rate, by update.")
    weight_decay: float = setting(0.0, "Of AdamW.", least=0)
    clip: float = setting(1.0, "Largest norm of the gradient; 0: any.", least=0)
    precision: str = setting("float32", "float32 or bfloat16.", choices=("float32", "bfloat16"))
    checkpointing: bool = setting(False, "Recompute activations: less memory, more time.")
    guard_limit: float | None = setting(
        None, "Stop when a guard set's loss has risen by this share.", above=0
    )
    baseline: bool = setting(False, "Also train plainly, for comparison.")
    generate: bool = setting(False, "Score answers by what the model writes.")
    max_drop: float = setting(0.02, "Loss of score that the report calls too large.", least=0)
    seed: int = setting(0, "Seed of all random choices.", least=0, below=2**63)
    checkpoint_every: int | None = setting(None, "Save every so many updates.", least=1)
    keep_checkpoints: int = setting(2, "How many checkpoints stay.", least=1)
    device: str = setting("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))
    trust_remote_code: bool = setting(False, "Run Python code that the checkpoint brings.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise UsageError("Say which model is to be fine-tuned: --model FOLDER.")
        if not self.data:
            raise UsageError("Say what is to be learned: --data FILE.")
        object.__setattr__(self, "method", "+".join(str(spec) for spec in parse(self.method)))
        if self.lora is not None:
            object.__setattr__(self, "lora", str(parse_one(self.lora)))


SETTINGS = {setting.name: setting for setting in fields(Recipe)}
"""The fields of `Recipe` by name."""
