"""The straight line between two checkpoints: can they be averaged, and is there a hill between?

Two optima are linearly connected if the loss stays low all the way from one to the other. Then a
point between may serve old and new data better than either end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.evaluation import TOKENS_AT_ONCE, undisturbed
from holdfast.models.adapters import standing_in

if TYPE_CHECKING:
    from holdfast.learner import Learner

Weights = Mapping[str, Tensor]
Evaluate = Callable[[dict[str, Tensor]], Mapping[str, tuple[float, float]]]
"""From weights to the mean loss and the mean score on each of some data sets, by name."""

TENTHS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Path:
    """What was found on the line (1 - lambda) a + lambda b.

    Attributes:
        lambdas: Where on the line, from 0 to 1.
        losses: Mean loss at each, by data set.
        scores: Mean score at each, by data set.
        distance: Euclidean, between a and b.

    Example:
        >>> hill = Path((0.0, 0.5, 1.0), {"d": (1.0, 4.0, 2.0)}, {"d": (0.5, 0.9, 0.5)}, 1.0)
        >>> hill.barrier("d"), hill.best, hill.inside_wins
        (2.5, 0.5, True)
    """

    lambdas: tuple[float, ...]
    losses: dict[str, tuple[float, ...]]
    scores: dict[str, tuple[float, ...]]
    distance: float

    def barrier(self, name: str) -> float:
        """How far the loss rises above the straight line between its values at the ends.

        0 where it never does: there the two checkpoints are linearly connected.
        """
        losses = self.losses[name]
        return max(
            loss - ((1 - at) * losses[0] + at * losses[-1])
            for at, loss in zip(self.lambdas, losses, strict=True)
        )

    @property
    def means(self) -> tuple[float, ...]:
        """The mean score over all data sets, each counting the same, at every point."""
        curves = list(self.scores.values())
        return tuple(sum(at) / len(curves) for at in zip(*curves, strict=True))

    @property
    def best(self) -> float:
        """Where the mean score is largest; the first of equals."""
        return self.lambdas[self.means.index(max(self.means))]

    @property
    def inside_wins(self) -> bool:
        """Whether some point between has a larger mean score than both ends."""
        return max(self.means) > max(self.means[0], self.means[-1])

    def kept_inside(self, name_of_a: str, name_of_b: str) -> float:
        """The most that one point between keeps of both ends' own scores.

        The largest, over points between, of the smaller of two shares: the score on `name_of_a` in
        a's score there, and the score on `name_of_b` in b's. NaN if an end has no score to keep.
        """
        old, new = self.scores[name_of_a], self.scores[name_of_b]
        if not (old[0] and new[-1]):
            return float("nan")
        return max(min(o / old[0], n / new[-1]) for o, n in zip(old[1:-1], new[1:-1], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Curves and what follows from them, as JSON values."""
        return {
            "lambdas": list(self.lambdas),
            "losses": {name: list(curve) for name, curve in self.losses.items()},
            "scores": {name: list(curve) for name, curve in self.scores.items()},
            "distance": self.distance,
            "barriers": {name: self.barrier(name) for name in self.losses},
            "best": self.best,
            "inside_wins": self.inside_wins,
        }


def linear_path(
    a: Weights, b: Weights, evaluate: Evaluate, lambdas: Sequence[float] = TENTHS
) -> Path:
    """Losses and scores on the straight line from weights `a` to weights `b`.

    Of LoRA adapters A and B are interpolated, not their product.

    Args:
        a: At lambda 0: a state dict, or an adapter's weights (`adapters.weights`).
        b: At lambda 1: the same names and shapes.
        evaluate: See `scored`, which makes one from a learner.
        lambdas: Rising, from 0 to 1.

    Raises:
        UsageError: If the two do not fit together, or if the lambdas do not go from 0 to 1.

    Source: Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis" (2020).

    Example:
        >>> def square(weights):
        ...     return {"zero": (weights["w"].square().sum().item(), 0.0)}
        >>> path = linear_path({"w": torch.tensor([-1.0])}, {"w": torch.tensor([3.0])}, square,
        ...                    [0, 0.5, 1])
        >>> path.losses, path.barrier("zero"), path.distance
        ({'zero': (1.0, 1.0, 9.0)}, 0.0, 4.0)
    """
    points = tuple(float(at) for at in lambdas)
    if len(points) < 2 or points[0] != 0 or points[-1] != 1 or list(points) != sorted(set(points)):
        raise UsageError(f"lambdas must rise from 0 to 1; given: {list(lambdas)}.")
    refuse_unlike(a, b)
    losses: dict[str, list[float]] = {}
    scores: dict[str, list[float]] = {}
    for at in points:
        for name, (loss, score) in evaluate(between(a, b, at)).items():
            losses.setdefault(name, []).append(loss)
            scores.setdefault(name, []).append(score)
    return Path(
        points,
        {name: tuple(curve) for name, curve in losses.items()},
        {name: tuple(curve) for name, curve in scores.items()},
        distance(a, b),
    )


