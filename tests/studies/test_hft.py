"""The study of half fine-tuning: a trial of all of it, its measures, and its verdicts both ways."""

import io

import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import hft
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("hft")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("hft", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


def test_a_trial_gives_a_verdict_for_every_claim_and_a_row_for_every_arm(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in hft.CLAIMS]
    report = (out / "report.md").read_text()
    assert all(f"\n| {arm} |" in report for arm in hft.ARMS)
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["reset", "way"]


def test_arms_are_one_thing_apart_from_full_or_from_half_fine_tuning():
    arms = hft.arms("digits")

    def differing(arm, other):
        return {key for key in arms[arm] if arms[arm][key] != arms[other][key]}

    observed = {"reset", "timed"}
    assert differing("full, half rate", "full") - observed == {"rate"}
    assert differing("HFT", "full") - observed == {"method"}
    assert differing("HFT, whole blocks", "HFT") - observed == {"level"}
    assert differing("HFT, anywhere", "HFT") - observed == {"level"}
    assert differing("HFT, the other half next", "HFT") - observed == {"complement"}
    assert differing("HFT, embeddings frozen", "full, embeddings frozen") == {"method"}
    assert differing("full, embeddings frozen", "full") - observed == {"embeddings"}


def measured(arm, **changes):
    return hft.measure({**hft.arms("quick")[arm], **changes}, 0)


def test_the_half_is_a_half_in_both_stages_and_saves_operations():
    full, half = measured("full", reset=False), measured("HFT", pairs=1)
    assert half["ratios"] == pytest.approx([0.5, 0.5], abs=0.02)
    assert half["flops"] < full["flops"]
    assert half["step_time"] > 0
    assert full["ratios"] == []


def test_ways_begin_at_the_model_as_it_came_and_go_on_where_the_first_stage_ended():
    full, half = measured("full", reset=False), measured("HFT", timed=False)
    assert full["way"][0] == half["way"][0]
    assert full["way"][-1]["update"] == full["task_way"][0]["update"] == 4
    assert full["way"][-1]["old"] == full["task_way"][0]["old"]
    assert full["english"] == full["way"][-1]["old"] - full["way"][0]["old"]


def test_setting_nothing_back_is_the_tuned_model_and_setting_all_back_the_one_before():
    run = measured("full")
    english, code = hft._curve(run, "english"), hft._curve(run, "code")
    tuned, before = run["way"][-1], run["way"][0]
    assert (english[0], code[0]) == pytest.approx((tuned["old"], tuned["new"]))
    assert (english[-1], code[-1]) == pytest.approx((before["old"], before["new"]))


def test_frozen_embeddings_are_not_trained_in_full_fine_tuning_either():
    free, frozen = measured("full", reset=False), measured("full, embeddings frozen")
    assert frozen["flops"] < free["flops"]


def made(good):
    """Results by hand in which half fine-tuning is better in every way, or worse."""
    rises = {
        "full": 1.0,
        "full, half rate": 0.9,
        "HFT": 0.4 if good else 1.2,
        "HFT, whole blocks": 0.6,
        "HFT, anywhere": 0.6,
        "HFT, the other half next": 0.4,
        "full, embeddings frozen": 0.5,
        "HFT, embeddings frozen": 0.2 if good else 0.7,
        "L2 to the start": 0.8,
    }
    forgotten = {"HFT": 0.5, "HFT, the other half next": 0.3}
    worse = {"HFT": 1.5, "HFT, the other half next": 2.0}
    falls = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0] if good else [1.0, 1.1, 1.3, 1.3, 1.2, 0.0]
    grows = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] if good else [0.0, 0.9, 0.95, 0.9, 0.8, 1.0]
    points = zip(hft.RATIOS, falls, grows, strict=True)
    resets = [{"ratio": r, "seed": 0, "english": 1 + e, "code": 2 + c} for r, e, c in points]

    def one(arm):
        half = arm == "HFT"
        return {
            "way": [
                {"update": 0.0, "old": 1.0, "new": 3.0},
                {"update": 10.0, "old": 1.0 + rises[arm], "new": 2.0},
            ],
            "english_end": 2 * rises[arm],
            "code": 2.2 if half and not good else 2.0,
            "code_forgotten": (forgotten if good else worse).get(arm, 1.0),
            "task": 0.4 if half and not good else 0.5,
            "flops": 80.0 if half and good else 100.0,
            "step_time": 0.8 if good else 1.0,
            "resets": resets,
        }

    return Results({arm: [one(arm) for _ in range(3)] for arm in hft.ARMS})


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in hft.CLAIMS} == {
        c.text: decision for c in hft.CLAIMS
    }
