"""What a run is given: everything that its result depends on, as one value.

Nothing here imports PyTorch, so that the command line can list its options at once. Names of
streams, methods and models are looked up when they are built; ranges are checked here.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from holdfast.errors import UsageError, unknown
from holdfast.spec import parse, parse_one

FORMAT = 1
"""Of configurations as JSON; raised when older code could misread what newer code writes."""


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of `Config` with its range and the line that explains it on the command line."""
    limits = {"least": least, "above": above, "below": below, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """Everything a run is given.

    Attributes:
        stream: Spec of the stream, as for `holdfast.streams.build`.
        method: Spec of the method; chained with `+`. Kept in one spelling.
        experiences: Number of experiences; None: the stream's own.
        model: Spec of the model, or the folder of a language model; None: by the stream's inputs
            (`holdfast.run.default_model`).
        head: `full`, `growing`, `cosine`, `multi` or `prototype`.
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
        schedule: `constant`, `cosine` or `steps(0.5, factor=0.1)` by epoch; `warmup_cosine`,
            `warmup_linear`, `warmup_constant` or `infinite` by update.
        optimizer_state: `reset` or `keep` the optimizer's state between experiences.
        augment: Spec of the augmentation, as for `holdfast.augment.build`; None: none.
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

    stream: str
    method: str
    experiences: int | None = setting(
        None, "How many experiences (default: the stream's own).", least=1
    )
    model: str | None = setting(
        None, "mlp, cnn, resnet18, llama, gpt2 or a checkpoint's folder (default: by the inputs)."
    )
    head: str = setting("full", "full, growing, cosine, multi or prototype.")
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
    evaluate_every: int | None = setting(None, "Score the test sets every so many steps.", least=1)
    evaluate_subset: int = setting(1000, "Examples a test set for that.", least=1)
    checkpoint_every: int | None = setting(
        None, "Save every so many steps, besides after experiences.", least=1
    )
    keep_checkpoints: int = setting(2, "How many checkpoints stay.", least=1)
    device: str = setting("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            object.__setattr__(self, name, checked(name, value))
        if self.momentum is not None and self.optimizer not in (None, "sgd"):
            raise UsageError(
                f"momentum belongs to sgd; {self.optimizer} has its own. "
                f"Given: momentum {self.momentum} with {self.optimizer}."
            )
        object.__setattr__(self, "method", "+".join(str(spec) for spec in parse(self.method)))
        if self.model is not None and not is_folder(self.model):
            object.__setattr__(self, "model", str(parse_one(self.model)))

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values, with the format's number."""
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_dict(state: Mapping[str, Any], where: str = "The configuration") -> Config:
        """The inverse of `to_dict`.

        Args:
            where: What to call it in messages.

        Raises:
            UsageError: If it comes from a newer version, has keys that do not exist, lacks some or
                has values out of range.
        """
        written = state.get("format", FORMAT)
        if not isinstance(written, int) or written > FORMAT:
            raise UsageError(
                f"{where} was written by a newer holdfast (format {written}; this one reads up to "
                f"{FORMAT}). Update holdfast to use it."
            )
        values = {name: value for name, value in state.items() if name != "format"}
        for name in values:
            if name not in SETTINGS:
                raise unknown("setting", name, SETTINGS)
        for name in ("stream", "method"):
            if name not in values:
                raise UsageError(f"{where} names no {name}.")
        return Config(**values)

    def write(self, path: Path) -> None:
        """Write it as JSON, wholly or not at all."""
        from holdfast.checkpoint import write_atomically

        write_atomically(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @staticmethod
    def read(path: Path) -> Config:
        """What `write` wrote.

        Raises:
            UsageError: If the file is missing, unreadable or not a configuration.
        """
        return Config.from_dict(read_json(path, "a configuration"), str(path))

    def differences(self, other: Config) -> list[str]:
        """What differs from `other`, one phrase a setting; empty if they are equal."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name} is {_shown(theirs[name])} there and {_shown(mine[name])} here"
            for name in mine
            if mine[name] != theirs[name]
        ]


def is_folder(model: str) -> bool:
    """Whether a model is named by the folder that holds it: a path, or the name of one here."""
    return bool(model) and ("/" in model or model[0] in ".~" or Path(model).is_dir())


SETTINGS = {setting.name: setting for setting in fields(Config)}
"""The fields of `Config` by name."""

_hints = cache(get_type_hints)


def kind(name: str, of: type = Config) -> type:
    """The type of a setting, without None."""
    hint = _hints(of)[name]
    found: type = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    return get_origin(found) or found


def checked(name: str, value: Any, of: type = Config) -> Any:
    """`value`, if it may stand for the setting `name`.

    Args:
        of: The class whose setting it is.

    Raises:
        UsageError: If it has the wrong type or is out of range.
    """
    wanted = kind(name, of)
    limits: Mapping[str, Any] = next(f for f in fields(of) if f.name == name).metadata
    if value is None and isinstance(_hints(of)[name], types.UnionType):
        return None
    if wanted is tuple:
        return _texts(name, value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)
    if not fits:
        article = "an" if wanted is int else "a"
        kinds = {int: "integer", float: "number", str: "text", bool: "truth value"}
        raise UsageError(f"{name} must be {article} {kinds[wanted]}; given: {value!r}.")
    if limits.get("choices") and value not in limits["choices"]:
        raise unknown(name, value, limits["choices"])
    least, above, below = limits.get("least"), limits.get("above"), limits.get("below")
    asked = [
        *([f"at least {least}"] if least is not None else []),
        *([f"above {above}"] if above is not None else []),
        *([f"below {below}"] if below is not None else []),
    ]
    if asked and not (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        raise UsageError(f"{name} must be {' and '.join(asked)}; given: {value}.")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One or several texts, such as paths."""
    several = [value] if isinstance(value, (str, Path)) else value
    if not isinstance(several, (list, tuple)) or not all(
        isinstance(item, (str, Path)) for item in several
    ):
        raise UsageError(f"{name} must be text or a list of texts; given: {value!r}.")
    return tuple(str(item) for item in several)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UsageError: If the file is missing, unreadable or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged or not {what}: it is not valid JSON.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not {what}: it holds no JSON object.")
    return content


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)
