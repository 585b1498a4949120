"""Rewriting: what a layer should answer at a subject so that a model tells another fact of it.

ROME and MEMIT ask both: which key the layer sees at the subject's last token, and which vector
there would make the model say the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, at_least
from holdfast.language.generate import said_by
from holdfast.language.objective import IGNORED
from holdfast.language.requests import (
    NOWHERE,
    Written,
    opening_words,
    openings,
    own_prefixes,
    side_rows,
)
from holdfast.models.projections import hidden, watched

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

At = Literal["subject", "last"]
TOKENS = 4096
"""Of a pass."""
RIDGE = 1e-6
"""Of the mean of a second moment's diagonal, added to it, so that it can be inverted."""
CORPUS = 160, 128
"""Rows and tokens of own text where the stream has none."""


@dataclass(frozen=True)
class Aim:
    """How a vector is sought.

    Attributes:
        steps: Of Adam, at most.
        lr: Its rate.
        kl: Weight of the divergence on "SUBJECT is a".
        decay: Weight of the vector's length by the square of the old one's.
        clamp: Most length, in lengths of the old one.
        enough: Loss below which the search ends.
    """

    steps: int
    lr: float
    kl: float
    decay: float
    clamp: float
    enough: float


def places(rows: Written, at: At) -> Int[Tensor, "requests copies"]:
    """Where a fact is looked up: at the subject's last token, or at the prompt's."""
    return rows.subject[..., 1] - 1 if at == "subject" else rows.last


def no_subject(name: str, at: At, stream: Stream) -> str | None:
    """Why a stream has no place to look facts up, as a sentence; None if it has."""
    if at == "last":
        return None
    for e in stream:
        if "subject" not in e.train or bool((e.train["subject"] == NOWHERE).any()):
            return (
                f"{name} looks facts up at their subject, and {e.name or f'experience {e.index}'} "
                f"of {stream.name!r} names none: give subjects, or at='last' for the last token "
                "of the prompt."
            )
    return None


def corpus(model: Any, stream: Stream, seed: int, rows: int = 16) -> Iterator[Batch]:
    """Text that a second moment is taken on: what the stream says is known, or the model's own."""
    table = stream.past
    if table is None:
        table = said_by(model, *CORPUS, seed=seed)
    return table.to(model.device).chunks(rows)


def regular(moment: Tensor) -> Tensor:
    """A second moment that can be inverted."""
    return moment + RIDGE * moment.diagonal().mean() * torch.eye(len(moment)).to(moment)


@torch.no_grad()
def keys_at(model: Any, module: nn.Module, rows: Written, at: At) -> Float[Tensor, "requests keys"]:
    """What comes into a layer where the fact is looked up, averaged over a request's copies."""
    found = _looked_up(model, module, rows, places(rows, at), inputs=True)
    return found.view(*rows.ids.shape[:2], -1).double().mean(1)


@torch.no_grad()
def states_at(
    model: Any, module: nn.Module, rows: Written, at: At
) -> Float[Tensor, "requests width"]:
    """What goes out of a layer there, for each request alone."""
    alone = Written(rows.ids[:, :1], rows.mask[:, :1], rows.labels[:, :1], rows.subject[:, :1])
    return _looked_up(model, module, alone, places(alone, at), inputs=False).double()


