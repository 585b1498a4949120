"""Forget sets by name: `random(600)`, `worst(0.1)`, `class(Sandal)`, `rows(3, 17)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.errors import DataError, UsageError, unknown
from holdfast.spec import Spec, bind, parse_one
from holdfast.unlearning.trained import Trained
from holdfast.unlearning.worst_case import Selection, how_many, worst_case

KINDS = ("random", "worst", "easiest", "class", "worst_class", "rows")


@dataclass(frozen=True)
class Chosen:
    """A forget set of a run.

    Attributes:
        name: As it was asked for.
        rows: Numbers of the training examples.
        selection: How they were searched for; None: they were not.
    """

    name: str
    rows: Int[Tensor, " rows"]
    selection: Selection | None = None


def choose(
    text: str,
    trained: Trained,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda iteration, loss: None,
) -> Chosen:
    """The forget set that a spec names.

    Args:
        text: `random(SIZE, seed=0)`; `worst(SIZE, ...)` and `easiest(SIZE, ...)` with arguments of
            `holdfast.unlearning.worst_case`; `class(NAME, ...)`, all examples of some classes;
            `worst_class(COUNT, ...)`, those classes that are hardest to forget; `rows(3, 17)` or
            `rows(file='FILE')`, a file of row numbers. A size is a number or a share.
        trained: The run whose training examples are chosen from.
        seed: Of what is drawn, where the spec does not say.
        progress: As in `worst_case`.

    Raises:
        UsageError: If there is no such kind, argument or class, or the set is too large.
        DataError: If a file of rows cannot be read.
    """
    spec = parse_one(text)
    if spec.name not in KINDS:
        raise unknown("kind of forget set", spec.name, KINDS)
    if spec.name == "random":
        return Chosen(str(spec), _random(spec, trained, seed))
    if spec.name == "class":
        return Chosen(str(spec), _classes(spec, trained))
    if spec.name == "rows":
        return Chosen(str(spec), _rows(spec, trained))
    search: Callable[..., Selection] = partial(_search, trained, seed, progress)
    arguments = bind(spec, _arguments, "forget set")
    size = _size(arguments.pop("size", None), spec)
    if spec.name == "worst_class":
        found = search(size, groups=_by_class(trained), **arguments)
    else:
        found = search(size, reverse=spec.name == "easiest", **arguments)
    return Chosen(str(spec), found.rows, found)


def _arguments(
    size: float | None = None,
    lower: str = "finetune",
    iterations: int = 10,
    epochs: int = 1,
    rate: float = 1e-3,
    batch_size: int = 256,
    upper_rate: float | None = None,
    scale: float = 1.0,
    penalty: float = 0.0,
    binarise_every: int = 20,
    seed: int | None = None,
) -> None:
    """What a search can be given in a spec."""


def _search(
    trained: Trained,
    seed: int,
    progress: Callable[[int, float], None],
    size: float,
    **given: Any,
) -> Selection:
    own = seed if given.get("seed") is None else given["seed"]
    given = {**given, "seed": own, "progress": progress}
    return worst_case(trained.model, trained.table, size, **given)


def _random(spec: Spec, trained: Trained, seed: int) -> Tensor:
    def random(size: float | None = None, seed: int | None = None) -> None: ...

    arguments = bind(spec, random, "forget set")
    count = how_many(_size(arguments.get("size"), spec), len(trained.table), "examples")
    drawn = seed if arguments.get("seed") is None else int(arguments["seed"])
    generator = torch.Generator().manual_seed(drawn)
    return torch.randperm(len(trained.table), generator=generator)[:count].sort().values


def _classes(spec: Spec, trained: Trained) -> Tensor:
    if spec.named or not spec.positional:
        raise UsageError("class takes one name or more, such as class(3) or class(Sandal, Bag).")
    labels = torch.tensor([trained.label(name) for name in spec.positional])
    chosen = torch.isin(trained.table["y"], labels)
    if chosen.all():
        raise UsageError(f"{spec} are all classes of the run: nothing would be left.")
    if not chosen.any():
        raise UsageError(f"The run has no training examples of {spec}.")
    return chosen.nonzero().flatten()


def _rows(spec: Spec, trained: Trained) -> Tensor:
    if set(spec.named) - {"file"} or not (spec.positional or spec.named):
        raise UsageError("rows takes row numbers, rows(3, 17), or a file of them, rows(file='F').")
    numbers = list(spec.positional)
    if "file" in spec.named:
        path = Path(str(spec.named["file"]))
        try:
            numbers += [int(word) for word in path.read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a list of row numbers.") from error
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise UsageError(f"Row numbers must be whole numbers; given: {spec}.")
    return torch.tensor(numbers, dtype=torch.long)


def _by_class(trained: Trained) -> Tensor:
    """The class of every example, numbered without gaps."""
    groups: Tensor = trained.table["y"].unique(return_inverse=True)[1]
    return groups


def _size(value: object, spec: Spec) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UsageError(f"{spec.name} needs a size, such as {spec.name}(100) or {spec.name}(0.1).")
    return value
