"""The study of NPO: a trial of all of it, its measures, and what it holds constant."""

import io
from itertools import pairwise

import pytest
import torch
from rich.console import Console

from holdfast import studies
from holdfast.studies import npo, npo_features, npo_figures
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("npo")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("npo", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim_and_a_row_for_every_arm(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in npo.CLAIMS]
    report = (out / "report.md").read_text()
    assert all(f"\n| {arm} |" in report for arm in npo_figures.LOSSES)
    names = sorted(["points", "trade", *npo_figures.DRAWN])
    assert sorted(p.stem for p in (out / "figures").iterdir()) == names


def test_arms_of_the_second_part_differ_in_their_loss_its_rate_and_looks_alone():
    arms = npo.arms("data")
    language = [arms[arm] for arm in npo_figures.LOSSES]
    own = {"method", "lr", "looks", "asked"}
    for other in language[1:]:
        assert {k for k in other if other[k] != language[0][k]} <= own


def test_arms_that_are_compared_have_one_learning_rate():
    rates = {npo_figures.LOSSES[arm][1] for arm in npo_figures.FOLLOWED}
    assert len(rates) == 1


def test_the_fit_is_logistic_regressions():
    """Against scikit-learn, on a problem small enough to converge."""
    from sklearn.linear_model import LogisticRegression

    draw = torch.Generator().manual_seed(0)
    points = torch.randn(200, 3, generator=draw, dtype=torch.float64)
    chance = (points[:, 0] - 0.5 * points[:, 1]).sigmoid()
    signs = 2.0 * (torch.rand(200, generator=draw) < chance).double() - 1
    counted = torch.stack([torch.ones(200), (torch.arange(200) < 120).float()]).double()
    found = npo_features.fit(points, signs, counted, 5000, 0.5)
    for weights, rows in zip(found, (200, 120), strict=True):
        fitted = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-8)
        fitted.fit(points[:rows].numpy(), signs[:rows].numpy())
        assert weights.tolist() == pytest.approx(fitted.coef_[0].tolist(), rel=1e-2, abs=1e-3)


def test_drift_by_hand_is_that_of_autograd():
    given = npo_features.problem(1.0, 0, fit_steps=100)
    found = npo_features.drifts(given, steps=3, every=3)
    for name in ("GA", "0.5"):
        weights = given.fitted.clone().requires_grad_()
        before = torch.nn.functional.logsigmoid(
            given.forget.matmul(given.fitted) * given.forget_sign
        )
        for _ in range(3):
            now = torch.nn.functional.logsigmoid(given.forget.matmul(weights) * given.forget_sign)
            loss = now.mean()
            if name != "GA":
                ratio = (now - before).exp() ** 0.5
                loss = (2 / 0.5 * torch.log1p(ratio)).mean()
            (gradient,) = torch.autograd.grad(loss, weights)
            weights = (weights - npo_features.EQUAL_RATE * gradient).detach().requires_grad_()
        distance = (weights - given.fitted).norm().item()
        assert found[name][-1] == pytest.approx(distance, rel=1e-6)


def test_at_first_all_losses_stand_where_the_fit_does():
    given = npo_features.problem(0.0, 1, fit_steps=50)
    ways = npo_features.unlearn(given, npo_features.SETTINGS["overlapping"], steps=1, every=1)
    starts = {(way["forget"][0], way["retain"][0]) for way in ways.values()}
    assert len(starts) == 1
    # In the first step a KL term has no gradient, nor has KTO's reference; all else differs.
    moved = {name: way["forget"][1] for name, way in ways.items()}
    alike = [("GA", "KL"), ("NPO", "NPO+KL", "KTO"), ("DPO", "DPO+KL")]
    for first, *others in alike:
        for other in others:
            assert moved.pop(other) == pytest.approx(moved[first], rel=1e-9)
    apart = sorted(moved.values())
    assert len(apart) == 7
    assert all(after - before > 1e-6 for before, after in pairwise(apart))


def test_growth_of_a_straight_line_is_1():
    line = [float(step) for step in range(101)]
    root = [step**0.5 for step in range(101)]
    run = {"drift": {"GA": line, **{f"{beta:g}": root for beta in npo_features.BETAS}}}
    results = Results({npo_figures.APART: [run, run]})
    assert npo_figures.growth(results, "GA") == pytest.approx([1.0, 1.0])
    assert npo_figures.growth(results, "1") == pytest.approx([0.5, 0.5])
    assert npo._least_step(results) == pytest.approx([0.0, 0.0])
