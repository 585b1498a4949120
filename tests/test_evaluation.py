"""Evaluation scores every test set and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch import nn

from holdfast.evaluation import Record, TestSets, in_passing, undisturbed
from holdfast.learner import Learner
from holdfast.models import Classifier, build
from holdfast.stream import Stream

MakeStream = Callable[..., Stream]


def noisy_model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))


def started(stream: Stream, model: nn.Module) -> Learner:
    learner = Learner(model, optimizer=partial(torch.optim.SGD, lr=0.1))
    learner.start(stream)
    return learner


def test_undisturbed_restores_every_part_of_a_module_as_it_was() -> None:
    model = noisy_model().train()
    model[1].eval()  # a frozen normalisation inside a model in training
    with undisturbed(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model] == [True, False, True, True]
    assert model.training


def test_undisturbed_restores_modes_after_an_error() -> None:
    model = noisy_model().train()
    with pytest.raises(RuntimeError, match="within"), undisturbed(model):
        raise RuntimeError("within")
    assert all(part.training for part in model.modules())


def test_in_passing_a_model_is_in_evaluation_mode() -> None:
    model, x = noisy_model(), torch.randn(4, 5)
    expected = model.eval()(x).detach()
    held = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    with in_passing(model):
        assert torch.equal(model(x), expected)
        assert not model(x).requires_grad
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("error", [False, True])
def test_in_passing_restores_every_part_of_a_module_as_it_was(error: bool) -> None:
    model = noisy_model().train()
    model[1].eval()
    with suppress(RuntimeError), in_passing(model):
        assert not any(part.training for part in model.modules())
        if error:
            raise RuntimeError
    assert [part.training for part in model] == [True, False, True, True]
    assert model.training


def test_undisturbed_gives_random_numbers_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with undisturbed():
        torch.rand(100)
    assert torch.equal(torch.rand(4), expected)


def test_undisturbed_takes_no_gradients_and_moves_no_statistics() -> None:
    model = noisy_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with undisturbed(model):
        assert not model(torch.randn(7, 5)).requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_scores_are_each_test_sets_accuracy_whatever_the_chunks(
    make_stream: MakeStream, rows: int
) -> None:
    stream = make_stream()
    model = build("mlp(width=16)", stream, seed=1)
    scores = TestSets(stream, rows=rows).score(started(stream, model))
    for experience, plain, task in zip(stream, scores.plain, scores.task, strict=True):
        logits = model(experience.test["x"])
        hits = [
            int(row.argmax()) == int(y) for row, y in zip(logits, experience.test["y"], strict=True)
        ]
        assert plain == pytest.approx(sum(hits) / len(hits))
        within = logits[:, list(experience.classes)].argmax(1) + experience.classes[0]
        assert task == pytest.approx(float((within == experience.test["y"]).float().mean()))


def test_scoring_leaves_the_learner_as_it_was(make_stream: MakeStream) -> None:
    stream = make_stream()
    learner = started(stream, noisy_model())
    learner.model.train()
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    numbers, own = torch.get_rng_state(), learner.generator.get_state()
    learner.test_sets.score(learner)
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.equal(learner.generator.get_state(), own)
    assert all(part.training for part in learner.model.modules())


def test_a_task_streams_plain_scores_are_its_task_scores(make_stream: MakeStream) -> None:
    stream = make_stream().with_tasks()
    scores = TestSets(stream).score(started(stream, build("mlp(width=8)", stream, seed=0)))
    assert scores.plain == scores.task


def test_a_perfect_and_a_hopeless_model_score_one_and_zero(make_stream: MakeStream) -> None:
    class Oracle(nn.Module):
        """Knows the labels from the inputs, which are made to hold them."""

        def __init__(self, shift: int) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot((x[:, 0].long() + self.shift) % 6, 6).float()

    stream = make_stream()
    for experience in stream:
        experience.test.columns["x"] = experience.test["y"][:, None].float()
    for shift, expected in ((0, 1.0), (1, 0.0)):
        model = Classifier(Oracle(shift), nn.Identity())
        assert TestSets(stream).score(started(stream, model)).plain == [expected] * 3


def test_a_subset_is_drawn_once_and_by_seed(make_stream: MakeStream) -> None:
    stream = make_stream()
    one, same, other = (TestSets(stream, subset=4, seed=s) for s in (0, 0, 1))
    assert one.sizes.tolist() == [4, 4, 4]
    assert torch.equal(one.table["x"], same.table["x"])
    assert not torch.equal(one.table["x"], other.table["x"])
    everything = TestSets(stream, subset=11)
    assert everything.sizes.tolist() == [10, 11, 11]


def test_a_record_survives_as_plain_values() -> None:
    point = {"experience": 0, "step": 1, "scores": [0.4]}
    record = Record(initial=[0.1], matrix=[[0.2]], task_matrix=[[0.3]], curve=[point])
    assert Record.from_dict(record.to_dict()) == record
