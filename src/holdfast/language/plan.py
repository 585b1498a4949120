"""A fine-tuning made ready: everything that can be wrong is found before work begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from holdfast import catalogue
from holdfast.data import Table
from holdfast.diff import probe_sets
from holdfast.errors import DataError, UsageError
from holdfast.language import checkpoints
from holdfast.language.chat import template_of
from holdfast.language.encode import Encoded, encode
from holdfast.language.packing import refuse_mixing
from holdfast.language.probe import ProbeSet
from holdfast.language.records import Sample, Samples, overlap, read
from holdfast.language.tokens import ends
from holdfast.learner import Learner
from holdfast.method import Method, refuse_unfit
from holdfast.recipe import Recipe
from holdfast.stream import Experience, Stream

WATCHED = 256
"""Samples of a guard set that are looked at while training goes on."""

TEXT_ROW = 512
"""Tokens a row of plain text, if the context is longer and nothing else is asked for."""


@dataclass
class Plan:
    """What a recipe comes to.

    Attributes:
        recipe: As given.
        loaded: Model and tokenizer.
        train: The data as tokens.
        stream: One experience: the data, what is held out, and the guard sets.
        gained: What is held out, to measure what is gained.
        guards: What is to be kept.
        warnings: What is odd but no reason to stop, a sentence each.
        bad: Records that were passed over.
    """

    recipe: Recipe
    loaded: checkpoints.Loaded
    train: Encoded
    stream: Stream
    gained: ProbeSet
    guards: list[ProbeSet]
    warnings: list[str] = field(default_factory=list)
    bad: int = 0

    @property
    def updates(self) -> int:
        """How many updates training makes."""
        passes = -(-len(self.stream[0].train) // self.recipe.batch_size)
        return -(-passes // self.recipe.accumulate) * self.recipe.epochs


def method_of(recipe: Recipe, plain: bool = False) -> Method:
    """The method that a recipe asks for, after the adapter that it asks for.

    Args:
        plain: Plain training instead, in the same adapter.

    Raises:
        UsageError: If a name or argument does not exist, or the methods cannot be chained.
    """
    specs = [recipe.lora, "finetune" if plain else recipe.method]
    if recipe.guard_limit is not None and not plain:  # first, as its page says
        specs.insert(0, f"guard(limit={recipe.guard_limit})")
    method = catalogue.build("+".join(spec for spec in specs if spec))
    if any(part.tags.family == "editing" for part in method.parts()):
        raise UsageError(f"{recipe.method} makes edits request by request: use holdfast edit.")
    return method


def prepare(recipe: Recipe, device: torch.device) -> Plan:
    """Read, check and encode everything that a recipe names.

    Raises:
        DataError: If a file is missing or holds what cannot be learned from.
        UsageError: If the model cannot be loaded, or something asked for does not fit it.
        StreamRefused: If the method cannot serve the model.
    """
    method_of(recipe)  # a wrong name is told before a large model is read
    samples = read(recipe.data, fields=recipe.fields, skip_bad=recipe.skip_bad, limit=recipe.limit)
    guards = probe_sets(recipe.guard)
    loaded = checkpoints.load(
        recipe.model, device=device, trust_remote_code=recipe.trust_remote_code
    )
    if recipe.template is not None:  # kept with the tokenizer, so that use is as training was
        tokenizer = loaded.tokenizer
        start = bool(ends(tokenizer).start)
        tokenizer.chat_template = template_of(tokenizer, recipe.template, start)
    if recipe.checkpointing:
        loaded.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    texts = _Encoder(recipe, loaded)
    name = Path(recipe.data[0]).name.split(".")[0]
    learned, unseen = _held_out(samples, recipe)
    left_out: list[str] = []
    held = list(texts.fitting(unseen, "held-out samples", left_out))
    guards = [
        replace(guard, samples=texts.fitting(guard.samples, f"samples of {guard.name}", left_out))
        for guard in guards
    ]
    if recipe.pack and samples[0].kind != "text":
        if loaded.kind == "seq2seq":
            raise UsageError("An encoder-decoder model has no rows to pack: leave pack out.")
        refuse_mixing(loaded.model)
    train = texts.encode(learned, packed=recipe.pack)
    plan = Plan(
        recipe,
        loaded,
        train,
        stream=Stream(
            name=name,
            experiences=[
                Experience(
                    0,
                    train.table,
                    texts.encode(held[:WATCHED]).table,
                    (),
                    name,
                    {"guard:" + guard.name: texts.watched(guard) for guard in guards},
                )
            ],
            scenario="text",
            classes=0,
            shape=(train.table["input_ids"].shape[1],),
            past=texts.encode(read(recipe.past, skip_bad=recipe.skip_bad), packed=recipe.pack).table
            if recipe.past
            else None,
            final=True,
        ),
        gained=ProbeSet(f"{name} (held out)", held),
        guards=guards,
        bad=len(samples.bad),
    )
    refuse_unfit(method_of(recipe), plan.stream, loaded.model)
    plan.warnings += [*_warnings(plan, samples), *left_out]
    return plan


def trial(learner: Learner, rows: int) -> float:
    """Seconds of a forward and backward pass on the longest rows, which are the first to fail.

    One real pass, so that shapes are checked too; the model is left as it was.

    Args:
        learner: Started, with its experience's parameters.
        rows: In the pass.
    """
    table, model = learner.experience.train, learner.model
    chosen = torch.arange(min(rows, len(table)))
    if "length" in table:
        chosen = table["length"].sort(descending=True).indices[: len(chosen)]
    batch = next(iter(table.take(chosen).to(learner.device).chunks(len(chosen))))

    def once() -> float:
        begun = time.perf_counter()
        with learner.autocast():
            loss = learner.objective.loss(learner.objective.forward(model, batch), batch)
        torch.autograd.grad(loss, learner.parameters, allow_unused=True)
        return time.perf_counter() - begun

    training = model.training
    model.train()
    try:
        return min(once(), once())
    finally:
        model.train(training)


class _Encoder:
    """Samples as tokens, as a recipe and a model ask."""

    def __init__(self, recipe: Recipe, loaded: checkpoints.Loaded) -> None:
        self.recipe, self.loaded = recipe, loaded
        config = loaded.model.config.get_text_config()
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        if recipe.length and self.context and recipe.length > self.context:
            raise DataError(
                f"Rows of {recipe.length} tokens do not fit the model's context of {self.context}."
            )

    def encode(
        self, samples: Sequence[Sample], packed: bool = False, overlong: str | None = None
    ) -> Encoded:
        """A table of rows; plain texts are always packed, because they may be of any length."""
        text = samples[0].kind == "text"
        seq2seq = self.loaded.kind == "seq2seq"
        length = self.recipe.length or (self.context or 1024)
        if text and not self.recipe.length:
            length = min(length, TEXT_ROW)
        return encode(
            samples,
            self.loaded.tokenizer,
            length=length,
            pack=(packed or text) and not seq2seq,
            completion_only=not self.recipe.whole,
            overlong=overlong or self.recipe.overlong,
            seq2seq=seq2seq,
        )

    def fitting(
        self, samples: Iterable[Sample], what: str, left_out: list[str]
    ) -> Sequence[Sample] | Iterable[Sample]:
        """The samples that can be measured: plain texts of any length, others that fit a row.

        Args:
            samples: To measure on.
            what: They are, for messages.
            left_out: Is told how many there were that do not fit, if the recipe allows that.
        """
        if next(iter(samples)).kind == "text":
            return samples
        given = list(samples)
        overlong = "error" if self.recipe.overlong == "error" else "skip"
        kept = self.encode(given, overlong=overlong).kept
        if kept is None or len(kept) == len(given):
            return given
        left_out.append(f"{len(given) - len(kept)} {what} are too long and are not measured.")
        return [given[i] for i in kept.tolist()]

    def watched(self, guard: ProbeSet) -> Table:
        """The first samples of a guard set, for a look while training goes on."""
        samples = []
        for sample in guard.samples:
            samples.append(sample)
            if len(samples) == WATCHED:
                break
        if not samples:
            raise DataError(f"The guard set {guard.name} is empty.")
        table = self.encode(samples, overlong="cut").table
        return table.take(slice(0, WATCHED))


def _held_out(samples: Samples, recipe: Recipe) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """What is learned and what is held out: samples drawn by chance, or the ends of few texts."""
    if recipe.test:
        return samples, read(recipe.test, fields=recipe.fields, skip_bad=recipe.skip_bad)
    if samples.kind == "text" and len(samples) * recipe.holdout < 1 and recipe.holdout:
        parts = [_parted(sample, recipe.holdout) for sample in samples]
        return [head for head, _ in parts], [tail for _, tail in parts]
    count = round(recipe.holdout * len(samples))
    if recipe.holdout and len(samples) > 1:
        count = max(1, count)
    if not count or count == len(samples):
        raise DataError(
            f"Of {len(samples)} records, a share of {recipe.holdout:g} held out leaves nothing to "
            "measure the gain by, or nothing to learn from: give --test FILE or another --holdout."
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.randperm(len(samples), generator=generator).tolist()
    held, learned = sorted(order[:count]), sorted(order[count:])
    return [samples[i] for i in learned], [samples[i] for i in held]


def _parted(sample: Sample, share: float) -> tuple[Sample, Sample]:
    """A text without its end, and its end, parted between words."""
    text = sample.text or ""
    at = int(len(text) * (1 - share))
    at = max(text.rfind("\n", 1, at), text.rfind(" ", 1, at)) + 1 or at
    if not text[:at].strip() or not text[at:].strip():
        raise DataError(f"The text of {sample.where} is too short to hold {share:g} of it out.")
    return replace(sample, text=text[:at]), replace(sample, text=text[at:])


def _warnings(plan: Plan, samples: Samples) -> list[str]:
    found = []
    train = plan.train
    if samples.bad:
        first = samples.bad[0]
        found.append(
            f"{len(samples.bad)} records were passed over; the first is {first.where}: {first.why}"
        )
    for count, what in (
        (train.cut, "samples were cut to the longest row"),
        (train.skipped, "samples were left out for being too long"),
        (train.unscored, "samples were left out because nothing of them would be learned"),
    ):
        if count:
            found.append(f"{count} {what}.")
    for guard in plan.guards:
        shared = overlap(guard.samples, samples)
        if shared:
            found.append(
                f"{shared} samples of the guard set {guard.name} are also in the training data, so "
                "that it does not show what is kept."
            )
    return found
