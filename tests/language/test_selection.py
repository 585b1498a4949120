"""Choosing examples by their scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.language.example_scores import ExampleScores
from holdfast.language.selection import RULES, SIGNALS, landscape, select


def scores_of(embedding, head=None, **others):
    n = len(embedding)
    given = {
        "id": torch.arange(n),
        "embedding": torch.as_tensor(embedding, dtype=torch.double),
        "head": torch.as_tensor(embedding if head is None else head, dtype=torch.double),
        "loss": torch.rand(n, generator=torch.Generator().manual_seed(3)).double(),
        "error": torch.rand(n, generator=torch.Generator().manual_seed(4)).double(),
        "length": torch.full((n,), 7),
        "content": torch.arange(n),
        **others,
    }
    return ExampleScores(**given)


def log_normal(n, seed=0):
    return np.exp(np.random.default_rng(seed).normal(size=n))


def two_sided(n, seed=0):
    draw = np.random.default_rng(seed)
    e = draw.normal(size=n)
    return scores_of(np.exp(e), np.exp(0.7 * e + 0.4 * draw.normal(size=n)))


def test_the_magnitude_is_the_mean_of_the_standardised_logarithms():
    scores = two_sided(50)
    z = [np.log(v.numpy()) for v in (scores.embedding, scores.head)]
    z = [(v - v.mean()) / v.std() for v in z]
    c = (z[0] + z[1]) / 2
    np.testing.assert_allclose(landscape(scores).magnitude, c / c.std(), atol=1e-12)


def test_a_density_of_a_normal_signal_has_its_mode_and_cutoff_where_theory_puts_them():
    found = landscape(scores_of(log_normal(20_000)), kappa=0.05)
    assert abs(found.mode) < 0.2
    # exp(-x^2 / 2) = 0.05, widened by the kernels
    assert found.cutoff == pytest.approx(np.sqrt(-2 * np.log(0.05)), abs=0.25)
    assert found.inside.mean() == pytest.approx(0.5, abs=0.08)


def test_densities_are_scipys_own():
    from scipy.stats import gaussian_kde

    scores = scores_of(log_normal(300))
    found = landscape(scores, bandwidth="silverman")
    expected = gaussian_kde(found.magnitude, bw_method="silverman")(found.magnitude)
    np.testing.assert_allclose(found.density, expected, rtol=2e-3)


def test_without_a_budget_the_density_says_how_many():
    scores = scores_of(log_normal(400))
    found = landscape(scores)
    chosen = select(scores)
    assert chosen.tolist() == np.flatnonzero(found.inside).tolist()
    # less is inside where more must be dense
    assert len(select(scores, kappa=0.5)) < len(chosen)
    for rule in RULES:
        assert len(select(scores, rule=rule)) == len(chosen)


def test_noise_far_above_the_others_is_left_for_last():
    values = np.concatenate([log_normal(200), np.exp(np.linspace(7, 8, 20))])
    scores = scores_of(values)
    noise = set(range(200, 220))
    assert not noise & set(select(scores).tolist())
    assert not noise & set(select(scores, budget=200 / 220).tolist())
    assert noise <= set(select(scores, budget=0.5, rule="topk_magnitude").tolist())


def test_the_score_is_the_product_of_ranks_inside_the_window():
    from scipy.stats import rankdata

    scores = two_sided(120)
    found = landscape(scores)
    s = rankdata(found.magnitude) / 120 * rankdata(found.density) / 120
    inside = np.flatnonzero(found.inside)
    best = sorted(inside, key=lambda i: -s[i])[:12]
    assert select(scores, 0.1).tolist() == sorted(best)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 50), budgets=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)))
@settings(max_examples=15, deadline=None)
def test_a_budget_is_kept_and_rows_are_distinct_and_in_order(rule, seed, budgets):
    scores = two_sided(60, seed)
    few, many = sorted(budgets)
    smaller, larger = (select(scores, b, rule, seed=seed) for b in (few, many))
    for budget, chosen in ((few, smaller), (many, larger)):
        assert len(chosen) == max(1, round(budget * 60))
        assert chosen.tolist() == sorted(set(chosen.tolist()))
    if rule != "stratified":  # whose shares are rounded anew for every budget
        assert set(smaller.tolist()) <= set(larger.tolist())
    assert torch.equal(smaller, select(scores, few, rule, seed=seed))


@pytest.mark.parametrize(("rule", "column"), [("loss", "loss"), ("el2n", "error")])
def test_baselines_take_the_largest(rule, column):
    scores = two_sided(50)
    expected = getattr(scores, column).topk(5).indices.sort().values
    assert torch.equal(select(scores, 0.1, rule), expected)


def test_strata_get_shares_in_proportion_to_their_density():
    scores = scores_of(log_normal(1000))
    found = landscape(scores)
    chosen = set(select(scores, 0.2, "stratified").tolist())
    tenths = np.array_split(np.argsort(found.magnitude, kind="stable"), 10)
    weight = np.array([found.density[tenth].sum() for tenth in tenths])
    expected = 200 * weight / weight.sum()
    counts = [len(chosen & set(tenth.tolist())) for tenth in tenths]
    assert np.abs(counts - expected).max() <= 1


def test_random_choices_follow_the_seed():
    scores = two_sided(80)
    first, again, other = (select(scores, 0.3, "random", seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_length_that_explains_a_score_is_reported_and_taken_away():
    length = torch.arange(5, 105)
    noise = np.random.default_rng(0).normal(size=100)
    scores = scores_of(np.exp(np.log(length.numpy()) + 0.2 * noise), length=length)
    assert landscape(scores).length_correlation > 0.8
    freed = landscape(scores, regress_length=True).magnitude
    assert abs(np.corrcoef(freed, np.log(length.numpy()))[0, 1]) < 1e-9


def test_repetitions_come_after_all_others_on_request():
    content = torch.arange(60)
    content[30:] = content[:30]
    scores = scores_of(log_normal(60), content=content)
    assert len(set(content[select(scores, 0.5, distinct=True)].tolist())) == 30
    assert len(set(content[select(scores, 0.5)].tolist())) < 30


def test_examples_of_which_nothing_is_asked_are_never_preferred():
    values = log_normal(40)
    values[[3, 4]] = 0.0
    length = torch.full((40,), 7)
    length[[3, 4]] = 0
    scores = scores_of(values, length=length)
    for rule in RULES:
        assert not {3, 4} & set(select(scores, 0.95, rule).tolist())
    with pytest.raises(UsageError, match="nothing is asked"):
        select(scores_of([0.0, 0.0]))


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_signal_leaves_an_outlier_on_both_sides_out(signal):
    scores = two_sided(300)
    scores.embedding[7] = scores.head[7] = 1e4
    assert 7 not in select(scores, signal=signal).tolist()


def test_the_plane_tells_an_outlier_that_neither_side_shows():
    draw = np.random.default_rng(0)
    e = draw.normal(size=400)
    h = e + 0.05 * draw.normal(size=400)
    e[0], h[0] = 1.2, -0.6  # each common by itself; together unheard of; their mean is inside
    scores = scores_of(np.exp(e), np.exp(h))
    assert landscape(scores).inside[0]
    assert not landscape(scores, signal="both").inside[0]


def test_examples_that_are_all_alike_are_all_chosen():
    assert len(select(scores_of(np.full(9, 0.1)))) == 9
    assert len(select(scores_of([0.5]))) == 1


def test_two_sides_on_a_line_have_no_density_in_the_plane():
    with pytest.raises(UsageError, match="use signal='mean'"):
        select(scores_of(log_normal(30)), signal="both")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rule": "grad"}, "no rule 'grad'. Did you mean 'grads'"),
        ({"budget": 0.0}, "budget must be above 0 and at most 1; given: 0.0"),
        ({"budget": 20}, "budget must be above 0 and at most 1; given: 20"),
        ({"signal": "heads"}, "Did you mean 'head'"),
        ({"bandwidth": "scot"}, "Did you mean 'scott'"),
        ({"kappa": 1.0}, "kappa must lie between 0 and 1"),
    ],
)
def test_what_is_not_accepted_is_named(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        select(two_sided(20), **options)


def test_many_examples_cost_a_linear_pass():
    scores = scores_of(log_normal(200_000))
    found = landscape(scores)  # kernels at every example would take minutes
    assert np.isfinite(found.density).all()
