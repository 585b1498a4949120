"""The demonstrations: what forgetting is, and what methods do about it, in a minute or three."""

from __future__ import annotations

from typing import Any

from holdfast.cli.options import Given
from holdfast.cli.running import run_many
from holdfast.errors import unknown
from holdfast.streams.language.domains import SHAKESPEARE, STORIES
from holdfast.streams.sources import data_file, present

STREAM = "split-digits"
METHODS = ("finetune", "ewc", "lwf", "er", "der++", "joint")
SETTINGS = {
    "model": "mlp",
    "epochs": 10,
    "batch_size": 32,
    "lr": 0.01,
    "momentum": 0.9,
    "evaluate_every": 10,
    "seeds": 3,
}
"""Equal for all methods, none of them tuned."""

LANGUAGE = "docs-code(limit=800)"
LANGUAGE_METHODS = (
    "finetune",
    "l2(strength=0.01)",
    "lwf",
    "replay(fraction=0.25, source=self)",
)
LANGUAGE_SETTINGS = {"model": "llama", "lr": 1e-3, "batch_size": 8, "seeds": 1}
"""The model knows the documentation, and is fine-tuned on code. Of l2 and replay the settings are
not the catalogue's but were chosen once, by eye."""

STORIES_STREAM = "stories-shakespeare(limit=800)"
"""In place of it where HOLDFAST_DATA holds a Llama that knows stories, which tells them itself."""

KINDS = ("digits", "lm")


def run_demo(kind: str | None, given: Given) -> None:
    """Compare `METHODS` on digits, or `LANGUAGE_METHODS` on a small language model.

    Raises:
        UsageError: If there is no demonstration of that kind.
    """
    stream: str
    methods: tuple[str, ...]
    settings: dict[str, Any]
    if kind in (None, "digits"):
        stream, methods, settings = STREAM, METHODS, SETTINGS
    elif kind == "lm":
        stream, methods, settings = LANGUAGE, LANGUAGE_METHODS, dict(LANGUAGE_SETTINGS)
        if all(map(present, (STORIES, SHAKESPEARE))):
            stream, settings["model"] = STORIES_STREAM, str(data_file(STORIES).parent)
    else:
        raise unknown("demonstration", str(kind), KINDS)
    words = ["demo", *([kind] if kind else [])]
    run_many(stream, methods, Given({**settings, **given.values}, given.debug), words, given)
