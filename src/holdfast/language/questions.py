"""Questions: a sample as token rows whose last part is to be predicted, encoded as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.errors import DataError, UsageError
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.language.tokens import ends, tokenise


@dataclass(frozen=True, slots=True)
class Question:
    """What is given and what is to be predicted, as token ids.

    Attributes:
        given: Tokens before.
        asked: Tokens to predict, one or more.
        size: Bytes of the text to predict.
    """

    given: list[int]
    asked: list[int]
    size: int


@dataclass(frozen=True)
class Questioner:
    """Turns samples into questions for one model.

    Attributes:
        tokenizer: The model's.
        length: Longest row.
        seq2seq: Whether the model has an encoder of its own for what is given.
        end: Whether an answer's end token is asked for. (A chat's template brings one always.)
        template: Chat template in place of the tokenizer's, as in `encode`.
        overlong: What becomes of a prompt with its answer that is longer, as in `encode`; one that
            is left out cannot be asked, so `"error"` or `"cut"`.
    """

    tokenizer: Any
    length: int
    seq2seq: bool = False
    end: bool = False
    template: str | None = None
    overlong: str = "error"

    def texts(self, samples: Sequence[Sample]) -> tuple[list[Question], list[str]]:
        """Plain texts in pieces of at most `length` tokens, and where each is from.

        The first token of a piece is only given, so that every token is asked once.
        """
        if self.seq2seq:
            raise UsageError(
                f"{samples[0].where or 'A sample'} is plain text; a sequence-to-sequence model is "
                "asked prompts with answers."
            )
        around = ends(self.tokenizer, eos=False)
        ragged = tokenise(
            [[(str(sample.text), True)] for sample in samples], self.tokenizer, around
        )
        ids, stop = ragged.ids.tolist(), 0
        questions, where = [], []
        for sample, count in zip(samples, ragged.lengths.tolist(), strict=True):
            row, stop = ids[stop : stop + count], stop + count
            if count < 2:
                raise DataError(
                    f"{sample.where or 'A text'} is a single token; two are needed to predict one "
                    "from the other."
                )
            size = len(str(sample.text).encode()) / (count - 1)
            for start in range(0, count - 1, self.length - 1):
                piece = row[start : start + self.length]
                before, after = (round(size * at) for at in (start, start + len(piece) - 1))
                questions.append(Question(piece[:1], piece[1:], after - before))
                where.append(sample.where)
        return questions, where

    def answers(self, samples: Sequence[Sample], wanted: Sequence[Sequence[str]]) -> list[Question]:
        """One question for every answer in `wanted`, in order; of a chat, the last turn."""
        pairs = [
            (s, answer) for s, answers in zip(samples, wanted, strict=True) for answer in answers
        ]
        asked = [s if s.kind == "chat" else replace(s, answer=a, choices=()) for s, a in pairs]
        table = encode(
            asked,
            self.tokenizer,
            length=self.length,
            overlong=self.overlong,
            template=self.template,
            eos=self.end,
            seq2seq=self.seq2seq,
        ).table
        split = self._decoded if self.seq2seq else self._continued
        found = [split(*columns) for columns in zip(*self._columns(table), strict=True)]
        if len(found) != len(asked):
            raise DataError(f"Only {len(found)} of {len(asked)} samples could be encoded.")
        return [
            Question(given, asked, len(answer.encode()))
            for (given, asked), (_, answer) in zip(found, pairs, strict=True)
        ]

    def _columns(self, table: Any) -> list[Any]:
        sizes = table["label_length"] if self.seq2seq else table["length"]
        return [table[name].tolist() for name in ("input_ids", "labels", "length")] + [
            sizes.tolist()
        ]

    def _continued(
        self, ids: list[int], labels: list[int], length: int, _: int
    ) -> tuple[list[int], list[int]]:
        """Everything before the last run of labels, and that run."""
        stop = max(at for at in range(length) if labels[at] != -100) + 1
        start = stop - 1
        while labels[start - 1] != -100:
            start -= 1
        return ids[:start], labels[start:stop]

    def _decoded(
        self, ids: list[int], labels: list[int], length: int, size: int
    ) -> tuple[list[int], list[int]]:
        asked = labels[:size]
        if not self.end and asked[-1] == self.tokenizer.eos_token_id and size > 1:
            asked = asked[:-1]
        return ids[:length], asked


def answer_of(sample: Sample) -> str:
    """What is to be answered: the answer, or the last turn of a chat."""
    if sample.kind == "prompt":
        return str(sample.answer)
    last = (sample.messages or ())[-1]
    if last["role"] != "assistant":
        raise DataError(f"{sample.where or 'A chat'} does not end with a turn of the assistant.")
    return last["content"]


def right_choice(sample: Sample) -> int:
    """The number of the right choice: the one that is the answer, or whose letter it is.

    Example:
        >>> right_choice(Sample(prompt="?", answer="B", choices=("yes", "no")))
        1
    """
    answer = answer_of(sample)
    if answer in sample.choices:
        return sample.choices.index(answer)
    letter = ord(answer.strip()) - ord("A") if len(answer.strip()) == 1 else -1
    if 0 <= letter < len(sample.choices):
        return letter
    raise DataError(
        f"{sample.where or 'A sample'}: the answer {answer!r} is none of its choices "
        f"{list(sample.choices)}, nor the letter of one."
    )