def between(a: Weights, b: Weights, at: float) -> dict[str, Tensor]:
    """(1 - at) a + at b; what is not a real number (counts, positions) as in a."""
    return {
        name: torch.lerp(a[name], b[name].to(a[name]), at)
        if a[name].is_floating_point()
        else a[name]
        for name in a
    }


def distance(a: Weights, b: Weights) -> float:
    """The Euclidean distance of two sets of weights."""
    gaps = [b[n].to(a[n]) - a[n] for n in a if a[n].is_floating_point()]
    norms = torch._foreach_norm([gap.double() for gap in gaps])
    return float(torch.stack(norms).norm()) if norms else 0.0


def scored(learner: Learner, tables: Mapping[str, Table]) -> Evaluate:
    """A function from weights to loss and score on each table, through a learner's model.

    Args:
        learner: One that has begun a stream; it is left as it was.
        tables: By name. A loss is the mean over the predictions asked for, a score that over
            examples.
    """

    def evaluate(weights: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
        held = learner.model.state_dict(keep_vars=True)
        missing = [name for name in weights if name not in held]
        if missing:
            raise UsageError(
                f"{type(learner.model).__name__} has no weights {missing[0]!r} "
                f"({len(missing)} such names); was it built and adapted in the same way?"
            )
        with (
            standing_in([held[name] for name in weights], list(weights.values())),
            undisturbed(learner.model, learner.method, device=learner.device),
        ):
            return {name: _measured(learner, table) for name, table in tables.items()}

    return evaluate


def _measured(learner: Learner, table: Table) -> tuple[float, float]:
    width = table["input_ids"].shape[1] if "input_ids" in table else 4
    loss, asked, score = (torch.zeros((), device=learner.device) for _ in range(3))
    for batch in table.to(learner.device).chunks(max(1, TOKENS_AT_ONCE // width)):
        outputs = learner.predict(batch)
        weight = torch.as_tensor(learner.objective.weight(batch))
        loss += learner.objective.loss(outputs, batch) * weight
        asked += weight
        score += learner.objective.scores(outputs, batch).sum()
    return float(loss / asked), float(score) / len(table)


def linear_cka(x: Float[Tensor, "examples width"], y: Float[Tensor, "examples other"]) -> float:
    """Likeness of two representations of the same examples, whatever their rotation and scale.

        ||Y^T X||^2 / (||X^T X|| ||Y^T Y||),    columns centred, Frobenius norms

    Returns:
        From 0 (unrelated) to 1 (equal up to rotation and scale).

    Source: Kornblith et al., "Similarity of neural network representations revisited" (2019).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
        >>> round(linear_cka(x, 3 * x.flip(1)), 6)
        1.0
    """
    x, y = (features.double() - features.double().mean(0) for features in (x, y))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def refuse_unlike(a: Weights, b: Weights) -> None:
    """Raise `UsageError` unless two sets of weights have the same names and shapes."""
    alone = sorted(set(a) ^ set(b))
    if alone:
        raise UsageError(
            f"Two checkpoints on a path must have the same weights; {len(alone)} are in one only, "
            f"the first: {alone[0]!r}."
        )
    for name in a:
        if a[name].shape != b[name].shape:
            raise UsageError(
                f"Two checkpoints on a path must have the same shapes; {name!r} has "
                f"{tuple(a[name].shape)} and {tuple(b[name].shape)}."
            )
