"""The source as it is, and with the statistics of the batch."""

import copy

import pytest
import torch
from torch import nn

from holdfast.adapt import TestTimeAdapter
from holdfast.errors import StreamRefused, UsageError
from holdfast.methods import BNAdapt


def test_the_source_answers_as_in_evaluation_mode_and_stays(model, batches, adapter):
    source = adapter("source")
    for x in batches:
        torch.testing.assert_close(source.predict(x), model(x).detach())
    now, before = source.model.state_dict(), model.state_dict()
    assert all(torch.equal(now[name], before[name]) for name in before)
    assert not source.learns


def test_bn_adapt_answers_by_the_batch_and_changes_nothing(model, batches, adapter):
    adapted = adapter("bn_adapt")
    for x in batches:
        other = copy.deepcopy(model).train()
        torch.testing.assert_close(adapted.predict(x), other(x).detach())
    now, before = adapted.model.state_dict(), model.state_dict()
    assert all(torch.equal(now[name], before[name]) for name in before)


def test_a_large_prior_is_the_source(model, batches, adapter):
    torch.testing.assert_close(
        adapter(BNAdapt(prior=1e9)).predict(batches[0]), model(batches[0]).detach()
    )


def test_what_has_no_batch_normalisation_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 3))
    with pytest.raises(StreamRefused, match="batch normalisation, and Sequential has none; tent"):
        TestTimeAdapter(net, BNAdapt()).predict(torch.rand(4, 3, 2, 2))


def test_a_negative_prior_is_refused():
    with pytest.raises(UsageError, match="prior must be at least 0; given: -1"):
        BNAdapt(prior=-1.0)
