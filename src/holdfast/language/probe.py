"""Probes: what a model knows of a set of samples, example by example.

Everything is measured by reading answers, not by writing them, unless generation is asked for: the
log-probability of every token to predict, and whether it is the likeliest. So one pass says how
well a text is predicted, which of several choices is preferred, and whether greedy generation would
give the answer word for word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.errors import DataError, UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.language import scoring
from holdfast.language.fields import Sample
from holdfast.language.generate import context_length, generate
from holdfast.language.measured import Measured, calibration, joined
from holdfast.language.questions import Question, Questioner, answer_of, right_choice
from holdfast.language.reading import Reading, read_questions
from holdfast.language.records import stream

__all__ = ["Measured", "ProbeSet", "calibration", "measure", "questions_of"]

BLOCK = 1024
"""So many samples are held at a time."""

SHOWN = 300
"""Characters of a prompt that are kept."""


@dataclass(frozen=True)
class ProbeSet:
    """Samples that say what a model knows.

    Attributes:
        name: In reports.
        samples: Of one kind; gone through once a model.
        metric: `"auto"`: loss alone for plain text, accuracy where there are choices, else exact
            match; or a metric of `holdfast.language.scoring`, for which answers are generated.
    """

    name: str
    samples: Iterable[Sample]
    metric: str = "auto"

    @staticmethod
    def read(path: str | Path, *, metric: str = "auto", fields: str | None = None) -> ProbeSet:
        """The probe set in a file or folder, named by it and read as it is needed."""
        source = Path(path)
        return ProbeSet(source.name.split(".")[0], _File(source, fields), metric)


@dataclass(frozen=True)
class _File:
    """The samples of a file, read anew each time."""

    path: Path
    fields: str | None

    def __iter__(self) -> Iterator[Sample]:
        return stream(self.path, fields=self.fields)


def measure(
    model: Any,
    tokenizer: Any,
    probe: ProbeSet,
    *,
    batch_tokens: int | None = None,
    length: int = 1024,
    end: bool = False,
    template: str | None = None,
    generate: bool = False,
    max_new_tokens: int = 64,
) -> Measured:
    """Score every example of a probe set, leaving the model and the global chance as they were.

    Args:
        model: A causal or sequence-to-sequence model of transformers, or a PEFT model.
        tokenizer: Its tokenizer.
        probe: The set. Plain texts longer than a row become several examples.
        batch_tokens: Tokens a pass, padding included; None: as many as make a quarter of a
            gigabyte of logits in single precision.
        length: Longest row in tokens; the model's context if that is shorter.
        end: Whether an answer counts as right only if the model would end there. Base models that
            were never trained to end answers know them all the same, so the default is not.
        template: Chat template in place of the tokenizer's, as in `encode`.
        generate: Write answers instead of reading them; a metric of the set asks for it too.
        max_new_tokens: The longest answer that is generated.

    Raises:
        DataError: If the set is empty or mixes kinds, if an answer is none of its choices, or if a
            prompt with its answer is too long.
        UsageError: If the metric does not exist or does not fit the samples.
    """
    at_least(2, length=length)
    if probe.metric != "auto":
        scoring.check(probe.metric)
    context = context_length(model)
    seq2seq = bool(model.config.is_encoder_decoder)
    questioner = Questioner(tokenizer, min(length, context or length), seq2seq, end, template)
    budget = batch_tokens or max(512, 2**26 // model.config.get_text_config().vocab_size)
    writes = generate or probe.metric != "auto"
    kind = ""
    parts: list[Measured] = []
    with undisturbed(model, device=model.device):
        for block in _blocks(probe.samples, BLOCK):
            kind = kind or _kind(block[0], probe, writes)
            odd = next((sample for sample in block if _kind(sample, probe, writes) != kind), None)
            if odd is not None:
                raise DataError(
                    f"The probe set {probe.name} mixes kinds: {odd.where or 'a sample'} is of "
                    "another kind than the first (plain text, with choices, with an answer)."
                )
            if kind == "text":
                part = _texts(model, questioner, probe.name, block, budget)
            elif kind == "choice":
                part = _choices(model, questioner, probe.name, block, budget)
            else:
                part = _answers(model, questioner, probe.name, block, budget)
            if kind == "generated":
                part = _written(model, questioner, probe, block, part, max_new_tokens)
            parts.append(part)
    if not parts:
        raise DataError(f"The probe set {probe.name} is empty.")
    return joined(parts)


def questions_of(
    model: Any, tokenizer: Any, samples: Sequence[Sample], length: int, template: str | None = None
) -> list[Question]:
    """What a model is asked about some samples of one kind, with the right answers alone."""
    context = context_length(model)
    seq2seq = bool(model.config.is_encoder_decoder)
    ask = Questioner(tokenizer, min(length, context or length), seq2seq, template=template)
    if samples[0].kind == "text":
        return ask.texts(samples)[0]
    right = [s.choices[right_choice(s)] if s.choices else answer_of(s) for s in samples]
    return ask.answers(samples, [[answer] for answer in right])


def _kind(sample: Sample, probe: ProbeSet, writes: bool) -> str:
    if sample.kind == "text":
        if writes:
            asked = f"metric {probe.metric!r}" if probe.metric != "auto" else "generation"
            raise UsageError(
                f"The probe set {probe.name} is plain text, which has no answers; {asked} needs "
                "prompts with answers."
            )
        return "text"
    if writes:
        return "generated"
    return "choice" if sample.choices else "answer"


def _texts(model: Any, ask: Questioner, name: str, block: list[Sample], budget: int) -> Measured:
    questions, where = ask.texts(block)
    found = read_questions(model, questions, budget)
    return _measured(name, "text", "", questions, found, where)


def _choices(model: Any, ask: Questioner, name: str, block: list[Sample], budget: int) -> Measured:
    right = np.array([right_choice(sample) for sample in block])
    questions = ask.answers(block, [sample.choices for sample in block])
    found = read_questions(model, questions, budget)
    starts = np.cumsum([0, *(len(sample.choices) for sample in block)])[:-1]
    chosen, fair, confidence = [], [], []
    sizes = np.array([question.size for question in questions])
    for start, sample in zip(starts, block, strict=True):
        of = slice(start, start + len(sample.choices))
        logprobs = found.logprob[of]
        chosen.append(int(logprobs.argmax()))
        fair.append(int((logprobs / sizes[of]).argmax()))
        confidence.append(float(1 / np.exp(logprobs - logprobs.max()).sum()))
    asked = starts + right
    part = _measured(
        name, "choice", "accuracy", [questions[i] for i in asked], found[asked],
        [sample.where for sample in block],
    )  # fmt: skip
    part.scores = (np.array(chosen) == right).astype(float)
    part.normalised = (np.array(fair) == right).astype(float)
    part.answers = [sample.choices[i] for sample, i in zip(block, chosen, strict=True)]
    part.expected = [sample.choices[i] for sample, i in zip(block, right, strict=True)]
    part.confidence = np.array(confidence)
    part.prompts = [_prompt(sample) for sample in block]
    return part


def _answers(model: Any, ask: Questioner, name: str, block: list[Sample], budget: int) -> Measured:
    expected = [answer_of(sample) for sample in block]
    questions = ask.answers(block, [[answer] for answer in expected])
    found = read_questions(model, questions, budget)
    part = _measured(
        name, "answer", "exact match", questions, found, [sample.where for sample in block]
    )
    part.scores = found.exact.astype(float)
    part.expected = expected
    part.prompts = [_prompt(sample) for sample in block]
    part.confidence = np.exp(found.certainty)
    for i, question in enumerate(questions):
        if found.exact[i]:
            part.answers.append(expected[i])
        else:
            known = [*question.asked[: found.agreed[i]], int(found.instead[i])]
            text = ask.tokenizer.decode(known, skip_special_tokens=True)
            part.answers.append(f"{text}…")
    return part


def _written(
    model: Any,
    ask: Questioner,
    probe: ProbeSet,
    block: list[Sample],
    part: Measured,
    max_new_tokens: int,
) -> Measured:
    """The same examples, with answers generated and scored by the set's metric."""
    prompts = [question.given for question in ask.answers(block, [[a] for a in part.expected])]
    part.kind, part.confidence = "generated", np.empty(0)
    part.metric = "exact_match" if probe.metric == "auto" else probe.metric
    part.answers = generate(model, ask.tokenizer, prompts, max_new_tokens=max_new_tokens)
    shown = [
        sample.prompt or ask.tokenizer.decode(p) for sample, p in zip(block, prompts, strict=True)
    ]
    part.scores = scoring.score(part.metric, part.answers, part.expected, shown)
    return part


def _prompt(sample: Sample) -> str:
    """The end of what is asked: whole prompts of large sets would fill the memory."""
    if sample.messages is not None:
        return sample.messages[-2]["content"][-SHOWN:] if len(sample.messages) > 1 else ""
    return str(sample.prompt)[-SHOWN:]


def _measured(
    name: str,
    kind: str,
    metric: str,
    questions: Sequence[Question],
    found: Reading,
    where: list[str],
) -> Measured:
    tokens = np.array([len(question.asked) for question in questions])
    sizes = np.array([question.size for question in questions])
    return Measured(name, kind, metric, -found.logprob, tokens, sizes, where)


def _blocks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while block := list(islice(rest, size)):
        yield block
