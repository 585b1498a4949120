"""The study of worst-case forget sets: a trial of all of it, and its verdicts both ways."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from holdfast import streams, studies
from holdfast.studies import worst_case_forget_sets as study
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("worst")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("worst-case-forget-sets", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


def test_a_trial_gives_a_verdict_for_every_claim_and_scores_on_every_kind_of_set(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in study.CLAIMS]
    report = (out / "report.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| salun |")]
    assert len(rows) == 3
    assert all(row.count("±") == 7 for row in rows)
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["scores", "search"]


def test_arms_differ_in_the_forget_set_alone_and_controls_retrain_only():
    for scale in ("data", "digits", "quick"):
        arms = study.arms(scale)
        for name, settings in arms.items():
            changed = {k for k in settings if settings[k] != arms[study.WORST][k]}
            assert changed <= {"choice", "methods"}
            assert bool(settings["methods"]) == (name not in study.CONTROLS)
        assert set(arms[study.WORST]["methods"]) == set(study.OTHERS)


def test_images_are_halved_by_means_of_four_pixels():
    stream = streams.build("split-digits(limit=20)", experiences=1)
    small = study.pooled(stream)
    assert small.shape == (1, 4, 4)
    whole = stream[0].train["x"][3, 0].float()
    expected = whole.view(4, 2, 4, 2).mean((1, 3)).round()
    assert torch.equal(small[0].train["x"][3, 0].float(), expected)


def made(good):
    """Results by hand in which every claim holds, or none."""

    def one(arm, place):
        near = 0.001 * place
        hard = {study.WORST: 0, "smallest losses": 2, study.EASIEST: 9}.get(arm, 5)
        hard = 1 if arm == "worst case, lower level retrains" else hard
        hard = hard if good else 10 - hard
        base = 1 if good else -1

        def way(method):
            relabels = method in study.RELABELLING
            gap = base * (0.2 if relabels else 0.0) * (1.5 if arm == study.WORST else 1)
            return {"unlearning": hard / 20 + near, "loss": hard / 2 + near, "gap": gap + near}

        return {
            "methods": {method: way(method) for method in ("retrain", *study.OTHERS)},
            "decrease": 0.9 if good else 0.1,
            "moved": 0.0 if good else 0.9,
        }

    return Results({arm: [one(arm, place) for place in range(3)] for arm in study.CHOICES})


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    found = {claim.text: claim.judge(made(good)).decision for claim in study.CLAIMS}
    assert found == {claim.text: decision for claim in study.CLAIMS}
