"""Rules of merging by name, as the command line names them: `ties(density=0.2)`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from holdfast.errors import UsageError, unknown
from holdfast.merge.changes import Begin, Inputs
from holdfast.spec import Spec, bind, parse_one

Weighting = Sequence[float] | None
"""One weight a model; None: the same for all."""


@dataclass(frozen=True)
class Rule:
    """A rule with its arguments.

    Attributes:
        spec: As it was asked for.
        start: From what is merged to what is done with every tensor.
        of_changes: Whether it merges changes from a base, which must then be given; otherwise the
            base, where one is given, counts as a model.
        most: Models that it can merge; None: any number.
        whole: Whether it looks at whole tensors of each model before it merges their pieces.
    """

    spec: Spec
    start: Callable[[Inputs], Begin]
    of_changes: bool
    most: int | None = None
    whole: bool = False

    def check(self, models: int, base: bool) -> None:
        """Refuse what it cannot merge.

        Args:
            models: How many are merged, without the base.
            base: Whether one is given.

        Raises:
            UsageError: If there are too few or too many models, or if a base is missing.
        """
        given = f"{models} model{'s' if models != 1 else ''}"
        if self.of_changes and not base:
            raise UsageError(
                f"{self.spec.name} merges changes from a base; give what the models were tuned "
                "from: --base FOLDER (base=)."
            )
        counted = models if self.of_changes else models + base
        least = 1 if self.of_changes else 2
        if counted < least or (self.most is not None and counted > self.most):
            words = f"{'no more than ' if least < (self.most or 0) else ''}{self.most}"
            wanted = words if self.most is not None else f"at least {least}"
            also = "" if self.of_changes else ", the base counted as one"
            held = "" if self.of_changes or not base else " and a base"
            raise UsageError(f"{self.spec.name} merges {wanted}{also}; given: {given}{held}.")


def build(text: str | Rule) -> Rule:
    """The rule of a spec.

    Raises:
        UsageError: If there is no such rule or argument, or if a value is out of range.

    Example:
        >>> build("ties(density=0.3)").of_changes
        True
    """
    if isinstance(text, Rule):
        return text
    spec = parse_one(text)
    if spec.name not in RULES:
        raise unknown("rule", spec.name, RULES)
    make = _maker(spec.name)
    arguments = bind(spec, make, "rule")
    found = make(**arguments)
    return Rule(
        Spec(spec.name, (), arguments), found.start, found.of_changes, found.most, found.whole
    )


def arguments(name: str) -> dict[str, Any]:
    """The arguments of a rule with their defaults."""
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return {n: p.default for n, p in inspect.signature(_maker(name)).parameters.items()}


def _maker(name: str) -> Callable[..., Rule]:
    module, _, function = RULES[name].partition(":")
    found: Callable[..., Rule] = getattr(import_module(module), function)
    return found


def weighting(given: Weighting, models: int, scale: float = 1.0) -> list[float]:
    """One weight a model, times a scale.

    Raises:
        UsageError: If there are not as many as models, or if one is no finite number.
    """
    each = [1.0] * models if given is None else given
    if (
        not isinstance(each, (list, tuple))
        or len(each) != models
        or not all(isinstance(w, (int, float)) and math.isfinite(w) for w in each)
    ):
        raise UsageError(
            f"weights must be a list of {models} numbers, one a model; given: {given!r}."
        )
    if not math.isfinite(scale):
        raise UsageError(f"scale must be finite; given: {scale}.")
    return [scale * float(weight) for weight in each]


_HERE = "holdfast.merge.named"
RULES: dict[str, str] = {
    **{
        name: f"{_HERE}:{name}"
        for name in (
            "average", "linear", "task_arithmetic", "wise_ft", "slerp", "ties", "dare",
            "dare_ties", "magnitude", "breadcrumbs",
        )
    },
    "neuron_fusion": "holdfast.merge.neuron_fusion:neuron_fusion",
}  # fmt: skip
"""Name to where a rule is made."""
