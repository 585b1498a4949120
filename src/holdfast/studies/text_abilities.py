"""Small abilities of language as prompts with short answers, from real text.

Three come with Python itself: the name that is called next in the standard library's source; the
module that a sentence of a docstring is from; the topic of the language reference that a sentence
is from. With HOLDFAST_DATA there are news by topic (AG News), and customers' questions by intent
(Banking77, CLINC150).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.evaluation import TOKENS_AT_ONCE, undisturbed
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.language.objective import IGNORED, CausalLM
from holdfast.streams.language import python
from holdfast.streams.sources import data_file

LENGTH = 64
"""Most tokens of a prompt with its answer; a prompt that is longer loses its beginning."""


@dataclass(frozen=True)
class Ability:
    """Prompts with their answers.

    Attributes:
        name: Of the ability.
        train: To learn from.
        test: Held out.
        answers: All that occur in training, in order.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(sorted({str(sample.answer) for sample in self.train}))

    def tables(self, tokenizer: Any) -> tuple[Table, Table]:
        """Training and test examples as tokens."""
        return tuple(tabled(part, tokenizer) for part in (self.train, self.test))  # type: ignore[return-value]


def tabled(samples: Sequence[Sample], tokenizer: Any) -> Table:
    """Samples as tokens, of which the answers are to be predicted."""
    return encode(samples, tokenizer, length=LENGTH, overlong="cut", separator="").table


def ability(name: str, train: int, test: int, seed: int, answers: int = 16) -> Ability:
    """An ability, by name, with examples drawn from all that there are.

    Args:
        name: `"calls"`, `"modules"`, `"topics"`, or with HOLDFAST_DATA `"news"`, `"banking"`,
            `"intents"`.
        train: Most training examples.
        test: Most test examples.
        seed: Of the draw.
        answers: Most different answers: the most frequent ones.

    Raises:
        DataError: If the data are not there.
    """
    pairs = _PAIRS[name]()
    counts: dict[str, int] = {}
    for _, answer, held_out in pairs:
        if not held_out:
            counts[answer] = counts.get(answer, 0) + 1
    kept = set(sorted(counts, key=lambda answer: (-counts[answer], answer))[:answers])
    parts: dict[bool, list[Sample]] = {False: [], True: []}
    for prompt, answer, held_out in pairs:
        if answer in kept:
            parts[held_out].append(Sample(prompt=prompt, answer=f" {answer}"))
    draw = torch.Generator().manual_seed(seed)
    drawn = []
    for samples, most in ((parts[False], train), (parts[True], test)):
        order = torch.randperm(len(samples), generator=draw)[:most].tolist()
        drawn.append(tuple(samples[place] for place in order))
    return Ability(name, *drawn)


