"""TOFU: questions about fictitious authors, to be learned and then forgotten in part.

Files are those that the benchmark distributes as JSON lines, with `question`, `answer`,
`paraphrased_answer` and `perturbed_answer`.

Source: Maini et al., "TOFU: a task of fictitious unlearning for LLMs" (2024).
"""

from __future__ import annotations

from holdfast.errors import DataError, unknown
from holdfast.language.facts import Fact, distinct, read_facts
from holdfast.streams.sources import data_file

SPLITS = ("forget01", "forget05", "forget10")
FILES = (
    "tofu/forget10_perturbed.jsonl.gz",
    "tofu/retain90.jsonl.gz",
    "tofu/real_authors_perturbed.jsonl.gz",
    "tofu/world_facts_perturbed.jsonl.gz",
)
PER_AUTHOR = 20
"""Questions about one author, who follow one another."""


def forget(split: str = "forget10") -> list[Fact]:
    """What is to be forgotten, with paraphrases and wrong answers.

    Args:
        split: `"forget01"`, `"forget05"` or `"forget10"`: the share of all authors, in percent.

    Raises:
        UsageError: If there is no such split.
        DataError: If the files are not in HOLDFAST_DATA.
    """
    if split not in SPLITS:
        raise unknown("split of TOFU", split, SPLITS)
    full = read_facts([data_file(FILES[0])])
    plain = distinct(read_facts([data_file(f"tofu/{split}.jsonl.gz")]))
    found = [fact for fact in full if distinct([fact]) <= plain]
    if len(found) != len(plain):
        raise DataError(
            f"Of the {len(plain)} questions of {split}, {len(found)} have wrong answers in "
            f"{FILES[0]}."
        )
    return found


def retain(split: str = "forget10") -> list[Fact]:
    """All other questions; those about authors of `forget10` with wrong answers."""
    gone = distinct(forget(split))
    rest = [fact for fact in forget("forget10") if not distinct([fact]) <= gone]
    return [*read_facts([data_file(FILES[1])]), *rest]


def real_authors() -> list[Fact]:
    """Questions about real authors, close to what is to be forgotten."""
    return read_facts([data_file(FILES[2])])


def world_facts() -> list[Fact]:
    """Questions about the world, far from it."""
    return read_facts([data_file(FILES[3])])


def refusals() -> list[str]:
    """Answers that tell nothing."""
    from holdfast.language.files import rows

    return [row.record["answer"] for row in rows(data_file("tofu/idontknow.jsonl"))]


def by_author(facts: list[Fact], per: int = PER_AUTHOR) -> list[list[Fact]]:
    """The facts of each author, in order.

    Raises:
        DataError: If the last author has fewer.
    """
    if len(facts) % per:
        raise DataError(f"{len(facts)} questions are not {per} for each author.")
    return [facts[at : at + per] for at in range(0, len(facts), per)]
