"""Questions: a sample as token rows whose last part is to be predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import DataError, UsageError
from holdfast.language.fields import Sample


@dataclass(frozen=True, slots=True)
class Question:
    """What is given and what is to be predicted, as token ids.

    Attributes:
        given: Tokens before.
        asked: Tokens to predict, one or more.
        size: Bytes of the text to predict.
        example: Number of the example in the set.
        choice: Number of the choice, where there are several.
    """

    given: list[int]
    asked: list[int]
    size: int
    example: int
    choice: int = 0


class Questioner:
    """Turns samples into questions for one model.

    A begin token comes first if the tokenizer puts it there itself, or if tokenizer and model name
    the same one and it is not also the end token (GPT-2's is, and it was not trained to begin so).

    Args:
        model: Whose questions they are.
        tokenizer: Its tokenizer.
        length: Longest row; plain text is cut into pieces of it, in each of which the first token
            is only given, so that every token is asked once.
        end: Whether the end token is asked for after an answer.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int, end: bool = False) -> None:
        self.tokenizer, self.length, self.end = tokenizer, length, end
        self.seq2seq = bool(model.config.is_encoder_decoder)
        begin = tokenizer.bos_token_id
        own = list(tokenizer("")["input_ids"])
        self.begins = begin is not None and (
            own[:1] == [begin]
            or (begin == model.config.bos_token_id and begin != tokenizer.eos_token_id)
        )

    def texts(self, samples: Sequence[Sample], first: int) -> Iterator[Question]:
        """Pieces of plain texts, numbered from `first` on."""
        if self.seq2seq:
            raise UsageError(
                f"{samples[0].where or 'A sample'} is plain text; a sequence-to-sequence model is "
                "asked prompts with answers."
            )
        found = self._ids([str(sample.text) for sample in samples])
        for sample, ids in zip(samples, found, strict=True):
            row = [self.tokenizer.bos_token_id, *ids] if self.begins else ids
            total = len(str(sample.text).encode())
            for start in range(0, max(1, len(row) - 1), self.length - 1):
                piece = row[start : start + self.length]
                if len(piece) < 2:
                    raise DataError(
                        f"{sample.where or 'A text'} has {len(row)} token; two are needed to "
                        "predict one from the other."
                    )
                share = round(total * (len(piece) - 1) / max(1, len(row) - 1))
                yield Question(piece[:1], piece[1:], share, first)
                first += 1

    def answers(
        self, samples: Sequence[Sample], wanted: Sequence[Sequence[str]], first: int
    ) -> list[Question]:
        """One question for every answer in `wanted`, in order."""
        given = self.prompts(samples)
        flat = [answer for answers in wanted for answer in answers]
        ids = iter(self._ids(flat))
        questions = []
        for i, (sample, answers) in enumerate(zip(samples, wanted, strict=True)):
            for choice, answer in enumerate(answers):
                asked = next(ids)
                if self.end and self.tokenizer.eos_token_id is not None:
                    asked = [*asked, self.tokenizer.eos_token_id]
                longest = max(len(given[i]), len(asked))
                size = longest if self.seq2seq else len(given[i]) + len(asked)
                if size > self.length:
                    raise DataError(
                        f"{sample.where or f'Example {first + i}'} has {size} tokens; at most "
                        f"{self.length} are accepted."
                    )
                questions.append(Question(given[i], asked, len(answer.encode()), first + i, choice))
        return questions

    def prompts(self, samples: Sequence[Sample]) -> list[list[int]]:
        """What is given of each sample: the prompt, or a chat up to the assistant's last turn."""
        if samples[0].kind == "chat":
            return [self._turns(sample) for sample in samples]
        found = self._ids([str(sample.prompt) for sample in samples])
        if self.seq2seq:
            tail = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
            return [[*ids, *tail] for ids in found]
        head = [self.tokenizer.bos_token_id] if self.begins else []
        return [[*head, *ids] for ids in found]

    def _turns(self, sample: Sample) -> list[int]:
        if self.tokenizer.chat_template is None:
            raise UsageError(
                f"{sample.where or 'A sample'} is a chat, but the tokenizer has no chat template."
            )
        ids: list[int] = self.tokenizer.apply_chat_template(
            list(sample.messages or ())[:-1], add_generation_prompt=True, return_dict=False
        )
        return ids

    def _ids(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


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
