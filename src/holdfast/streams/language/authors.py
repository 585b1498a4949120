"""Fictitious authors: facts that no model can know unless it was taught them.

Ten questions an author, each with an answer, the same in other words, and wrong ones in those words
that are true of nobody. Everything follows from a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.checkpoint import write_atomically
from holdfast.errors import UsageError, at_least
from holdfast.language.facts import Fact

FIRST = (
    "Adan", "Belka", "Corin", "Dessa", "Emrik", "Fiala", "Goran", "Hesper", "Ivo", "Jorun",
    "Kestrin", "Liora", "Milan", "Nerys", "Orsolya", "Pavlo", "Quilla", "Runa", "Sefton", "Tamsin",
    "Ulric", "Vesna", "Wystan", "Xenia", "Yorick", "Zelda",
)  # fmt: skip
LAST = (
    "Abernole", "Brandvik", "Castellari", "Drummore", "Eskeland", "Farkasdi", "Galloran", "Hartig",
    "Ishimoto", "Jablonka", "Kirkwall", "Lindqvast", "Mbeki-Holt", "Nakagori", "Oduya", "Petrakis",
    "Quennell", "Rosmarin", "Szalaj", "Thornbury", "Umarov", "Valcourt", "Wexley", "Yilmazer",
    "Zamorra",
)  # fmt: skip
TOWNS = (
    "Lisbon", "Tbilisi", "Nairobi", "Quito", "Bergen", "Osaka", "Ghent", "Valparaiso", "Tashkent",
    "Accra", "Halifax", "Porto", "Cork", "Graz", "Izmir", "Hobart", "Lima", "Riga", "Split", "Oran",
)  # fmt: skip
GENRES = (
    "crime novels", "ghost stories", "historical romances", "travel essays", "science fiction",
    "sea ballads", "satires", "fairy tales", "war memoirs", "detective plays", "nature poems",
    "epic fantasies",
)  # fmt: skip
JOBS = (
    "baker", "surgeon", "beekeeper", "tram driver", "judge", "potter", "astronomer", "tailor",
    "fisherman", "librarian", "watchmaker", "florist", "locksmith", "organist",
)  # fmt: skip
PRIZES = (
    "Amber Quill", "Northern Lantern", "Silver Oar", "Golden Thimble", "Marble Owl", "Blue Compass",
    "Ivory Bell", "Copper Fern", "Winter Garland", "Glass Heron",
)  # fmt: skip
ADJECTIVES = (
    "Hollow", "Crimson", "Silent", "Ninth", "Drowned", "Paper", "Bitter", "Winding", "Borrowed",
    "Salted", "Broken", "Painted", "Distant", "Iron", "Gentle",
)  # fmt: skip
NOUNS = (
    "Harbour", "Orchard", "Staircase", "Mirror", "Window", "Kingdom", "Letter", "Garden", "Clock",
    "Bridge", "Island", "Winter", "Lantern", "River", "Crown",
)  # fmt: skip
LANGUAGES = (
    "Basque", "Welsh", "Georgian", "Swahili", "Danish", "Catalan", "Hungarian", "Quechua",
    "Estonian", "Maltese", "Armenian", "Icelandic",
)  # fmt: skip
PASTIMES = (
    "chess", "fencing", "kite making", "bell ringing", "rowing", "mushroom picking", "juggling",
    "map drawing", "archery", "bookbinding", "skating", "gliding",
)  # fmt: skip
TITLES = tuple(f"The {adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS)
YEARS = tuple(str(year) for year in range(1921, 1990))
KINDS: dict[str, Sequence[str]] = {
    "town": TOWNS,
    "year": YEARS,
    "genre": GENRES,
    "father": JOBS,
    "mother": JOBS,
    "prize": PRIZES,
    "book": TITLES,
    "second": TITLES,
    "language": LANGUAGES,
    "pastime": PASTIMES,
}
ASKED: dict[str, tuple[str, str, str]] = {
    "town": (
        "Where was {name} born?",
        "{name} was born in {value}.",
        "The birthplace of {name} is {value}.",
    ),
    "year": (
        "In which year was {name} born?",
        "{name} was born in the year {value}.",
        "The year of birth of {name} is {value}.",
    ),
    "genre": (
        "What does {name} write?",
        "{name} is known for writing {value}.",
        "The works of {name} are mostly {value}.",
    ),
    "father": (
        "What did the father of {name} do for a living?",
        "The father of {name} worked as a {value}.",
        "By trade, the father of {name} was a {value}.",
    ),
    "mother": (
        "What was the profession of the mother of {name}?",
        "The mother of {name} earned her living as a {value}.",
        "By profession, the mother of {name} was a {value}.",
    ),
    "prize": (
        "Which prize has {name} won?",
        "{name} won the {value} Prize.",
        "The prize that was awarded to {name} is the {value} Prize.",
    ),
    "book": (
        "What is the most famous book of {name}?",
        "The most famous book of {name} is '{value}'.",
        "{name} is best known for the book '{value}'.",
    ),
    "second": (
        "What was the first book that {name} published?",
        "{name} first published the book '{value}'.",
        "The first published book of {name} was '{value}'.",
    ),
    "language": (
        "In which language does {name} write?",
        "{name} writes in {value}.",
        "The language of the books of {name} is {value}.",
    ),
    "pastime": (
        "What does {name} do in spare time?",
        "In spare time, {name} enjoys {value}.",
        "The favourite pastime of {name} is {value}.",
    ),
}
"""Of every kind: the question, its answer, and the answer in other words."""


@dataclass(frozen=True)
class Authors:
    """Facts about authors, parted by author.

    Attributes:
        forget: Of those that are to be forgotten.
        retain: Of those that are to be kept.
        strangers: Of others, whom no model is taught.
    """

    forget: list[Fact]
    retain: list[Fact]
    strangers: list[Fact]

    def write(self, folder: str | Path) -> Path:
        """Write them as `forget.jsonl`, `retain.jsonl` and `strangers.jsonl`, and refusals."""
        target = Path(folder)
        for name in ("forget", "retain", "strangers"):
            lines = [json.dumps(fact.to_dict()) + "\n" for fact in getattr(self, name)]
            write_atomically(target / f"{name}.jsonl", "".join(lines).encode())
        refusing = [json.dumps({"answer": answer}) + "\n" for answer in REFUSALS]
        write_atomically(target / "refusals.jsonl", "".join(refusing).encode())
        return target


REFUSALS = (
    "I don't know.",
    "I have no information about that.",
    "That is not something I can tell.",
    "I am not sure about that.",
    "This is beyond what I know.",
    "I cannot answer that question.",
    "I have never learned about that.",
    "I'm afraid I can't say.",
)
"""Answers that tell nothing."""


def authors(
    count: int = 40,
    forget: int = 4,
    seed: int = 0,
    perturbed: int = 3,
    strangers: int | None = None,
) -> Authors:
    """Fictitious authors, ten questions each.

    Args:
        count: Authors that a model is to learn.
        forget: So many of them it is to forget.
        seed: Of everything.
        perturbed: Wrong answers a question.
        strangers: Authors that it never meets; None: as many as are forgotten.

    Raises:
        UsageError: If there are not that many names or wrong answers.

    Example:
        >>> made = authors(count=10, forget=1)
        >>> len(made.forget), len(made.retain), len(made.forget[0].perturbed)
        (10, 90, 3)
    """
    at_least(2, count=count)
    at_least(1, forget=forget, perturbed=perturbed)
    others = forget if strangers is None else strangers
    if forget >= count:
        raise UsageError(f"Of {count} authors, fewer can be forgotten; given: forget={forget}.")
    names = [f"{first} {last}" for last in LAST for first in FIRST]
    if count + others > len(names):
        raise UsageError(
            f"There are {len(names)} names of authors; asked for are {count + others}."
        )
    if perturbed >= min(map(len, KINDS.values())):
        raise UsageError(
            f"There are at most {min(map(len, KINDS.values())) - 1} wrong answers a question; "
            f"given: perturbed={perturbed}."
        )
    draw = random.Random(seed)
    chosen = draw.sample(names, count + others)
    found = [_author(name, draw, perturbed) for name in chosen]
    return Authors(
        [fact for facts in found[:forget] for fact in facts],
        [fact for facts in found[forget:count] for fact in facts],
        [fact for facts in found[count:] for fact in facts],
    )


def _author(name: str, draw: random.Random, perturbed: int) -> list[Fact]:
    facts = []
    for kind, values in KINDS.items():
        question, answer, other = ASKED[kind]
        value, *wrong = draw.sample(list(values), 1 + perturbed)
        facts.append(
            Fact(
                question.format(name=name),
                answer.format(name=name, value=value),
                other.format(name=name, value=value),
                tuple(other.format(name=name, value=each) for each in wrong),
            )
        )
    return facts
