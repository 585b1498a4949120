"""Interpolation-based LoRA."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.language.objective import IGNORED
from holdfast.memory.buffer import Buffer
from holdfast.memory.parameters import ParameterStore
from holdfast.method import Method, Tags
from holdfast.models import adapters

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Target = Literal["max", "slow"]
States = list[tuple[Tensor, Tensor]]
"""Hidden states (examples, width, units) of every layer, with the mask of real positions."""


class ILoRA(Method):
    """I-LoRA: a fast adapter learns, a slow one follows it along its path and is what is used.

    With B the batch, M a draw from a reservoir of all examples so far, and h the hidden states of
    all layers on M, under the fast (phi) and the slow adapter (psi):

        loss = (CE(B) + CE(M)) / 2 + consistency mean (h_phi - r)^2,
        r = max(h_phi, h_psi) by entry, or h_psi;    no gradient through r

        after update k:  psi <- a psi + (1 - a) phi,   a = min(1 - 1 / (k + 1), decay)

    In the first experience, where there is nothing to remember, the loss is CE(B). One fast adapter
    is trained throughout. The slow one is no second model: its weights are kept beside the fast
    one's, on the same frozen base, and stand in for them where the model is used or saved.

    Args:
        rank: Of B A.
        alpha: Scale of B A, times the rank.
        dropout: Chance that an input of A is left out in training.
        targets: Which matrices: `all-linear`, `attention`, or some of q, k, v, o, gate, up, down,
            fc1 and fc2 joined by commas.
        capacity: Examples remembered; 0: none, and then neither replay nor consistency.
        batch_size: Examples drawn from them a pass; None: as many as the stream brings.
        decay: Largest share of the slow weights that an update leaves; 0.25 follows closely.
        consistency: Weight of the distance between hidden states.
        target: What they are drawn to: `max`: the slow ones where those are larger; `slow`.
        slow_share: Of the weights in use: 1 the slow adapter, 0 the fast one, and between them
            their interpolation.
        slow_dropout: Whether the slow adapter gives its hidden states with dropout at work.
        resync: Whether the slow adapter is set to the fast one when an experience ends.
        update_chance: Of an update to be followed by the slow adapter.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: the official code pads replayed labels with token 0 and has no masks;
    here padding is neither learned, attended to nor compared. It offers examples to the reservoir
    in every epoch; here once, so that old experiences keep their share. Its slow branch runs with
    dropout, its slow adapter begins at random weights and not at the fast one's, and its update
    chance has no effect. It calls for `resync` through a method that does not exist.

    Example:
        >>> ILoRA(capacity=200, target="slow").buffer.capacity
        200
    """

    tags = Tags(
        family="adapter",
        title="Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning",
        source="Ren et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"adapters", "boundaries"}),
        keeps=frozenset({"examples", "parameters"}),
    )
    remembers = ("updates",)
    answers_by_copies = True
    reads_outputs = False

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 32.0,
        dropout: float = 0.1,
        targets: str = "attention",
        capacity: int = 500,
        batch_size: int | None = None,
        decay: float = 0.25,
        consistency: float = 1.0,
        target: Target = "max",
        slow_share: float = 1.0,
        slow_dropout: bool = False,
        resync: bool = False,
        update_chance: float = 1.0,
    ) -> None:
        super().__init__()
        adapters.check(rank, alpha, dropout)
        at_least(0, capacity=capacity)
        at_least(1, batch_size=batch_size)
        for name, given in (
            ("decay", decay),
            ("slow_share", slow_share),
            ("update_chance", update_chance),
        ):
            if not 0 <= given <= 1:
                raise UsageError(f"{name} must lie in 0..1; given: {given}.")
        if consistency < 0:
            raise UsageError(f"consistency must not be negative; given: {consistency}.")
        if target not in get_args(Target):
            raise UsageError(f"target must be 'max' or 'slow'; given: {target!r}.")
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha, dropout, targets
        self.capacity, self.batch_size, self.decay = capacity, batch_size, decay
        self.consistency, self.target, self.slow_share = consistency, target, slow_share
        self.slow_dropout, self.resync = slow_dropout, resync
        self.update_chance = update_chance
        self.buffer = Buffer(max(1, capacity))
        self.slow = ParameterStore()
        self.updates = 0  # that the slow adapter has followed or let pass

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or adapters.refusal("I-LoRA", model)

    def setup(self, learner: Learner) -> None:
        learner.model = adapters.adapted(
            learner.model, self.rank, self.alpha, self.dropout, self.targets, learner.seed
        )

    def begin(self, learner: Learner, experience: Experience) -> None:
        if not self.slow:
            self.slow.put(learner.named)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not self.capacity:
            return loss
        if not learner.epoch:
            self.buffer.add(learner.incoming, learner.generator)
        if not learner.index:
            return loss
        replayed = self.buffer.sample(self.batch_size or learner.batch_size, learner.generator)
        slow = self.slow_states(learner, replayed) if self.consistency else []
        answers, fast = hidden_states(learner, replayed)
        loss = (loss + learner.objective.loss(answers, replayed)) / 2
        if self.consistency:
            loss = loss + self.consistency * distance(fast, slow, self.target)
        return loss

    def slow_states(self, learner: Learner, batch: Batch) -> States:
        """The hidden states under the slow adapter, without gradient."""
        own = [parameter for _, parameter in learner.named]
        quiet = torch.no_grad() if self.slow_dropout else undisturbed(learner.model)
        with adapters.standing_in(own, self.slow.get(learner.named)), quiet:
            return hidden_states(learner, batch)[1]

    @torch.no_grad()
    def step(self, learner: Learner) -> None:
        self.updates += 1
        if self.update_chance < 1 and self.passed_over(learner):
            return
        decay = min(1 - 1 / (self.updates + 1), self.decay)
        fast: list[Tensor] = [parameter for _, parameter in learner.named]
        torch._foreach_lerp_(self.slow.get(learner.named), fast, 1 - decay)

    def passed_over(self, learner: Learner) -> bool:
        """By a chance that is the same in every process, and in every run resumed."""
        draw = torch.Generator().manual_seed(1_000_003 * self.updates + learner.seed)
        return bool(torch.rand((), generator=draw) >= self.update_chance)

    def end(self, learner: Learner, experience: Experience) -> None:
        if self.resync:
            self.slow.put(learner.named)

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        if not self.slow or not self.slow_share:
            return nullcontext()
        fast = [parameter for _, parameter in learner.named]
        used = self.slow.get(learner.named)
        if self.slow_share < 1:
            used = list(torch._foreach_lerp([p.detach() for p in fast], used, self.slow_share))
        return adapters.standing_in(fast, used)


def hidden_states(learner: Any, batch: Batch) -> tuple[Tensor, States]:
    """A forward pass: the model's outputs, and the hidden states of all layers on real tokens.

    Of an encoder and a decoder both count, the decoder's where an answer's token is asked for.
    """
    answers: list[Any] = []

    def model(**given: Any) -> Any:
        answers.append(learner.model(**given, output_hidden_states=True))
        return answers[-1]

    outputs = learner.objective.forward(model, batch)
    (answer,) = answers
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    if "decoder_hidden_states" not in answer:
        return outputs, [(states, real.bool()) for states in answer.hidden_states]
    asked = batch["labels"] != IGNORED
    return outputs, [
        *((states, real.bool()) for states in answer.encoder_hidden_states),
        *((states, asked) for states in answer.decoder_hidden_states),
    ]


def distance(fast: States, slow: States, target: Target) -> Float[Tensor, ""]:
    """Mean squared difference of hidden states over all layers, real positions and units.

    Args:
        fast: Of every layer, with gradient.
        slow: Of every layer, without.
        target: `"max"`: only entries count in which the slow state is larger; `"slow"`: all.
    """
    sums, count = [], torch.zeros((), device=fast[0][0].device)
    for (now, real), (kept, _) in zip(fast, slow, strict=True):
        gap = now.float() - kept.float()
        if target == "max":
            gap = gap.clamp(max=0)
        sums.append((gap.square().sum(-1) * real).sum())
        count = count + real.sum() * now.shape[-1]
    return torch.stack(sums).sum() / count
