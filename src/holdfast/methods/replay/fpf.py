"""FPF and k-FPF: fine-tune on the memory only what forgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.evaluation import undisturbed
from holdfast.losses import output_distance
from holdfast.memory.buffer import Buffer
from holdfast.memory.parameters import ParameterStore
from holdfast.memory.shares import Shares
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.models.groups import Group, by_kind_and_depth, chosen
from holdfast.models.layers import norms
from holdfast.models.snapshot import standing_in
from holdfast.optim.dynamics import Dynamics, Score, sensitive, tensors

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

When = Literal["end", "each"]

BY_SCORE = ("sensitive", "insensitive", "random")
"""Choices of modules that need to be told which are sensitive."""


class FPF(Method):
    """Forgetting prioritised fine-tuning: at the end, tune on the memory only what forgets.

        D_m(t, n) = mean |theta_m after epoch n of task t - before it|       of every module m
        s_m = mean over the first switches of D_m(t + 1, 1) / D_m(t, last)
        S = the modules whose s_m is above the geometric mean
        theta_S <- theta_S - rate * gradient of mean loss(x, y) over (x, y) in M,   M ~ memory

    Only few modules are made anew by every task, mostly normalisations and the last layer; what
    was forgotten is in them, and a small memory is enough to bring them back. A plug-in for the
    final state of any method: what comes before it in the chain is left as it is, and only asked to
    make its class means anew. It tunes on the memory of the first method in the chain that has one,
    or on a reservoir of its own.

    A batch normalisation is one module: its scales, its shifts and its statistics. If it is in S it
    is in training mode, so that its statistics follow the memory; if not, in evaluation mode, so
    that they stay. Everything outside S is frozen.

    Args:
        capacity: Examples remembered, by reservoir, where no other method of the chain has a
            memory.
        iterations: Steps of fine-tuning.
        batch_size: Examples a step.
        rate: Of plain gradient descent in these steps.
        clip: Largest norm of a step's whole gradient in them; None: any.
        tune: What is tuned: `sensitive`; their complement, `insensitive`; modules at `random`
            that hold about as many weights; `all`; or names of modules and of kinds, such as
            `"norm head"` or `"convolution-1"`.
        top: How many modules are sensitive; None: those above the geometric mean.
        score: `leap`, as above, or `change`: mean |theta_m at the end of task t + 1 - at the end of
            task t|, which has a unit, and favours what moves far in any case.
        switches: Of how many changes of the task, the first ones, the scores are the mean.
        when: `end`: in place, after the last experience of the stream; `each`: also after every
            other one on a copy, which serves until training goes on.

    Attributes:
        grouping: From a model to its modules; `models.groups.by_kind_and_depth` unless replaced.

    Raises:
        UsageError: If an argument is out of range, or names a module that there is not.

    Differs from the paper: the form of the score is ours, as are most defaults, since no code was
    to be found. A module is a kind of layer at a depth.

    Source: Zhao, Zhou, Long, Jiang and Zhang, "Does continual learning equally forget all
    parameters?" (2023).

    Example:
        >>> from holdfast.method import chain
        >>> from holdfast.methods import ER
        >>> method = chain(ER(capacity=200), FPF(iterations=100))
    """

    tags = Tags(
        family="replay",
        title="Does continual learning equally forget all parameters?",
        source="Zhao et al., 2023",
        scenarios=ALL_KINDS,
        needs=frozenset({"labels"}),
        keeps=frozenset({"examples", "parameters"}),
    )
    remembers = ("modules_tuned",)
    reads_outputs = False

    def __init__(
        self,
        capacity: int = 200,
        iterations: int = 300,
        batch_size: int = 32,
        rate: float = 0.05,
        clip: float | None = 5.0,
        tune: str = "sensitive",
        top: int | None = None,
        score: Score = "leap",
        switches: int = 2,
        when: When = "end",
    ) -> None:
        super().__init__()
        at_least(1, iterations=iterations, batch_size=batch_size, top=top, switches=switches)
        above_zero(rate=rate, clip=clip)
        if score not in get_args(Score):
            raise UsageError(f"score must be 'leap' or 'change'; given: {score!r}.")
        if when not in get_args(When):
            raise UsageError(f"when must be 'end' or 'each'; given: {when!r}.")
        self.capacity, self.iterations, self.batch_size = capacity, iterations, batch_size
        self.rate, self.clip, self.tune, self.top = rate, clip, tune, top
        self.score, self.switches, self.when = score, switches, when
        self.grouping: Callable[[nn.Module], dict[str, Group]] = by_kind_and_depth
        self.buffer = Buffer(capacity)
        self.dynamics, self.tuned = Dynamics(), ParameterStore()
        self.modules_tuned: list[str] = []

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.tune in BY_SCORE and (len(stream) < 2 or not stream.boundaries):
            return (
                f"{type(self).__name__} sees which modules are sensitive where the task switches, "
                f"and {stream.name!r} does not tell: name them, as in tune='norm head'."
            )
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        from holdfast.learner import Learner as Own

        if not isinstance(learner, Own):
            raise UsageError(
                f"{type(self).__name__} follows a whole stream, and trains at its end, as in "
                "holdfast's own loop: another trainer knows neither."
            )
        for part in learner.method.parts():
            if part.answers_by_copies or part.overrides("answer"):
                raise UsageError(
                    f"{type(self).__name__} tunes the model's own weights, and "
                    f"{type(part).__name__} answers with others (averages or masks of them): they "
                    "cannot be chained."
                )
        groups = self.groups(learner)
        if self.tune not in (*BY_SCORE, "all"):
            chosen(groups, self.tune.split())
        if self.top is not None and self.top > len(groups):
            raise UsageError(f"top must be at most the {len(groups)} modules; given: {self.top}.")

    def groups(self, learner: Learner) -> dict[str, Group]:
        """The modules with weights that are trained, or will be once the head has grown."""
        groups = self.grouping(learner.model)
        return {
            n: g for n, g in groups.items() if any(p.requires_grad for p in g.parameters.values())
        }

    # What is watched.

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.tuned = ParameterStore()
        if self.scoring(learner):
            self.dynamics.begin(self.groups(learner))

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        if self.memory(learner) is self.buffer and learner.epoch == 0:
            self.buffer.add(learner.incoming, learner.generator)
        return batch

    def step(self, learner: Learner) -> None:
        assert learner.batches is not None
        if not learner.batches.remaining() and self.scoring(learner):
            self.dynamics.measure(self.groups(learner), learner.index)

    def scoring(self, learner: Learner) -> bool:
        """Whether scores are needed, and not known yet."""
        return self.tune in BY_SCORE and learner.index <= self.switches

    def memory(self, learner: Learner) -> Buffer | Shares:
        """The memory of the first method that has one: its own, if it is the only one."""
        others = (part for part in learner.method.parts() if part is not self)
        held = (child for part in others for child in part.children())
        return next((kept for kept in held if isinstance(kept, Buffer | Shares)), self.buffer)

    # What is done.

    def end(self, learner: Learner, experience: Experience) -> None:
        if self.scoring(learner) and learner.step:
            self.dynamics.end(self.groups(learner))
        if self.ended(learner):
            self.finetune(learner)
        elif self.when == "each":
            held = self.touched(learner, self.choose(learner))
            if not held:
                return
            was = [tensor.detach().clone() for _, tensor in held]
            chance = learner.generator.get_state()
            with undisturbed(device=learner.device):  # what is learned next draws as without it
                self.finetune(learner)
            learner.generator.set_state(chance)
            self.tuned.put(held)
            with torch.no_grad():
                torch._foreach_copy_([tensor.detach() for _, tensor in held], was)

    def ended(self, learner: Learner) -> bool:
        """Whether the experience at hand is the last of the stream."""
        return learner.stream is not None and learner.index + 1 == len(learner.stream)

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        if not self.tuned:
            return nullcontext()
        held = self.touched(learner, self.modules_tuned)
        return standing_in([tensor for _, tensor in held], self.tuned.get(held))

    def touched(self, learner: Learner, names: list[str]) -> list[tuple[str, Tensor]]:
        """What fine-tuning some modules changes: their weights, and their running statistics."""
        groups = self.groups(learner)
        held: list[tuple[str, Tensor]] = []
        for name in names:
            held += groups[name].parameters.items()
            for place, layer in enumerate(groups[name].layers):
                held += layer.named_buffers(f"{name} {place}", recurse=False)
        return held

    def choose(self, learner: Learner) -> list[str]:
        """S; empty while no switch has been seen from which it could be told."""
        groups = self.groups(learner)
        if self.tune == "all":
            return list(groups)
        if self.tune not in BY_SCORE:
            return chosen(groups, self.tune.split())
        scores = self.dynamics.scores(self.score)
        if not scores:
            return []
        found = sensitive(scores, self.top)
        if self.tune == "insensitive":
            return [name for name in groups if name not in found]
        if self.tune == "random":
            return at_random(groups, sum(groups[name].weights for name in found), learner.seed)
        return found

    def finetune(self, learner: Learner) -> None:
        """Tune S on the memory, in place."""
        names, memory = self.choose(learner), self.memory(learner)
        groups = self.groups(learner)
        weights = [p for name in names for p in groups[name].parameters.values() if p.requires_grad]
        if not weights or not len(memory):
            return
        self.modules_tuned = names
        modes = [(part, part.training) for part in learner.model.modules()]
        learner.model.train()
        for layer in norms(learner.model, [la for name in names for la in groups[name].layers]):
            layer.eval()

        moving = [weight.detach() for weight in weights]

        def update() -> None:
            replayed = memory.sample(self.batch_size, learner.generator)
            with torch.enable_grad(), learner.autocast():
                loss = self.tuning_loss(learner, replayed)
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            learner.ranks.average(gradients)
            if self.clip is not None:
                whole = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
                torch._foreach_mul_(gradients, (self.clip / whole).clamp(max=1.0))
            torch._foreach_add_(moving, gradients, alpha=-self.rate)

        learner.meter.apart(update, self.iterations)
        for part, training in modes:
            part.training = training
        for method in learner.method.parts():
            method.renew(learner)
        learner.note(
            tuned=names,
            tuned_weights=sum(weight.numel() for weight in weights),
            weights=sum(group.weights for group in groups.values()),
        )

    def tuning_loss(self, learner: Learner, replayed: Batch) -> Tensor:
        """What fine-tuning descends, on examples of the memory."""
        batch = learner.augmented(replayed)
        return learner.objective.loss(learner.objective.forward(learner.model, batch), batch)


def at_random(groups: Mapping[str, Group], weights: int, seed: int) -> list[str]:
    """Of the groups in a random order the first ones, whose weights come nearest to `weights`."""
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    sizes = [group.weights for group in groups.values()]
    sums = list(accumulate(sizes[place] for place in order))
    count = min(range(len(sums)), key=lambda k: abs(sums[k] - weights)) + 1
    return [list(groups)[place] for place in sorted(order[:count])]


class KFPF(FPF):
    """k-FPF: no replay at all but k times a fine-tuning of what forgets, spread over the stream.

        theta <- SGD on loss(B)                                              every step
        after each N/k steps:   S <- FPF on the memory,
            loss = loss(x, y) + gamma mean (f(x) - z)^2   over (x, y, z) in M ~ memory

    with N the steps of the whole stream, S chosen as by `FPF`, and z the logits of the pass in
    which an example was stored. Triggers go by steps and know no boundaries; the last is at the
    end. One that comes before the first switch has been measured is left out where S goes by
    scores: nothing is forgotten yet. Fine-tuning's own movement is left out of the scores.

    Args:
        capacity: Examples remembered, by reservoir.
        k: Fine-tunings.
        every: Steps between them, in place of N/k.
        gamma: Weight of the distance to stored logits; 0: labels alone (k-FPF-CE).
        iterations: Steps of each fine-tuning.
        batch_size: Examples a step of it.
        rate: Of plain gradient descent in these steps.
        clip: As for `FPF`. Logits that were stored long ago are far from those of today, and
            without a bound the first steps towards them can be too large to come back from.
        tune: What is tuned, as for `FPF`.
        top: As for `FPF`.
        score: As for `FPF`.
        switches: As for `FPF`.
        insert_epochs: In how many epochs of an experience its examples are offered to the memory;
            None: in all, so that logits of later, better epochs are kept.

    Raises:
        UsageError: If an argument is out of range.

    Source: Zhao, Zhou, Long, Jiang and Zhang, "Does continual learning equally forget all
    parameters?" (2023).
    """

    def __init__(
        self,
        capacity: int = 200,
        k: int = 5,
        every: int | None = None,
        gamma: float = 0.5,
        iterations: int = 100,
        batch_size: int = 32,
        rate: float = 0.05,
        clip: float | None = 5.0,
        tune: str = "sensitive",
        top: int | None = None,
        score: Score = "leap",
        switches: int = 2,
        insert_epochs: int | None = None,
    ) -> None:
        super().__init__(capacity, iterations, batch_size, rate, clip, tune, top, score, switches)
        at_least(1, k=k, every=every, insert_epochs=insert_epochs)
        at_least(0, gamma=gamma)
        self.k, self.every, self.gamma, self.insert_epochs = k, every, gamma, insert_epochs

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.gamma and stream.scenario == "text":
            return (
                "KFPF keeps an example's logits, and those of a text are all words' at every "
                "token: set gamma=0."
            )
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        super().setup(learner)
        self._interval = self.interval(learner)

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        return batch

    def memory(self, learner: Learner) -> Buffer | Shares:
        return self.buffer

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if self.insert_epochs is None or learner.epoch < self.insert_epochs:
            seen = dict(learner.incoming)
            if self.gamma:
                seen["outputs"] = outputs[: learner.stream_rows]
            self.buffer.add(seen, learner.generator)
        return loss

    def step(self, learner: Learner) -> None:
        super().step(learner)
        if (learner.updates + 1) % self._interval == 0:
            self.trigger(learner)

    def end(self, learner: Learner, experience: Experience) -> None:
        if self.scoring(learner) and learner.step:
            self.dynamics.end(self.groups(learner))
        if self.ended(learner) and learner.updates % self._interval:
            self.trigger(learner)

    def trigger(self, learner: Learner) -> None:
        """Fine-tune; what it moves is not what the task has moved."""
        scored = self.scoring(learner)
        groups = self.groups(learner)
        was = [tensor.clone() for tensor in tensors(groups)] if scored else []
        self.finetune(learner)
        if scored:
            self.dynamics.pass_over(groups, was)

    def interval(self, learner: Learner) -> int:
        """Steps between two fine-tunings."""
        if self.every is not None:
            return self.every
        assert learner.stream is not None
        updates = 0
        for e in learner.stream:
            epochs = learner.epochs if e.epochs is None else e.epochs
            batches = -(-len(e.train) // learner.batch_size)
            updates += -(-batches // learner.accumulate) * epochs
        return max(1, -(-updates // self.k))

    def tuning_loss(self, learner: Learner, replayed: Batch) -> Tensor:
        if not self.gamma:
            return super().tuning_loss(learner, replayed)
        batch = learner.augmented(replayed)
        outputs = learner.objective.forward(learner.model, batch)
        loss = learner.objective.loss(outputs, batch)
        return loss + self.gamma * output_distance(outputs, replayed["outputs"])
