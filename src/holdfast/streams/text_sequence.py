"""The fifteen-task benchmark of text classification as a stream of classes.

The same tasks as those of `holdfast.streams.language.cl15`, where a language model writes the
labels as words; here they are classes, and a text is a vector or a row of tokens. Yahoo, the
fifteenth, is absent from the data folder and left out of every order.

Source: de Masson d'Autume et al., "Episodic memory in lifelong language learning" (2019), for the
four orders of the first five sets; Razdaibiedina et al., "Progressive prompts" (2023), and Wang et
al., "Orthogonal subspace learning for language model continual learning" (2023), for the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from holdfast.data import Table
from holdfast.errors import DataError, unknown
from holdfast.models.sentences import END, MINILM
from holdfast.stream import Experience, Stream
from holdfast.streams.language.cl15 import ABSENT, ORDERS, read
from holdfast.streams.recipes import Known, at_least_one, limited, one_of
from holdfast.streams.source import scale_of
from holdfast.streams.sources import data_file
from holdfast.streams.texts import PLAIN, Inputs, Labelled, as_inputs

SEQUENCES: dict[str, tuple[str, ...]] = {
    "five1": ("yelp", "agnews", "dbpedia", "amazon", "yahoo"),
    "five2": ("dbpedia", "yahoo", "agnews", "amazon", "yelp"),
    "five3": ("yelp", "yahoo", "amazon", "dbpedia", "agnews"),
    "five4": ("agnews", "yelp", "amazon", "yahoo", "dbpedia"),
    **{f"short{number}": ORDERS[number] for number in (1, 2, 3)},
    **{f"long{number - 3}": ORDERS[number] for number in (4, 5, 6)},
}
"""The published orders: `five1` to `five4` (the authors' i to iv), `short1` to `short3` (1 to 3)
and `long1` to `long3` (4 to 6)."""

ALIKE = {"amazon": "yelp", "imdb": "sst2", "cb": "mnli", "rte": "mnli"}
"""Tasks that ask the same as another one, with the same words for answers."""


@dataclass(frozen=True)
class Tasks:
    """Several sets of labelled texts.

    Attributes:
        name: Of all together.
        parts: By task: to learn from, to test on, and the labels.
    """

    name: str
    parts: Mapping[str, tuple[Labelled, Labelled, tuple[str, ...]]]


def cl15() -> Tasks:
    """The fourteen tasks at hand, at most 2,000 texts of each to learn from and 500 to test on."""
    labels = json.loads(data_file("cl15/labels.json").read_text(encoding="utf-8"))
    found: dict[str, tuple[Labelled, Labelled, tuple[str, ...]]] = {}
    for name, told in labels.items():
        train, test = (
            ([str(s.prompt) for s in samples], [str(s.answer) for s in samples])
            for samples in (read(f"cl15/{name}_{part}.jsonl.gz") for part in ("train", "test"))
        )
        found[name] = (train, test, tuple(told["labels"]))
    return Tasks("cl15-classes", found)


def sequence(
    tasks: Tasks,
    name: str,
    seed: int,
    experiences: int | None = None,
    sequence: str = "long1",
    shared: bool = False,
    encoder: str = MINILM,
    inputs: Inputs = "embeddings",
    length: int | None = None,
    scenario: Known = "task",
    online: bool = False,
    limit: int | None = 500,
    test_limit: int | None = 200,
) -> Stream:
    """Tasks in turn, each with labels of its own.

    Args:
        tasks: The sets.
        name: Of the stream.
        seed: Draws what `limit` keeps.
        experiences: At most so many tasks, the first ones; None: all.
        sequence: One of `SEQUENCES`.
        shared: Whether tasks that ask the same (`ALIKE`) share their classes; else each task's
            classes are its own.
        encoder: As in `holdfast.streams.texts.texts`.
        inputs: Likewise.
        length: Likewise.
        scenario: `"task"`: the task is known in training and at test; or `"class"`.
        online: Whether each example may be seen only once.
        limit: Training examples a task, drawn by seed, classes in proportion; None: all.
        test_limit: Likewise, test examples.

    Raises:
        DataError: If the tasks are not at hand.
        UsageError: If an argument is out of range.
    """
    if sequence not in SEQUENCES:
        raise unknown("sequence", sequence, SEQUENCES)
    one_of("scenario", scenario, ("class", "task"))
    order = [task for task in SEQUENCES[sequence] if task != ABSENT]
    if experiences is not None:
        at_least_one("experiences", experiences, " or none")
    order = order[:experiences]
    number: dict[tuple[str, str], int] = {}
    arrived = []
    for task in order:
        owner = ALIKE.get(task, task) if shared else task
        labels = tasks.parts[task][2]
        arrived.append({c: number.setdefault((owner, c), len(number)) for c in labels})
    chosen = limited(
        [
            (_rows(tasks.parts[task][0], of, task), _rows(tasks.parts[task][1], of, task))
            for task, of in zip(order, arrived, strict=True)
        ],
        limit,
        test_limit,
        seed,
    )
    made = []
    for index, (task, of, rows) in enumerate(zip(order, arrived, chosen, strict=True)):
        texts = [
            labelled[0][row]
            for labelled, part in zip(tasks.parts[task][:2], rows, strict=True)
            for row in part["row"].tolist()
        ]  # what is drawn alone is encoded, a task at a time
        x = as_inputs(texts, encoder, inputs, length).split([len(part) for part in rows])
        train, test = (Table({"x": c, "y": p["y"]}) for c, p in zip(x, rows, strict=True))
        made.append(Experience(index, train, test, tuple(sorted(of.values())), task))
    if inputs == "tokens":
        made = _of_one_width(made)
    stream = Stream(
        name=name,
        experiences=made,
        scenario="class",
        classes=len(number),
        shape=tuple(made[0].train["x"].shape[1:]),
        scale=PLAIN if inputs == "tokens" else scale_of(torch.cat([e.train["x"] for e in made])),
        online=online,
        class_names=tuple(f"{task}: {label}" for task, label in number),
        tokens=encoder if inputs == "tokens" else None,
    )
    return stream.with_tasks() if scenario == "task" else stream


def _rows(labelled: Labelled, of: dict[str, int], task: str) -> Table:
    """The number of every text, and its class."""
    strange = [label for label in labelled[1] if label not in of]
    if strange:
        raise DataError(f"The label {strange[0]!r} of {task} is not among {', '.join(of)}.")
    y = torch.tensor([of[label] for label in labelled[1]])
    return Table({"row": torch.arange(len(y)), "y": y})


def _of_one_width(experiences: list[Experience]) -> list[Experience]:
    """All rows of tokens filled up to the longest of all."""
    tables = [table for e in experiences for table in (e.train, e.test)]
    width = max(table["x"].shape[1] for table in tables)

    def wide(table: Table) -> Table:
        return table.with_columns(x=F.pad(table["x"], (0, width - table["x"].shape[1]), value=END))

    return [replace(e, train=wide(e.train), test=wide(e.test)) for e in experiences]
