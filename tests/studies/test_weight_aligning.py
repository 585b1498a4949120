"""The weight-aligning study: a trial of all of it, its measures, and its verdicts both ways."""

import io

import pytest
from rich.console import Console

from holdfast import models, streams, studies
from holdfast.learner import Learner
from holdfast.methods import WA
from holdfast.metrics import Errors
from holdfast.studies import weight_aligning
from holdfast.studies.study import Results
from holdfast.studies.weight_aligning import Confusions


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("wa")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("weight-aligning", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


def test_a_trial_gives_a_verdict_for_every_claim_and_the_ratio_beside_every_arm(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in weight_aligning.CLAIMS]
    report = (out / "report.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| KD + WA |")]
    assert len(rows) == 2
    assert rows[0].count("±") == 4
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["accuracy", "norms"]


def test_the_arms_are_those_that_the_paper_compares_and_one_thing_apart():
    arms = weight_aligning.arms("data")
    for plain, aligned in weight_aligning.ALIGNED.items():
        differing = {k for k in arms[plain] if arms[plain][k] != arms[aligned][k]}
        assert differing == {"align"}
    assert arms["KD + WA"]["clip_weights"]
    assert not arms["KD + WA, not clipped"]["clip_weights"]
    assert arms["KD + WA, no exemplars"]["exemplars"] == 0


def measured(**changes):
    settings = {**weight_aligning.arms("quick")["KD + WA"], **changes}
    return weight_aligning.measure(settings, 0)


def test_alignment_brings_the_mean_norms_together_and_leaves_old_rows_alone():
    found = measured()
    new = found["new_classes"]
    before, after = found["norms"], found["aligned_norms"]
    old = before[:-new]
    assert after[:-new] == old
    assert sum(after[-new:]) / new == pytest.approx(sum(old) / len(old), rel=1e-5)
    factors = [a / b for a, b in zip(after[-new:], before[-new:], strict=True)]
    assert factors == pytest.approx([found["gammas"][-1]] * new, rel=1e-5)
    assert found["ratios"][-1] == pytest.approx(1 / found["gammas"][-1])


def test_a_head_without_bias_is_trained_without_one():
    assert 0 <= measured(bias=False)["accuracy"] <= 1


def test_error_rates_are_shares_of_what_was_shown_averaged_over_experiences():
    confusions = Confusions()
    confusions.counts = [Errors(1, 2, 0, 4), Errors(3, 0, 5, 0)]
    confusions.shown = [(10, 8), (20, 10)]
    assert confusions.rates() == pytest.approx(
        {
            "old_as_old": (1 / 10 + 3 / 20) / 2,
            "old_as_new": (2 / 10 + 0) / 2,
            "new_as_old": (0 + 5 / 10) / 2,
            "new_as_new": (4 / 8 + 0) / 2,
        }
    )


def test_the_four_kinds_of_error_add_up_to_what_the_matrix_says():
    stream = streams.build("split-digits(limit=60, experiences=3)", seed=0)
    learner = Learner(models.build("mlp(width=16)", stream, "growing", seed=0), WA(exemplars=20))
    confusions = Confusions()
    record = learner.learn(stream, [confusions])
    sizes = [len(experience.test) for experience in stream]
    wrong = sum(n * (1 - r) for n, r in zip(sizes, record.matrix[-1], strict=True))
    assert sum(confusions.counts[-1]) == pytest.approx(wrong, abs=1e-3)
    assert confusions.shown[-1] == (sizes[0] + sizes[1], sizes[2])


def made(good):
    """Results by hand in which the better arm of every claim is better, or worse."""
    order = ["CE", "CE + WA", "KD", "KD + unit norms", "KD + WA"]

    def one(arm, place):
        base, _, variant = arm.partition(", ")
        rank = order.index(base) if base in order else 0
        rank += {"": 0, "not clipped": -1, "no bias": 0, "no exemplars": -1}.get(variant, 0)
        if arm == "KD + WA, no bias":
            rank += 1
        step = (0.05 if good else -0.05) * rank
        return {
            "accuracy": 0.5 + step + 0.001 * place,
            "anytime_accuracy": 0.5 + step,
            "ratio": 1.5 if good else 0.9,
            "errors": {"old_as_old": 0.3 - step, "old_as_new": 0.3 - step},
        }

    return Results({arm: [one(arm, p) for p in range(3)] for arm in weight_aligning.ARMS})


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in weight_aligning.CLAIMS} == {
        c.text: decision for c in weight_aligning.CLAIMS
    }
