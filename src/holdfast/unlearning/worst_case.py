"""Worst-case forget sets: which examples are hardest to forget."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.chance import GlobalChance
from holdfast.data import Table
from holdfast.errors import Diverged, UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.objective import Classification, Objective
from holdfast.unlearning.lower import Problem, build, solve
from holdfast.unlearning.simplex import binary, largest, project

ROWS = 1024
"""Examples a pass, when all losses are read."""


@dataclass(frozen=True)
class Selection:
    """A forget set, and the way to it.

    Attributes:
        rows: Numbers of the chosen examples, ascending.
        groups: Numbers of the chosen groups (examples or classes), ascending.
        weights: Of every group at the end, between 0 and 1.
        losses: The upper loss at every iteration, before its step, as a mean over what is chosen:
            a small loss after unlearning means that the influence was not erased.
        chosen_losses: The same with the largest weights at 1 and the others at 0.
        trail: The weights after every iteration.
        start: The groups chosen at random at the beginning.
        upper_rate: Of the steps in the weights.
        warning: What is doubtful about it, as a sentence.
    """

    rows: Int[Tensor, " rows"]
    groups: Int[Tensor, " chosen"]
    weights: Float[Tensor, " groups"]
    losses: list[float] = field(default_factory=list)
    chosen_losses: list[float] = field(default_factory=list)
    trail: Float[Tensor, "iterations groups"] | None = None
    start: Int[Tensor, " chosen"] | None = None
    upper_rate: float = 0.0
    warning: str | None = None

    @property
    def moved(self) -> float:
        """Share of the chosen groups that were not chosen at the beginning."""
        assert self.start is not None
        return 1 - float(torch.isin(self.groups, self.start).float().mean())

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; without the weights, of which there is one an example."""
        return {
            "rows": self.rows.tolist(),
            "losses": self.losses,
            "chosen_losses": self.chosen_losses,
            "moved": self.moved,
            "upper_rate": self.upper_rate,
            "warning": self.warning,
        }


def worst_case(
    model: nn.Module,
    table: Table,
    size: float,
    *,
    lower: str = "finetune",
    objective: Objective | None = None,
    groups: Int[Tensor, " examples"] | None = None,
    iterations: int = 10,
    epochs: int = 1,
    rate: float = 1e-3,
    batch_size: int = 256,
    upper_rate: float | None = None,
    scale: float = 1.0,
    penalty: float = 0.0,
    binarise_every: int = 20,
    reverse: bool = False,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda iteration, loss: None,
) -> Selection:
    """Choose the forget set that is hardest to forget, by bi-level optimisation.

        min over w of sum_i w_i loss_i(theta_u(w)) + penalty |w|^2,  0 <= w <= 1, sum_i w_i = size
        theta_u(w): the model after unlearning with the weights w, see `holdfast.unlearning.lower`

    In every iteration the model unlearns anew from its original weights, all losses are read in
    evaluation mode, and w makes a step down them and is projected back. Its start is a random set.

    Args:
        model: What was trained on all of `table`; it is not changed.
        table: All training examples.
        size: How many are to be chosen, or a share between 0 and 1: of examples, or of groups.
        lower: How the lower level unlearns, such as `"l1(alpha=0.01)"`.
        objective: Of the model; None: classification with all classes.
        groups: The group of every example, from 0 without gaps, where whole groups are chosen
            (classes: `table["y"]`); None: every example is one.
        iterations: Of the upper level.
        epochs: Passes over all examples in the lower level.
        rate: Of the lower level's signSGD.
        batch_size: Examples a step of the lower level.
        upper_rate: Of the steps in w, large against 1 / loss; None: `scale` divided by the median
            of the losses read first.
        scale: See `upper_rate`.
        penalty: Weight of |w|^2.
        binarise_every: Iterations after which the largest weights become 1 and the others 0.
        reverse: Choose the set that is easiest to forget instead.
        seed: Of the random start, the order of examples and everything drawn below.
        progress: Is told of every iteration and its upper loss.

    Raises:
        UsageError: If a number is out of range, or the lower level cannot serve the model.
        Diverged: If the lower level's losses become NaN or infinite.

    Source: Fan et al., "Challenging forgets: Unveiling the worst-case forget sets in machine
    unlearning" (2024).

    Differs from the paper's code: losses are read in evaluation mode and without a graph; the
    easiest set maximises sum_i w_i loss_i - penalty |w|^2, where the code's sign of the penalty
    makes w sparse; lower levels that need a split take w itself, not its largest entries; the
    upper loss is that of the weights which the lower level was given.

    Example:
        >>> from holdfast import models, streams
        >>> stream = streams.build("split-digits(limit=100)", experiences=1)
        >>> model = models.build("mlp(width=16)", stream, seed=0)
        >>> chosen = worst_case(model, stream[0].train, 10, iterations=2, scale=20.0)
        >>> len(chosen.rows), round(float(chosen.weights.sum()), 3)
        (10, 10.0)
    """
    _check(iterations, epochs, batch_size, binarise_every, rate, upper_rate, scale, penalty)
    level = build(lower)
    if level.labelled and not ("x" in table and "y" in table):
        raise UsageError(f"The lower level {lower} is for classifiers; use finetune or l1.")
    original = deepcopy(model).requires_grad_(True).eval()
    device = next(original.parameters()).device
    table = table.to(device)
    group = (torch.arange(len(table)) if groups is None else groups).to(device)
    counts = group.bincount().double()
    count = how_many(size, len(counts), "groups" if groups is not None else "examples")
    asked = objective or _classification(original, table)
    chance, generator = GlobalChance(seed, device), torch.Generator(device).manual_seed(seed)
    problem = Problem(original, table, asked, generator, epochs, batch_size, rate)

    start = torch.randperm(len(counts), generator=generator, device=device)[:count].sort().values
    weights = torch.zeros(len(counts), dtype=torch.float64, device=device)
    weights[start] = 1
    losses, chosen_losses, trail = [], [], []
    with chance.mine():
        for iteration in range(iterations):
            unlearned = solve(level, problem, weights[group].float())
            each = example_losses(unlearned, problem)
            gradient = torch.zeros_like(weights).index_add_(0, group, each.double()) / counts
            if upper_rate is None:
                upper_rate = automatic_rate(gradient, scale)
            upper = (weights * gradient).sum() + penalty * weights.square().sum()
            losses.append(float(upper) / count)
            if not math.isfinite(losses[-1]):
                raise Diverged(
                    f"The losses of iteration {iteration} are not finite; give a smaller rate than "
                    f"{rate:g}."
                )
            chosen_losses.append(float(gradient[largest(weights, count)].mean()))
            downhill = (gradient if reverse else -gradient) - 2 * penalty * weights
            weights = project(weights + upper_rate * downhill, count)
            trail.append(weights.float().cpu())
            if (iteration + 1) % binarise_every == 0:
                weights = binary(weights, count)
            progress(iteration, losses[-1])
    chosen = largest(weights, count)
    still = torch.equal(chosen, start)
    warning = None
    if still:
        warning = (
            f"The search did not move from its random start: an upper rate of {upper_rate:g} is "
            f"small against 1 / {float(gradient.median()):g}, the inverse of the median loss; give "
            "a larger upper_rate or scale."
        )
        warnings.warn(warning, stacklevel=2)
    return Selection(
        rows=torch.isin(group, chosen).nonzero().flatten().cpu(),
        groups=chosen.cpu(),
        weights=weights.cpu(),
        losses=losses,
        chosen_losses=chosen_losses,
        trail=torch.stack(trail),
        start=start.cpu(),
        upper_rate=float(upper_rate or 0.0),
        warning=warning,
    )


