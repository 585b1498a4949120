"""Experience replay with asymmetric cross-entropy."""

import math
from dataclasses import replace

import pytest
import torch

from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain
from holdfast.methods import ER, ERACE


class Noted(ERACE):
    """ER-ACE that keeps its draws for inspection."""

    def draw(self, learner):
        self.draws.append(super().draw(learner))
        return self.draws[-1]


def noted(**arguments):
    method = Noted(**arguments)
    method.draws = []
    return method


def cross_entropy(logits, labels, classes):
    """The mean over rows of the cross-entropy of a softmax over some classes, row by row."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total += math.log(sum(math.exp(row[c] - row[label]) for c in classes))
    return total / len(labels)


def comparing(method, compared, rows=slice(None)):
    """A hook that computes the loss by its formula, given what was met and drawn before."""
    met = set()

    def loss(self, learner, batch, outputs, loss):
        y = batch["y"][rows]
        present = set(y.tolist())
        unmet = set(range(outputs.shape[1])) - met - present
        met.update(present)
        width = range(outputs.shape[1])
        draws, method.draws[:] = list(method.draws), []
        if not method.task_free and learner.index == 0:
            assert not draws
            expected = cross_entropy(outputs, y, width)
        else:
            expected = cross_entropy(outputs[rows], y, sorted(present | unmet))
            (far,) = draws
            if far:
                expected += cross_entropy(learner.model(far["x"]), far["y"], width)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        compared.append((learner.index, len(present), len(unmet)))
        return loss

    return loss


@pytest.mark.parametrize("task_free", [False, True])
@pytest.mark.parametrize("head", ["full", "growing"])
def test_the_mean_over_the_batchs_classes_and_that_over_replay_are_added(
    numbered, learned, watching, task_free, head
):
    method, compared = noted(capacity=30, task_free=task_free, batch_size=7), []
    watch = watching(loss=comparing(method, compared))
    learned(numbered(), chain(method, watch), head=head)
    assert len(compared) == 24
    unmet = {(index, count) for index, _, count in compared}
    assert unmet == {(0, 4), (1, 2), (2, 0)} if head == "full" else {(0, 0), (1, 0), (2, 0)}


def test_old_classes_do_not_move_by_new_examples(numbered, learned, watching):
    """Without replay the rows of the head for classes met before take no gradient."""
    seen = []

    def gradients(self, learner):
        if learner.index == 2:
            gradient = learner.model.head.weight.grad
            assert torch.equal(gradient[:4], torch.zeros_like(gradient[:4]))
            seen.append(float(gradient[4:].abs().sum()))

    method = noted(capacity=30)
    method.draw = lambda learner: {}
    learned(numbered(), chain(method, watching(gradients=gradients)))
    assert len(seen) == 8
    assert min(seen) > 0


def test_a_class_that_is_met_stays_so_whatever_its_number(numbered, learned, watching):
    stream = numbered()
    first, second, third = stream
    backwards = [replace(e, index=i) for i, e in enumerate((third, second, first))]
    method, compared = noted(capacity=30), []
    watch = watching(loss=comparing(method, compared))
    learned(replace(stream, experiences=backwards), chain(method, watch), epochs=1)
    assert {(index, unmet) for index, _, unmet in compared} == {(0, 4), (1, 2), (2, 0)}


def test_rows_that_others_mix_in_are_asked_among_all_classes(numbered, learned, watching):
    compared = []

    def loss(self, learner, batch, outputs, loss):
        rows, n = learner.stream_rows, len(outputs)
        if learner.index == 2 and n > rows:
            ours = cross_entropy(outputs[:rows], batch["y"][:rows], [4, 5]) * rows
            others = cross_entropy(outputs[rows:], batch["y"][rows:], range(6)) * (n - rows)
            assert loss.item() == pytest.approx((ours + others) / n, rel=1e-5)
            compared.append(n)
        return loss

    method = ERACE(capacity=30)
    method.draw = lambda learner: {}
    learned(numbered(), chain(ER(capacity=30), method, watching(loss=loss)), epochs=1)
    assert compared


def test_every_example_is_offered_once_from_the_first_experience_on(numbered, learned):
    learner = learned(numbered(), ERACE(capacity=30), epochs=3)
    assert learner.method.buffer.seen == 120


def test_class_balanced_and_herded_memories_are_balanced(numbered, learned):
    for storage in ("class_balanced", "herding"):
        learner = learned(numbered(), ERACE(capacity=30, storage=storage))
        assert torch.bincount(learner.method.buffer.columns["y"]).tolist() == [5] * 6


def test_streams_that_it_cannot_serve_are_refused(numbered, learned):
    with pytest.raises(StreamRefused, match="class-incremental and task-incremental"):
        learned(numbered("domain"), ERACE())
    silent = replace(numbered(), boundaries=False)
    with pytest.raises(StreamRefused, match="use task_free=true"):
        learned(silent, ERACE())
    learned(silent, ERACE(task_free=True), epochs=1)


@pytest.mark.parametrize("bad", [{"capacity": 0}, {"storage": "heap"}, {"batch_size": 0}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        ERACE(**bad)
