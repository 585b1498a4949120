"""Classification: one loss and one score per example, within a task where the task is known."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.objective import Classification, Objective

LOGITS = torch.tensor([[2.0, 1.0, 5.0, 0.0], [0.0, 3.0, 1.0, 2.0], [1.0, 0.0, 4.0, 3.0]])
BATCH = {"y": torch.tensor([0, 3, 2]), "task": torch.tensor([0, 1, 1])}


def objective(task_known: bool) -> Classification:
    return Classification([(0, 1), (2, 3)], classes=4, task_known=task_known)


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(v) for v in logits)) - logits[label]


def test_losses_are_cross_entropies_over_all_classes() -> None:
    losses = objective(False).losses(LOGITS, BATCH)
    expected = [
        cross_entropy(row, int(y)) for row, y in zip(LOGITS.tolist(), BATCH["y"], strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_with_the_task_known_only_its_classes_count_in_the_loss() -> None:
    losses = objective(True).losses(LOGITS, BATCH)
    expected = [
        cross_entropy([2, 1], 0),
        cross_entropy([1, 2], 1),
        cross_entropy([4, 3], 0),
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task_known", [False, True])
def test_the_loss_is_the_mean_of_the_losses_and_has_its_gradient(task_known: bool) -> None:
    asked = objective(task_known)
    one, other = (LOGITS.clone().requires_grad_() for _ in range(2))
    mean, loss = asked.losses(one, BATCH).mean(), asked.loss(other, BATCH)
    torch.testing.assert_close(mean, loss)
    mean.backward()
    loss.backward()
    torch.testing.assert_close(one.grad, other.grad)


class Squares(Objective):
    """Asks for small outputs."""

    def forward(self, model, batch):  # type: ignore[no-untyped-def]
        return model(batch["x"])

    def losses(self, outputs, batch):  # type: ignore[no-untyped-def]
        return outputs.square()

    def scores(self, outputs, batch):  # type: ignore[no-untyped-def]
        return -outputs.square()


def test_an_objective_that_only_has_losses_has_their_mean() -> None:
    assert float(Squares().loss(torch.tensor([1.0, 3.0]), {})) == 5


def test_an_objective_without_a_distribution_over_labels_says_so() -> None:
    with pytest.raises(UsageError, match="Squares has no distribution over labels"):
        Squares().probabilities(torch.ones(2), {})


def test_gradients_do_not_reach_other_tasks_logits() -> None:
    logits = LOGITS.clone().requires_grad_()
    objective(True).losses(logits, BATCH).sum().backward()
    assert logits.grad is not None
    assert torch.equal(
        logits.grad != 0, torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]) > 0
    )


def test_scores_with_and_without_the_task_come_from_the_same_outputs() -> None:
    asked = objective(False)
    assert asked.scores(LOGITS, BATCH).tolist() == [0, 0, 1]
    assert asked.task_scores(LOGITS, BATCH).tolist() == [1, 1, 1]
    assert objective(True).scores(LOGITS, BATCH).tolist() == [1, 1, 1]


def test_a_head_that_has_not_grown_yet_scores_nothing_on_classes_to_come() -> None:
    asked = objective(False)
    assert asked.scores(LOGITS[:, :0], BATCH).tolist() == [0, 0, 0]
    assert asked.task_scores(LOGITS[:, :0], BATCH).tolist() == [0, 0, 0]
    assert asked.task_scores(LOGITS[:, :2], BATCH).tolist() == [1, 0, 0]


def test_probabilities_sum_to_one_within_the_task() -> None:
    chances = objective(True).probabilities(LOGITS, BATCH)
    assert chances.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert float(chances[0, 0]) == pytest.approx(1 / (1 + math.exp(-1)))
    assert chances[1, :2].tolist() == [0, 0]


@pytest.mark.parametrize(("task_known", "expected"), [(False, [30, 14, 26]), (True, [5, 5, 25])])
def test_squared_norms_are_of_the_outputs_that_count(task_known: bool, expected: list[int]) -> None:
    batch = {"task": BATCH["task"]}
    assert objective(task_known).squared_norms(LOGITS, batch).tolist() == expected


def test_a_head_that_has_grown_in_part_has_the_norms_of_its_rows() -> None:
    batch = {"task": BATCH["task"]}
    assert objective(True).squared_norms(LOGITS[:, :3], batch).tolist() == [5, 1, 16]


def test_examples_without_a_label_have_no_loss_and_the_mean_is_over_the_others() -> None:
    objective = Classification([(0, 1)], 2, semi_labelled=True)
    outputs = torch.tensor([[0.0, 0.0], [5.0, -5.0], [0.0, math.log(3)]], requires_grad=True)
    batch = {"y": torch.tensor([0, -100, 1])}
    losses = objective.losses(outputs, batch)
    assert losses.tolist() == pytest.approx([math.log(2), 0.0, math.log(4 / 3)])
    loss = objective.loss(outputs, batch)
    assert float(loss.detach()) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert int(objective.weight(batch)) == 2
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert gradient[1].tolist() == [0.0, 0.0]
    assert gradient[0].tolist() == pytest.approx([-0.25, 0.25])
    none = {"y": torch.tensor([-100, -100, -100])}
    assert float(objective.loss(outputs, none).detach()) == 0.0
    labelled = {"y": torch.tensor([0, 1, 1])}
    plain = Classification([(0, 1)], 2)
    assert torch.allclose(objective.loss(outputs, labelled), plain.loss(outputs, labelled))