def exact_match(model: Any, table: Table, objective: CausalLM | None = None) -> float:
    """The share of answers of which every token, and the end, is what the model would say next.

    Greedy generation gives exactly these answers: each token is the likeliest after those before.

    Args:
        objective: One that gives the model more than text.
    """
    objective, right = objective or CausalLM(), 0
    with undisturbed(model):
        for batch in table.chunks(max(1, TOKENS_AT_ONCE // table["input_ids"].shape[1])):
            logits, labels = objective.asked(objective.forward(model, batch), batch)
            right += int(((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1).sum())
    return right / len(table)


def token_loss(model: Any, table: Table) -> float:
    """Mean loss of a table's labelled tokens, in nats."""
    objective = CausalLM()
    total = count = 0.0
    with undisturbed(model):
        for batch in table.chunks(max(1, TOKENS_AT_ONCE // table["input_ids"].shape[1])):
            weight = float(objective.weight(batch))
            total += float(objective.loss(objective.forward(model, batch), batch)) * weight
            count += weight
    return total / count


def texts(documents: Callable[[], list[python.Document]], tokenizer: Any, rows: int) -> Table:
    """Held-out documents as full rows of tokens, at most so many."""
    held = [Sample(text=d.text) for d in documents() if d.held_out and d.text]
    table = encode(held, tokenizer, length=128, pack=True).table
    step = max(1, len(table) // rows)
    return table.take(torch.arange(0, len(table), step)[:rows])


Pair = tuple[str, str, bool]
"""Prompt, answer, and whether it is held out."""

_CALL = re.compile(r"(\w+)\.([a-z_]{3,})\(")
_SENTENCE = re.compile(r"[A-Z][^.\n]{25,140}\.")


@cache
def _calls() -> list[Pair]:
    """A line of the library up to a dot, after the line before it; the name called there."""
    pairs = []
    for document in python.source():
        lines = [line.strip() for line in document.text.splitlines()]
        for before, line in pairwise(lines):
            found = _CALL.search(line)
            if found and len(line) < 80:
                start = line[: found.start(2)]
                pairs.append((f"code: {before[-60:]} ; {start}", found.group(2), document.held_out))
    return pairs


@cache
def _modules() -> list[Pair]:
    """A sentence of a module's docstrings; the module."""
    pairs = []
    for document in python.documentation():
        if document.name.startswith("docstrings of "):
            module = document.name.removeprefix("docstrings of ").split("/")[0].split(".")[0]
            for sentence in _sentences(document.text):
                pairs.append((f"module: {sentence} =", module, python.held_out(sentence)))
    return pairs


@cache
def _topics() -> list[Pair]:
    """A sentence of the language reference; its topic."""
    from pydoc_data.topics import topics

    pairs = []
    for name in sorted(topics):
        for sentence in _sentences(topics[name]):
            pairs.append((f"topic: {sentence} =", name.lower(), python.held_out(sentence)))
    return pairs


def _sentences(text: str) -> Iterator[str]:
    plain = re.sub(r"\s+", " ", text)
    for found in _SENTENCE.finditer(plain):
        yield found.group()


@cache
def _news() -> list[Pair]:
    """The title of a piece of news; its topic."""

    def title(text: str) -> str:
        return text.split("\nText:")[0].removeprefix("Title: ")[:140]

    return _labelled("news", "cl15/agnews_{}.jsonl.gz", title)


@cache
def _banking() -> list[Pair]:
    """A customer's question to a bank; the intent in words."""
    return _labelled("banking", "banking77/{}.jsonl.gz")


@cache
def _intents() -> list[Pair]:
    """What is said to an assistant; the intent in words."""
    return _labelled("intents", "clinc150/{}.jsonl.gz")


def _labelled(tag: str, files: str, short: Callable[[str], str] = str) -> list[Pair]:
    from holdfast.language.records import read

    pairs = []
    for part in ("train", "test"):
        samples = read(data_file(files.format(part)), fields={"prompt": "text", "answer": "label"})
        for sample in samples:
            answer = str(sample.answer).replace("_", " ").lower()
            pairs.append((f"{tag}: {short(str(sample.prompt))} =", answer, part == "test"))
    return pairs


def corrupted(
    samples: Sequence[Sample], answers: Sequence[str], share: float, seed: int
) -> tuple[tuple[Sample, ...], list[bool]]:
    """Samples of which a share has another answer than its own, and which these are."""
    if len(answers) < 2:
        raise DataError(f"Answers can be changed where there are two or more; given: {answers}.")
    draw = torch.Generator().manual_seed(seed)
    count = round(share * len(samples))
    chosen = set(torch.randperm(len(samples), generator=draw)[:count].tolist())
    changed = []
    for place, sample in enumerate(samples):
        if place in chosen:
            others = [answer for answer in answers if answer != sample.answer]
            other = others[int(torch.randint(len(others), (), generator=draw))]
            sample = Sample(prompt=sample.prompt, answer=other)
        changed.append(sample)
    return tuple(changed), [place in chosen for place in range(len(samples))]


_PAIRS: dict[str, Callable[[], list[Pair]]] = {
    "calls": _calls,
    "modules": _modules,
    "topics": _topics,
    "news": _news,
    "banking": _banking,
    "intents": _intents,
}
