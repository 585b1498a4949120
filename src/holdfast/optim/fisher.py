"""Fisher information: how much each parameter matters for what was learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.optim.gradient_sums import GradientSums, drawn

if TYPE_CHECKING:
    from holdfast.learner import Learner

Labels = Literal["sampled", "empirical", "all"]


def fisher_diagonal(
    learner: Learner,
    table: Table,
    labels: Labels = "sampled",
    examples: int | None = None,
    weighted: bool = False,
) -> list[Tensor]:
    """Diagonal of the Fisher information, one tensor a trainable parameter.

    F_i = mean over examples x of E_y [(d log p(y|x) / d theta_i)^2], from one gradient an example
    (the square of a batch's mean gradient is something else, and not the Fisher).

    Args:
        learner: Whose model, objective and generator are used; the model is taken in evaluation
            mode.
        table: Examples, without augmentation.
        labels: `"sampled"`: one y an example, drawn from the model; `"empirical"`: y from the data
            (the empirical Fisher); `"all"`: the exact expectation over all classes, at as many
            times the cost.
        examples: At most this many, drawn at random; None: all.
        weighted: Whether each example weighs as much as the model believes its label,
            p(y|x) (d log p(y|x) / d theta_i)^2: with the data's labels, one term of the
            expectation over y. Needs an objective that can be mapped over examples.

    Raises:
        UsageError: If `labels` is none of these, or if `weighted` is asked of other labels than the
            data's, or of a language model.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting" (2017); Kunstner et al.,
    "Limitations of the empirical Fisher" (2019), for the difference between the kinds.
    """
    if labels not in get_args(Labels):
        raise UsageError(f"labels must be one of {', '.join(get_args(Labels))}; given: {labels!r}.")
    if weighted and labels != "empirical":
        raise UsageError(f"weighted=True weighs the data's own labels; given: labels={labels!r}.")
    if weighted and not learner.objective.vectorised:
        raise UsageError(
            f"weighted=True needs one label an example; {type(learner.objective).__name__} has "
            "many."
        )
    table = drawn(learner, table, examples)
    sums = GradientSums(learner, learner.objective.losses, torch.square)
    with undisturbed(learner.model, device=learner.device):
        for batch in table.to(learner.device).chunks(sums.rows):
            if labels == "empirical" and not weighted:
                sums.add(batch)
                continue
            outputs = learner.objective.forward(learner.model, batch)
            if weighted:
                sums.add(batch, (-learner.objective.losses(outputs, batch)).exp())
                continue
            if labels == "sampled":
                sums.add(learner.objective.sampled(outputs, batch, learner.generator))
                continue
            chances = learner.objective.probabilities(outputs, batch)
            for label in range(chances.shape[1]):
                y = torch.full_like(batch["y"], label)
                possible = chances[:, label] > 0
                if bool(possible.any()):
                    rows_kept = {name: column[possible] for name, column in batch.items()}
                    sums.add({**rows_kept, "y": y[possible]}, chances[possible, label])
    return sums.over(len(table))
