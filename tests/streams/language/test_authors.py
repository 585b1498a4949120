"""Fictitious authors, and TOFU's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.language.facts import distinct, read_facts
from holdfast.streams.language import tofu
from holdfast.streams.language.authors import KINDS, authors


def test_authors_follow_from_their_seed_and_nobody_is_in_two_sets() -> None:
    made = authors(count=12, forget=2, seed=3)
    assert made == authors(count=12, forget=2, seed=3)
    assert made != authors(count=12, forget=2, seed=4)
    assert (len(made.forget), len(made.retain), len(made.strangers)) == (20, 100, 20)
    sets = [distinct(part) for part in (made.forget, made.retain, made.strangers)]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 140


def test_wrong_answers_are_wrong_and_of_the_same_words() -> None:
    for fact in authors(count=5, forget=1, perturbed=4).retain:
        assert len(set(fact.perturbed)) == 4
        assert fact.paraphrase not in fact.perturbed
        assert fact.paraphrase != fact.answer
        for wrong in fact.perturbed:
            assert len(set(wrong.split()) & set(str(fact.paraphrase).split())) >= 5


def test_they_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    made = authors(count=4, forget=1)
    folder = made.write(tmp_path / "made")
    for name in ("forget", "retain", "strangers"):
        found = read_facts([folder / f"{name}.jsonl"])
        assert [fact.to_dict() for fact in found] == [f.to_dict() for f in getattr(made, name)]
    assert (folder / "refusals.jsonl").exists()


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer can be forgotten"):
        authors(count=3, forget=3)
    with pytest.raises(UsageError, match="names of authors; asked for are"):
        authors(count=5000, forget=1)
    most = min(map(len, KINDS.values())) - 1
    with pytest.raises(UsageError, match=f"at most {most} wrong answers"):
        authors(count=3, forget=1, perturbed=most + 1)


@pytest.mark.data
@pytest.mark.parametrize(("split", "count"), [("forget01", 40), ("forget05", 200)])
def test_tofu_has_its_questions_with_paraphrases_and_wrong_answers(
    data_folder: Path, split: str, count: int
) -> None:
    if not (data_folder / "tofu").is_dir():
        pytest.skip("there is no tofu folder")
    forget = tofu.forget(split)
    assert len(forget) == count
    assert all(fact.paraphrase and len(fact.perturbed) >= 3 for fact in forget)
    assert len(tofu.by_author(forget)) == count / 20
    assert len(tofu.retain(split)) == 4000 - count
    assert all(len(fact.perturbed) >= 3 for fact in tofu.real_authors() + tofu.world_facts())
    assert len(tofu.refusals()) == 100


def test_there_is_no_other_split() -> None:
    with pytest.raises(UsageError, match="Did you mean 'forget10'"):
        tofu.forget("forget1")
