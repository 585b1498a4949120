"""Chats as text: a conversation rendered by its template and divided into what is scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import DataError, UsageError

Segment = tuple[str, bool]
"""A stretch of text, and whether it is to be predicted."""

SIMPLE = (
    "{% for message in messages %}{{ '### ' + message['role'] + '\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
)
"""The built-in template: a heading with the role, the content, the end token after an answer."""

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def template_of(tokenizer: Any, template: str | None, start: bool) -> str:
    """The Jinja template by which `tokenizer` writes chats.

    A model trained with another than the tokenizer's own is saved with it as
    `tokenizer.chat_template`, so that it is asked as it was trained.

    Args:
        tokenizer: Its own template is used if `template` is None.
        template: Jinja, or `"simple"` for the built-in template.
        start: Whether the built-in template begins with the BOS token.

    Raises:
        UsageError: If there is none.
    """
    if template == "simple":
        return ("{{ bos_token }}" if start else "") + SIMPLE
    if template is not None:
        if "{" not in template:
            raise UsageError(
                f"The chat template {template!r} is not Jinja; accepted: 'simple', or a template."
            )
        return template
    own = tokenizer.chat_template
    if own is None:
        raise UsageError(
            "The tokenizer has no chat template, so it cannot write messages as text; give "
            "template='simple' for a plain built-in one, or a Jinja template of your own."
        )
    if not isinstance(own, str):  # several by name
        own = tokenizer.get_chat_template()
    return str(own)


def render(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, template: str, prompt: bool, where: str
) -> str:
    """The conversation as text; with `prompt`, up to where the assistant is to speak.

    Raises:
        DataError: If the template refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(turn) for turn in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        )
    except (TemplateError, TypeError) as error:
        raise DataError(f"{where}: the chat template refuses the messages: {error}.") from error


def segments(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, template: str, where: str
) -> list[Segment]:
    """The rendered conversation in stretches; the assistant's turns are scored.

    A turn goes from where the assistant is to speak through its end token; the white space that a
    template puts between turns is not scored. A template that marks the assistant's text with
    `{% generation %}` is taken at its word.

    Raises:
        DataError: If the assistant's turns cannot be found in the text.
    """
    if _MARKED.search(template):
        text, spans = _marked(messages, tokenizer, template, where)
    else:
        text = render(messages, tokenizer, template, False, where)
        spans = [
            _span(text, messages, turn, tokenizer, template, where)
            for turn, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
    parts: list[Segment] = []
    at = 0
    for start, stop in spans:
        parts += [(text[at:start], False), (text[start:stop], True)]
        at = stop
    parts.append((text[at:], False))
    return [part for part in parts if part[0]]


def _marked(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, template: str, where: str
) -> tuple[str, list[tuple[int, int]]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    render(messages, tokenizer, template, False, where)  # raises what the template refuses
    found: Any = render_jinja_template(
        conversations=[[dict(turn) for turn in messages]],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    (text,), (spans,) = found
    if not spans:
        raise DataError(f"{where}: the chat template marks no turn of the assistant.")
    return text, [(start, stop) for start, stop in spans]


def _span(
    text: str,
    messages: Sequence[Mapping[str, str]],
    turn: int,
    tokenizer: Any,
    template: str,
    where: str,
) -> tuple[int, int]:
    """Where the assistant's turn is in `text`."""
    before = render(messages[:turn], tokenizer, template, True, where)
    alone = render(messages[: turn + 1], tokenizer, template, False, where)
    if text.startswith(before):
        if text.startswith(alone) and len(alone) > len(before):
            return len(before), len(before) + len(alone[len(before) :].rstrip())
        # Some templates write a turn otherwise once another follows it (they drop its reasoning):
        # what they write after its content is still the same.
        content = messages[turn]["content"].strip()
        tail = alone[alone.rfind(content) + len(content) :].rstrip()
        at = text.find(content, len(before))
        if content in alone and at >= 0 and text.startswith(tail, at + len(content)):
            return len(before), at + len(content) + len(tail)
    raise DataError(
        f"{where}: the chat template writes the assistant's turn {turn + 1} in a way in which it "
        "cannot be found again; give template= with the assistant's text between "
        "{% generation %} and {% endgeneration %}."
    )
