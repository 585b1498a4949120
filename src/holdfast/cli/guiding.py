"""What `recommend` asks and shows."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from holdfast.cli.options import DEBUG, Option
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.cli.options import Given
    from holdfast.guide.recommend import Answer
    from holdfast.guide.situation import Situation

SHOWN = 5
"""Choices that are shown; JSON has all."""

_ABOUT = "What is wanted"
_HAVE = "What there is"
_LIMITS = "Limits"
SITUATION = (
    Option("goal", str, "learn, unlearn, edit, adapt or merge.", "learn", panel=_ABOUT),
    Option("model", str, "classifier or language.", "classifier", panel=_ABOUT),
    Option("stage", str, "Of a language model: cpt, dap or cft.", "cft", panel=_ABOUT),
    Option("scenario", str, "New classes (class), tasks (task) or domains.", "class", panel=_ABOUT),
    Option("keep_general", bool, "What it knows in general must be kept.", panel=_ABOUT),
    Option("old_data", str, "Data of the past: none, few or all.", "none", panel=_HAVE),
    Option("no_boundaries", bool, "Where an experience ends is not known.", panel=_HAVE),
    Option("labels", str, "Of the new examples: all, some or none.", "all", panel=_HAVE),
    Option("pretrained", bool, "The model knows something already.", panel=_HAVE),
    Option("access", str, "To the model: weights, logits or api.", "weights", panel=_HAVE),
    Option("trained", str, "What may be trained: all or adapter.", "all", panel=_LIMITS),
    Option("privacy", bool, "No example may be kept.", panel=_LIMITS),
    Option("serving", str, "plain: the saved model answers by itself; any.", "any", panel=_LIMITS),
    Option("compute", float, "Times plain training's operations; 0: any.", "5", panel=_LIMITS),
    Option("memory", int, "Bytes kept beside the model; 0: any.", panel=_LIMITS),
    Option("model_bytes", int, "Bytes of the model's weights, for --memory.", panel=_LIMITS),
)
OPTIONS = (*SITUATION, Option("json", bool, "As JSON, for programs."), DEBUG)

QUESTIONS: Mapping[str, str] = {
    "goal": "What is to be done with the model?",
    "model": "What kind of model is it?",
    "stage": "Which stage: pre-training, on a domain, or fine-tuning?",
    "scenario": "What is new: classes, tasks that are known in use, or domains?",
    "old_data": "What is there of the data of the past?",
    "privacy": "May nothing be kept from which an example could be read?",
    "boundaries": "Is it known where one experience ends and the next begins?",
    "pretrained": "Does the model know something already?",
    "keep_general": "Must what it knows in general be kept?",
    "trained": "What may be trained?",
    "compute": "How many times plain training's operations are allowed (0: any)?",
}
"""What is asked at a terminal, where it can matter."""


def run_recommend(given: Given) -> None:
    """Answer for the options; ask at a terminal if there are none."""
    from holdfast.guide.recommend import recommend

    asked = {name: given[name] for name in _names() if given[name] is not None}
    if given["no_boundaries"]:
        asked["boundaries"] = False
    if not asked and not given["json"]:
        if not sys.stdin.isatty():
            raise UsageError(
                "Tell what there is by options, such as --old-data few --scenario class (see "
                "holdfast recommend --help), or run it at a terminal to be asked."
            )
        asked = _ask()
    answer = recommend(_situation(asked))
    if given["json"]:
        print(json.dumps(answer.to_dict(), indent=1))
    else:
        show(answer)


def show(answer: Answer) -> None:
    """The answer, 80 columns wide."""
    from holdfast.guide.recommend import ruled_out_by

    if answer.note:
        _say(answer.note)
        print()
    told: set[str] = set()
    for place, choice in enumerate(answer.choices[:SHOWN], 1):
        print(f"{place}. {choice.spec}")
        _say(choice.summary, "   ")
        for reason, rule in zip(choice.reasons, choice.rules, strict=True):
            why = "as above" if rule in told else reason
            _say(f"{why} [{rule}]", "   why       ", "             ")
            told.add(rule)
        for number in choice.evidence:
            _say(number, "   measured  ", "             ")
        if not choice.evidence:
            _say("not in such a situation", "   measured  ")
        print()
    if not answer.choices and answer.situation.goal != "merge":
        _say("Nothing fits. What would have to change:")
        print()
    first = {spec: lacking[0].why for spec, lacking in answer.ruled_out}
    for need, specs in ruled_out_by(answer):
        named = ", ".join(specs)
        _say(f"{named}. {first[specs[0]]}", f"not, for {need.replace('_', ' ')}: ", "  ")
    if answer.ruled_out:
        print()
    if answer.naive:
        _say(f"{answer.naive}: what happens if nothing is done", "beside it   ", "            ")
    if answer.measures:
        _say(", ".join(answer.measures), "look at     ", "            ")
    print(f"try         {answer.trial}")
    print(f"yours       {answer.own}")


def _ask() -> dict[str, Any]:
    """The situation, question by question."""
    from rich.prompt import Confirm, FloatPrompt, Prompt

    from holdfast.guide.situation import Situation

    hints = get_type_hints(Situation)
    asked: dict[str, Any] = {}
    default: dict[str, Any] = {field.name: field.default for field in fields(Situation)}
    for name, question in QUESTIONS.items():
        if not _matters(name, asked):
            continue
        choices = [str(word) for word in get_args(hints[name])]
        if choices:
            asked[name] = Prompt.ask(question, choices=choices, default=str(default[name]))
        elif isinstance(default[name], bool):
            asked[name] = Confirm.ask(question, default=bool(default[name]))
        else:
            asked[name] = FloatPrompt.ask(question, default=default[name])
    print()
    return asked


def _matters(name: str, asked: Mapping[str, Any]) -> bool:
    """Whether an answer can change what is recommended, after those that were given."""
    goal, language = asked.get("goal", "learn"), asked.get("model") == "language"
    if goal == "merge":
        return name == "goal"
    matters = {
        "stage": language and goal == "learn",
        "scenario": not language and goal == "learn",
        "privacy": asked.get("old_data", "none") != "none",
        "boundaries": goal == "learn",
        "pretrained": goal == "learn",
        "keep_general": language,
        "trained": language,
        "compute": goal == "learn" and not language,
    }
    return bool(matters.get(name, True))


def _situation(asked: Mapping[str, Any]) -> Situation:
    """With what goes without saying: what is unlearned, edited or adapted knows something."""
    from holdfast.guide.situation import Situation

    said = dict(asked)
    if said.get("goal") in ("unlearn", "edit", "adapt"):
        said.setdefault("pretrained", True)
    if said.get("goal") == "edit":
        said.setdefault("model", "language")
    if said.get("goal") == "adapt":
        said.setdefault("labels", "none")
    return Situation(**said)


def _names() -> tuple[str, ...]:
    return tuple(option.name for option in SITUATION if option.name != "no_boundaries")


def _say(text: str, first: str = "", rest: str | None = None) -> None:
    indent = first if rest is None else rest
    print(textwrap.fill(text, 80, initial_indent=first, subsequent_indent=indent))
