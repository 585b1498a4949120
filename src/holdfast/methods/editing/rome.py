"""ROME: a fact written into one matrix by an update of rank one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.evaluation import undisturbed
from holdfast.language.requests import written
from holdfast.method import Method, Tags
from holdfast.models.projections import Projection, projection, refusal, second_moment
from holdfast.models.rewriting import (
    Aim,
    At,
    check,
    corpus,
    keys_at,
    no_subject,
    own_texts,
    regular,
    sought,
    states_at,
)

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream


class ROME(Method):
    """Write each fact into one value projection, so that its key is mapped to its value.

        W <- W + (v - W k) (C^-1 k)^T / (k^T C^-1 k)

    k is what the layer sees at the last token of the subject, averaged over the prompt written
    alone and after texts of the model's own; v is its output there which makes the model say the
    target and keeps what it says after "SUBJECT is a"; C = E[k k^T] over text says which other keys
    are to be spared.

    Args:
        layer: Number of the block, or a pattern of its projection's name; None: a third deep.
        steps: Of Adam on v.
        lr: Its rate.
        kl: Weight of the divergence on "SUBJECT is a".
        decay: Weight of how far v is from the layer's output.
        clamp: Furthest that it may be, in lengths of that output.
        prefixes: Texts of the model's own before which a request is also written, at most 10.
        at: Where the fact is looked up: `"subject"`, or `"last"`: the last token of the prompt.
        enough: Loss below which the search for v ends.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: C is taken on the text that the stream says is known, or on the model's
    own, not on Wikipedia. The divergence is measured after "SUBJECT is a", as the paper writes; the
    official code measures it at the subject. The new weight maps the average key to v, as the
    paper's equation; the official code maps the key of the prompt alone.

    Example:
        >>> ROME(layer=5).clamp
        4.0
    """

    tags = Tags(
        family="editing",
        title="Locating and Editing Factual Associations in GPT",
        source="Meng et al., 2022",
        scenarios=frozenset({"text"}),
        needs=frozenset({"transformer blocks", "boundaries"}),
    )
    remembers = ("own",)
    replaces_training = True

    moment: Tensor | None

    def __init__(
        self,
        layer: int | str | None = None,
        steps: int = 20,
        lr: float = 0.5,
        kl: float = 0.0625,
        decay: float = 0.5,
        clamp: float = 4.0,
        prefixes: int = 10,
        at: At = "subject",
        enough: float = 0.05,
    ) -> None:
        super().__init__()
        check(steps, prefixes, at, lr=lr, clamp=clamp, kl=kl, decay=decay, enough=enough)
        self.layer, self.steps, self.lr, self.kl, self.decay = layer, steps, lr, kl, decay
        self.clamp, self.prefixes, self.at, self.enough = clamp, prefixes, at, enough
        self.own: list[list[int]] = []
        self.register_buffer("moment", None)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        unfit = refusal("ROME", self.layer, model) or no_subject("ROME", self.at, stream)
        return super().refusal(stream, model) or unfit

    def expand(self, learner: Learner, experience: Experience) -> None:
        learner.model.requires_grad_(False)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if self.moment is not None:
            return
        assert learner.stream is not None
        self.own = own_texts(learner, experience, self.prefixes)
        texts = corpus(learner.model, learner.stream, learner.seed)
        with undisturbed(learner.model):
            self.moment = second_moment(learner.model, self.place(learner.model).module, texts)

    def fit(self, learner: Learner, table: Table) -> bool:
        assert self.moment is not None
        model, place = learner.model, self.place(learner.model)
        aim = Aim(self.steps, self.lr, self.kl, self.decay, self.clamp, self.enough)
        modes = model.training
        model.eval()
        requests = written(table, self.own)
        for row in range(len(table)):
            one = torch.tensor([row], device=table.device)
            rows = requests.take(one)
            (key,) = keys_at(model, place.module, rows, self.at)
            (value,) = sought(model, place.module, rows, table.take(one), self.at, aim)
            change = rank_one(place, key, value, self.moment)
            place.matrix.add_(change.to(place.matrix))
            (after,) = states_at(model, place.module, rows, self.at)
            learner.note(missed=float((after - value).norm() / value.norm()))
        model.train(modes)
        return True

    def place(self, model: nn.Module) -> Projection:
        """The value projection that is written into."""
        return projection(model, self.layer, 0.35)


@torch.no_grad()
def rank_one(
    place: Projection,
    key: Float[Tensor, " keys"],
    value: Float[Tensor, " values"],
    moment: Float[Tensor, "keys keys"],
) -> Float[Tensor, "values keys"]:
    """The change of a projection's matrix that maps a key to a value and moves other keys least."""
    spread = torch.linalg.solve(regular(moment), key)
    bias = place.module.bias.double() if place.module.bias is not None else 0.0
    missing = value - (place.matrix.double() @ key + bias)
    change: Tensor = torch.outer(missing, spread) / (key @ spread)
    return change
