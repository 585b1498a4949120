"""MEMIT: many facts written into several matrices at once, by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.language.requests import written
from holdfast.method import Method, Tags
from holdfast.models.projections import (
    Projection,
    projection,
    refusal,
    second_moment,
    value_projections,
)
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


class MEMIT(Method):
    """Write all facts of an experience into the value projections of several blocks.

        W_l <- W_l + R_l K_l^T (known C_l + K_l K_l^T)^-1,   R_l = (z - h) / blocks still to come

    z is the hidden state at the last token of each subject, after the last of the blocks, that
    makes the model say the target; h what it is now. Block after block takes its share of what is
    missing, with keys K_l read anew.

    Args:
        layer: Number of the last block, or a pattern of its projection's name; None: a third deep.
        layers: How many blocks, up to that one; None: a sixth of all, at least two where there are.
        known: How many facts' worth of old knowledge C stands for; None: 2.3 for every key
            dimension, which is the paper's 15,000 at the size of GPT-2 XL.
        steps: Of Adam on z.
        lr: Its rate.
        kl: Weight of the divergence on "SUBJECT is a".
        decay: Weight of how far z is from the hidden state.
        clamp: Furthest that it may be, in lengths of that state.
        prefixes: Texts of the model's own before which a request is also written, at most 10.
        at: Where a fact is looked up: `"subject"`, or `"last"`: the last token of the prompt.
        enough: Loss below which the search for z ends.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: C is taken on the text that the stream says is known, or on the model's
    own, not on Wikipedia. `known` grows with the width, so that small models learn as much of a
    fact as large ones do.

    Example:
        >>> MEMIT(layer=8, layers=5).clamp
        0.75
    """

    tags = Tags(
        family="editing",
        title="Mass-Editing Memory in a Transformer",
        source="Meng et al., 2023",
        scenarios=frozenset({"text"}),
        needs=frozenset({"transformer blocks", "boundaries"}),
    )
    remembers = ("own",)
    replaces_training = True

    moments: Tensor | None

    def __init__(
        self,
        layer: int | str | None = None,
        layers: int | None = None,
        known: float | None = None,
        steps: int = 20,
        lr: float = 0.5,
        kl: float = 0.0625,
        decay: float = 0.5,
        clamp: float = 0.75,
        prefixes: int = 10,
        at: At = "subject",
        enough: float = 0.05,
    ) -> None:
        super().__init__()
        check(steps, prefixes, at, lr=lr, clamp=clamp, kl=kl, decay=decay, enough=enough)
        at_least(1, layers=layers)
        if known is not None and not known > 0:
            raise UsageError(f"known must be above 0; given: {known}.")
        self.layer, self.layers, self.known = layer, layers, known
        self.steps, self.lr, self.kl, self.decay = steps, lr, kl, decay
        self.clamp, self.prefixes, self.at, self.enough = clamp, prefixes, at, enough
        self.own: list[list[int]] = []
        self.register_buffer("moments", None)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        unfit = refusal("MEMIT", self.layer, model) or no_subject("MEMIT", self.at, stream)
        return super().refusal(stream, model) or unfit

    def expand(self, learner: Learner, experience: Experience) -> None:
        learner.model.requires_grad_(False)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if self.moments is not None:
            return
        assert learner.stream is not None
        self.own = own_texts(learner, experience, self.prefixes)
        texts = list(corpus(learner.model, learner.stream, learner.seed))
        with undisturbed(learner.model):
            self.moments = torch.stack(
                [
                    second_moment(learner.model, place.module, texts)
                    for place in self.places(learner.model)
                ]
            )

    def fit(self, learner: Learner, table: Table) -> bool:
        assert self.moments is not None
        model, places = learner.model, self.places(learner.model)
        aim = Aim(self.steps, self.lr, self.kl, self.decay, self.clamp, self.enough)
        modes = model.training
        model.eval()
        rows = written(table, self.own)
        last = model.get_submodule(places[-1].block)
        wanted = sought(model, last, rows, table, self.at, aim)
        for done, (place, moment) in enumerate(zip(places, self.moments, strict=True)):
            keys = keys_at(model, place.module, rows, self.at)
            missing = wanted - states_at(model, last, rows, self.at)
            share = missing / (len(places) - done)
            weight = self.known if self.known is not None else 2.3 * place.keys
            place.matrix.add_(least_squares(keys, share, moment, weight).to(place.matrix))
        after = states_at(model, last, rows, self.at)
        learner.note(missed=float(((after - wanted).norm(dim=1) / wanted.norm(dim=1)).mean()))
        model.train(modes)
        return True

    def places(self, model: nn.Module) -> list[Projection]:
        """The value projections that are written into, in order."""
        every = value_projections(model)
        last = projection(model, self.layer, 0.35).index
        count = self.layers or max(2, round(len(every) * 5 / 32))
        return every[max(0, last + 1 - count) : last + 1]


@torch.no_grad()
def least_squares(
    keys: Float[Tensor, "requests keys"],
    missing: Float[Tensor, "requests values"],
    moment: Float[Tensor, "keys keys"],
    known: float,
) -> Float[Tensor, "values keys"]:
    """The change that adds what is missing at some keys, weighed against what is known.

    It is the D that minimises sum |D k - r|^2 + known E|D k|^2, the mean over all text.
    """
    normal = known * regular(moment) + keys.T @ keys
    change: Tensor = torch.linalg.solve(normal, keys.T @ missing)
    return change.T
