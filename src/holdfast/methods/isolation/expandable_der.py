"""DER: a new extractor for every experience, beside those of the earlier ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, above_zero, at_least
from holdfast.memory.balanced import balanced_rows
from holdfast.memory.buffer import Buffer
from holdfast.memory.herding import keep_herded
from holdfast.method import Method, Tags
from holdfast.models.aligning import align_new_rows
from holdfast.models.expandable import Expandable
from holdfast.models.heads import GrowingHead
from holdfast.models.readout import logistic_regression
from holdfast.optim.subspaces import Subspaces

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Step = Literal["retune", "align", "trained"]


class ExpandableDER(Method):
    """Dynamically expandable representation: a new extractor for every experience, the old frozen.

    With F_1 .. F_t the extractors, one an experience, H the head over all classes so far and H_a an
    auxiliary one over the new classes and one more, which stands for all others:

        u(x)  = [F_1(x), ..., F_t(x)]
        F_t   <- F_{t-1} to begin with;   F_1 .. F_{t-1} stay as they are, statistics included
        H     keeps its weights between old features and old classes; all others are drawn anew
        loss  = CE(H(u(x)), y) + auxiliary CE(H_a(F_t(x)), y_a)
        y_a   = y's place among the new classes, from 1; 0 for all others

    on the experience's data and exemplars of earlier classes. After the training of every
    experience but the first the head is put right (`classifier`):

        retune   H = argmin mean CE(H(u(x)), y) + ridge / 2 |H|^2  on as many examples of each class
        align    h_c <- gamma h_c for new classes c,   gamma = mean |h_old| / mean |h_new|

    The first experience trains F_1 and H alone. One that brings no new class grows nothing.

    Args:
        capacity: Exemplars in all, herded, shared equally by the classes seen.
        auxiliary: Weight of the auxiliary loss.
        classifier: `retune`: the head is solved for anew on balanced data, as the paper has it;
            `align`: weight aligning in its place, as PyCIL and comparisons made with it have it;
            `trained`: it stays as training left it.
        ridge: Of retuning. The authors' weight decay of 5e-4 on logits divided by 5 is one of
            0.0125 on logits as they are.
        only_shrink: Do not align where that would lengthen the new rows (not in the paper).

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: extractors are not pruned by channel masks, which the authors' own code
    does not have either, so that the model grows by a whole extractor each time. Retuning, a convex
    problem, is solved exactly on features computed once, where the authors run 30 epochs of
    gradient descent with augmentation. There is no warm-up after which heads are drawn anew.

    Example:
        >>> ExpandableDER(capacity=2000, classifier="align").auxiliary
        1.0
    """

    tags = Tags(
        family="isolation",
        title="DER: dynamically expandable representation for class incremental learning",
        source="Yan et al., 2021",
        scenarios=frozenset({"class"}),
        needs=frozenset({"new classes", "features", "linear head", "boundaries", "labels"}),
        keeps=frozenset({"examples", "parameters"}),
    )
    chooses_weights = True
    starts_plain = True
    shares_passes = False
    works_inside = True
    places: Tensor | None

    def __init__(
        self,
        capacity: int = 200,
        auxiliary: float = 1.0,
        classifier: Step = "retune",
        ridge: float = 0.0125,
        only_shrink: bool = False,
    ) -> None:
        super().__init__()
        if not auxiliary >= 0:
            raise UsageError(f"auxiliary must be at least 0; given: {auxiliary}.")
        if classifier not in get_args(Step):
            raise UsageError(
                f"classifier must be one of {', '.join(get_args(Step))}; given: {classifier!r}."
            )
        above_zero(ridge=ridge)
        at_least(1, capacity=capacity)
        self.capacity, self.auxiliary = capacity, auxiliary
        self.classifier, self.ridge, self.only_shrink = classifier, ridge, only_shrink
        self.buffer = Buffer(capacity, "herding")
        self.register_buffer("places", None)  # of classes in the auxiliary head
        self._features: Tensor | None = None  # of the pass at hand
        self._hook: RemovableHandle | None = None

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        name = type(self).__name__
        reason = super().refusal(stream, model)
        if reason is None and not isinstance(model.head, nn.Linear | GrowingHead):
            return (
                f"{name} widens a linear head with every experience, and cannot widen a "
                f"{type(model.head).__name__}: give a full or a growing head."
            )
        if reason is None and not isinstance(getattr(model, "backbone", None), nn.Module):
            return (
                f"{name} adds to the backbone, and {type(model).__name__} has none: give a "
                "holdfast.models.Classifier(backbone, head)."
            )
        return reason

    def setup(self, learner: Learner) -> None:
        for part in learner.method.parts():
            fixed = "prototypes" in part.tags.keeps or any(
                isinstance(memory, Subspaces) for memory in part.modules()
            )
            if fixed or (part is not self and isinstance(part, ExpandableDER)):
                does = "remembers features of one width" if fixed else "grows the backbone too"
                raise UsageError(
                    f"{type(part).__name__} {does}, and {type(self).__name__} adds features with "
                    "every experience: they cannot be chained."
                )
        model = learner.model
        if isinstance(model.head, nn.Linear):
            model.head = GrowingHead.of(model.head)
        model.backbone = self.expandable(model.backbone)

    def expandable(self, backbone: nn.Module) -> Expandable:
        """The backbone as one that can grow."""
        return Expandable(backbone)

    def expand(self, learner: Learner, experience: Experience) -> None:
        model, self.places = learner.model, None
        model.backbone.auxiliary.clear()
        if not (learner.seen and learner.new):
            return
        width = model.head.weight.shape[1]
        each = width // len(model.backbone.parts)
        model.backbone.grow()
        model.head.widen(width + each)
        model.backbone.head_for_newest(each, len(learner.new) + 1)
        places = torch.zeros(learner.known, dtype=torch.long)
        places[list(learner.new)] = torch.arange(1, len(learner.new) + 1)
        self.places = places.to(learner.device)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if self.places is not None:
            learner.model.backbone.start_from_last()

    def select(self, learner: Learner, table: Table) -> Table:
        exemplars = self.buffer.table()
        return Table.concat([table.to(learner.device), exemplars]) if exemplars else table

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        if self.places is not None and self.auxiliary:
            self._hook = learner.model.head.register_forward_pre_hook(self._see)
        return batch

    def _see(self, head: nn.Module, given: tuple[Tensor, ...]) -> None:
        (self._features,) = given

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        self.release(learner)  # others may pass the model after this
        return outputs

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        features, self._features = self._features, None
        if features is None:
            return loss
        assert self.places is not None
        (head,) = learner.model.backbone.auxiliary.values()
        newest = features[:, -head.weight.shape[1] :]
        return loss + self.auxiliary * F.cross_entropy(head(newest), self.places[batch["y"]])

    def release(self, learner: Learner) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def end(self, learner: Learner, experience: Experience) -> None:
        if learner.seen and learner.new:
            if self.classifier == "retune":
                self.retune(learner, experience.train.to(learner.device))
            elif self.classifier == "align":
                weight = learner.model.head.weight.data
                old, new = list(learner.seen), list(learner.new)
                gamma = align_new_rows(weight, old, new, only_shrink=self.only_shrink)
                learner.note(gamma=gamma)
        keep_herded(self.buffer, learner, experience.train)

    @torch.no_grad()
    def retune(self, learner: Learner, table: Table) -> None:
        """Solve for the head on as many of the experience's examples as there are exemplars."""
        exemplars = self.buffer.table()
        assert exemplars is not None
        both = Table.concat([table, exemplars])
        balanced = both.take(balanced_rows(both["y"], learner.generator))
        head, features = learner.model.head, learner.features(balanced)
        weight, bias = logistic_regression(
            features, balanced["y"], head.classes, self.ridge, head.bias is not None
        )
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
        learner.note(retuned_on=len(balanced))
