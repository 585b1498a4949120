"""Normalisation layers: statistics of the batch, by hand, and which parameters adapt."""

import copy

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.models import CNN
from holdfast.models.norms import (
    affine,
    by_batch,
    fix_statistics,
    own_statistics,
    use_batch_statistics,
)


@pytest.fixture
def trained():
    """A network whose running statistics are not those it was built with."""
    torch.manual_seed(0)
    model = nn.Sequential(CNN(channels=3, width=4, depth=2), nn.Linear(8, 5))
    for _ in range(3):
        model(3 + 2 * torch.randn(16, 3, 8, 8))
    return model.eval()


def test_batch_statistics_are_those_of_training_mode(trained):
    x = torch.randn(12, 3, 8, 8)
    expected = copy.deepcopy(trained).train()(x)
    assert use_batch_statistics(trained) == 2
    assert by_batch(trained)
    torch.testing.assert_close(trained.eval()(x), expected)
    torch.testing.assert_close(trained.train()(x), expected)


def test_no_buffer_changes_and_names_stay(trained):
    before = copy.deepcopy(trained.state_dict())
    use_batch_statistics(trained)
    trained.train()(torch.randn(12, 3, 8, 8))
    after = trained.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("prior", [0, 4, 16, 1e9])
def test_a_prior_mixes_by_the_number_of_examples(prior):
    layer = nn.Sequential(nn.BatchNorm2d(2))
    with torch.no_grad():
        layer[0].running_mean.copy_(torch.tensor([1.0, -1.0]))
        layer[0].running_var.copy_(torch.tensor([4.0, 0.25]))
        layer[0].weight.copy_(torch.tensor([2.0, 3.0]))
        layer[0].bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.randn(8, 2, 3, 3) * 2 + 1
    use_batch_statistics(layer, prior)
    own, batch = prior / (prior + 8), 8 / (prior + 8)
    for channel in range(2):
        values = x[:, channel]
        mean = own * [1.0, -1.0][channel] + batch * values.mean()
        variance = own * [4.0, 0.25][channel] + batch * values.var(correction=0)
        normal = (values - mean) / (variance + 1e-5).sqrt()
        expected = normal * [2.0, 3.0][channel] + [0.5, 0.0][channel]
        torch.testing.assert_close(layer(x)[:, channel], expected)


def test_own_statistics_come_back_for_a_while(trained):
    x = torch.randn(4, 3, 8, 8)
    plain = trained(x)
    use_batch_statistics(trained)
    with own_statistics(trained):
        assert not by_batch(trained)
        torch.testing.assert_close(trained(x), plain)
    assert not torch.allclose(trained(x), plain)


def test_gradients_pass_through_the_statistics_as_in_training(trained):
    x = torch.randn(6, 3, 8, 8)
    other = copy.deepcopy(trained).train()
    use_batch_statistics(trained)
    trained(x).square().sum().backward()
    other(x).square().sum().backward()
    for ours, theirs in zip(trained.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_single_value_a_channel_is_refused():
    layer = nn.Sequential(nn.BatchNorm1d(3))
    use_batch_statistics(layer)
    with pytest.raises(UsageError, match="needs batches of more than one example"):
        layer(torch.randn(1, 3))


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(UsageError, match="prior must be at least 0; given: -1"):
        use_batch_statistics(nn.Sequential(nn.BatchNorm1d(3)), -1)
    with pytest.raises(UsageError, match="keeps no statistics of its own"):
        use_batch_statistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), 2)


def test_scales_and_shifts_of_all_kinds_are_found():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    model = nn.ModuleDict(
        {
            "batch": nn.BatchNorm2d(2),
            "layer": nn.LayerNorm(2),
            "group": nn.GroupNorm(1, 2),
            "instance": nn.InstanceNorm2d(2, affine=True),
            "rms": LlamaRMSNorm(2),
            "plain": nn.LayerNorm(2, elementwise_affine=False),
            "linear": nn.Linear(2, 2),
        }
    )
    found = affine(model)
    both = [f"{n}.{p}" for n in ("batch", "layer", "group", "instance") for p in ("weight", "bias")]
    assert list(found) == [*both, "rms.weight"]
    use_batch_statistics(model)
    assert list(affine(model)) == [*both, "rms.weight"]
    assert affine(nn.Linear(2, 2)) == {}


def test_fixed_statistics_answer_in_training_as_in_evaluation_and_never_change(trained):
    x = torch.randn(12, 3, 8, 8)
    expected, state = trained(x), {n: t.clone() for n, t in trained.state_dict().items()}
    scales = list(affine(trained))
    assert fix_statistics(trained) == fix_statistics(trained) == 2
    trained.train()
    assert torch.equal(trained(x), expected)
    assert list(trained.state_dict()) == list(state)
    assert all(torch.equal(t, state[n]) for n, t in trained.state_dict().items())
    assert list(affine(trained)) == scales
    assert not by_batch(trained)


def test_statistics_that_are_not_kept_cannot_be_fixed():
    with pytest.raises(UsageError, match="keeps no statistics"):
        fix_statistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))
