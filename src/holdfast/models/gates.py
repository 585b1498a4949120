"""Gates on the units of a backbone, one embedding a task: hard attention to the task.

A gate multiplies what a layer's units answer by sigmoid(s e_t), with e_t a task's embedding of as
many numbers as there are units. `plan` finds the places for gates and which of them stand before
and behind every weight; `install` puts them in.

Where a gate is shut for a task its unit counts nothing there, whatever comes in. So what a task's
answer depends on are the weights between two of its open units, if nothing else mixes units:
batch normalisation before a gate does not, layer normalisation would. In a residual block the sum
of both branches is gated, so that what the shortcut carries was gated too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.errors import UsageError
from holdfast.models.backbones import CNN, ResNet18, _Residual
from holdfast.models.classifier import Standardise


@dataclass
class Switch:
    """How all gates of a model stand.

    Attributes:
        task: The task of all rows of a batch, or one a row.
        sharpness: s; the larger, the more the gates are open or shut.
    """

    task: int | Tensor = 0
    sharpness: float = 1.0


class Gate(nn.Module):
    """Multiplies units by sigmoid(s e_t).

    Args:
        units: Features, or channels of maps: the second dimension of what comes in.
        tasks: Rows of the embedding.
        switch: Says which task, and s.
    """

    def __init__(self, units: int, tasks: int, switch: Switch) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(tasks, units))
        self.switch = switch

    def forward(self, x: Tensor) -> Tensor:
        attention = (self.switch.sharpness * self.embedding[self.switch.task]).sigmoid()
        return x * attention.view(*attention.shape, *[1] * (x.dim() - 2))


@dataclass(frozen=True)
class Wire:
    """A layer with weights, and the places, among those of a plan, that it lies between.

    Attributes:
        layer: Linear or convolutional.
        behind: Of the gate on its outputs.
        before: Of the gate on its inputs; None: the model's own inputs, which no gate is on.
    """

    layer: nn.Linear | nn.Conv2d
    behind: int
    before: int | None


@dataclass
class Plan:
    """Where gates go.

    Attributes:
        places: The module whose outputs are gated, as its owner and its name there, and how many
            units it has.
        wires: Every layer with weights.
    """

    places: list[tuple[nn.Module, str, int]] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)

    def open(self, wire: Wire, used: list[Tensor]) -> Tensor:
        """How far each of a layer's weights may move, where units are used by other tasks.

            1 - min(A_i, A_j)      for the weight from unit j to unit i

        Args:
            used: A, from 0 to 1, for the units of each place.

        Returns:
            Of a shape that broadcasts against the weight; for a first layer 1 - A_i.
        """
        after = used[wire.behind].unsqueeze(1)
        if wire.before is None:
            closed = after
        else:
            inputs = used[wire.before]
            # A picture's channels become several features each where it is flattened.
            closed = after.minimum(inputs.repeat_interleave(_inputs(wire.layer) // len(inputs)))
        return (1 - closed).view(*closed.shape, *[1] * (wire.layer.weight.dim() - 2))


def plan(backbone: nn.Module) -> Plan:
    """Find where gates go: behind every activation, and behind every residual sum.

    Args:
        backbone: `MLP`, `CNN`, `ResNet18`, or a sequence of linear layers, convolutions, batch
            normalisations, activations, pooling and dropout.

    Raises:
        UsageError: If units are mixed in a way that gates would not keep apart.
    """
    found = Plan()
    rest = _walk(backbone, _Flow(found))
    if rest.layers:
        raise UsageError("Its last layer has no activation behind it.")
    if not found.places:
        raise UsageError("It has no layers with weights.")
    return found


def install(found: Plan, tasks: int, switch: Switch) -> list[Gate]:
    """Put a gate at every place of a plan; the parameters of the model gain their embeddings."""
    gates = []
    for owner, name, units in found.places:
        gate = Gate(units, tasks, switch)
        setattr(owner, name, nn.Sequential(getattr(owner, name), gate))
        gates.append(gate)
    return gates


@contextmanager
def standing(switch: Switch, task: int | Tensor, sharpness: float) -> Iterator[None]:
    """Inside it, gates stand otherwise."""
    before = switch.task, switch.sharpness
    switch.task, switch.sharpness = task, sharpness
    try:
        yield
    finally:
        switch.task, switch.sharpness = before


_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
_UNITWISE = (
    nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, Standardise,
)  # fmt: skip
"""What keeps units apart, and shut ones at a constant."""


@dataclass
class _Flow:
    """How far a walk through a backbone has come.

    Attributes:
        plan: What it has found.
        gate: The place that what comes next reads from; None: the inputs.
        layers: Those whose outputs are not gated yet, with the place that they read from.
    """

    plan: Plan
    gate: int | None = None
    layers: list[tuple[nn.Linear | nn.Conv2d, int | None]] = field(default_factory=list)

    def gated(self, owner: nn.Module, name: str) -> _Flow:
        """The flow behind a gate on a part."""
        at = len(self.plan.places)
        self.plan.places.append((owner, name, len(self.layers[0][0].weight)))
        self.plan.wires += [Wire(layer, at, source) for layer, source in self.layers]
        return _Flow(self.plan, at)


def _walk(part: nn.Module, flow: _Flow, owner: nn.Module | None = None, name: str = "") -> _Flow:
    if isinstance(part, CNN):
        return _walk(part.blocks, flow, part, "blocks")
    if isinstance(part, ResNet18):
        return _walk(part.stages, _walk(part.stem, flow, part, "stem"), part, "stages")
    if isinstance(part, nn.Sequential):
        for key, child in part.named_children():
            flow = _walk(child, flow, part, key)
        return flow
    if isinstance(part, _Residual):
        inner = _walk(part.second, _walk(part.first, flow, part, "first"), part, "second")
        around = _walk(part.shortcut, flow, part, "shortcut")
        assert owner is not None
        return _Flow(flow.plan, None, inner.layers + around.layers).gated(owner, name)
    if isinstance(part, nn.Linear | nn.Conv2d) and not flow.layers:
        if getattr(part, "groups", 1) > 1:
            raise UsageError("It has a convolution in groups.")
        return _Flow(flow.plan, flow.gate, [(part, flow.gate)])
    if isinstance(part, _BatchNorm) and flow.layers:
        return flow
    if isinstance(part, _ACTIVATIONS) and flow.layers and owner is not None:
        return flow.gated(owner, name)
    if isinstance(part, _UNITWISE):
        return flow
    raise UsageError(f"A {type(part).__name__} stands where gates would not keep units apart.")


def _inputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
