"""What the tests of methods share: a small stream whose examples have ids, and ways to look on."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from holdfast.learner import Learner
from holdfast.method import Method
from holdfast.models import build
from holdfast.testing import small_stream


@pytest.fixture
def numbered():
    """From a kind of stream to three small experiences of digits, every training row with an id."""

    def make(scenario="class", per_experience=40):
        stream = small_stream(scenario, per_experience)
        experiences = [
            replace(
                e,
                train=e.train.with_columns(id=torch.arange(len(e.train)) + 1000 * e.index),
            )
            for e in stream
        ]
        return replace(stream, experiences=experiences)

    return make


@pytest.fixture
def watching():
    """A method that does what it is told at the hooks it is given, to look on in a chain."""

    def make(**hooks):
        return type("Watching", (Method,), hooks)()

    return make


@pytest.fixture
def learned():
    """A learner that has learned a stream by a method."""

    def make(stream, method, model="mlp(width=16, depth=1)", head="full", lr=0.05, **options):
        if isinstance(model, str):
            model = build(model, stream, head=head, seed=1)
        options = {"epochs": 2, "batch_size": 10, "seed": 0, **options}
        options.setdefault("optimizer", partial(torch.optim.SGD, lr=lr))
        learner = Learner(model, method, **options)
        learner.learn(stream)
        return learner

    return make
