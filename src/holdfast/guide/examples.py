"""Situations as people describe them, for the page docs/guide.md and its test."""

from __future__ import annotations

from typing import NamedTuple

from holdfast.guide.situation import Situation


class Example(NamedTuple):
    """A situation that somebody has.

    Attributes:
        title: In a few words.
        words: As told.
        situation: The same for the guide.
        command: The same on the command line.
    """

    title: str
    words: str
    situation: Situation
    command: str


EXAMPLES = (
    Example(
        "New classes, and room for a few examples",
        "A classifier gets new classes every month. A few hundred old pictures may be kept; nobody"
        " says at test which month a picture is from.",
        Situation(scenario="class", old_data="few"),
        "holdfast recommend --scenario class --old-data few",
    ),
    Example(
        "No old data, and the task is known",
        "Each customer has classes of their own, the customer is known when a picture comes, and"
        " no picture may be kept.",
        Situation(scenario="task", old_data="none", privacy=True),
        "holdfast recommend --scenario task --privacy",
    ),
    Example(
        "A language model is fine-tuned, and its old data are not there",
        "A chat model is fine-tuned on new documents. What it was trained on is closed, and it must"
        " stay as good at everything else.",
        Situation(model="language", stage="cft", pretrained=True, keep_general=True),
        "holdfast recommend --model language --stage cft --pretrained --keep-general",
    ),
    Example(
        "A language model is to forget people",
        "Answers about some people must go from a language model; questions about others, whose"
        " answers must stay, are at hand.",
        Situation(goal="unlearn", model="language", old_data="few", pretrained=True),
        "holdfast recommend --goal unlearn --model language --old-data few",
    ),
    Example(
        "Pictures drift, and nobody labels them",
        "A deployed classifier sees weather that it was not trained in. There are no labels, and"
        " some of its training pictures are still there.",
        Situation(goal="adapt", old_data="few", labels="none", pretrained=True),
        "holdfast recommend --goal adapt --old-data few",
    ),
    Example(
        "Facts change one after another",
        "A language model tells facts that have changed, dozens of them, one after another; all"
        " else must be answered as before.",
        Situation(goal="edit", model="language", pretrained=True),
        "holdfast recommend --goal edit",
    ),
    Example(
        "A backbone that knows pictures, and new classes",
        "A pre-trained backbone is given new classes one by one; no picture may be kept.",
        Situation(scenario="class", pretrained=True, privacy=True),
        "holdfast recommend --scenario class --pretrained --privacy",
    ),
)
