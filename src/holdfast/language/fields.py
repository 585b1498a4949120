"""Fields: which entries of a record are the text, the prompt, the answer or the messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import DataError, UsageError, unknown

TEXT = ("text", "content")
PROMPT = ("prompt", "question", "instruction", "query", "src")
ANSWER = ("answer", "completion", "response", "output", "target", "label")
MESSAGES = ("messages", "conversations")
CHOICES = ("choices", "options")
KEYS = ("text", "prompt", "input", "answer", "messages", "choices")
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
ACCEPTED = (
    f"a text ({', '.join(TEXT)}), a prompt ({', '.join(PROMPT)}) with an answer "
    f"({', '.join(ANSWER)}), or a chat ({', '.join(MESSAGES)})"
)


@dataclass(frozen=True)
class Sample:
    """A text, a prompt with its answer, or a chat.

    Attributes:
        text: All of it is to be predicted.
        prompt: What is given.
        answer: What is to be predicted after the prompt.
        messages: Turns, each with a `role` (system, user or assistant) and a `content`; the
            assistant's are to be predicted.
        choices: The answers to choose from, where the record lists them.
        where: File and line, `new.jsonl:7`.
    """

    text: str | None = None
    prompt: str | None = None
    answer: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    choices: tuple[str, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        given = [self.text, self.prompt if self.answer is not None else None, self.messages]
        if sum(part is not None for part in given) != 1 or (self.prompt is None) != (
            self.answer is None
        ):
            raise UsageError(
                "A sample is a text, or a prompt with an answer, or messages; exactly one of them."
            )

    @property
    def kind(self) -> str:
        """`"text"`, `"prompt"` or `"chat"`."""
        if self.text is not None:
            return "text"
        return "prompt" if self.prompt is not None else "chat"

    def joined(self) -> str:
        """Everything in it as one string, to compare samples by."""
        if self.text is not None:
            return self.text
        if self.messages is not None:
            return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.messages)
        return f"{self.prompt}\n{self.answer}"


@dataclass(frozen=True)
class Fields:
    """The names of the fields of one file."""

    text: str | None = None
    prompt: str | None = None
    input: str | None = None
    answer: str | None = None
    messages: str | None = None
    choices: str | None = None

    def sample(self, record: Any, where: str) -> Sample:
        """The sample in a record.

        Raises:
            DataError: If the record lacks a field, or if a field is empty or not text.
        """
        if not isinstance(record, Mapping):
            raise DataError(f"{where} is not a record with named fields, but {_shown(record)}.")
        if self.messages is not None:
            turns = _turns(_entry(record, self.messages, where), self.messages, where)
            return Sample(messages=turns, where=where)
        if self.text is not None:
            return Sample(text=_text(record, self.text, where), where=where)
        if self.prompt is None or self.answer is None:
            raise UsageError("Fields need a text, a prompt with an answer, or messages.")
        prompt = _text(record, self.prompt, where)
        if self.input is not None and record.get(self.input):
            prompt = f"{prompt}\n{_text(record, self.input, where)}"
        choices = self._choices(record, where)
        answer = record.get(self.answer)
        if choices and isinstance(answer, int) and not isinstance(answer, bool):
            if not 0 <= answer < len(choices):
                raise DataError(
                    f"{where}: {self.answer!r} is {answer}, but there are {len(choices)} choices, "
                    "counted from 0."
                )
            return Sample(prompt=prompt, answer=choices[answer], choices=choices, where=where)
        return Sample(
            prompt=prompt, answer=_text(record, self.answer, where), choices=choices, where=where
        )

    def _choices(self, record: Mapping[str, Any], where: str) -> tuple[str, ...]:
        if self.choices is None or record.get(self.choices) is None:
            return ()
        listed = record[self.choices]
        if isinstance(listed, Mapping) and "text" in listed:  # {"text": [...], "label": [...]}
            listed = listed["text"]
        if isinstance(listed, str) or not isinstance(listed, Sequence) or not listed:
            raise DataError(f"{where}: {self.choices!r} must be a list of texts.")
        return tuple(_text({self.choices: choice}, self.choices, where) for choice in listed)


def parse_fields(given: str | Mapping[str, str]) -> dict[str, str]:
    """The mapping in `"prompt=question,answer=reply"`.

    Raises:
        UsageError: If it cannot be read, or if what it names does not make a sample.
    """
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(",")]
        if not all(key.strip() and equals and name.strip() for key, equals, name in pairs):
            raise UsageError(
                f"Cannot read fields {given!r}; accepted: 'prompt=question,answer=reply'."
            )
        mapping = {key.strip(): name.strip() for key, _, name in pairs}
    else:
        mapping = dict(given)
    for key in mapping:
        if key not in KEYS:
            raise unknown("kind of field", key, KEYS)
    main = {"text", "prompt", "messages"} & set(mapping)
    if len(main) != 1 or ("prompt" in main) != ("answer" in mapping):
        raise UsageError(
            f"The fields {mapping} do not make a sample; accepted: text, or prompt and answer, "
            "or messages."
        )
    return mapping


def detect(record: Any, given: Mapping[str, str] | None, where: str) -> Fields:
    """The fields of a file from its first record.

    A record with a prompt and an answer is those, also where the prompt is called `text` and the
    answer is one of the other names and a string; a record with a text alone is a text.

    Raises:
        DataError: If the record has no fields that make a sample.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{where} is not a record with named fields, but {_shown(record)}.")
    if given is not None:
        absent = [name for key, name in given.items() if key != "input" and name not in record]
        if absent:
            raise DataError(f"{where} has no field {absent[0]!r}; it has {_names(record)}.")
        return Fields(**given)
    messages, text = _only(record, MESSAGES, where), _only(record, TEXT, where)
    if messages is not None:
        return Fields(messages=messages)
    prompt, answer = _only(record, PROMPT, where), _only(record, ANSWER, where)
    choices = _only(record, CHOICES, where)
    if prompt is not None and answer is not None:
        extra = "input" if prompt == "instruction" and "input" in record else None
        return Fields(prompt=prompt, input=extra, answer=answer, choices=choices)
    if prompt is None and text is not None:
        if answer is not None and (isinstance(record[answer], str) or choices is not None):
            return Fields(prompt=text, answer=answer, choices=choices)
        return Fields(text=text)
    raise DataError(
        f"{where} has the fields {_names(record)}; accepted: {ACCEPTED}, or say which is which "
        "with fields='prompt=...,answer=...'."
    )


