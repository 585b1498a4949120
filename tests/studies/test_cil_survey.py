"""The study of the survey: a trial of all of it, its budgets, and its verdicts both ways."""

import io
import json

import pytest
from rich.console import Console

from holdfast import catalogue, studies
from holdfast.studies import cil_survey
from holdfast.studies.cil_survey import ALIGNED, CURVES, METHODS, aligned, benchmark, under
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("survey")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("cil-survey", 2, out, quick=True, jobs=2, console=console)
    return out, verdicts


def measured(out, arm):
    cells = [json.loads(path.read_text()) for path in (out / "cells").iterdir()]
    return [cell["measured"] for cell in cells if cell["arm"] == arm]


def test_a_trial_gives_a_verdict_for_every_claim_and_names_what_is_not_there(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in cil_survey.CLAIMS]
    report = (out / "report.md").read_text()
    assert all(name in report for name in cil_survey.ABSENT)
    pictures = sorted(path.stem for path in (out / "figures").iterdir())
    assert pictures == ["aligned", "budgets", "on-the-way"]


def test_under_alignment_bytes_are_equal_to_less_than_one_image(trial):
    out, _ = trial
    for name in ALIGNED:
        (budget,) = {run["budget"] for run in measured(out, aligned(name))}
        assert {run["planned"] for run in measured(out, benchmark("DER"))} == {budget}
        for run in measured(out, aligned(name)):
            assert 0 <= budget - run["planned"] < 64
            assert run["exemplars"] > 10


def test_methods_that_begin_as_plain_training_begin_at_one_point(trial):
    out, _ = trial
    sharing = [n for n in METHODS if measured(out, benchmark(n))[0]["shared_start"]]
    assert sharing == [
        "finetune",
        "Replay",
        "ER",
        "LwF",
        "GEM",
        "DER",
        "DER, retuned",
        "MEMO",
        "MEMO, frozen",
    ]
    starts = set()
    for name in sharing:
        starts.add(tuple(sorted(run["curve"][0] for run in measured(out, benchmark(name)))))
    assert len(starts) == 1


def test_every_method_is_one_of_the_catalogue_and_every_arm_has_its_place():
    for spec in METHODS.values():
        catalogue.build(spec)
    for scale in ("data", "digits", "quick"):
        arms = cil_survey.arms(scale)
        assert len(arms) == len(METHODS) + len(ALIGNED) + 5 * len(CURVES)
    assert not set(cil_survey.ABSENT) & set(METHODS)


def made(der, replay_aligned):
    """Results in which everything but what is asked about is the same."""
    arms = {}
    for arm in cil_survey.arms("quick"):
        last = der if arm == benchmark("DER") else replay_aligned if "aligned" in arm else 0.5
        arms[arm] = [{"last": last + 0.001 * seed, "average": 0.6, "budget": 1} for seed in (0, 1)]
    for place in range(5):
        for name in CURVES:
            last = 0.7 if name == "MEMO" else 0.6
            arms[under(name, place)] = [
                {"last": last, "average": 0.6, "budget": 2**20 * (place + 1)} for _ in (0, 1)
            ]
    return Results(arms)


def test_verdicts_go_both_ways():
    best, shrinks, shared = cil_survey.CLAIMS[:3]
    leading, level = made(der=0.9, replay_aligned=0.7), made(der=0.5, replay_aligned=0.4)
    assert best.judge(leading).decision == "reproduced"
    assert best.judge(level).decision == "not reproduced"
    assert shrinks.judge(leading).decision == "reproduced"
    assert shrinks.judge(level).decision == "not reproduced"
    assert shared.judge(leading).decision == "reproduced"


def test_the_area_is_over_megabytes():
    assert cil_survey.areas(made(0.9, 0.7), "MEMO", "last") == pytest.approx([2.8, 2.8])
