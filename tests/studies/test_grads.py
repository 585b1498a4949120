"""The study of GrADS: a trial of all of it, its measures, and its verdicts both ways."""

import io

import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import grads
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def measured():
    return grads.measure(grads.arms("quick")["GrADS"], 0)


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("grads", 2, tmp_path, quick=True, jobs=1, console=console)
    assert [v.claim for v in verdicts] == [c.text for c in grads.CLAIMS]
    assert sorted(p.stem for p in (tmp_path / "figures").iterdir()) == ["accuracy", "wrong"]


def test_budgets_are_kept_and_steps_matched_where_the_arm_says_so(measured):
    runs = measured["runs"]
    assert [runs[b]["share"] for b in ("5 %", "20 %", "50 %")] == [0.05, 0.2, 0.5]
    full = grads.measure(grads.arms("quick")["full"], 0)["runs"]["all"]
    assert runs[grads.MATCHED]["updates"] == full["updates"] > runs["50 %"]["updates"]
    assert runs[grads.MATCHED]["wrong"] == runs["20 %"]["wrong"]
    assert full["wrong"] == 0.15


def test_every_training_begins_at_the_same_weights(measured):
    starts = {tuple(run["way"][0].values()) for run in measured["runs"].values()}
    assert len(starts) == 1


def test_arms_differ_in_one_thing():
    arms = grads.arms("data")
    for arm, other in (
        ("GrADS", "random"),
        ("GrADS", "magnitude"),
        ("GrADS", "loss"),
        ("full", "full, half rate"),
        ("GrADS", "GrADS, no preliminary epoch"),
        ("GrADS", "GrADS, clean"),
        ("GrADS", "GrADS, length taken away"),
        ("random", "random, clean"),
    ):
        assert sum(arms[arm][key] != arms[other][key] for key in arms[arm]) == 1


def results(accuracy=0.0, wrong=0.0, rise=0.0):
    """Three seeds in which GrADS, and nothing else, differs from the other arms by so much."""

    def run(seed, better):
        noise = 0.001 * seed
        end = 3.0 + noise + (rise if better else 0.0)
        return {
            "accuracy": 0.6 + noise + (accuracy if better else 0.0),
            "wrong": 0.15 + noise + (wrong if better else 0.0),
            "rise": end - 2.0,
            "way": [
                {"update": 0.0, "old": 2.0, "new": 3.0},
                {"update": 9.0, "old": end, "new": 1.0},
            ],
        }

    def arm(name):
        better = name in ("GrADS", "GrADS, clean")
        keys = ["all"] if name.startswith("full") else [*grads.BUDGETS, grads.MATCHED]
        runs = [
            {
                "runs": {key: run(seed, better) for key in keys},
                "length_correlation": -0.5 - 0.001 * seed,
            }
            for seed in range(3)
        ]
        if name == "GrADS, length taken away":
            for found in runs:
                found["runs"]["20 %"]["accuracy"] += 2 * accuracy
        for found in runs:
            if better:
                found["runs"]["5 %"]["accuracy"] -= 0.01
        return runs

    return Results({name: arm(name) for name in grads.ARMS})


def test_all_claims_are_reproduced_where_it_does_better_throughout():
    verdicts = [claim.judge(results(0.05, -0.05, -0.5)) for claim in grads.CLAIMS]
    assert {v.decision for v in verdicts} == {"reproduced"}


def test_none_is_where_it_does_worse():
    verdicts = [claim.judge(results(-0.05, 0.05, 0.5)) for claim in grads.CLAIMS]
    assert {v.decision for v in verdicts} - {"not reproduced"} <= {"partly"}
    assert verdicts[0].decision == verdicts[4].decision == "not reproduced"
