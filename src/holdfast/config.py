"""What a run is given: everything that its result depends on, as one value.

Nothing here imports PyTorch, so that the command line can list its options at once. Names of
streams, methods and models are looked up when they are built; ranges are checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from holdfast.errors import UsageError
from holdfast.settings import Settings, setting
from holdfast.spec import parse, parse_one


@dataclass(frozen=True)
class Config(Settings):
    """Everything a run is given.

    Attributes:
        stream: Spec of the stream, as for `holdfast.streams.build`.
        method: Spec of the method; chained with `+`. Kept in one spelling.
        experiences: Number of experiences; None: the stream's own.
        model: Spec of the model, or the folder of a checkpoint; None: by the stream's inputs
            (`holdfast.run.default_model`).
        head: `full`, `growing`, `cosine`, `multi`, `prototype`, `discriminant` or `ridge`.
        backbone: `trained`; `frozen`: a classifier's head alone is trained; or `cached`: frozen
            too, and its features are computed once, before training, and kept.
        inputs: How a classifier scales them: `standard` (mean 0, deviation 1) or `unit` (0 to 1).
        seed: Of the stream, the initial weights and all random choices.
        epochs: Passes over each experience; None: 5, or 1 on an online stream and for language.
        batch_size: Examples that the stream brings to a forward pass; None: 32, or 8 for language.
        accumulate: Forward passes a step.
        clip: Largest norm of a step's gradient; None: any, or 1 for language.
        precision: `float32`, or `bfloat16` in forward passes.
        lr: Learning rate; None: 0.01, or 5e-4 for language.
        optimizer: `sgd`, `adam` or `adamw`; None: `sgd`, or `adamw` for language.
        momentum: Of SGD; None: 0.9.
        weight_decay: Of the optimizer.
        schedule: `constant`, `cosine`, `steps(0.5, factor=0.1)` or `warm_restarts` by epoch;
            `warmup_cosine`, `warmup_linear`, `warmup_constant` or `infinite` by update.
        optimizer_state: `reset` or `keep` the optimizer's state between experiences.
        augment: Spec of the augmentation, as for `holdfast.augment.build`; None: none.
        until: How many experiences are learned, from the first on; None: all.
        validation: Share of every experience's training examples that is held out and scored in
            place of its test set, which is then not looked at; 0: none, and the test sets are.
        shared_start: Whether a method whose first experience is plain training starts from one
            model that has been through it, the same for all such methods under a seed.
        analyse: Whether a class-incremental run also notes accuracy over all classes so far, that
            of the nearest exemplar mean and, in the end, confusions and the head's norms.
        evaluate_every: Steps between scores of continual evaluation; None: none.
        evaluate_subset: Examples a test set in continual evaluation.
        checkpoint_every: Steps between checkpoints, besides one after each experience.
        keep_checkpoints: How many of the newest checkpoints stay.
        device: `cpu`, `cuda`, or `auto`: a GPU if there is one.

    Raises:
        UsageError: If a value has the wrong type or is out of range.

    Example:
        >>> Config("split-digits", "er( capacity = 200 )").method
        'er(capacity=200)'
    """

    called: ClassVar[str] = "configuration"

    stream: str
    method: str
    experiences: int | None = setting(
        None, "How many experiences (default: the stream's own).", least=1
    )
    model: str | None = setting(
        None,
        "mlp, cnn, lenet, resnet18, cifar_resnet, vit, resnet, pretrained(cnn, on=mnist), encoder, "
        "bert, llama, gpt2 or a checkpoint's folder (default: by the inputs).",
    )
    head: str = setting("full", "full, growing, cosine, multi, prototype, discriminant or ridge.")
    backbone: str = setting(
        "trained",
        "trained, frozen (the head learns), or cached (frozen, its features computed once).",
        choices=("trained", "frozen", "cached"),
    )
    inputs: str = setting(
        "standard",
        "standard (mean 0, deviation 1) or unit (0 to 1).",
        choices=("standard", "unit"),
    )
    seed: int = setting(0, "Seed of all random choices.", least=0, below=2**63)
    epochs: int | None = setting(
        None, "Passes over each experience (default: 5; 1 if online or language).", least=1
    )
    batch_size: int | None = setting(
        None, "Examples from the stream a forward pass (default: 32; language 8).", least=1
    )
    accumulate: int = setting(1, "Forward passes a step.", least=1)
    clip: float | None = setting(
        None, "Largest norm of a step's gradient (default: any; language 1).", above=0
    )
    precision: str = setting("float32", "float32 or bfloat16.", choices=("float32", "bfloat16"))
    lr: float | None = setting(None, "Learning rate (default: 0.01; language 5e-4).", above=0)
    optimizer: str | None = setting(
        None,
        "sgd, adam or adamw (default: sgd; language adamw).",
        choices=("sgd", "adam", "adamw"),
    )
    momentum: float | None = setting(None, "Momentum of SGD (default: 0.9).", least=0, below=1)
    weight_decay: float = setting(0.0, "Weight decay.", least=0)
    schedule: str = setting("constant", "constant, cosine or steps(0.5, factor=0.1).")
    optimizer_state: str = setting(
        "reset", "reset or keep, between experiences.", choices=("reset", "keep")
    )
    augment: str | None = setting(None, "Augmentation, such as crop(padding=4)+flip.")
    until: int | None = setting(None, "Learn only the first so many experiences.", least=1)
    validation: float = setting(
        0.0, "Hold out this share of the training data, scored for the test sets.", least=0, below=1
    )
    shared_start: bool = setting(
        False, "Methods that begin as plain training start from one model after experience 0."
    )
    analyse: bool = setting(
        False, "Also note nearest-mean accuracy, confusions and the head's norms."
    )
    evaluate_every: int | None = setting(None, "Score the test sets every so many steps.", least=1)
    evaluate_subset: int = setting(1000, "Examples a test set for that.", least=1)
    checkpoint_every: int | None = setting(
        None, "Save every so many steps, besides after experiences.", least=1
    )
    keep_checkpoints: int = setting(2, "How many checkpoints stay.", least=1)
    device: str = setting("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum is not None and self.optimizer not in (None, "sgd"):
            raise UsageError(
                f"momentum belongs to sgd; {self.optimizer} has its own. "
                f"Given: momentum {self.momentum} with {self.optimizer}."
            )
        if self.shared_start and self.optimizer_state == "keep":
            raise UsageError(
                "shared_start begins with a model, not with an optimizer's state: it needs "
                "optimizer_state='reset'; given: 'keep'."
            )
        if self.augment is not None and self.backbone == "cached":
            raise UsageError(
                f"Features are kept of inputs as they are, and augment={self.augment} changes "
                "inputs: leave it out, or say backbone=frozen, which passes them in every step."
            )
        object.__setattr__(self, "method", "+".join(str(spec) for spec in parse(self.method)))
        if self.model is not None and not is_folder(self.model):
            object.__setattr__(self, "model", str(parse_one(self.model)))


def is_folder(model: str) -> bool:
    """Whether a model is named by the folder that holds it: a path, or the name of one here."""
    if not model or Path(model).is_dir():
        return bool(model)
    spec = re.fullmatch(r"\s*[A-Za-z][\w-]*\s*\(.*\)\s*", model)  # whose arguments may be paths
    return not spec and ("/" in model or model[0] in ".~")


SETTINGS = {setting.name: setting for setting in fields(Config)}
"""The fields of `Config` by name."""