def example_losses(model: nn.Module, problem: Problem) -> Float[Tensor, " examples"]:
    """The loss of every example, in the table's order, in evaluation mode.

    Only the outputs that the original model has count: one that a lower level added does not.
    """
    objective, table = problem.objective, problem.table
    found = []
    with undisturbed(model, device=table.device):
        width = objective.forward(problem.original, next(table.chunks(1))).shape[-1]
        for batch in table.chunks(ROWS):
            outputs = objective.forward(model, batch)[..., :width]
            found.append(objective.losses(outputs, batch))
    return torch.cat(found)


def automatic_rate(losses: Float[Tensor, " groups"], scale: float) -> float:
    """`scale` over the median of the losses that are not zero."""
    positive = losses[losses > 0]
    return scale / float(positive.median()) if len(positive) else scale


def how_many(size: float, there: int, what: str) -> int:
    """A number of things, given as such or as a share.

    Raises:
        UsageError: If it is not at least one, or leaves none.

    Example:
        >>> how_many(0.1, 1200, "examples"), how_many(7, 1200, "examples")
        (120, 7)
    """
    number = isinstance(size, (int, float)) and not isinstance(size, bool)
    number = number and math.isfinite(size)
    whole = number and size == int(size)
    count = int(size) if whole else round(size * there) if number and 0 < size < 1 else 0
    if not 1 <= count < there:
        raise UsageError(
            f"A forget set of {size} {what} was asked for, and there are {there}: accepted are 1 "
            f"to {there - 1}, or a share between 0 and 1."
        )
    return count


def _classification(model: nn.Module, table: Table) -> Objective:
    """Cross-entropy over all outputs of the model."""
    if not ("x" in table and "y" in table):
        raise UsageError("The table has no columns x and y: give the model's objective.")
    with torch.no_grad():
        classes = model(table[:1]["x"]).shape[1]
    return Classification([range(classes)], classes)


def _check(
    iterations: int, epochs: int, batch_size: int, binarise_every: int,
    rate: float, upper_rate: float | None, scale: float, penalty: float,
) -> None:  # fmt: skip
    at_least(1, iterations=iterations, epochs=epochs, batch_size=batch_size)
    at_least(1, binarise_every=binarise_every)
    for name, value in (("rate", rate), ("upper_rate", upper_rate), ("scale", scale)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be above 0; given: {value}.")
    if not penalty >= 0:
        raise UsageError(f"penalty must be at least 0; given: {penalty}.")
