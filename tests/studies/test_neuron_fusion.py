"""The study of Neuron-Fusion: a trial of one arm, its parts, and its verdicts both ways."""

from __future__ import annotations

import pytest
import torch

from holdfast.studies import neuron_fusion as study
from holdfast.studies import scenes
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial():
    return study.measure({**study.arms("quick")[study.FULL]}, 0)


def test_a_trial_measures_every_rule_and_both_ends(trial):
    assert list(trial["points"]) == list(study.FAMILIES)
    assert all(
        {"validation language", "test sight", "english"} <= set(point)
        for points in trial["points"].values()
        for point in points.values()
    )
    assert 0 <= trial["overlap"] <= 1
    assert set(trial["unsupported"]) == {"tuned", study.ARITHMETIC, study.FUSION}
    assert {place["kind"] for place in trial["places"]} == {
        "attention",
        "feedforward",
        "vocabulary",
    }


def test_arms_differ_in_the_rate_alone():
    for scale in ("data", "digits", "quick"):
        arms = study.arms(scale)
        differ = {key for key in arms[study.FULL] if arms[study.FULL][key] != arms[study.SLOW][key]}
        assert differ == {"rate", "controls"}


def test_rules_with_two_settings_are_searched_over_grids_of_one_size():
    sizes = {name: len(specs) for name, specs in study.FAMILIES.items()}
    grids = {name: size for name, size in sizes.items() if name != study.AVERAGE}
    assert set(grids.values()) == {9, 12}
    assert grids[study.ARITHMETIC] == 9


def test_a_scene_shows_as_many_pictures_as_it_says_in_its_colour():
    made = scenes.scenes("digits", 40, 0)
    side = scenes.sides(made) // 2
    for at in range(40):
        cells = made.pixels[at].unfold(1, side, side).unfold(2, side, side).amax((3, 4))
        assert int((cells.amax(0) > 0).sum()) == int(made.count[at])
        tint = torch.tensor(list(scenes.COLOURS.values())[int(made.colour[at])])
        shown = made.pixels[at].amax((1, 2))
        torch.testing.assert_close(shown / shown.max(), tint)
    assert made.answers(0)[1] == scenes.NUMBERS[int(made.count[0])]


def test_weights_go_into_a_seeing_model_and_come_out_again():
    settings = study.arms("quick")[study.FULL]
    own = ("rate", "stream", "controls", "every")
    given = tuple((n, study._frozen(v)) for n, v in settings.items() if n not in own)
    base = study._base(given, 0)
    tuned = study.seeing(base, 0)
    before, after, image = study.split(base.model, tuned)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(image["model.embed_tokens.weight"]) == 1
    study.put(tuned, {name: tensor + 1 for name, tensor in before.items()}, image)
    _, moved, same = study.split(base.model, tuned)
    assert all(torch.equal(moved[name], before[name] + 1) for name in before)
    assert all(torch.equal(same[name], image[name]) for name in image)


def made(good):
    """Results by hand in which Neuron-Fusion is better in every way, or worse."""
    language = dict.fromkeys(study.FAMILIES, 0.8)
    language[study.FUSION] = 0.95 if good else 0.7
    language[study.RANDOM] = 0.8 if good else 0.9

    def point(name):
        sight = 0.95 if name != study.SMALL or not good else 0.4
        return {
            "validation language": language[name],
            "test language": language[name],
            "validation sight": sight,
            "test sight": sight,
            "english": 0.1,
        }

    def run():
        return {
            "language": 0.8,
            "language_tuned": 0.4 if good else 0.8,
            "sight": 0.8 if good else 0.3,
            "overlap": 0.4 if good else 0.1,
            "unsupported": {"tuned": 0.3, study.FUSION: 0.1 if good else 0.4},
            "points": {n: {s: point(n) for s in specs} for n, specs in study.FAMILIES.items()},
        }

    return Results({arm: [run() for _ in range(3)] for arm in study.ARMS})


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in study.CLAIMS} == {
        c.text: decision for c in study.CLAIMS
    }
