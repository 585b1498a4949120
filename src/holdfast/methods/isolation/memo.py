"""MEMO: shared generalised blocks, and a new specialised one for every experience."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from holdfast.errors import UsageError
from holdfast.method import Tags
from holdfast.methods.isolation.expandable_der import ExpandableDER, Step
from holdfast.models.expandable import Expandable, split

if TYPE_CHECKING:
    from holdfast.stream import Stream


class MEMO(ExpandableDER):
    """Memory-efficient expandable model: early stages are shared, the last is new every time.

    With g the stages of the backbone but the last, which are trained in the first experience alone,
    and s_1 .. s_t copies of the last, one an experience, of which only the newest is trained:

        u(x)  = [s_1(g(x)), ..., s_t(g(x))]
        s_t   <- s_{t-1} to begin with
        loss  = CE(H(u(x)), y) + auxiliary CE(H_a(s_t(g(x))), y_a)

    with both heads and the labels y_a as in `ExpandableDER`, and after every experience but the
    first the alignment of the head's rows. What is saved against whole extractors can go into
    exemplars: compare at equal bytes of model and exemplars (`model_bytes` and `example_bytes` of a
    run's cost).

    The last stage is the last hidden layer of an `mlp`, the last convolution of a `cnn` with what
    follows it, the fully connected layer of a `lenet` and the last two blocks of a `resnet18`; any
    other backbone tells (`holdfast.models.expandable.stages`). Of a backbone of one stage nothing
    is shared.

    Args:
        capacity: Exemplars in all, herded, shared equally by the classes seen.
        auxiliary: Weight of the auxiliary loss.
        classifier: `align`, `retune` or `trained`, as in `ExpandableDER`.
        ridge: Of retuning.
        only_shrink: Do not align where that would lengthen the new rows (not in the paper).
        train_shared: Whether g is trained in every experience; statistics of batch normalisation in
            the older stages stay all the same.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: in its runs that begin with few classes the authors train the shared
    stages throughout (`train_shared=true`).

    Example:
        >>> MEMO(capacity=3312, train_shared=True).classifier
        'align'
    """

    tags = Tags(
        family="isolation",
        title="A model or 603 exemplars: towards memory-efficient class-incremental learning",
        source="Zhou et al., 2023",
        scenarios=ExpandableDER.tags.scenarios,
        needs=ExpandableDER.tags.needs,
        keeps=ExpandableDER.tags.keeps,
    )

    def __init__(
        self,
        capacity: int = 200,
        auxiliary: float = 1.0,
        classifier: Step = "align",
        ridge: float = 0.0125,
        only_shrink: bool = False,
        train_shared: bool = False,
    ) -> None:
        super().__init__(capacity, auxiliary, classifier, ridge, only_shrink)
        self.train_shared = train_shared

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        reason = super().refusal(stream, model)
        if reason is None:
            try:
                split(model.backbone)  # type: ignore[arg-type]
            except UsageError as error:
                return f"MEMO shares all stages of a backbone but the last. {error}"
        return reason

    def expandable(self, backbone: nn.Module) -> Expandable:
        shared, last = split(backbone)
        return Expandable(last, shared, self.train_shared)
