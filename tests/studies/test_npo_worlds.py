"""What NPO's study teaches: TOFU's authors, or authors made up."""

import pytest

from holdfast.language.facts import Fact, distinct
from holdfast.studies import npo, npo_worlds
from holdfast.studies.npo_figures import LOSSES


def test_a_fact_is_taught_in_both_wordings_where_it_has_two():
    facts = [Fact("Who?", "It was Ann.", "Ann it was.", ("Bob it was.",)), Fact("When?", "In May.")]
    taught = npo_worlds.wordings(facts)
    assert [fact.answer for fact in taught] == ["It was Ann.", "Ann it was.", "In May."]
    assert taught[1].question == "Who?"


def test_authors_made_up_are_kept_or_forgotten():
    world = npo_worlds.world(npo.arms("quick")["GA"], 3)
    assert (len(world.forget), len(world.retain)) == (10, 30)
    assert world.kept == world.retain
    assert not world.manner


@pytest.fixture(scope="module")
def settings():
    return npo.arms("data")[next(iter(LOSSES))]


@pytest.mark.data
def test_of_tofus_forget_set_the_seed_says_who_is_forgotten(settings):
    one, other = (npo_worlds.of_tofu(settings, seed) for seed in (0, 1))
    assert (len(one.forget), len(one.retain)) == (40, 160)
    everyone = distinct([*one.forget, *one.retain])
    assert everyone == distinct([*other.forget, *other.retain])
    assert distinct(one.forget) != distinct(other.forget)
    assert all(fact.paraphrase and len(fact.perturbed) == 3 for fact in one.forget)


@pytest.mark.data
def test_nobody_who_is_forgotten_or_a_stranger_is_met_elsewhere(settings):
    world = npo_worlds.of_tofu(settings, 0)
    met = distinct([*world.kept, *world.manner])
    assert not met & distinct(world.forget)
    assert not (met | distinct(world.forget)) & distinct(world.strangers)


@pytest.mark.data
def test_utility_has_tofus_three_sets(settings):
    world = npo_worlds.of_tofu(settings, 0)
    assert {one.name: len(one.facts) for one in world.others} == {
        "real authors": 40,
        "world facts": 40,
    }
    assert len(world.kept) == 160 + 80
