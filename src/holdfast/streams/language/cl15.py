"""The fifteen-task benchmark of text classification, as far as it is at hand.

Source: Razdaibiedina et al., "Progressive prompts" (2023), which joins the five sets of Zhang et
al. (2015) with tasks of GLUE, SuperGLUE and IMDB; orders 1 to 6 as Wang et al.,
"Orthogonal subspace learning for language model continual learning" (2023), number them. Yahoo,
the fifteenth, is absent from the data folder and left out of every order, so that orders 1 to 3
have three tasks and orders 4 to 6 fourteen.
"""

from __future__ import annotations

import json
from typing import Any

from holdfast.errors import UsageError
from holdfast.language.fields import Sample
from holdfast.stream import Stream
from holdfast.streams.language.tasks import Task, text_tasks
from holdfast.streams.language.templates import Template, check_level, rendered
from holdfast.streams.sources import data_file

ABSENT = "yahoo"

ORDERS: dict[int, tuple[str, ...]] = {
    1: ("dbpedia", "amazon", "yahoo", "agnews"),
    2: ("dbpedia", "amazon", "agnews", "yahoo"),
    3: ("yahoo", "amazon", "agnews", "dbpedia"),
    4: ("mnli", "cb", "wic", "copa", "qqp", "boolq", "rte", "imdb", "yelp", "amazon", "sst2",
        "dbpedia", "agnews", "multirc", "yahoo"),
    5: ("multirc", "boolq", "wic", "mnli", "cb", "copa", "qqp", "rte", "imdb", "sst2", "dbpedia",
        "agnews", "yelp", "amazon", "yahoo"),
    6: ("yelp", "amazon", "mnli", "cb", "copa", "qqp", "rte", "imdb", "sst2", "dbpedia", "agnews",
        "yahoo", "multirc", "boolq", "wic"),
}  # fmt: skip
"""The orders by their numbers; 1 to 3 of the short, 4 to 6 of the long sequence."""

INSTRUCTIONS = {
    "agnews": ("topic of news", "What is the topic of the following news?"),
    "dbpedia": ("topic of an article", "What is the following article about?"),
    "yelp": ("sentiment of a review", "How does the writer of the following review feel?"),
    "amazon": ("sentiment of a review", "How does the writer of the following review feel?"),
    "imdb": ("sentiment of a film review", "Does the following review find the film good or bad?"),
    "sst2": ("sentiment of a sentence", "Does the following sentence find the film good or bad?"),
    "mnli": ("inference", "How does the second sentence relate to the first?"),
    "cb": ("inference", "How does the second sentence relate to the first?"),
    "rte": ("inference", "Does the first sentence entail the second?"),
    "qqp": ("paraphrase", "Do the two sentences ask the same?"),
    "boolq": ("question on a passage", "Is the answer to the question true or false?"),
    "multirc": ("answer to a question", "Is the answer to the question true or false?"),
    "copa": ("cause and effect", "Which of the two is right?"),
    "wic": ("sense of a word", "Has the word the same sense in both sentences?"),
}
"""Title and instruction of every task at hand."""

FILES = tuple(f"cl15/{name}_{part}.jsonl.gz" for name in INSTRUCTIONS for part in ("train", "test"))


def build(
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    order: int = 1,
    prompt: int = 2,
    scoring: str = "choice",
    length: int = 256,
    limit: int | None = 500,
    test_limit: int | None = 200,
) -> Stream:
    """The tasks of one of the six orders, without Yahoo.

    Args:
        tokenizer: Of the model that is to learn.
        name: Of the stream.
        seed: Draws what `limit` keeps.
        order: 1 to 6.
        prompt: Level of the prompt, 0 to 4, as in `holdfast.streams.language.templates`.
        scoring: As in `text_tasks`.
        length: Likewise.
        limit: Likewise.
        test_limit: Likewise.

    Raises:
        UsageError: If an argument is out of range.
        DataError: If HOLDFAST_DATA does not hold the tasks.
    """
    if order not in ORDERS:
        raise UsageError(f"order must be 1 to 6; given: {order!r}.")
    check_level(prompt)
    tasks = [task(each, prompt) for each in ORDERS[order] if each != ABSENT]
    return text_tasks(
        tasks, tokenizer, name, seed,
        scoring=scoring, length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip


def task(name: str, level: int) -> Task:
    """One task of the benchmark, at a level of the prompt."""
    train, test, template = parts(name)
    return Task(
        name,
        rendered(train, template, level, train),
        rendered(test, template, level, train),
        template.labels,
    )


def parts(name: str) -> tuple[list[Sample], list[Sample], Template]:
    """The bare inputs of a task for training and testing, and how it is put into words."""
    labels = tuple(json.loads(data_file("cl15/labels.json").read_text())[name]["labels"])
    train, test = (read(f"cl15/{name}_{part}.jsonl.gz") for part in ("train", "test"))
    return train, test, Template(*INSTRUCTIONS[name], labels)


def read(relative: str) -> list[Sample]:
    """Inputs as prompts and labels as answers, from a file of the data folder."""
    from holdfast.language.records import read as read_samples

    samples = read_samples(data_file(relative), fields="prompt=text,answer=label")
    return list(samples)
