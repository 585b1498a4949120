"""What edits came to: reliability, generalization, locality, and how the model still writes.

Everything is asked as it is in use: the prompt is read first, so that a memory beside the model
decides there, and the answer's tokens are held against what the model would say next, one after
another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from holdfast.evaluation import undisturbed
from holdfast.language.fields import Sample
from holdfast.language.generate import context_length, generate
from holdfast.language.questions import Question, Questioner
from holdfast.language.reading import by_length, prompted
from holdfast.language.requests import Request
from holdfast.losses import token_logprobs

OWN_ANSWER = 5
"""Tokens of an unrelated prompt's answer that are compared where no right one is known."""
WRITTEN = 40
"""Tokens that are written to measure fluency."""
FLUENT = 20
"""Prompts that are gone on from to measure fluency."""

DEFINITIONS = {
    "reliability": "share of the target's tokens that are the likeliest after the prompt",
    "exact": "share of edits of which every token of the target is",
    "probability": "probability of the whole target after the prompt",
    "generalization": "as reliability, after the rephrased prompt",
    "generalization_exact": "as exact, after the rephrased prompt",
    "locality": "share of the tokens, of the answer given to an unrelated prompt before any edit, "
    "that are still the likeliest",
    "fluency": "entropy of the pairs and triples of words in text written after the prompts, in "
    "bits, as Meng et al. (2022) weigh them",
    "score": "mean of reliability, generalization and locality",
}
"""Every measure, in words."""


