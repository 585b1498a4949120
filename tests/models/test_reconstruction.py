"""Autoencoders side by side, against each of them by itself."""

import pytest
import torch
import torch.nn.functional as F

from holdfast.models.reconstruction import Autoencoders


def groups(count=3, rows=150, numbers=12):
    """Numbers from 0 to 1 about a middle of each group's own."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.rand(count, 1, numbers, generator=generator)
    noise = 0.05 * torch.randn(count, rows, numbers, generator=generator)
    return (middles + noise).clamp(0.0, 1.0)


@pytest.fixture(scope="module")
def bank():
    generator = torch.Generator().manual_seed(1)
    made = Autoencoders(epochs=30, rate=0.1)
    for rows in groups():
        made.learn(rows[:100], 3, generator)
    return made


def by_itself(bank, number, z):
    weight, bias = bank.inward[number, :-1], bank.inward[number, -1]
    back, shift = bank.outward[number, :-1], bank.outward[number, -1]
    return torch.sigmoid(F.relu(z @ weight + bias) @ back + shift)


def test_errors_are_squared_distances_of_each_autoencoder(bank):
    z = groups()[1, 100:]
    expected = torch.stack([(by_itself(bank, k, z) - z).square().sum(1) for k in range(3)], 1)
    torch.testing.assert_close(bank.errors(z), expected)


def test_an_example_is_reconstructed_best_by_the_autoencoder_of_its_group(bank):
    for number, rows in enumerate(groups()):
        assert (bank.errors(rows[100:]).argmin(1) == number).float().mean() > 0.95


def test_training_lowers_the_cross_entropy_and_leaves_earlier_ones_alone(bank):
    rows = groups()[0]
    generator = torch.Generator().manual_seed(1)
    short = Autoencoders(epochs=1, rate=0.1)
    short.learn(rows[:100], 3, generator)
    losses = [
        float(F.binary_cross_entropy(by_itself(one, 0, rows[100:]), rows[100:]))
        for one in (short, bank)
    ]
    assert losses[1] < losses[0]
    before = bank.inward[0].clone()
    again = Autoencoders(epochs=1, rate=0.1)
    again.load_state_dict(bank.state_dict())
    again.learn(rows[:100], 3, generator)
    assert len(again) == 4
    assert torch.equal(again.inward[0], before)


def test_a_step_is_adagrads_on_the_cross_entropy_of_every_number():
    z = groups()[0][:100]  # one batch
    first, trained = (Autoencoders(epochs=epochs, rate=0.1) for epochs in (0, 2))
    for bank in (first, trained):
        bank.learn(z, 3, torch.Generator().manual_seed(4))
    z, weights = z.double(), [first.inward[0].double(), first.outward[0].double()]
    squares = [torch.zeros_like(weight) for weight in weights]
    for _ in range(2):
        ones = torch.ones(100, 1, dtype=torch.float64)
        inputs = torch.cat([z, ones], 1)
        sums = inputs @ weights[0]
        code = torch.cat([sums.relu(), ones], 1)
        made = torch.sigmoid(code @ weights[1])
        off = (made - z) / z.numel()  # of the mean cross-entropy by the last layer's sums
        back = (off @ weights[1][:-1].T) * (sums > 0)
        for k, slope in enumerate((inputs.T @ back, code.T @ off)):
            squares[k] += slope.square()
            weights[k] = weights[k] - 0.1 * slope / (squares[k].sqrt() + 1e-10)
    torch.testing.assert_close(trained.inward[0].double(), weights[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trained.outward[0].double(), weights[1], rtol=1e-4, atol=1e-5)
