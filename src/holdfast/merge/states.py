"""Merging in memory: state dicts in, a state dict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.merge.catalogue import Rule, build
from holdfast.merge.changes import Held, Inputs
from holdfast.merge.path import refuse_unlike


def merge_states(
    rule: str | Rule,
    states: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor] | None = None,
    model: Any = None,
) -> dict[str, Tensor]:
    """Merge weights in memory.

    Args:
        rule: A spec, or a rule.
        states: State dicts with the same names and shapes.
        base: What they were tuned from.
        model: A transformer of their kind, for rules that ask what a tensor is; its weights are
            not read.

    Returns:
        A state dict in the dtypes of the first; what holds no real numbers comes from there.

    Raises:
        UsageError: If the states do not fit together, or not the rule.

    Example:
        >>> base, tuned = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
        >>> merge_states("wise_ft(alpha=0.25)", [tuned], base)["w"].tolist()
        [0.25, 0.25]
    """
    rule = build(rule)
    rule.check(len(states), base is not None)
    everything = ([] if base is None else [base]) + list(states)
    for other in everything[1:]:
        refuse_unlike(everything[0], other)
    models = list(states) if rule.of_changes else everything

    def skeleton() -> Any:
        if model is None:
            raise UsageError(f"{rule.spec.name} asks what a tensor is; give the model (model=).")
        return model

    first = states[0]
    real = {name: tuple(t.shape) for name, t in first.items() if t.is_floating_point()}
    origin = Held(base) if rule.of_changes and base is not None else None
    inputs = Inputs([Held(state) for state in models], origin, real, skeleton)
    begin = rule.start(inputs)
    found = dict(first)
    for name, shape in real.items():
        pieces = list(inputs.merged(name, begin))
        whole = torch.cat(pieces) if shape and pieces else (pieces or [first[name]])[0]
        found[name] = whole.reshape(shape).to(first[name].dtype)
    return found
