"""What a model knows of some facts: probability, verbatim recall, truth ratio, extraction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.language import scoring
from holdfast.language.encode import prompts
from holdfast.language.extraction import exact_memorization, extraction_strength
from holdfast.language.facts import Fact
from holdfast.language.generate import context_length, generate
from holdfast.language.questions import Question, Questioner
from holdfast.language.tokenwise import Tokens, read_tokens
from holdfast.language.truth_ratio import truth_forgotten, truth_kept, truth_ratio

Floats = NDArray[np.float64]
MOST = 300
"""Facts of a set that are looked at, as TOFU does."""


@dataclass(frozen=True)
class FactSet:
    """Facts that are measured together.

    Attributes:
        name: In reports.
        facts: At least one.
        forgotten: Whether they are to be forgotten; else they are to be kept.
        contrasted: Whether an answer's probability is taken among the answers that are given, as
            of facts that the model was never trained on word for word.
    """

    name: str
    facts: Sequence[Fact]
    forgotten: bool = False
    contrasted: bool = False

    def part(self, most: int | None) -> FactSet:
        """At most so many of them, evenly from first to last."""
        count = len(self.facts)
        if most is None or count <= most:
            return self
        chosen = [self.facts[place * count // most] for place in range(most)]
        return FactSet(self.name, chosen, self.forgotten, self.contrasted)


@dataclass(frozen=True)
class Known:
    """What a model makes of a set; arrays have one entry a fact.

    Attributes:
        name: Of the set.
        forgotten: As in `FactSet`.
        probability: Of the answer, its length made up for: exp(-NLL / tokens); of contrasted facts
            the share of that among right and wrong answers.
        recall: ROUGE-L recall of what is written; None if nothing was.
        ratio: Truth ratios, right over wrong; None where the facts have no wrong answers.
        strength: Extraction strength.
        memorised: Exact memorization.
        tokens: The answers, token by token.
        answers: What was written; None if nothing was.
    """

    name: str
    forgotten: bool
    probability: Floats
    recall: Floats | None
    ratio: Floats | None
    strength: Floats
    memorised: Floats
    tokens: Tokens
    answers: list[str] | None = None

    @property
    def truth(self) -> float | None:
        """What the truth ratios come to."""
        if self.ratio is None:
            return None
        return truth_forgotten(self.ratio) if self.forgotten else truth_kept(self.ratio)

    @property
    def loss(self) -> float:
        """Of the answers, in nats a token."""
        return float(-self.tokens.logprob.mean())

    def numbers(self) -> dict[str, float | None]:
        """Everything, as means."""
        return {
            "probability": float(self.probability.mean()),
            "recall": None if self.recall is None else float(self.recall.mean()),
            "truth": self.truth,
            "extraction": float(self.strength.mean()),
            "memorised": float(self.memorised.mean()),
            "loss": self.loss,
        }


def questioner_of(model: Any, tokenizer: Any, length: int | None = None) -> Questioner:
    """Asks as training does, with the end of an answer."""
    context = context_length(model)
    most = min(length or 4096, context or 4096)
    return Questioner(tokenizer, most, bool(model.config.is_encoder_decoder), end=True)


def own_questions(
    model: Any, tokenizer: Any, given: FactSet, length: int | None = None
) -> list[Question]:
    """Every question with its own answer alone."""
    facts = given.facts
    ask = questioner_of(model, tokenizer, length)
    return ask.answers([fact.sample for fact in facts], [[fact.answer] for fact in facts])


def known_of(
    model: Any,
    tokenizer: Any,
    given: FactSet,
    *,
    write: bool = True,
    max_new_tokens: int = 64,
    length: int | None = None,
    batch_size: int = 16,
) -> Known:
    """Measure a set, leaving the model and the global chance as they were.

    Args:
        model: A causal or sequence-to-sequence model of transformers, or a PEFT model.
        tokenizer: Its tokenizer.
        given: The facts.
        write: Whether answers are written, for their recall.
        max_new_tokens: The longest of these.
        length: Most tokens of a question with an answer; None: the model's context.
        batch_size: Answers that are written at a time.
    """
    ask = questioner_of(model, tokenizer, length)
    facts = given.facts
    asked, starts = _asked(ask, facts, given.contrasted)
    read = read_tokens(model, asked)
    mean = read.mean_nll
    first = starts[:-1]
    ratio: list[float] | None = []
    chance = np.exp(-mean[first])
    for place, fact in enumerate(facts):
        if not fact.perturbed:
            ratio = None
            break
        row = mean[starts[place] : starts[place + 1]]
        right = row[1] if len(row) > 1 + len(fact.perturbed) else row[0]
        wrong = row[-len(fact.perturbed) :]
        assert ratio is not None
        ratio.append(truth_ratio(float(right), wrong.tolist()))
        if given.contrasted:
            chance[place] /= chance[place] + np.exp(-wrong).sum()
    own = _part(read, first)
    hits = own.split(own.right)
    answers = recall = None
    if write:
        answers = written(model, tokenizer, facts, max_new_tokens, batch_size)
        recall = scoring.rouge_l(answers, [f.answer for f in facts], stemmed=True, recall=True)
    return Known(
        given.name,
        given.forgotten,
        chance,
        recall,
        None if ratio is None else np.array(ratio),
        np.array([extraction_strength(part) for part in hits]),
        np.array([exact_memorization(part) for part in hits]),
        own,
        answers,
    )


def written(
    model: Any, tokenizer: Any, facts: Sequence[Fact], max_new_tokens: int, batch_size: int = 16
) -> list[str]:
    """What a model answers, the likeliest token each time."""
    seq2seq = bool(model.config.is_encoder_decoder)
    asked = prompts([fact.sample for fact in facts], tokenizer, seq2seq=seq2seq)
    context = context_length(model)
    room = max_new_tokens
    if context is not None and not seq2seq:
        room = min(room, context - max(map(len, asked)))
    return generate(model, tokenizer, asked, max_new_tokens=max(1, room), batch_size=batch_size)


def parts_of_utility(known: Sequence[Known]) -> dict[str, float]:
    """The numbers that model utility is the harmonic mean of: those that there are.

    Probability, recall and truth of every set that is to be kept: nine for TOFU's three sets.
    """
    found = {}
    for one in known:
        if one.forgotten:
            continue
        numbers = one.numbers()
        for what in ("probability", "recall", "truth"):
            value = numbers[what]
            if value is not None:
                found[f"{one.name}: {what}"] = value
    return found


def _asked(
    ask: Questioner, facts: Sequence[Fact], contrasted: bool
) -> tuple[list[Question], NDArray[np.int64]]:
    """The answer of every fact, its paraphrase, and the wrong ones, and where each fact begins."""
    wanted = []
    for fact in facts:
        # Of facts that were never learned word for word, the answer itself is as good as another.
        other = [fact.paraphrase] if fact.paraphrase and fact.perturbed and not contrasted else []
        wanted.append([fact.answer, *other, *fact.perturbed])
    questions = ask.answers([fact.sample for fact in facts], wanted)
    starts = np.concatenate([[0], np.cumsum([len(answers) for answers in wanted])])
    return questions, starts


def _part(read: Tokens, rows: NDArray[np.int64]) -> Tokens:
    """The tokens of some of the questions."""
    ends = np.cumsum(read.counts)
    places = np.concatenate([np.arange(ends[i] - read.counts[i], ends[i]) for i in rows])
    return Tokens(
        read.logprob[places],
        read.right[places],
        read.mean[places],
        read.deviation[places],
        read.counts[rows],
    )
