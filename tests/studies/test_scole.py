"""The SCoLe study: a trial of all of it, its parts and measures, and its verdicts both ways."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from holdfast import streams, studies
from holdfast.studies import scole
from holdfast.studies.scole_parts import SmallConv
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("scole")
    console = Console(file=io.StringIO(), width=80)
    return out, studies.run("scole", 2, out, quick=True, jobs=1, console=console)


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim_and_pictures(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in scole.CLAIMS]
    assert "## Accuracy (%) on all classes" in (out / "report.md").read_text()
    names = sorted(p.stem for p in (out / "figures").iterdir())
    assert names == ["accumulation", "frequency", "retention"]


def test_arms_differ_from_the_plain_one_in_what_they_are_named_for():
    arms = scole.arms("data")
    plain = arms["SGD"]
    changed = {a: {k for k in plain if arms[a][k] != plain[k]} - {"probed"} for a in arms}
    assert changed["SGD, masked"] == {"masked"}
    assert changed["momentum"] == {"rate", "momentum"}
    assert changed["five disjoint tasks"] == {"stream", "epochs"}
    assert changed["unequal (4), replay"] == {"stream", "masked", "replay"}
    # In the long run momentum makes the steps of a rate 1 / (1 - momentum) times as large.
    assert arms["momentum"]["rate"] / (1 - arms["momentum"]["momentum"]) == pytest.approx(
        plain["rate"]
    )


def test_short_and_long_streams_make_as_many_updates():
    for scale in ("data", "digits"):
        arms = scole.arms(scale)
        assert 5 * arms["five disjoint tasks"]["epochs"] == scole.TASKS[scale]


def test_the_spec_of_every_arm_can_be_built():
    for settings in scole.arms("quick").values():
        stream = streams.build(settings["stream"], seed=0)
        assert len(stream) in (5, scole.TASKS["quick"])
        assert not stream.evaluations  # every task is followed by an evaluation


def test_tables_and_pictures_are_made_of_what_runs_measure():
    arms = scole.arms("quick")
    plain = scole.measure(arms["SGD, masked"], 0)
    lost = scole.measure(arms["half never comes back"], 0)
    assert plain["probe"] > plain["late"]
    results = Results(
        {arm: [lost if arm == "half never comes back" else plain] * 2 for arm in arms}
    )
    tables = scole.grids(results)
    assert len(tables[0].rows) == len(arms)
    assert tables[0].rows[0][-1] == "48"  # 16 tasks of 40 examples, 16 at a time
    names = [figure.name for figure in scole.figures(results)]
    assert names == ["accumulation", "retention", "frequency"]
    assert all(claim.judge(results) for claim in scole.CLAIMS)


# Parts.


def test_the_small_network_is_the_papers():
    network = SmallConv()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 50)
    weights = sum(p.numel() for p in network.parameters())
    assert weights == (25 * 10 + 10) + (250 * 20 + 20) + (320 * 50 + 50)


# Measures.


def test_a_run_is_summed_up_as_by_hand():
    tasks = [(0, 1), (1, 2), (0, 2), (0, 1)]
    scores = np.array([[0.8, 0.6, 0.0], [0.2, 0.7, 0.9], [0.5, 0.1, 0.8], [0.9, 0.4, 0.3]])
    found = scole.summarised(scores, tasks)
    assert found["curve"] == pytest.approx([1.4 / 3, 0.6, 1.4 / 3, 1.6 / 3], abs=1e-4)
    assert found["early"] == pytest.approx(1.4 / 3)
    assert found["late"] == found["final"] == pytest.approx(1.6 / 3)
    # Lost: class 0 by task 1 (0.6), class 1 by task 2 (0.6), class 2 by task 3 (0.5).
    assert found["drop"] == pytest.approx((0.6 + 0.6 + 0.5) / 3)
    assert found["frequency"] == [0.75, 0.75, 0.5]
    assert found["gone"] is None


def test_what_never_comes_back_is_followed_from_the_middle():
    tasks = [(0,), (1,), (1,), (1,)]
    scores = np.array([[0.9, 0.0], [0.8, 0.5], [0.6, 0.9], [0.4, 1.0]])
    found = scole.summarised(scores, tasks)
    assert found["gone"] == [0.9, 0.8, 0.6, 0.4]
    assert found["gone_at_middle"] == pytest.approx(0.85)
    assert found["gone_late"] == pytest.approx(0.4)
    assert found["staying_late"] == pytest.approx(1.0)


def made(good: bool) -> Results:
    """Results by hand in which every claim holds, or none."""
    base = {"early": 0.4, "late": 0.7, "mean": 0.6, "drop": 0.1, "rare": 0.5, "frequent": 0.9}
    rank = {"SGD, masked": 0.2, "momentum": -0.1, "momentum, masked": 0.0, "Adam, masked": 0.1}
    ahead = {"all classes each time": 0.3, "unequal (4)": 0.0, "unequal (4), replay": 0.1}
    runs = {}
    for arm in scole.ARMS:
        shift = {**rank, **ahead}.get(arm, -0.5 if "five" in arm else 0.0)
        if arm == "a fifth of the pairs":
            shift = 0.2
        shift = shift if good else -shift - (0.3 if arm == "a fifth of the pairs" else 0.0)
        one = {k: v + shift for k, v in base.items()}
        one |= {"drop": 0.1 if good else -0.1, "gone_at_middle": 0.8}
        one |= {"gone_late": 0.6 if good else 0.1}
        one |= {"probe": 0.95 if good else 0.5, "probe_before": 0.9}
        if not good:
            one |= {"early": 0.9, "frequent": one["rare"] - 0.1}
        runs[arm] = [{k: v + 0.001 * seed for k, v in one.items()} for seed in range(3)]
    if good:
        for run in runs["unequal (4)"]:
            run["rare"] = 0.2
    return Results(runs)


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in scole.CLAIMS} == {
        c.text: decision for c in scole.CLAIMS
    }


@pytest.mark.data
def test_the_papers_network_learns_two_classes_of_mnist(data_folder):
    settings = {
        **scole.arms("data")["SGD, masked"],
        "stream": "recurring-mnist(experiences=2, pool=2000, test_limit=200)",
        "probed": False,
    }
    found = scole.measure(settings, 0)
    assert found["frequent"] > 0.5