@dataclass(frozen=True)
class Told:
    """What a model made of some answers, one entry each.

    Attributes:
        right: Share of the tokens that are the likeliest.
        exact: Whether all are.
        probability: Of the whole answer.
    """

    right: np.ndarray[Any, Any]
    exact: np.ndarray[Any, Any]
    probability: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Edited:
    """What some edits came to, after all of them.

    Attributes:
        edits: How many.
        reliability: This and the next are as `DEFINITIONS` says; NaN where nothing was measured.
        exact: Of targets.
        probability: Of targets.
        generalization: To rephrases.
        generalization_exact: To rephrases.
        locality: Of unrelated prompts.
        fluency: In bits.
        each: One entry an edit: reliability, generalization, locality; None where not measured.
    """

    edits: int
    reliability: float
    exact: float
    probability: float
    generalization: float
    generalization_exact: float
    locality: float
    fluency: float
    each: list[dict[str, float | None]] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Mean of the three, of those that were measured."""
        known = [
            value
            for value in (self.reliability, self.generalization, self.locality)
            if not math.isnan(value)
        ]
        return sum(known) / len(known)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "score": self.score}


class Measure:
    """Measures edits of one model; what it answered before any of them is stored once.

    Args:
        model: As it is before any edit.
        tokenizer: Its tokenizer.
        requests: All edits that will be made.
        further: Prompts, beside those of the requests, whose answers must stay.
        length: Most tokens of a prompt with its answer.
        fluency: Whether text is written to measure its entropy.
        budget: Tokens a pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        requests: Sequence[Request],
        *,
        further: Sequence[str] = (),
        length: int = 256,
        fluency: bool = True,
        budget: int = 4096,
    ) -> None:
        self.tokenizer, self.requests, self.fluency = tokenizer, list(requests), fluency
        self.budget = budget
        context = context_length(model) or length
        self.ask = Questioner(tokenizer, min(length, context))
        self.asked = self._questions([(r.prompt, r.target) for r in requests])
        self.again = self._questions([(r.rephrase, r.target) for r in requests])
        self.kept = self._before(model, [(r.locality, r.locality_answer) for r in requests])
        self.further = self._before(model, [(prompt, "") for prompt in further])

    def after(self, model: Any, count: int | None = None, fluency: bool | None = None) -> Edited:
        """The first `count` edits (None: all), measured on the model as it is now.

        Args:
            model: After these edits.
            count: How many there were.
            fluency: Whether text is written this time.
        """
        count = len(self.requests) if count is None else count
        return self.of(model, range(count), self.fluency if fluency is None else fluency)

    def of(self, model: Any, rows: Sequence[int], fluency: bool = False) -> Edited:
        """Some of the edits, measured on the model as it is now."""
        told = self._told(model, [self.asked[i] for i in rows])
        again = self._told(model, [self.again[i] for i in rows])
        own = self._told(model, [self.kept[i] for i in rows])
        further = self._told(model, self.further)
        assert told is not None
        held = [part.right for part in (own, further) if part is not None]
        together = np.concatenate(held) if held else np.full(1, np.nan)
        each = [
            {
                "reliability": _known(told.right[at]),
                "generalization": _known(again.right[at]) if again is not None else None,
                "locality": _known(own.right[at]) if own is not None else None,
            }
            for at in range(len(rows))
        ]
        return Edited(
            edits=len(rows),
            reliability=_mean(told.right),
            exact=_mean(told.exact),
            probability=_mean(told.probability),
            generalization=_mean(again.right) if again is not None else math.nan,
            generalization_exact=_mean(again.exact) if again is not None else math.nan,
            locality=_mean(together),
            fluency=self._fluency(model, rows) if fluency else math.nan,
            each=each,
        )

    def _questions(self, pairs: Sequence[tuple[str, str]]) -> list[Question | None]:
        told = [(prompt, answer) for prompt, answer in pairs if prompt]
        samples = [Sample(prompt=prompt, answer=answer) for prompt, answer in told]
        found = iter(self.ask.answers(samples, [[a] for _, a in told]) if told else [])
        return [next(found) if prompt else None for prompt, _ in pairs]

    def _before(self, model: Any, pairs: Sequence[tuple[str, str]]) -> list[Question | None]:
        """Unrelated prompts with the model's own answers, as long as the right ones."""
        answers = self._questions([(prompt, answer or "x") for prompt, answer in pairs])
        sizes = [
            len(question.asked) if question is not None and answer else OWN_ANSWER
            for question, (_, answer) in zip(answers, pairs, strict=True)
        ]
        return own_answers(model, answers, sizes, self.budget)

    def _told(self, model: Any, questions: Sequence[Question | None]) -> Told | None:
        """What the model makes of them; NaN where there is no question, None if there is none."""
        there = [at for at, question in enumerate(questions) if question is not None]
        if not there:
            return None
        found = told(model, [q for q in questions if q is not None], self.budget)
        parts = []
        for values in (found.right, found.exact, found.probability):
            whole = np.full(len(questions), np.nan)
            whole[there] = values
            parts.append(whole)
        return Told(*parts)

    def _fluency(self, model: Any, rows: Sequence[int]) -> float:
        """Entropy of what the model writes after some of the prompts."""
        step = max(1, len(rows) // FLUENT)
        prompts = [self.asked[i] for i in list(rows)[::step][:FLUENT]]
        given = [question.given for question in prompts if question is not None]
        room = (context_length(model) or 10**9) - max(map(len, given))
        texts = generate(model, self.tokenizer, given, max_new_tokens=max(1, min(WRITTEN, room)))
        return float(np.mean([entropy(text) for text in texts]))


def told(model: Any, questions: Sequence[Question], budget: int = 4096) -> Told:
    """Read answers after their prompts, token by token as they would be written."""
    right, exact = np.zeros(len(questions)), np.zeros(len(questions))
    probability = np.zeros(len(questions))
    with undisturbed(model, device=model.device):
        for rows in by_length(questions, budget, False):
            logits, labels = prompted(model, [questions[i] for i in rows])
            asked = labels != -100
            hit = (logits.argmax(-1) == labels) & asked
            own = token_logprobs(logits.float(), labels.clamp(min=0)) * asked
            right[rows] = (hit.sum(1) / asked.sum(1)).cpu().numpy()
            exact[rows] = (hit | ~asked).all(1).cpu().numpy()
            probability[rows] = own.sum(1).exp().cpu().numpy()
    return Told(right, exact, probability)


def own_answers(
    model: Any, questions: Sequence[Question | None], sizes: Sequence[int], budget: int = 4096
) -> list[Question | None]:
    """The same prompts, asked for what the model says now, so many tokens of it."""
    there = [at for at, question in enumerate(questions) if question is not None]
    begun = {at: list(questions[at].given) for at in there}  # type: ignore[union-attr]
    said: dict[int, list[int]] = {at: [] for at in there}
    with undisturbed(model, device=model.device):
        for step in range(max((sizes[at] for at in there), default=0)):
            open_ = [at for at in there if len(said[at]) == step and step < sizes[at]]
            asked = [Question(begun[at], [*said[at], 0], 0) for at in open_]
            for rows in by_length(asked, budget, False):
                logits, labels = prompted(model, [asked[i] for i in rows])
                ends = (labels != -100).sum(1) - 1
                found = logits[torch.arange(len(rows)), ends].argmax(-1).tolist()
                for i, token in zip(rows, found, strict=True):
                    said[open_[i]].append(token)
    return [
        Question(question.given, said[at], 0) if question is not None else None
        for at, question in enumerate(questions)
    ]


def entropy(text: str) -> float:
    """Entropy of a text's pairs and triples of words in bits, weighed 2/3 and 4/3, and halved.

    Example:
        >>> round(entropy("a b a b a"), 3)
        0.946
    """
    words = text.split()
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    found = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(found.values())
    return -sum(c / total * math.log2(c / total) for c in found.values()) if total else 0.0


def _mean(values: np.ndarray[Any, Any]) -> float:
    known = values[~np.isnan(values.astype(float))]
    return float(known.mean()) if len(known) else math.nan


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
