"""BiC: a bias correction of two numbers, fitted on examples that were held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.evaluation import undisturbed
from holdfast.losses import distillation
from holdfast.memory.buffer import Buffer
from holdfast.memory.herding import keep_herded
from holdfast.method import Method, Tags
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience


class BiC(Method):
    """Bias correction: distil while learning, then fit two numbers that scale new logits down.

    With n old classes and m new ones, z the logits and q_old the *corrected* logits of the network
    before this experience, stage 1 trains on new data and exemplars:

        loss = lambda KD_T(z, q_old) over old classes + (1 - lambda) CE(z),   lambda = n / (n + m)

    and stage 2, with the network frozen, fits on held-out examples, equally many of every class:

        q_c = z_c for old classes c,   alpha z_c + beta for new ones
        alpha, beta = argmin CE(q) + ridge / 2 (beta^2 + (alpha - 1)^2)

    A part of the memory, and of every new class as much as an old one has in it, is held out: it
    is never trained on. After an experience the correction is in force until the next one begins,
    whose network learns the corrected logits by distillation and needs only its own. Classes that
    return count neither as old in lambda nor as new in stage 2.

    Args:
        capacity: Examples remembered in all: herded exemplars and those that are held out.
        holdout: Share of them that is held out.
        temperature: T of the distillation.
        ridge: How strongly alpha and beta are drawn to 1 and 0.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: stage 2 is a convex problem in two numbers, and is solved exactly by
    Newton's method on logits computed once, where the authors run gradient descent for twice the
    epochs of stage 1. They draw beta to 0 (by 0.1, the default) and leave alpha free; on a small
    hold-out that is separable no finite alpha is best, so it is drawn to 1 as strongly. A class
    that has fewer held-out examples than others counts as much. Exemplars keep the herding order
    of the experience in which they came, by features of unit length.

    Example:
        >>> BiC(capacity=2000).holdout
        0.1
    """

    tags = Tags(
        family="correction",
        title="Large scale incremental learning",
        source="Wu et al., 2019",
        scenarios=frozenset({"class"}),
        needs=frozenset({"new classes", "features", "boundaries", "labels"}),
        keeps=frozenset({"examples", "model", "parameters"}),
    )
    remembers = ("corrected", "between")
    held_out: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        capacity: int = 200,
        holdout: float = 0.1,
        temperature: float = 2.0,
        ridge: float = 0.1,
    ) -> None:
        super().__init__()
        at_least(2, capacity=capacity)
        if not 0 < holdout < 1:
            raise UsageError(f"holdout must be above 0 and below 1; given: {holdout}.")
        above_zero(temperature=temperature, ridge=ridge)
        self.capacity, self.holdout = capacity, holdout
        self.temperature, self.ridge = temperature, ridge
        apart = min(max(1, round(holdout * capacity)), capacity - 1)
        self.exemplars = Buffer(capacity - apart, "herding")
        self.validation = Buffer(apart, "class_balanced")
        self.register_buffer("held_out", torch.empty(0, dtype=torch.long))  # of the experience
        self.register_buffer("alpha", torch.ones(()))
        self.register_buffer("beta", torch.zeros(()))
        self.corrected: list[int] = []  # classes whose logits alpha and beta are for
        self.between = False  # experiences: the correction is of the present network

    def setup(self, learner: Learner) -> None:
        self.teacher = Snapshot(lambda: learner.model)

    def begin(self, learner: Learner, experience: Experience) -> None:
        self.between = False
        old = len(learner.seen)
        each = self.validation.capacity // max(1, old or len(learner.new))
        labels = experience.train["y"].to(learner.device)
        self.held_out = chosen_of(labels, learner.new, max(1, each), learner.generator)

    def select(self, learner: Learner, table: Table) -> Table:
        if table is not learner.experience.train:
            raise UsageError(
                "BiC holds some of the stream's examples out of training: chain it before methods "
                "that choose among them or add to them."
            )
        train = table.to(learner.device)
        kept = train.where(self._trained(len(train)))
        exemplars = self.exemplars.table()
        return Table.concat([kept, exemplars]) if exemplars else kept

    def _trained(self, rows: int) -> Tensor:
        """Which of the experience's examples are trained on."""
        trained = torch.ones(rows, dtype=torch.bool, device=self.held_out.device)
        return trained.index_fill_(0, self.held_out, False)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not (self.teacher.taken and learner.absent):
            return loss
        share = len(learner.absent) / (len(learner.seen) + len(learner.new))
        old = learner.old_logits
        teacher = self.correct(self.teacher.outputs(learner.objective.forward, batch))
        kept = distillation(outputs[:, old], teacher[:, old], self.temperature).mean()
        return (1 - share) * loss + share * kept

    def correct(self, outputs: Tensor) -> Tensor:
        """The logits with those of the classes that were new last scaled and shifted."""
        if not self.corrected:
            return outputs
        outputs = outputs.clone()
        outputs[:, self.corrected] = self.alpha * outputs[:, self.corrected] + self.beta
        return outputs

    def end(self, learner: Learner, experience: Experience) -> None:
        train = experience.train.to(learner.device)
        held = train.take(self.held_out)
        past = self.validation.table()
        self.corrected = []
        if past is not None and len(held):
            self.fit_correction(learner, Table.concat([past, held]))
        self.validation.add(held.columns, learner.generator)
        keep_herded(self.exemplars, learner, train.where(self._trained(len(train))))
        self.teacher.take()
        self.between = True

    def fit_correction(self, learner: Learner, table: Table) -> None:
        """Stage 2."""
        with undisturbed(learner.model, device=learner.device), learner.autocast():
            forward = learner.objective.forward
            logits = torch.cat([forward(learner.model, batch) for batch in table.chunks(1024)])
        new = torch.zeros(learner.known, dtype=torch.bool, device=logits.device)
        new[list(learner.new)] = True
        alpha, beta = correction(logits[:, : learner.known], table["y"], new, self.ridge)
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)
        self.corrected = sorted(learner.new)
        learner.note(alpha=alpha, beta=beta, held_out=len(table))

    def predict(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        return self.correct(outputs) if self.between else outputs


def chosen_of(
    labels: Int[Tensor, " examples"],
    classes: tuple[int, ...],
    each: int,
    generator: torch.Generator,
) -> Int[Tensor, " chosen"]:
    """At random `each` rows of every class given, but never more than half of a class."""
    order = torch.randperm(len(labels), generator=generator, device=labels.device)
    chosen = [order[:0]]
    for label in classes:
        members = order[labels[order] == label]
        chosen.append(members[: min(each, len(members) // 2)])
    return torch.cat(chosen)


def correction(
    logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, " examples"],
    new: Tensor,
    ridge: float = 0.1,
) -> tuple[float, float]:
    """The scale and the shift of new classes' logits that suit the labels best.

    Minimises, by Newton's method in double precision, the cross-entropy of the logits with those
    of new classes at alpha z + beta, every class of the labels weighing alike, plus
    ridge / 2 (beta^2 + (alpha - 1)^2): strictly convex, so there is one minimum.

    Args:
        logits: Of held-out examples.
        labels: Theirs.
        new: (classes), bool: which classes are new.
        ridge: Above 0.

    Returns:
        alpha and beta.

    Example:
        >>> logits = torch.tensor([[1.0, 3.0], [0.0, 3.0]])  # new class 1 always wins
        >>> alpha, beta = correction(logits, torch.tensor([0, 1]), torch.tensor([False, True]))
        >>> alpha < 1 and beta < 0
        True
    """
    z = logits.double()
    weight = 1 / torch.bincount(labels, minlength=z.shape[1])[labels].double()
    weight = weight / weight.sum()
    anchor = torch.tensor([1.0, 0.0], dtype=torch.double, device=z.device)
    hit = new[labels].double()
    own = hit * z.gather(1, labels[:, None])[:, 0]

    def objective(at: Tensor) -> Tensor:
        q = torch.where(new, at[0] * z + at[1], z)
        losses = F.cross_entropy(q, labels, reduction="none")
        return weight @ losses + ridge / 2 * (at - anchor).square().sum()

    at = anchor.clone()
    for _ in range(100):
        p = torch.where(new, at[0] * z + at[1], z).softmax(1) * new
        mass, first, second = p.sum(1), (p * z).sum(1), (p * z * z).sum(1)
        slope = torch.stack([weight @ (first - own), weight @ (mass - hit)])
        slope = slope + ridge * (at - anchor)
        mixed = weight @ (first - first * mass)
        curve = torch.stack(
            [weight @ (second - first**2), mixed, mixed, weight @ (mass - mass**2)]
        ).view(2, 2)
        move = torch.linalg.solve(curve + ridge * torch.eye(2).to(curve), slope)
        descent = slope @ move
        if descent <= 1e-20:
            break
        here, size = objective(at), 1.0
        while objective(at - size * move) > here - 1e-4 * size * descent:
            size /= 2
            if size < 1e-8:  # within rounding of the minimum
                return _pair(at)
        at = at - size * move
    return _pair(at)


def _pair(at: Tensor) -> tuple[float, float]:
    alpha, beta = at.tolist()
    return alpha, beta
