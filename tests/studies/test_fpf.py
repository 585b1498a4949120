"""The FPF study: a trial of all of it, its measures, and its verdicts both ways."""

import io

import pytest
import torch
from rich.console import Console

from holdfast import metrics, models, streams, studies
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, FPF
from holdfast.studies import fpf as study
from holdfast.studies.fpf import TUNED, Watching, with_fpf
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("fpf")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("fpf", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


def test_a_trial_gives_a_verdict_for_every_claim_and_a_row_for_every_arm(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in study.CLAIMS]
    report = (out / "report.md").read_text()
    for arm in study.ARMS:
        assert f"\n| {arm} |" in report
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["cost", "dynamics"]


def test_arms_differ_in_what_their_names_say():
    arms = study.arms("data")

    def differing(one, other):
        return {k for k in arms[one] if arms[one][k] != arms[other][k]}

    assert differing("5-FPF-KD", "5-FPF-CE") == {"gamma"}
    assert differing("5-FPF-KD", "10-FPF-KD") == {"k"}
    assert differing("5-FPF-KD", "5-FPF-KD, memory 50") == {"capacity"}
    assert differing("5-FPF-KD", "5-FPF-KD, one epoch") == {"epochs"}
    assert differing("5-FPF-KD", "5-FPF-KD, domains") == {"stream"}
    assert differing("SGD", "ER") == {"method"}


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("k", [2, 5, 10])
def test_whatever_k_is_as_many_steps_are_made_on_the_memory(k, epochs):
    small = {"stream": "split-digits(limit=64, test_limit=20)", "iterations": 40}
    settings = {**study.arms("quick")["5-FPF-CE"], **small, "k": k, "epochs": epochs}
    stream = streams.build(settings["stream"], seed=0)
    found = study.measure(settings, 0)
    assert found["fine_tunings"] == study.fine_tunings(settings, stream)
    each = study._method(settings, Watching(), stream).iterations
    assert 40 - k < each * found["fine_tunings"] <= 40  # in the study's own arms exactly
    expected = {(2, 5): 2, (5, 5): 4, (10, 5): 8, (2, 1): 2, (5, 1): 4, (10, 1): 7}
    assert found["fine_tunings"] == expected[k, epochs]


def finished(capacity=20):
    stream = streams.build("split-digits(limit=60, experiences=3)", seed=0)
    watching = Watching(iterations=3)
    learner = Learner(
        models.build("cnn(width=4, depth=2)", stream, seed=0),
        chain(ER(capacity), watching),
        seed=0,
    )
    learner.learn(stream)
    return learner, watching


def test_final_states_are_tuned_on_copies_and_each_from_the_same_draws():
    learner, watching = finished()
    was = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    notes = len(learner.record.notes)
    first = study.tuned(learner, watching, "head")
    study.tuned(learner, watching, "all")
    again = study.tuned(learner, watching, "head")
    for what in ("accuracy", "modules", "share", "flops"):
        assert first[what] == again[what]
    assert all(torch.equal(was[name], now) for name, now in learner.model.state_dict().items())
    assert len(learner.record.notes) == notes
    assert watching.tune == "sensitive"


def test_what_is_tuned_on_a_copy_is_what_the_method_itself_would_have_made():
    learner, watching = finished()
    found = study.tuned(learner, watching, "norm head")
    stream = streams.build("split-digits(limit=60, experiences=3)", seed=0)
    whole = Learner(
        models.build("cnn(width=4, depth=2)", stream, seed=0),
        chain(ER(20), FPF(iterations=3, tune="norm head")),
        seed=0,
    )
    record = whole.learn(stream)
    assert found["accuracy"] == pytest.approx(metrics.average_accuracy(record.matrix))
    assert found["flops"] == record.cost["apart_flops"]
    assert found["modules"] == record.notes[-1]["tuned"]


def test_shares_of_sensitive_and_other_modules_make_a_whole():
    settings = {**study.arms("quick")["SGD"], "model": "cnn(width=4, depth=2)"}
    found = study.measure(settings, 0)
    assert set(found["tuned"]) == set(TUNED)
    shares = {what: found["tuned"][what]["share"] for what in TUNED}
    assert shares["all"] == 1
    assert shares["sensitive"] + shares["insensitive"] == pytest.approx(1)
    assert found["tuning_flops"] == found["fine_tunings"] == 0
    triggered = study.measure({**settings, "method": "k_fpf", "tuned": []}, 0)
    assert 0 < triggered["tuning_flops"] < triggered["flops"]
    assert triggered["fine_tunings"] >= 2
    assert triggered["flops"] - triggered["tuning_flops"] == found["flops"]


def test_ranks_go_from_the_highest_score_to_the_lowest():
    run = {"scores": {"head": 9.0, "norm-1": 4.0, "norm-2": 2.0, "convolution-1": 3.0, "x-1": 1.0}}
    assert study.ranks(run)["head"] == 0
    assert study.rank_of(run, "norm") == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert study.rank_of(run, "convolution") == pytest.approx(2 / 4)


def test_names_mean_an_arm_or_what_was_tuned_after_it():
    run = {"accuracy": 0.2, "flops": 100.0, "tuned": {"head": {"accuracy": 0.5, "flops": 7.0}}}
    results = Results({"SGD": [run]})
    assert study.accuracy(results, "SGD") == [0.2]
    assert study.accuracy(results, with_fpf("SGD", "head")) == [0.5]
    assert study.operations(results, "SGD") == [100.0]
    assert study.operations(results, with_fpf("SGD", "head")) == [107.0]


def made(good):
    """Results by hand in which the better arm of every claim is better, or worse."""
    sign = 1 if good else -1
    order = ["insensitive", "random", "head", "norm head", "all", "sensitive"]

    def one(arm, place):
        kind = arm.partition(",")[0]
        base = {"SGD": 0.2, "ER": 0.6, "DER++": 0.6}.get(kind, 0.75 if good else 0.3)
        if "CE" in kind:
            base -= 0.05 * sign
        near = {"head": 3.0, "norm-1": 2.0, "convolution-1": 1.0, "convolution-2": 0.5}
        scores = near if good else {name: -value for name, value in near.items()}
        step = {what: 0.3 + 0.005 * k for k, what in enumerate(order)}
        if not good:
            step = {what: -0.05 * k for k, what in enumerate(order)}
            step["norm head"] = step["sensitive"] - 0.1
            step["all"] = step["sensitive"] + 0.1
        return {
            "accuracy": base + 0.0001 * place,
            "flops": {"SGD": 100.0, "ER": 200.0, "DER++": 300.0}.get(
                kind, 140.0 if good else 250.0
            ),
            "scores": scores,
            "changes": scores,
            "tuned": {
                what: {
                    "accuracy": base + (1.0 if kind == "SGD" or not good else 0.1) * step[what],
                    "share": 0.2 if good else 0.7,
                    "flops": 20.0 if good else 90.0,
                }
                for what in order
            },
        }

    return Results({arm: [one(arm, p) for p in range(3)] for arm in study.ARMS})


@pytest.mark.parametrize("good", [True, False])
def test_every_claim_can_be_reproduced_and_can_fail(good):
    for claim in study.CLAIMS:
        verdict = claim.judge(made(good))
        for finding in verdict.findings:
            assert finding.holds == good, (finding.rule, finding.shown)
