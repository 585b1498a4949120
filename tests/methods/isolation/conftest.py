"""What the tests of isolation share: the answers to every task's test set, to be compared."""

import pytest
import torch

from holdfast.evaluation import undisturbed
from holdfast.learner import Observer


def answers(learner, stream):
    """Logits in use of every experience's own classes, on its test set."""
    with undisturbed(learner.model, learner.method):
        found = [(e, learner.predict(e.test[torch.arange(len(e.test))])) for e in stream]
    # A growing head has no rows yet for what is to come.
    return [logits[:, list(e.classes)] for e, logits in found if max(e.classes) < len(logits[0])]


class Answers(Observer):
    """What a learner answers to every task after each experience, and after every few steps."""

    def __init__(self, stream, every=None):
        self.stream, self.every = stream, every
        self.after, self.within = [], []

    def on_step(self, learner):
        if self.every and learner.step % self.every == 0:
            self.within.append((learner.index, answers(learner, self.stream)))

    def on_experience(self, learner):
        self.after.append(answers(learner, self.stream))


@pytest.fixture
def answering():
    return Answers
