"""Long streams: an experience costs the same whether it is the tenth or the four-hundredth."""

from __future__ import annotations

import gc
import sys
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from holdfast import catalogue, models, streams
from holdfast.data import UNLABELLED, Batch
from holdfast.errors import StreamRefused
from holdfast.learner import Learner, Observer
from holdfast.method import Method, chain
from holdfast.methods import ER, Finetune, LwF
from holdfast.store import Result
from holdfast.stream import Stream


class Calls(Observer):
    """How many functions are called in each experience, and how many tensors live after some."""

    def __init__(self) -> None:
        self.count = 0
        self.calls: list[int] = []
        self.tensors: dict[int, int] = {}

    def heard(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1

    def on_experience(self, learner: Learner) -> None:
        sys.setprofile(None)
        self.calls.append(self.count)
        if learner.index in (40, 390):
            gc.collect()
            kinds = (torch.Tensor, torch.nn.Parameter)
            self.tensors[learner.index] = sum(type(o) in kinds for o in gc.get_objects())
        self.count = 0
        sys.setprofile(self.heard)


def recurring(experiences: int, **more: Any) -> Stream:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    arguments = {"experiences": experiences, "limit": 8, "evaluations": 4, **more}
    return streams.made("recurring", (x, torch.arange(200) % 10), **arguments)


def test_what_an_experience_costs_does_not_grow_with_those_before_it() -> None:
    stream = recurring(400)
    learner = Learner(models.build("mlp(width=8)", stream, seed=0), ER(capacity=20), batch_size=4)
    calls = Calls()
    try:
        record = learner.learn(stream, [calls])
    finally:
        sys.setprofile(None)
    # Neither is counted operation by operation, nor followed by an evaluation.
    early, late = calls.calls[20:31], calls.calls[380:391]
    assert max(late) <= 1.02 * max(early)
    assert calls.tensors[390] <= calls.tensors[40]
    assert len(record.matrix) == 4
    assert record.after == [99, 199, 299, 399]
    assert len(record.steps) == 400
    assert record.seen_so_far() == pytest.approx(sum(record.matrix[-1]) / 10)


def test_a_result_of_a_scheduled_stream_has_all_metrics_and_comes_back_from_json() -> None:
    stream = recurring(12)
    record = Learner(models.build("mlp(width=8)", stream, seed=0)).learn(stream)
    assert record.tests == [test.name for test in stream.tests]
    assert record.since == [test.since for test in stream.tests]
    result = Result(stream.name, "finetune", 0, record)
    again = Result.from_dict(stream.name, result.to_dict())
    assert again.metrics == result.metrics
    assert "task_average_accuracy" not in result.metrics
    assert result.metrics["average_accuracy"] == pytest.approx(sum(record.matrix[-1]) / 10)
    older = {k: v for k, v in result.to_dict().items() if k not in ("tests", "since", "after")}
    assert Result.from_dict(stream.name, older).record.since == []


def test_scores_of_classes_are_those_of_their_examples() -> None:
    stream = recurring(3, evaluations=None)
    learner = Learner(models.build("mlp(width=8)", stream, seed=0))
    record = learner.learn(stream)
    learner.model.eval()
    for place, test in enumerate(stream.tests):
        right = learner.model(test.table["x"]).argmax(1) == test.table["y"]
        assert record.matrix[-1][place] == pytest.approx(float(right.float().mean()))
    assert record.matrix == record.task_matrix  # there is no task to be known


def test_a_scheduled_stream_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    def learner(stream: Stream) -> Learner:
        return Learner(models.build("mlp(width=8)", stream, "growing", seed=0), ER(capacity=20))

    class Keep(Observer):
        state: Any = None

        def on_experience(self, learner: Learner) -> None:
            if learner.index == 7:
                self.state = deepcopy(learner.state_dict())  # tensors live on in the learner

    stream, keep = recurring(12), Keep()
    whole = learner(stream)
    first = whole.learn(stream, [keep])
    again = learner(stream)
    again.restore(stream, keep.state)
    second = again.learn(stream)
    for name in ("matrix", "after", "since", "tests", "steps"):
        assert getattr(first, name) == getattr(second, name)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True)
    )


class Shown(Method):
    """Notes what the stream brings."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Batch] = []

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        self.shown.append(learner.incoming)
        return batch


class ShownAll(Shown):
    takes_unlabelled = True


@pytest.mark.parametrize(("method", "there"), [(Shown, False), (ShownAll, True)])
def test_rows_without_labels_come_to_methods_that_take_them_and_to_no_others(method, there) -> None:
    stream = recurring(4, labels=0.5, limit=None)
    looking = method()
    Learner(models.build("mlp(width=8)", stream, seed=0), looking).learn(stream)
    y = torch.cat([batch["y"] for batch in looking.shown])
    assert bool((y == UNLABELLED).any()) == there
    whole = sum(len(experience.train) for experience in stream)
    assert len(y) == whole if there else 0.3 * whole < len(y) < 0.7 * whole


def test_distillation_learns_from_examples_without_labels() -> None:
    """LwF on labelled rows alone and with the others differ from the second experience on."""
    stream = recurring(2, labels=0.5, limit=None)

    def weights(given: Stream, method: Method, parts: int) -> torch.Tensor:
        short = replace(given, experiences=given.experiences[:parts], evaluations=())
        learner = Learner(models.build("mlp(width=8)", short, seed=0), method)
        learner.learn(short)
        return torch.cat([p.detach().flatten() for p in learner.model.parameters()])

    assert torch.equal(
        weights(stream, Finetune(), 2), weights(stream.labelled_only(), Finetune(), 2)
    )
    assert not torch.equal(weights(stream, LwF(), 2), weights(stream.labelled_only(), LwF(), 2))


def test_ordered_examples_come_as_they_stand_unless_a_method_chooses_others() -> None:
    x, y = torch.arange(60.0)[:, None].repeat(1, 4), torch.arange(60) % 6
    stream = streams.made("split", (x, y), (x, y), experiences=2, order="natural", ordered=True)
    looking = Shown()
    Learner(models.build("mlp(width=8)", stream, seed=0), looking, batch_size=7).learn(stream)
    came = torch.cat([batch["x"][:, 0] for batch in looking.shown])
    assert came.tolist() == torch.cat([e.train["x"][:, 0] for e in stream]).tolist()
    assert came[:30].tolist() == sorted(came[:30].tolist())
    shuffled = Shown()
    both = chain(catalogue.build("cumulative"), shuffled)
    Learner(models.build("mlp(width=8)", stream, seed=0), both).learn(stream)
    came = torch.cat([batch["x"][:, 0] for batch in shuffled.shown])[30:]
    assert came.tolist() != sorted(came.tolist())


@pytest.mark.contract
@pytest.mark.parametrize(
    "text",
    [
        "recurring-digits(experiences=6, limit=40)",
        "recurring-digits(experiences=4, limit=40, labels=0.5, evaluations=2)",
        "rehearsed-digits(limit=60, experiences=3)",
        "gaussian-digits(experiences=8, limit=20)",
    ],
)
def test_every_method_learns_a_generated_stream_or_refuses_it(text, methods_on_digits) -> None:
    stream = streams.build(text)
    for name in methods_on_digits:
        model = models.build("mlp(width=8)", stream, "growing", seed=0)
        learner = Learner(model, catalogue.build(name))
        learner.meter.counting = False
        try:
            record = learner.learn(stream)
        except StreamRefused:
            continue
        assert len(record.matrix) == len(stream.evaluations or stream), name
        assert {len(row) for row in record.matrix} == {len(stream.tests)}, name
