"""What the tests of adaptation share: a small classifier with batch normalisation, and batches."""

import copy

import pytest
import torch
from torch import nn

from holdfast.adapt import TestTimeAdapter
from holdfast.models import CNN


@pytest.fixture
def model():
    """Trained for a moment, so that its statistics are its own."""
    torch.manual_seed(0)
    made = nn.Sequential(CNN(channels=3, width=4, depth=2), nn.Linear(8, 5))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(10):
        x, y = torch.rand(16, 3, 8, 8), torch.arange(16) % 5
        x[torch.arange(16), y % 3] += y.view(-1, 1, 1) / 3
        nn.functional.cross_entropy(made(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


@pytest.fixture
def batches():
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(12, 3, 8, 8, generator=draw) ** (k + 1) for k in range(4)]


@pytest.fixture
def adapter(model):
    """An adapter of a copy of the model."""

    def make(method, **options):
        return TestTimeAdapter(copy.deepcopy(model), method, **options)

    return make
