"""What belongs to no class: told from what does, by how sure the model is."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.evaluation import Scores, TestSets, undisturbed
from holdfast.learner import Learner
from holdfast.stream import Stream


class OutOfScope:
    """Scores a stream's test sets, and each against examples outside all classes.

    The measure `outside` is the area under the ROC curve: the chance that the model is surer of an
    example of the test set than of one outside. Sure is the largest of its probabilities, over the
    classes that its head has.

    Args:
        stream: Whose test sets are scored.
        outside: Examples outside all classes, a column `x`.
        subset: At most so many examples of every test set and of those outside; None: all.
        seed: Draws the subset.

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks" (2017).
    """

    def __init__(
        self, stream: Stream, outside: Table, subset: int | None = None, seed: int = 0
    ) -> None:
        self.stream, self.sets = stream, TestSets(stream, subset, seed)
        if subset is not None and len(outside) > subset:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(len(outside), generator=generator)[:subset]
            outside = outside.take(drawn.sort().values)
        self.outside = outside

    def subset(self, examples: int, seed: int) -> OutOfScope:
        """The same with at most so many examples a test set."""
        return OutOfScope(self.stream, self.outside, examples, seed)

    def score(self, learner: Learner) -> Scores:
        """The scores of all test sets, with the measure `outside`; the learner stays as it was."""
        scores = self.sets.score(learner)
        strange = self._sure(learner, self.outside)
        within = self._sure(learner, self.sets.table)
        areas = [_area(part, strange) for part in within.split(self.sets.sizes.int().tolist())]
        return scores._replace(measures={**scores.measures, "outside": areas})

    def _sure(self, learner: Learner, table: Table) -> Tensor:
        """The largest probability of every example; 0 while the head has no rows."""
        found = []
        with learner.serving(), undisturbed(learner.model, learner.method, device=learner.device):
            for batch in table.to(learner.device).chunks(self.sets.rows):
                logits = learner.predict(batch)
                none = logits.new_zeros(len(logits))
                found.append(logits.softmax(1).amax(1) if logits.shape[1] else none)
        return torch.cat(found).cpu()


def _area(within: Tensor, outside: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    truth = torch.cat([torch.ones_like(within), torch.zeros_like(outside)])
    return float(roc_auc_score(truth.numpy(), torch.cat([within, outside]).numpy()))