def _looked_up(model: Any, module: nn.Module, rows: Written, at: Tensor, inputs: bool) -> Tensor:
    batch, flat = rows.batch(), at.flatten()
    size = max(1, TOKENS // rows.ids.shape[-1])
    parts = []
    with watched(module) as seen:
        for start in range(0, len(flat), size):
            some = slice(start, start + size)
            model(
                input_ids=batch["input_ids"][some],
                attention_mask=batch["attention_mask"][some],
                use_cache=False,
            )
            states = seen.inputs if inputs else seen.outputs
            parts.append(states[torch.arange(len(states)), flat[some]])
    return torch.cat(parts)


def sought(
    model: Any, module: nn.Module, rows: Written, table: Table, at: At, aim: Aim
) -> Float[Tensor, "requests width"]:
    """For every request the vector which, as the layer's output there, makes the model say it.

    Several are sought at a time; they do not depend on each other.

    Args:
        model: In evaluation mode, no parameter wanting a gradient.
        module: The layer, or the block, whose outputs are changed.
        rows: Requests in all copies.
        table: The same requests, for their essence prompts.
        at: Where facts are looked up.
        aim: How.
    """
    copies, width = rows.ids.shape[1:]
    size = max(1, TOKENS // (copies * width))
    parts = []
    for start in range(0, len(rows.ids), size):
        some = torch.arange(start, min(start + size, len(rows.ids)), device=rows.ids.device)
        parts.append(_sought(model, module, rows.take(some), table.take(some), at, aim))
    return torch.cat(parts)


def _sought(model: Any, module: nn.Module, rows: Written, table: Table, at: At, aim: Aim) -> Tensor:
    requests, copies, width = rows.ids.shape
    device = rows.ids.device
    essence, lengths = side_rows(table, "essence")
    told = lengths > 0
    wide = max(width, int(lengths.max()))
    batch = rows.batch()
    ids = torch.cat([_wide(batch["input_ids"], wide), _wide(essence, wide)[told]])
    real = torch.arange(wide, device=device) < lengths[told, None]
    mask = torch.cat([_wide(batch["attention_mask"], wide), real.long()])
    owner = torch.arange(requests, device=device)
    owners = torch.cat([owner.repeat_interleave(copies), owner[told]])
    spots = places(rows, at).flatten()
    if bool(told.any()):
        known = table["essence_at"][told] if at == "subject" else lengths[told] - 1
        spots = torch.cat([spots, known])
    labels = rows.labels.flatten(0, 1)[:, 1:]
    asked = labels != IGNORED
    every = torch.arange(len(ids), device=device)
    first = torch.zeros(0, device=device)
    delta = torch.zeros(requests, 1, device=device)  # as wide as the layer, once that is seen

    def shift(_: nn.Module, __: Any, made: Any) -> Any:
        nonlocal first, delta
        states = hidden(made)
        if not len(first):
            first = states[: requests * copies : copies][owner, spots[: requests * copies : copies]]
            first = first.detach().float()
            delta = torch.zeros_like(first, requires_grad=True)
        moved = states.clone()
        moved[every, spots] = states[every, spots] + delta[owners].to(states)
        return (moved, *made[1:]) if isinstance(made, tuple) else moved

    optimizer: torch.optim.Optimizer | None = None
    before = torch.zeros(0)
    done = torch.zeros(requests, dtype=torch.bool, device=device)
    handle = module.register_forward_hook(shift)
    try:
        for step in range(aim.steps):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            answers = logits[: requests * copies, : width - 1].float()
            nll = F.cross_entropy(
                answers.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
            )
            losses = (nll.sum(1) / asked.sum(1).clamp(min=1)).view(requests, copies).mean(1)
            if bool(told.any()):
                ends = lengths[told] - 1
                now = logits[requests * copies :][torch.arange(len(ends)), ends].float()
                now = now.log_softmax(-1)
                if not len(before):
                    before = now.detach()
                apart = (now.exp() * (now - before)).sum(-1)
                losses = losses.index_add(0, owner[told], aim.kl * apart)
            losses = losses + aim.decay * delta.norm(dim=1) / first.norm(dim=1).square()
            done = done | (losses.detach() < aim.enough)
            if step == aim.steps - 1 or bool(done.all()):
                break
            optimizer = optimizer or torch.optim.Adam([delta], lr=aim.lr)
            kept = delta.detach().clone()
            (delta.grad,) = torch.autograd.grad(losses.sum(), [delta])
            optimizer.step()
            with torch.no_grad():
                most = aim.clamp * first.norm(dim=1, keepdim=True)
                length = delta.norm(dim=1, keepdim=True)
                delta.mul_((most / length.clamp(min=1e-12)).clamp(max=1))
                delta.copy_(torch.where(done[:, None], kept, delta))
    finally:
        handle.remove()
    return (first + delta.detach()).double()


def own_texts(learner: Learner, experience: Experience, count: int) -> list[list[int]]:
    """Texts of the model's own before which requests are written."""
    begun = opening_words(experience) or openings(learner.model, 5, learner.seed)
    return own_prefixes(learner.model, begun)[:count] if count else []


def check(steps: int, prefixes: int, at: str, **numbers: float) -> None:
    """Raise `UsageError` for the first argument that is out of range."""
    at_least(1, steps=steps)
    at_least(0, prefixes=prefixes)
    if prefixes > 10:
        raise UsageError(f"prefixes must be at most 10; given: {prefixes}.")
    if at not in get_args(At):
        raise UsageError(f"at must be 'subject' or 'last'; given: {at!r}.")
    for name, value in numbers.items():
        if value < 0 or (name in ("lr", "clamp") and not value > 0):
            least = "above 0" if name in ("lr", "clamp") else "at least 0"
            raise UsageError(f"{name} must be {least}; given: {value}.")


def _wide(rows: Tensor, width: int) -> Tensor:
    return F.pad(rows, (0, width - rows.shape[1]))
