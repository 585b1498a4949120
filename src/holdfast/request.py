"""What an unlearning is given: everything that its result depends on, as one value.

Nothing here imports PyTorch, so that the command line can list its options at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from holdfast.errors import UsageError
from holdfast.settings import Settings, setting
from holdfast.spec import parse, parse_one


@dataclass(frozen=True)
class Request(Settings):
    """Everything that unlearning with a language model is given.

    Attributes:
        model: Folder of a Hugging Face checkpoint, or of a PEFT adapter.
        forget: Files or folders with questions and answers that are to be forgotten.
        retain: Files or folders with questions and answers that are to be kept.
        method: Spec of the method, chained with `+`.
        reference: A model that was trained without what is to be forgotten (a folder), or the logs
            of one (`reference.json` of an earlier unlearning); without it there is no forget
            quality.
        refusals: File with answers that tell nothing, for methods that teach to refuse.
        utility: Files with questions whose answers the model is to go on preferring to wrong ones;
            each is a set of model utility beside the retain set.
        strangers: File with questions like those to be forgotten that no model has seen, for
            attacks on membership.
        fields: Names of the fields, as in `prompt=question,answer=reply`; None: by their names.
        length: Most tokens a row; None: the model's context.
        overlong: `error`, `cut` or `skip` what is longer.
        lora: Train an adapter beside frozen weights: a spec such as `lora(rank=8)`.
        epochs: Times that the forget set is gone through.
        batch_size: Rows a forward pass.
        accumulate: Forward passes an update.
        lr: Learning rate; None: 1e-5 for all weights, 1e-4 for adapters.
        schedule: Spec of the learning rate's schedule; None: up over the first epoch, then down in
            a straight line.
        weight_decay: Of AdamW, on matrices.
        clip: Largest norm of the gradient; 0: any.
        precision: `float32`, or `bfloat16` in forward passes.
        checkpointing: Recompute activations in the backward pass, which takes less memory.
        look: At most so many questions of each set are measured.
        no_writing: Do not let the model write answers: no ROUGE, and much less time.
        new_tokens: Longest answer that is written.
        relearn_steps: Updates of the check how fast it is relearned; 0: none.
        relearn_lr: Their learning rate; None: that of the unlearning.
        seed: Of all random choices.
        checkpoint_every: Updates between checkpoints; None: none but at the end.
        keep_checkpoints: How many of the newest stay.
        device: `cpu`, `cuda`, or `auto`.
        trust_remote_code: Run Python code that the checkpoint brings.

    Raises:
        UsageError: If a value has the wrong type or is out of range.

    Example:
        >>> Request("models/tiny", ("forget.jsonl",), method="npo( beta = 0.1 )+retain").method
        'npo(beta=0.1)+retain'
    """

    called: ClassVar[str] = "request"

    model: str = setting("", "Folder of a Hugging Face checkpoint or PEFT adapter.")
    forget: tuple[str, ...] = setting((), "File or folder to be forgotten; may be given again.")
    retain: tuple[str, ...] = setting((), "File or folder to be kept; may be given again.")
    method: str = setting("npo(beta=0.1)+retain", "How to unlearn, such as 'npo+retain'.")
    reference: str | None = setting(None, "Model trained without it, or that model's logs.")
    refusals: str | None = setting(None, "File of answers that tell nothing (dpo, idk, kto).")
    utility: tuple[str, ...] = setting((), "File of other questions, with wrong answers; again.")
    strangers: str | None = setting(None, "File of like questions that no model has seen.")
    fields: str | None = setting(None, "Names of fields: prompt=question,answer=reply.")
    length: int | None = setting(None, "Most tokens a row (default: the context).", least=2)
    overlong: str = setting(
        "error", "Samples that are longer: error, cut or skip.", choices=("error", "cut", "skip")
    )
    lora: str | None = setting(None, "Train an adapter: 'lora(rank=8)'.")
    epochs: int = setting(10, "Times that the forget set is gone through.", least=1)
    batch_size: int = setting(8, "Rows a forward pass.", least=1)
    accumulate: int = setting(1, "Forward passes an update.", least=1)
    lr: float | None = setting(None, "Learning rate (default: 1e-5; 1e-4 for adapters).", above=0)
    schedule: str | None = setting(None, "Of the learning rate (default: one epoch up, then down).")
    weight_decay: float = setting(0.01, "Of AdamW.", least=0)
    clip: float = setting(1.0, "Largest norm of the gradient; 0: any.", least=0)
    precision: str = setting("float32", "float32 or bfloat16.", choices=("float32", "bfloat16"))
    checkpointing: bool = setting(False, "Recompute activations: less memory, more time.")
    look: int = setting(300, "At most so many questions of each set are measured.", least=1)
    no_writing: bool = setting(False, "Do not let the model write answers: no ROUGE.")
    new_tokens: int = setting(64, "Longest answer that is written.", least=1)
    relearn_steps: int = setting(10, "Updates of the relearning check; 0: none.", least=0)
    relearn_lr: float | None = setting(None, "Their rate (default: the unlearning's).", above=0)
    seed: int = setting(0, "Seed of all random choices.", least=0, below=2**63)
    checkpoint_every: int | None = setting(None, "Save every so many updates.", least=1)
    keep_checkpoints: int = setting(2, "How many checkpoints stay.", least=1)
    device: str = setting("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))
    trust_remote_code: bool = setting(False, "Run Python code that the checkpoint brings.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise UsageError("Say which model is to forget: --model FOLDER.")
        if not self.forget:
            raise UsageError("Say what is to be forgotten: --forget FILE.")
        object.__setattr__(self, "method", "+".join(str(spec) for spec in parse(self.method)))
        if self.lora is not None:
            object.__setattr__(self, "lora", str(parse_one(self.lora)))


SETTINGS = {setting.name: setting for setting in fields(Request)}
"""The fields of `Request` by name."""
