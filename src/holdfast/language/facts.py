"""Facts: a question with its answer, the answer in other words, and wrong ones of its kind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import DataError
from holdfast.language.fields import Sample, detect, parse_fields
from holdfast.language.files import listed, rows

PARAPHRASED, PERTURBED = "paraphrased_answer", "perturbed_answer"
"""Fields beside a question and its answer, as TOFU has them."""


@dataclass(frozen=True)
class Fact:
    """A question and what may be answered.

    Attributes:
        question: What is asked.
        answer: As it was learned.
        paraphrase: The same in other words; None where nobody wrote it down.
        perturbed: Wrong answers of the same form.
        where: File and line.
    """

    question: str
    answer: str
    paraphrase: str | None = None
    perturbed: tuple[str, ...] = ()
    where: str = ""

    @property
    def sample(self) -> Sample:
        """To be learned or asked."""
        return Sample(prompt=self.question, answer=self.answer, where=self.where)

    def to_dict(self) -> dict[str, Any]:
        """As a record of a file."""
        beside: dict[str, Any] = {}
        if self.paraphrase is not None:
            beside[PARAPHRASED] = self.paraphrase
        if self.perturbed:
            beside[PERTURBED] = list(self.perturbed)
        return {"question": self.question, "answer": self.answer, **beside}


def read_facts(
    paths: Sequence[str | Path], fields: str | Mapping[str, str] | None = None
) -> list[Fact]:
    """The facts in some files.

    Args:
        paths: As `records.read` takes them. A record has a question and an answer by any of their
            usual names, and may have a `paraphrased_answer` and `perturbed_answer`, a list.
        fields: Which field is which, as in `records.read`.

    Raises:
        DataError: If a file cannot be read or a record cannot be used; file and line are named.
    """
    given = parse_fields(fields) if fields is not None else None
    found: list[Fact] = []
    for path in paths:
        for file in listed(Path(path)):
            known = None
            for row in rows(file):
                if row.fault is not None:
                    raise DataError(row.fault)
                known = known or detect(row.record, given, row.where)
                found.append(_fact(known.sample(row.record, row.where), row.record, row.where))
    if not found:
        raise DataError(f"There is no question in {', '.join(map(str, paths))}.")
    return found


def distinct(facts: Sequence[Fact]) -> set[str]:
    """What tells facts apart: question and answer, whatever their case and white space."""
    return {" ".join(f"{fact.question}\n{fact.answer}".casefold().split()) for fact in facts}


def digest(facts: Sequence[Fact]) -> str:
    """A fingerprint of some facts, in order."""
    content = repr([(f.question, f.answer, f.paraphrase, f.perturbed) for f in facts])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _fact(sample: Sample, record: Any, where: str) -> Fact:
    if sample.kind != "prompt":
        raise DataError(
            f"{where} is a {sample.kind}; what is to be forgotten or kept is given as questions "
            "with answers."
        )
    paraphrase, perturbed = record.get(PARAPHRASED), record.get(PERTURBED) or ()
    if isinstance(perturbed, str):
        perturbed = (perturbed,)
    for name, values in ((PARAPHRASED, [paraphrase] if paraphrase else []), (PERTURBED, perturbed)):
        if not isinstance(values, (list, tuple)) or not all(
            isinstance(value, str) and value.strip() for value in values
        ):
            what = "a text" if name == PARAPHRASED else "a list of texts"
            raise DataError(f"{where}: {name!r} must be {what} that is not empty.")
    return Fact(str(sample.prompt), str(sample.answer), paraphrase or None, tuple(perturbed), where)
