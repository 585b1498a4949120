"""The study of Aljundi's thesis: a trial of all of it, its measures, and its verdicts both ways."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from holdfast import catalogue, models, streams, studies
from holdfast.learner import Learner
from holdfast.methods import MAS, ExpertGate
from holdfast.studies import aljundi_thesis as thesis
from holdfast.studies.aljundi_parts import KnownBoundaries, unbounded, unequal, worlds
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("thesis")
    console = Console(file=io.StringIO(), width=80)
    return out, studies.run("aljundi-thesis", 2, out, quick=True, jobs=1, console=console)


def test_a_trial_gives_a_verdict_for_every_claim_and_pictures(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in thesis.CLAIMS]
    assert "## The gate" in (out / "report.md").read_text()
    names = sorted(p.stem for p in (out / "figures").iterdir())
    assert names == sorted(thesis.PARTS)


@pytest.mark.parametrize("scale", ["data", "digits", "quick"])
def test_arms_of_a_part_differ_in_their_method_alone(scale):
    found = thesis.arms(scale)
    for part in thesis.PARTS:
        own = [{**s, "method": "", "known": False} for s in found.values() if s["part"] == part]
        assert len(own) > 1
        assert all(settings == own[0] for settings in own)
    assert all(catalogue.build(settings["method"]) for settings in found.values())


def test_only_one_experience_of_an_unequal_stream_is_large():
    stream = streams.build("split-digits", seed=0)
    found = unequal(stream, large=2)
    assert [len(e.train) for e in found] == [
        len(e.train) if e.index == 2 else len(e.train) // 10 for e in stream
    ]


def test_task_free_with_known_boundaries_holds_at_each_of_them_alone():
    stream = unbounded(streams.build("split-digits(limit=40)", seed=0))
    learner = Learner(models.build("mlp(width=8)", stream, seed=0), KnownBoundaries(), seed=0)
    record = learner.learn(stream)
    assert learner.method.plateaus_held == 5
    assert not any("event" in note for note in record.notes)


def test_density_is_the_share_of_units_that_answer():
    stream = streams.build("permuted-digits(limit=40)", seed=0)
    learner = Learner(models.build("mlp(width=8, depth=1)", stream, seed=0), seed=0)
    learner.start(stream)
    learner.begin(stream[0])
    shares = []
    for experience in stream:
        answers = learner.model.features(experience.test["x"])
        shares.append(float((answers > 0).float().mean()))
    assert thesis.density(learner, stream) == pytest.approx(np.mean(shares))


def test_importance_is_compared_by_ranks_without_labels():
    stream = streams.build("permuted-digits(limit=200)", seed=0)
    learner = Learner(models.build("mlp(width=16, depth=1)", stream, seed=0), MAS(0.01), seed=0)
    learner.learn(stream)
    assert 0.9 < thesis.unlabelled(learner, stream) < 1.0


def test_recognition_is_the_share_of_examples_given_to_their_expert(monkeypatch):
    stream = streams.build("split-digits(limit=40)", seed=0)
    method = ExpertGate(code=4, epochs=1)
    learner = Learner(models.build("mlp(width=8)", stream, seed=0), method, seed=0)
    learner.learn(stream)
    monkeypatch.setattr(
        ExpertGate,
        "gate",
        lambda self, learner, batch: torch.eye(5)[[1]].expand(len(batch["y"]), -1),
    )
    assert thesis.recognised(method, learner) == pytest.approx(0.2)


def made(good: bool) -> Results:
    """Results by hand in which every claim holds, or none."""
    base = {"accuracy": 0.6, "task_accuracy": 0.9, "forgetting": 0.1, "density": 0.5}
    better = ("experts", "MAS", "MAS + SLNID", "EWC + SLNID", "task-free", "GSS", "MIR")
    runs = {}
    for arm in thesis.arms("quick"):
        gain = {"MAS + SLNID": 0.2}.get(arm, 0.1) if arm in better else 0.0
        gain = gain if good else -gain - (0.0 if gain else -0.05)
        one = {k: v + gain for k, v in base.items()}
        one["forgetting"] = 0.5 if arm == "finetune" or not good else 0.1
        one["density"] = 0.5 - gain
        one |= {"recognised": 0.99 if good else 0.5, "unlabelled": 0.97 if good else 0.3}
        one |= {"bytes": 1000.0, "related": [0.5], "distilled": [True]}
        runs[arm] = [
            {k: v + 1e-3 * seed if isinstance(v, float) else v for k, v in one.items()}
            | {"plateaus": [1, 1 if good else 4, 1]}
            for seed in range(3)
        ]
    return Results(runs)


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in thesis.CLAIMS} == {
        c.text: decision for c in thesis.CLAIMS
    }
    assert len(thesis.grids(results)) == 4


@pytest.mark.data
def test_worlds_are_three_data_sets_with_classes_of_their_own(data_folder):
    stream = worlds(seed=0, rows=100, test_rows=50).validated()
    assert sorted(e.name for e in stream) == sorted(("digits", "fashion-mnist", "mnist"))
    for experience in stream:
        assert experience.train["x"].shape[1:] == (1, 28, 28)
        assert 0.5 < float(experience.train["x"].max()) <= 1.0
        assert set(experience.train["y"].tolist()) <= set(experience.classes)
