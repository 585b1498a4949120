"""Weight aligning: correct a linear head's bias towards new classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import UsageError
from holdfast.losses import distillation
from holdfast.memory.buffer import Buffer
from holdfast.memory.herding import keep_herded
from holdfast.method import Method, Tags
from holdfast.models.aligning import Alignment, align_new_rows
from holdfast.models.heads import CosineHead
from holdfast.models.snapshot import Snapshot

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class WA(Method):
    """Weight aligning: distil while learning, then scale new classes' weights to the old ones'.

        loss = (1 - lambda) loss(B) + lambda KD over the old logits,   lambda = C_old / C
        w_c <- gamma w_c for new classes c,   gamma = mean |w_old| / mean |w_new|

    after every experience but the first, on weights that were held non-negative while training so
    that longer rows mean larger logits (for features that are not negative). The old network of
    the distillation is the aligned one. Classes that return do not count as old in lambda.

    Alone, it learns without exemplars; with `exemplars` it is the paper's method; after a replay
    method, as in `er(capacity=200)+wa`, that method's memory takes the exemplars' place; and with
    `distil=false, clip_weights=false` it is the alignment alone, for any linear head.

    Args:
        exemplars: Herded examples of earlier classes, in all, trained on beside the new data.
        distil: Whether to distil.
        temperature: Of the distillation.
        clip_weights: Whether head weights are kept from being negative.
        align: `mean_norm` (one factor for all new rows), `unit_norm` (every row to length 1, the
            paper's ablation) or `none`.
        only_shrink: Do not align where that would lengthen the new rows (not in the paper).
    """

    tags = Tags(
        family="correction",
        title="Maintaining discrimination and fairness in class incremental learning",
        source="Zhao et al., 2020",
        scenarios=frozenset({"class"}),
        needs=frozenset({"new classes", "linear head", "boundaries", "labels"}),
        keeps=frozenset({"examples", "model"}),
    )

    def __init__(
        self,
        exemplars: int = 0,
        distil: bool = True,
        temperature: float = 2.0,
        clip_weights: bool = True,
        align: Alignment = "mean_norm",
        only_shrink: bool = False,
    ) -> None:
        super().__init__()
        if exemplars < 0:
            raise UsageError(f"exemplars must not be negative; given: {exemplars}.")
        if align not in ("mean_norm", "unit_norm", "none"):
            raise UsageError(f"align must be mean_norm, unit_norm or none; given: {align!r}.")
        self.exemplars, self.distil, self.temperature = exemplars, distil, temperature
        self.clip_weights, self.align, self.only_shrink = clip_weights, align, only_shrink
        self.buffer = Buffer(exemplars, "herding") if exemplars else None
        self.starts_plain = not clip_weights

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if isinstance(getattr(model, "head", None), CosineHead):
            return "WA rescales the rows of a linear head; a cosine head is blind to their length."
        return super().refusal(stream, model)

    def setup(self, learner: Learner) -> None:
        self.teacher = Snapshot(lambda: learner.model)

    def select(self, learner: Learner, table: Table) -> Table:
        remembered = self.buffer.table() if self.buffer is not None else None
        return Table.concat([table.to(learner.device), remembered]) if remembered else table

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        if not (self.distil and self.teacher.taken and learner.absent):
            return loss
        share = len(learner.absent) / (len(learner.seen) + len(learner.new))
        old = learner.old_logits
        teacher = self.teacher.outputs(learner.objective.forward, batch)
        kept = distillation(outputs[:, old], teacher[:, old], self.temperature).mean()
        return (1 - share) * loss + share * kept

    def step(self, learner: Learner) -> None:
        if self.clip_weights:
            learner.model.head.weight.data.clamp_(min=0)

    def end(self, learner: Learner, experience: Experience) -> None:
        weight = learner.model.head.weight.data
        found: dict[str, Any] = {"norms": weight.norm(dim=1).tolist()}
        if learner.seen and learner.new:
            found["gamma"] = align_new_rows(
                weight, list(learner.seen), list(learner.new), self.align, 1.0, self.only_shrink
            )
            found["aligned_norms"] = weight.norm(dim=1).tolist()
        learner.note(**found)
        if self.distil:
            self.teacher.take()
        if self.buffer is not None:
            keep_herded(self.buffer, learner, experience.train)
