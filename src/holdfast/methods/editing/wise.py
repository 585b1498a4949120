"""WISE: edits in a copy of one matrix, which a router uses where they are asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch, Table, concat, size
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.language.generate import said_by
from holdfast.language.objective import IGNORED
from holdfast.language.requests import (
    NOWHERE,
    Written,
    opening_words,
    openings,
    own_prefixes,
    side_rows,
    written,
)
from holdfast.merge import rules
from holdfast.method import Method, Tags
from holdfast.models.projections import Projection, projection, refusal, watched
from holdfast.models.side_memory import Memories, SideMemory

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Mode = Literal["merge", "retrieve"]
Scope = Literal["prompt", "subject", "row"]
Rule = Literal["ties", "linear", "slerp", "magnitude", "sign", "dare", "dare_ties"]
OWN = 16, 12
"""Rows and tokens of the model's own text that stand in where a request brings nothing."""


class WISE(Method):
    """Keep edits in a side memory beside one matrix, and route to it what they are about.

    Beside the matrix W of one value projection lies W' = W + D. An edit trains D alone, on the
    request written after texts of the model's own and alone, and on an unrelated prompt:

        L = CE(target) + L_a
        L_a = max(0, a(unrelated) - alpha) + max(0, beta - a(request))
              + max(0, gamma + a(unrelated) - a(request))

    with a the activation of an input, the length of what D does to the layer's outputs. The least
    activation of a memory's edits, times `ratio`, is the router's threshold: what moves less is
    answered by W. Of D only a random share `mask` of entries is trained; every `shard` edits it is
    put aside as a shard, another mask is drawn, and D is 0 again. Every `merge` edits shards become
    one memory by a rule of merging.

    Args:
        layer: Number of the block, or a pattern of its projection's name; None: five sixths deep.
        mode: `"merge"`: one memory, into which later shards are merged; `"retrieve"`: a memory for
            every `merge` edits, of which the most active answers.
        lr: Of plain gradient descent.
        steps: Most steps of an edit.
        decay: Of D, a step.
        mask: Share of entries that a shard may change, in (0, 1].
        clamp: No entry of D is larger.
        alpha: Most activation of an unrelated prompt.
        beta: Least activation of a request.
        gamma: Least distance of the two.
        relative: Whether these three, and activations in the loss, are in units of the mean length
            of the layer's outputs, which fits models of any size and keeps L_a from drowning the
            target; False: as they are (the paper's are 5, 20 and 10, in the same proportion). What
            merging adds to the activations of unrelated prompts has to stay below `ratio * beta`.
        ratio: Share of the least activation that is the threshold; 0: the memory answers always.
        shard: Edits of a shard.
        merge: Edits of a merge, a multiple of `shard`.
        rule: `"ties"`, `"linear"`, `"slerp"` (two shards), `"magnitude"`, `"sign"`, `"dare"` or
            `"dare_ties"`.
        density: Share of a change's entries that a rule keeps.
        weight: What shards are multiplied by in all.
        prefixes: Texts of the model's own before which a request is also written, at most 10.
        scope: What a request's activation is the mean of: `"prompt"`: the tokens of its prompt, all
            that there is when the router decides; `"row"`: its target's, too; `"subject"`: those of
            its subject, and the others count as unrelated.
        activation: Whether activations are measured after the model's activation function.
        replay: In `"retrieve"`, after the first merge: keep edits of merged memories below `alpha`
            and those of the present shard above `beta`.
        enough: Loss below which an edit ends once it stands still.

    Raises:
        UsageError: If an argument is out of range.

    Differs from the paper: with it the router judges a request by prompt and target together,
    though when it must decide there is only a prompt; here both its training and its use see the
    prompt (`scope="row"` is the paper's). Weight decay pulls D, not W': in the official code it
    shrinks the entries outside the mask as well. A batch is routed row by row, without its padding,
    and while an answer is written the prompt's choice holds. Where several memories pass their
    thresholds the most active answers; the official code lets the shard at hand stand in the way of
    a stored memory even if it fails its own. Shards that are not merged yet count as merged
    whenever the model is used, without being changed by it. Dropout is off. Replay uses the margins
    for its bounds, 5 and 20 there.

    Example:
        >>> WISE(mode="retrieve", shard=10, merge=20).ratio
        0.88
    """

    tags = Tags(
        family="editing",
        title="WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language "
        "Models",
        source="Wang et al., 2024",
        scenarios=frozenset({"text"}),
        needs=frozenset({"transformer blocks", "boundaries"}),
        keeps=frozenset({"parameters"}),
    )
    remembers = (
        "edits",
        "in_shard",
        "merges",
        "open_least",
        "whole_least",
        "unit",
        "own",
        "history",
        "before",
    )
    chooses_weights = True

    allowed: Tensor | None
    shards: Tensor | None
    shard_least: Tensor | None
    said: Tensor | None

    def __init__(
        self,
        layer: int | str | None = None,
        mode: Mode = "merge",
        lr: float = 1.0,
        steps: int = 70,
        decay: float = 1e-5,
        mask: float = 0.2,
        clamp: float = 1.0,
        alpha: float = 0.5,
        beta: float = 2.0,
        gamma: float = 1.0,
        relative: bool = True,
        ratio: float = 0.88,
        shard: int = 500,
        merge: int = 1000,
        rule: Rule = "ties",
        density: float = 0.53,
        weight: float = 1.0,
        prefixes: int = 10,
        scope: Scope = "prompt",
        activation: bool = True,
        replay: bool = False,
        enough: float = 0.02,
    ) -> None:
        super().__init__()
        at_least(1, steps=steps, shard=shard, merge=merge)
        at_least(0, prefixes=prefixes)
        for name, given, accepted in (
            ("mode", mode, get_args(Mode)),
            ("scope", scope, get_args(Scope)),
            ("rule", rule, get_args(Rule)),
        ):
            if given not in accepted:
                raise UsageError(f"{name} must be one of {', '.join(accepted)}; given: {given!r}.")
        for name, value in (("mask", mask), ("density", density)):
            rules.check_share(name, value, empty=False)
        for name, value in (("lr", lr), ("clamp", clamp), ("weight", weight)):
            if not value > 0:
                raise UsageError(f"{name} must be above 0; given: {value}.")
        for name, value in (
            ("decay", decay),
            ("alpha", alpha),
            ("beta", beta),
            ("gamma", gamma),
            ("ratio", ratio),
            ("enough", enough),
        ):
            if value < 0:
                raise UsageError(f"{name} must not be negative; given: {value}.")
        if prefixes > 10:
            raise UsageError(f"prefixes must be at most 10; given: {prefixes}.")
        if merge % shard:
            raise UsageError(
                f"merge must be a multiple of shard; given: merge={merge}, shard={shard}."
            )
        if replay and mode != "retrieve":
            raise UsageError("replay keeps memories apart: it needs mode='retrieve'.")
        if rule == "slerp" and (merge != 2 * shard or mode == "merge"):
            raise UsageError(
                "slerp joins two shards: it needs mode='retrieve' and merge twice as large as "
                f"shard; given: mode={mode!r}, merge={merge}, shard={shard}."
            )
        self.layer, self.mode, self.lr, self.steps, self.decay = layer, mode, lr, steps, decay
        self.mask, self.clamp, self.relative, self.ratio = mask, clamp, relative, ratio
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.shard, self.merge, self.rule, self.density = shard, merge, rule, density
        self.weight, self.prefixes, self.scope = weight, prefixes, scope
        self.activation, self.replay, self.enough = activation, replay, enough
        self.memory = SideMemory(ratio)
        for buffer in ("allowed", "shards", "shard_least", "said"):
            self.register_buffer(buffer, None)
        self.edits = self.in_shard = self.merges = 0
        self.open_least = self.whole_least = float("inf")
        self.unit = 1.0
        self.own: list[list[int]] = []
        self.history: list[list[Any]] = []  # [merge, ids, tokens of the prompt]
        self._rows: Written | None = None
        self._unrelated: Written | None = None
        self._counted: Counted | None = None
        self.before = float("inf")
        self._merged: Callable[[], Memories] | None = None  # of the state at hand

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if self.scope == "subject":
            for e in stream:
                if "subject" not in e.train or bool((e.train["subject"] == NOWHERE).any()):
                    return (
                        "WISE with scope='subject' needs the subject of every request; "
                        f"{e.name or f'experience {e.index}'} of {stream.name!r} names none."
                    )
        return super().refusal(stream, model) or refusal("WISE", self.layer, model)

    # Before an edit.

    def setup(self, learner: Learner) -> None:
        learner.make_optimizer = partial(torch.optim.SGD, lr=self.lr, weight_decay=self.decay)
        learner.optimizer_state, learner.epochs = "reset", self.steps
        found = self.place(learner.model)
        config = learner.model.config
        named = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
        self.memory.activation = (named or "") if self.activation else ""
        # Trained by the learner as a weight of the model, and remembered here.
        weight = found.module.weight
        self.memory.change = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))
        found.module.register_parameter("change", self.memory.change)
        self.memory.serve = self.served
        self.memory.attach(learner.model, found)

    def expand(self, learner: Learner, experience: Experience) -> None:
        learner.model.requires_grad_(False)
        self.memory.change.requires_grad_(True)

    def begin(self, learner: Learner, experience: Experience) -> None:
        if self.said is None:
            self.prepare(learner, experience)
        self.before = float("inf")
        if not self.in_shard:
            chance = torch.rand(
                self.memory.change.shape, generator=learner.generator, device=learner.device
            )
            self.allowed = chance < self.mask
            self.open_least = float("inf")

    def prepare(self, learner: Learner, experience: Experience) -> None:
        """Once: text of the model's own, and how long the layer's outputs are on it."""
        model = learner.model
        begun = opening_words(experience) or openings(model, 5, learner.seed)
        self.own = own_prefixes(model, begun)[: self.prefixes] if self.prefixes else []
        said = said_by(model, *OWN, seed=learner.seed)["input_ids"].to(learner.device)
        self.said = said
        with undisturbed(model), watched(self.place(model).module) as seen:
            model(input_ids=said, use_cache=False)
        lengths = self.memory.function()(seen.outputs.float()).norm(dim=-1)
        self.unit = float(lengths.mean()) if self.relative else 1.0

    def select(self, learner: Learner, table: Table) -> Table:
        """Write all rows of the experience: an experience's steps see the same ones."""
        on = table.to(learner.device)
        self._rows = written(on, self.own)
        self._unrelated = self.unrelated(on)
        return table.with_columns(request=torch.arange(len(table), device=table.device))

    def unrelated(self, table: Table) -> Written:
        """One row a request: its own unrelated prompt, or a text of the model's own."""
        assert self.said is not None
        ids, lengths = side_rows(table, "unrelated")
        own = self.said[(self.edits + torch.arange(len(ids), device=ids.device)) % len(self.said)]
        width = max(ids.shape[1], own.shape[1])
        ids = nn.functional.pad(ids, (0, width - ids.shape[1]))
        own = nn.functional.pad(own, (0, width - own.shape[1]))
        none = lengths == 0
        ids = torch.where(none[:, None], own, ids)
        lengths = torch.where(none, self.said.shape[1], lengths)
        mask = torch.arange(width, device=ids.device) < lengths[:, None]
        nowhere = torch.full((len(ids), 1, 2), NOWHERE, device=ids.device)
        labels = torch.full_like(ids, IGNORED)[:, None]
        return Written(ids[:, None], mask[:, None], labels, nowhere)

    # The step.

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        assert self._rows is not None
        assert self._unrelated is not None
        learner.model.eval()  # an edit has no use for dropout
        chosen = batch["request"]
        rows, others = self._rows.take(chosen), self._unrelated.take(chosen)
        self.memory.training_pass = True
        own = self.joined(rows, others)
        mixed = {name: batch[name][learner.stream_rows :] for name in own}
        return concat(own, mixed) if size(mixed) else own

    def joined(self, rows: Written, others: Written) -> Batch:
        """Requests and what is unrelated to them as one batch; notes which tokens count."""
        width = max(rows.ids.shape[-1], others.ids.shape[-1])

        def wide(mask: Tensor) -> Tensor:
            return nn.functional.pad(mask, (0, width - mask.shape[-1])).flatten(0, 1)

        inside = rows.mask if self.scope == "row" else rows.prompt
        outside = others.mask
        if self.scope == "subject":
            places = torch.arange(rows.ids.shape[-1], device=rows.ids.device)
            begin, stop = rows.subject[..., :1], rows.subject[..., 1:]
            inside = (places >= begin) & (places < stop)
            outside = rows.mask & ~inside
        self._counted = Counted(rows.ids.shape[0], rows.ids.shape[1], wide(inside), wide(outside))
        return concat(rows.batch(), others.batch())

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        self.memory.training_pass = False
        found = self.activations()
        total = loss + self.margins(*found)
        if self.replay and self.merges:
            total = total + self.replayed(learner)
        now = float(total.detach())  # an edit that is learned ends: it must be looked at
        if abs(now - self.before) <= 1e-4 and now <= self.enough:
            learner.enough = True
        self.before = now
        return total

    def activations(self) -> tuple[Tensor, Tensor]:
        """Activations of the requests' rows, and of what is unrelated to each."""
        passing, memory, counted = self.memory.passing, self.memory, self._counted
        assert passing.plain is not None
        assert passing.edited is not None
        assert counted is not None
        width, many = passing.plain.shape[1], counted.requests * counted.copies
        plain, edited = passing.plain, passing.edited
        inside, outside = counted.inside[:, :width], counted.outside[:, :width]
        request = memory.measured(plain[:many], edited[:many], _wide(inside, width))
        if self.scope == "subject":
            return request, memory.measured(plain[:many], edited[:many], _wide(outside, width))
        rows = slice(many, many + counted.requests)
        unrelated = memory.measured(plain[rows], edited[rows], _wide(outside, width))
        return request, unrelated.repeat_interleave(counted.copies)

    def margins(self, request: Tensor, unrelated: Tensor) -> Tensor:
        """L_a, each of its terms a mean over the rows that violate it."""
        request, unrelated = request / self.unit, unrelated / self.unit
        return (
            violated(unrelated - self.alpha)
            + violated(self.beta - request)
            + violated(self.gamma + unrelated - request)
        )

    def replayed(self, learner: Learner) -> Tensor:
        """What keeps merged memories apart from the shard at hand: their edits do not move it."""
        groups: dict[int, list[list[Any]]] = {}
        for entry in self.history:
            groups.setdefault(entry[0], []).append(entry)
        now = groups.pop(self.merges, [])
        terms = [
            violated(self.moved(learner, found[learner.updates % len(found)]) - self.alpha)
            for found in groups.values()
        ]
        total = torch.stack(terms).mean()
        if now:
            drawn = torch.randint(len(now), (), generator=learner.generator, device=learner.device)
            total = total + violated(self.beta - self.moved(learner, now[int(drawn)]))
        return total

    def moved(self, learner: Learner, entry: list[Any]) -> Tensor:
        """The activation of a past edit in the shard at hand, `[1]`, in units, with gradient."""
        _, ids, size = entry
        given = torch.tensor([ids], device=learner.device)
        self.memory.training_pass = True
        learner.model(input_ids=given, use_cache=False)
        self.memory.training_pass = False
        passing = self.memory.passing
        assert passing.plain is not None
        assert passing.edited is not None
        tokens = torch.arange(len(ids), device=learner.device)[None] < size
        return self.memory.measured(passing.plain, passing.edited, tokens) / self.unit

    def gradients(self, learner: Learner) -> None:
        gradient = self.memory.change.grad
        if gradient is not None and self.allowed is not None:
            gradient.mul_(self.allowed)

    @torch.no_grad()
    def step(self, learner: Learner) -> None:
        self.memory.change.clamp_(-self.clamp, self.clamp)
        self._merged = None

    # After an edit.

    @torch.no_grad()
    def end(self, learner: Learner, experience: Experience) -> None:
        assert self._rows is not None
        assert self._unrelated is not None
        batch = self.joined(self._rows, self._unrelated)
        with undisturbed(learner.model):
            self.memory.training_pass = True
            learner.objective.forward(learner.model, batch)
            self.memory.training_pass = False
            request, _ = self.activations()
        copies = self._rows.ids.shape[1]
        least = float(request.view(-1, copies).mean(1).min())
        self.open_least = min(self.open_least, least)
        self.whole_least = min(self.whole_least, least)
        if self.replay:
            self.remember()
        count = len(self._rows.ids)
        self.edits += count
        self.in_shard += count
        learner.note(loss=self.before, activation=least)
        self.forget_rows()
        if self.in_shard >= self.shard:
            self.put_aside()
        pending = 0 if self.shards is None else len(self.shards)
        if pending >= self.merge // self.shard:
            self.merge_shards()

    def release(self, learner: Learner) -> None:
        self.memory.training_pass = False
        self.forget_rows()

    def forget_rows(self) -> None:
        """Let go of what belongs to one experience."""
        self._rows = self._unrelated = self._counted = self._merged = None
        self.memory.passing.plain = self.memory.passing.edited = None

    def remember(self) -> None:
        """Keep the requests at hand, as they are alone."""
        assert self._rows is not None
        alone = self._rows.take(torch.arange(len(self._rows.ids)))
        for ids, mask, prompt in zip(
            alone.ids[:, 0], alone.mask[:, 0], alone.prompt[:, 0], strict=True
        ):
            self.history.append([self.merges, ids[mask].tolist(), int(prompt.sum())])

    @torch.no_grad()
    def put_aside(self) -> None:
        """The change at hand becomes a shard, and is 0 again."""
        change = self.memory.change
        least = torch.tensor([self.open_least], dtype=torch.float64, device=change.device)
        self.shards = _stacked(self.shards, change.detach().clone()[None])
        self.shard_least = _stacked(self.shard_least, least)
        change.zero_()
        self.in_shard = 0

    def merge_shards(self) -> None:
        """The shards become a memory, or part of the one that there is."""
        assert self.shards is not None
        assert self.shard_least is not None
        if self.mode == "merge":
            merged, whole = self.one(list(self.shards))
            self.memory.kept = merged[None]
            self.memory.least = torch.tensor([whole], dtype=torch.float64, device=merged.device)
        else:
            merged = self.joined_shards(list(self.shards), [])
            self.memory.kept = _stacked(self.memory.kept, merged[None])
            self.memory.least = _stacked(self.memory.least, self.shard_least.min()[None])
        self.shards = self.shard_least = None
        self.merges += 1

    def one(self, changes: list[Tensor]) -> tuple[Tensor, float]:
        """All changes as one memory, with the one before, and the least activation of all."""
        old = [] if self.memory.kept is None else list(self.memory.kept)
        if not old and len(changes) == 1:
            return changes[0], self.whole_least
        return self.joined_shards(changes, old), self.whole_least

    def joined_shards(self, changes: list[Tensor], old: list[Tensor]) -> Tensor:
        """Changes made one by the rule; an old memory has a weight of 0.6, the new share 0.4."""
        share = 0.4 if old else self.weight
        weights = [share / len(changes)] * len(changes) + [0.6] * len(old)
        both, chance = [*changes, *old], torch.Generator(changes[0].device).manual_seed(self.merges)
        match self.rule:
            case "ties":
                return rules.ties(both, weights, self.density)
            case "linear":
                return rules.linear(both, weights)
            case "slerp":
                weight = self.memory.weight()  # an arc is between weights, not between changes
                return rules.slerp(weight + both[0], weight + both[1], 0.5) - weight
            case "magnitude":
                return rules.magnitude(both, weights, self.density)
            case "sign":
                return rules.disjoint_mean(both, weights)
            case "dare":
                return rules.dare(both, weights, 1 - self.density, chance)
            case _:
                return rules.dare_ties(both, weights, 1 - self.density, chance)

    # In use.

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        super().set_extra_state(state)
        self._merged = None

    def served(self) -> Memories:
        """What answers now: merged memories, and what is on the way to be merged."""
        if self._merged is None:
            found = self.now()
            self._merged = lambda: found
        return self._merged()

    def now(self) -> Memories:
        """The same, put together anew."""
        memory = self.memory
        kept = [] if memory.kept is None else list(memory.kept)
        pending = [] if self.shards is None else list(self.shards)
        least = [] if self.shard_least is None else self.shard_least.tolist()
        if self.in_shard:
            pending, least = [*pending, memory.change.detach()], [*least, self.open_least]
        if self.mode == "retrieve":
            floors = [] if memory.least is None else memory.least.tolist()
            return [*kept, *pending], [*floors, *least]
        if not pending:
            return kept, [self.whole_least] * len(kept)
        change, whole = self.one(pending)
        return [change], [whole]

    def finish(self, model: nn.Module) -> SideMemory:
        """The memory as it is served now, off the model, whose weights are as they came."""
        changes, least = self.served()
        found = SideMemory(self.ratio, self.memory.activation)
        found.layer = self.memory.layer
        if changes:
            found.kept = torch.stack([change.clone() for change in changes])
            found.least = torch.tensor(least, dtype=torch.float64)
        module = model.get_submodule(self.memory.layer)
        self.memory.detach(model)
        del module._parameters["change"]
        return found

    def place(self, model: nn.Module) -> Projection:
        """The value projection beside which the memory lies."""
        return projection(model, self.layer, 5 / 6)


@dataclass(frozen=True)
class Counted:
    """Which tokens of a batch count for the activations of requests and of what is unrelated.

    Attributes:
        requests: How many.
        copies: Rows of each.
        inside: Tokens of the requests' rows, `[requests * copies, width]`.
        outside: Tokens of the unrelated rows, or of the requests' rows beside their subjects.
    """

    requests: int
    copies: int
    inside: Tensor
    outside: Tensor


def _wide(mask: Tensor, width: int) -> Tensor:
    return nn.functional.pad(mask, (0, width - mask.shape[1]))


def violated(excess: Tensor) -> Tensor:
    """The mean of what lies above 0; 0 if nothing does."""
    over = excess.clamp(min=0)
    return over.sum() / (over > 0).sum().clamp(min=1)


def _stacked(held: Tensor | None, more: Tensor) -> Tensor:
    return more if held is None else torch.cat([held, more])