def _only(record: Mapping[str, Any], names: Sequence[str], where: str) -> str | None:
    """The one of `names` that the record has; two leave open which is meant."""
    found = [name for name in names if name in record]
    if len(found) > 1:
        raise DataError(
            f"{where} has the fields {' and '.join(map(repr, found))}, and either could be meant; "
            "say which is which with fields='prompt=...,answer=...'."
        )
    return found[0] if found else None


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, record)) or "no fields"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:40] + "..."


def _entry(record: Mapping[str, Any], name: str, where: str) -> Any:
    if record.get(name) is None:
        raise DataError(f"{where} has no {name!r}; it has {_names(record)}.")
    return record[name]


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    value = _entry(record, name, where)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be a text; it is {_shown(value)}.")
    if not value.strip():
        raise DataError(f"{where}: {name!r} is empty.")
    return value


def _turns(value: Any, name: str, where: str) -> tuple[dict[str, str], ...]:
    """Messages with `role` and `content`, or `from` and `value`, as role and content."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence) or not len(value):
        raise DataError(f"{where}: {name!r} must be a list of messages; it is {_shown(value)}.")
    turns = []
    for number, message in enumerate(value, 1):
        at = f"{where}, message {number}"
        if not isinstance(message, Mapping):
            raise DataError(f"{at} must have a role and a content; it is {_shown(message)}.")
        role, content = ("role", "content") if "role" in message else ("from", "value")
        said = str(_entry(message, role, at))
        if said not in ROLES:
            raise DataError(str(unknown("role", said, ROLES, f" ({at})")))
        parts = message.get(content)
        if isinstance(parts, Sequence) and not isinstance(parts, str):
            if not all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in parts):
                raise DataError(f"{at} has parts that are not text; only text is read.")
            message = {**message, content: "".join(part["text"] for part in parts)}
        turns.append({"role": ROLES[said], "content": _text(message, content, at)})
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError(f"{where}: {name!r} has no message of the assistant to learn from.")
    return tuple(turns)
