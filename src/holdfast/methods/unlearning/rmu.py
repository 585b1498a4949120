"""RMU: representations of what is to be forgotten, steered into nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch, size
from holdfast.errors import StreamRefused, UsageError, at_least
from holdfast.memory.requests import Retained, parted
from holdfast.method import Method, Tags
from holdfast.models.reference import Reference

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Update = Literal["down", "all"]
DEPTH = 7 / 32
"""Where the paper's layer lies in its model of 32."""


class RMU(Method):
    """RMU: push the activations of one block on F to a random direction, hold them on R.

    With h the output of block l, u a unit vector drawn once, of entries uniform in [0, 1) before it
    is scaled, and means over the answers' tokens and the width,

        loss = weight |h(F) - steering u|^2 + alpha |h(R) - h_ref(R)|^2

    Args:
        layer: l, from 0; None: where 7 is among 32.
        steering: Length of the target; about that of the activations.
        alpha: Weight of the retain term.
        weight: Of the forget term.
        update: Which weights move: `down`, the last matrices of the feed-forward parts of the
            blocks l - 2 to l; or `all`.
        anchor: Which set an epoch goes through, as in `retain`.

    Raises:
        UsageError: If a number or a word is out of range.

    Differs from the paper: distances are over the answers' tokens, where the code has all tokens of
    its plain texts; what is mixed in by other methods does not count.
    """

    tags = Tags(
        family="unlearning",
        title="The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning",
        source="Li et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"boundaries", "retain set", "transformer blocks"}),
        keeps=frozenset({"model"}),
    )
    shares_passes = False
    replaces_loss = True
    direction: Tensor | None

    def __init__(
        self,
        layer: int | None = None,
        steering: float = 2.0,
        alpha: float = 1.0,
        weight: float = 1.0,
        update: Update = "down",
        anchor: Literal["forget", "retain"] = "forget",
    ) -> None:
        super().__init__()
        at_least(0, layer=layer)
        if update not in get_args(Update):
            raise UsageError(f"update must be {' or '.join(get_args(Update))}; given: {update!r}.")
        self.layer, self.steering, self.alpha = layer, steering, alpha
        self.weight, self.update, self.anchor = weight, update, anchor
        self.retained = Retained(anchor)
        self.register_buffer("direction", None)
        self._seen: list[Tensor] = []
        self._hook: Any = None

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        from holdfast.models.anatomy import blocks

        reason = super().refusal(stream, model)
        if reason is not None:
            return reason
        try:
            found = blocks(model)
        except UsageError as error:
            return f"RMU steers the output of a transformer's block. {error}"
        if self.layer is not None and self.layer >= len(found):
            return f"RMU has no block {self.layer} to steer: the model has {len(found)}, from 0."
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            return "RMU steers the blocks of a causal model; an encoder-decoder model has others."
        return None

    def setup(self, learner: Learner) -> None:
        self.reference = Reference(lambda: learner.model)
        if self.update == "all":
            return
        if hasattr(learner.model, "peft_config"):
            raise StreamRefused(
                "RMU moves matrices of the model itself, and an adapter freezes them: give "
                "rmu(update=all) to move the adapter."
            )
        moved = {id(parameter) for parameter in self.moved(learner.model)}
        for parameter in learner.model.parameters():
            parameter.requires_grad_(id(parameter) in moved)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.retained.begin()
        if self.direction is None:
            width = learner.model.config.get_text_config().hidden_size
            chance = learner.generator
            drawn = torch.rand(width, generator=chance, device=chance.device)
            self.register_buffer("direction", drawn / drawn.norm())
        self.reference.take()

    def select(self, learner: Learner, table: Any) -> Any:
        return self.retained.select(learner, table)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        # Not in `begin`, which a resumed experience has behind it.
        if self._hook is None:
            self._hook = self.block(learner.model).register_forward_hook(self._see)
        return batch

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        rows = learner.stream_rows
        if not rows:
            return loss
        forget, _, kept = parted(learner, batch, outputs)
        assert self.direction is not None
        steered = self._last()[:rows]
        away = _distance(steered, self.steering * self.direction, forget)
        retain = self.retained.draw(learner, size(forget))
        learner.objective.forward(learner.model, retain)
        held = self._last()
        there = self.activations_before(learner, retain)
        held = _distance(held, there, retain)
        total = self.weight * away + self.alpha * held
        return total if kept is None else total + kept

    def activations_before(self, learner: Learner, batch: Batch) -> Tensor:
        """The block's output on a batch in the model as it was."""
        if self.reference.off:
            self.reference.outputs(learner, batch)
            return self._last().detach()
        frozen = self.reference.copy.model
        assert frozen is not None
        seen: list[Tensor] = []
        hook = self.block(frozen).register_forward_hook(lambda *given: seen.append(_first(given)))
        try:
            self.reference.outputs(learner, batch)
        finally:
            hook.remove()
        return seen[-1]

    def end(self, learner: Learner, experience: Experience) -> None:
        self.release(learner)

    def release(self, learner: Learner) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._seen = None, []

    def block(self, model: nn.Module) -> nn.Module:
        """The block whose output is steered."""
        from holdfast.models.anatomy import blocks

        names = list(blocks(model))
        return model.get_submodule(names[self.place(len(names))])

    def place(self, depth: int) -> int:
        """Its number in a model of so many."""
        return self.layer if self.layer is not None else round(DEPTH * (depth - 1))

    def moved(self, model: nn.Module) -> list[nn.Parameter]:
        """The last matrices of the feed-forward parts of the three blocks up to the steered one."""
        from holdfast.models.anatomy import blocks

        found = list(blocks(model).values())
        last = self.place(len(found))
        names = {
            unit.weight.parameter
            for units in found[max(0, last - 2) : last + 1]
            for unit in units
            if unit.kind in ("down", "fc2")
        }
        return [parameter for name, parameter in model.named_parameters() if name in names]

    def _see(self, *given: Any) -> None:
        self._seen = [_first(given)]

    def _last(self) -> Tensor:
        return self._seen[-1]


def _first(given: tuple[Any, ...]) -> Tensor:
    """The hidden states among what a block answers."""
    output = given[-1]
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _distance(hidden: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Mean squared distance over the width and the answers' tokens."""
    asked = (batch["labels"] != -100).to(hidden.dtype)
    far = (hidden - target).square().mean(-1)
    return (far * asked).sum() / asked.sum().clamp(min=1)
