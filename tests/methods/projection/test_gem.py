"""GEM."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain
from holdfast.methods import GEM


def flat(tensors):
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


def nearest(g, references, margin):
    """The programme by trying every set of constraints, as the paper's equation 11 has it."""
    gram = references @ references.T
    gram += (1e-3 + 1e-6 * gram.max()) * np.eye(len(gram))
    overlaps, best, least = references @ g, None, np.inf
    for free in product([False, True], repeat=len(gram)):
        free = np.array(free)
        v = np.full(len(gram), margin)
        if free.any():
            right = -overlaps[free] - gram[np.ix_(free, ~free)] @ v[~free]
            v[free] = np.linalg.solve(gram[np.ix_(free, free)], right)
        value = v @ gram @ v / 2 + overlaps @ v
        if (v >= margin - 1e-12).all() and value < least:
            best, least = v, value
    return g + best @ references


@pytest.mark.parametrize(
    ("scenario", "model", "margin"),
    [
        ("class", "mlp(width=16, depth=1)", 0.0),
        ("domain", "mlp(width=16, depth=1)", 0.5),
        ("domain", "cnn(width=4, depth=2)", 0.0),
    ],
)
def test_the_gradient_is_the_nearest_that_opposes_no_earlier_experience(
    numbered, learned, watching, scenario, model, margin
):
    method, plain, conflicts = GEM(capacity=1000, margin=margin), {}, []

    def before(self, learner):
        plain["g"] = flat(p.grad for p in learner.parameters)

    def after(self, learner):
        g, found = plain["g"], flat(p.grad for p in learner.parameters)
        if not learner.index:
            assert np.array_equal(found, g), "there is no reference yet"
            return
        references = []  # all of memory is in use, so these are the gradients on all past examples
        for experience in learner.stream.experiences[: learner.index]:
            table = experience.train
            loss = F.cross_entropy(learner.model(table["x"]), table["y"])
            references.append(flat(torch.autograd.grad(loss, learner.parameters)))
        references = np.stack(references)
        against = (references @ g < 0).any()
        conflicts.append(bool(against))
        if not against:
            assert np.array_equal(found, g)
            return
        expected = nearest(g, references, margin)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
        lengths = np.linalg.norm(references, axis=1) * np.linalg.norm(found)
        assert (references @ found >= -2e-3 * (1 + lengths)).all()

    look = (watching(gradients=before), method, watching(gradients=after))
    learned(numbered(scenario), chain(*look), model=model, epochs=4)
    assert any(conflicts)
    if scenario == "domain":
        assert not all(conflicts)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [("shrinking", [[24], [12, 12], [8, 8, 8]]), ("fixed", [[8], [8, 8], [8, 8, 8]])],
)
def test_the_capacity_is_shared_equally_among_experiences(
    numbered, learned, watching, shares, expected
):
    counts, ids = [], []

    def end(self, learner, experience):
        counts.append(list(gem.memory.counts))
        ids.append(gem.memory.held["id"] // 1000)

    gem = GEM(capacity=24, shares=shares)
    learned(numbered(), chain(gem, watching(end=end)), epochs=1)
    assert counts == expected
    assert all((held == torch.arange(len(held))[:, None]).all() for held in ids)


def test_a_margin_improves_earlier_experiences_where_none_only_spares_them(numbered, learned):
    def kept(margin):
        learner = learned(numbered(), GEM(capacity=120, margin=margin), epochs=4)
        return learner.record.matrix[-1][0]

    assert kept(1.0) > kept(0.0)


def test_bad_arguments_and_streams_too_long_for_the_capacity_are_refused(numbered, learned):
    with pytest.raises(UsageError, match=r"margin must be at least 0; given: -1\.0\."):
        GEM(margin=-1.0)
    with pytest.raises(UsageError, match=r"shares must be one of shrinking, fixed; given: 'x'\."):
        GEM(shares="x")
    with pytest.raises(UsageError, match="capacity must be at least 1; given: 0"):
        GEM(capacity=0)
    with pytest.raises(StreamRefused, match="'small-class' has 3: give it a capacity of at least"):
        learned(numbered(), GEM(capacity=2))
