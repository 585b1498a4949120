"""What the tests of adapter methods share: small runs on bytes of Python's documentation."""

from functools import partial

import pytest
import torch

from holdfast.learner import Learner
from holdfast.testing import small_stream
from holdfast.testing.trials import small_llama


@pytest.fixture
def text():
    """Three topics of Python's documentation, rows padded on the right."""
    return small_stream("text", 24)


@pytest.fixture
def tuned():
    """A learner that has learned a stream of text by a method."""

    def make(stream, method, model=None, **options):
        options = {"epochs": 2, "batch_size": 8, "seed": 0, "pretrained": True, **options}
        options.setdefault("optimizer", partial(torch.optim.Adam, lr=0.01))
        learner = Learner(small_llama() if model is None else model, method, **options)
        learner.learn(stream)
        return learner

    return make
