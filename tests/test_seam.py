"""What the seam must not shut out, on small real paths: no labels, no classes, other columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from holdfast import models, streams
from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import Method, Phase, chain
from holdfast.methods import ER
from holdfast.objective import Objective
from holdfast.optim.schedules import cosine
from holdfast.stream import Experience, Stream
from holdfast.testing import check_method


class Reconstruction(Objective):
    """Other columns and no labels: pixels in, the same pixels out."""

    def forward(self, model: Any, batch: Any) -> Any:
        return model(batch["pixels"])

    def losses(self, outputs: Any, batch: Any) -> Any:
        return (outputs - batch["pixels"]).square().mean(1)

    def scores(self, outputs: Any, batch: Any) -> Any:
        return -self.losses(outputs, batch)


def unlabelled() -> Stream:
    """Digits two at a time, without their labels."""
    parts = streams.build("split-digits(limit=60, test_limit=20)")

    def pixels(table: Table) -> Table:
        return Table({"pixels": table["x"].flatten(1).float() / 16})

    return Stream(
        name="unlabelled",
        experiences=[Experience(e.index, pixels(e.train), pixels(e.test), ()) for e in parts],
        scenario="domain",
        classes=0,
        shape=(64,),
        labelled=False,
    )


def autoencoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64))


def test_a_stream_without_labels_or_classes_is_learned_with_replay() -> None:
    stream = unlabelled()
    learner = Learner(autoencoder(), ER(capacity=40), objective=Reconstruction(), epochs=20)
    record = learner.learn(stream)
    assert len(record.matrix) == 5
    assert record.matrix[-1][0] > record.initial[0] + 0.05
    assert set(learner.method.buffer.columns) == {"pixels"}


def test_methods_that_learn_from_labels_refuse_it() -> None:
    from holdfast.methods import AGEM

    with pytest.raises(StreamRefused, match="AGEM learns from labels; 'unlabelled' has none"):
        Learner(autoencoder(), AGEM(), objective=Reconstruction()).learn(unlabelled())


def test_a_driver_may_predict_before_it_learns_from_each_batch() -> None:
    """Test-time adaptation: predictions count while learning, boundaries are not told."""

    class Watch(Method):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def predict(self, learner: Any, batch: Any, outputs: Any) -> Any:
            self.seen += 1
            return outputs

    stream, watch = unlabelled(), Watch()
    learner = Learner(autoencoder(), watch, objective=Reconstruction())
    learner.start(stream)
    learner.begin(stream[0])
    assert learner.batches is not None
    errors = []
    for batch in learner.batches:
        with torch.no_grad():
            errors.append(-learner.objective.scores(learner.predict(batch), batch).mean())
        learner.update(batch)
    assert watch.seen == len(errors) == 2


def test_such_a_run_is_restored_exactly() -> None:
    whole = Learner(autoencoder(), ER(capacity=40), objective=Reconstruction(), epochs=2)
    whole.learn(unlabelled())
    stream, first = (
        unlabelled(),
        Learner(autoencoder(), ER(capacity=40), objective=Reconstruction(), epochs=2),
    )
    first.start(stream)
    with first.chance.mine():
        first.record.initial = first.test_sets.score(first).plain
        first.begin(stream[0])
        first.train()
        first.end()
    again = Learner(autoencoder(), ER(capacity=40), objective=Reconstruction(), epochs=2)
    later = unlabelled()
    again.restore(later, first.state_dict())
    again.learn(later)
    assert again.record.matrix == whole.record.matrix


class Twice(Method):
    """Goes through an experience again at a tenth of the rate, on its first ten examples."""

    remembers = ("turns",)

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.rates: list[tuple[int, int, float]] = []

    def phases(self, learner: Any) -> list[Phase]:
        return [Phase(), Phase(epochs=3, rate=0.1, schedule=cosine)]

    def turn(self, learner: Any) -> None:
        self.turns += 1

    def select(self, learner: Any, table: Table) -> Table:
        return table.take(slice(0, 10)) if learner.phase else table

    def step(self, learner: Any) -> None:
        rate = learner.optimizer.param_groups[0]["lr"]
        self.rates.append((learner.phase, learner.epoch, rate))


def test_a_method_may_go_through_an_experience_again_with_its_own_epochs_and_rates() -> None:
    twice = Twice()
    learner = Learner(autoencoder(), twice, objective=Reconstruction(), batch_size=5, epochs=2)
    learner.learn(unlabelled())
    first = twice.rates[: len(twice.rates) // 5]
    again = [(phase, epoch, pytest.approx(rate)) for phase, epoch, rate in first if phase]
    assert [rate for phase, _, rate in first if not phase] == [0.01] * 24
    # cosine(epoch, 3) = 1, 3/4, 1/4
    assert (
        [r for r in first if r[0]]
        == again
        == [
            *[(1, 0, pytest.approx(0.001))] * 2,
            *[(1, 1, pytest.approx(0.00075))] * 2,
            *[(1, 2, pytest.approx(0.00025))] * 2,
        ]
    )
    assert twice.turns == 5


def test_a_phase_may_bring_batches_of_its_own_size() -> None:
    class InOne(Twice):
        def phases(self, learner: Any) -> list[Phase]:
            return [Phase(), Phase(epochs=2, batch_size=10)]

    learner = Learner(autoencoder(), InOne(), objective=Reconstruction(), batch_size=5)
    record = learner.learn(unlabelled())
    assert record.steps == [12 + 2] * 5


def test_phases_keep_the_contract() -> None:
    assert check_method(Twice, only=["determinism", "exact_resume", "state_dict"])


def test_two_methods_that_decide_the_phases_are_refused() -> None:
    with pytest.raises(UsageError, match="both decide how often an experience is gone through"):
        chain(Twice(), Twice())


class Shifted(Method):
    """Makes the forward pass itself: outputs move with the rows' labels, in training and in use."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def answer(self, learner: Any, batch: Any) -> Any:
        self.modes.append(learner.model.training)
        return learner.objective.forward(learner.model, batch) + batch["y"][:, None]


def test_a_method_may_make_the_forward_pass_itself_in_training_and_in_use() -> None:
    stream = streams.build("split-digits(limit=20, test_limit=20)", experiences=2)
    model = models.build("mlp(depth=0)", stream, seed=0)
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    shifted = Shifted()
    learner = Learner(model, shifted, batch_size=10)
    learner.learn(stream)
    # Two updates an experience; in use, one pass a time of scoring: none is made in vain.
    assert shifted.modes == [False, True, True, False, True, True, False]
    assert len(passes) == len(shifted.modes)
    batch = stream[0].test[torch.arange(4)]
    expected = model(batch["x"]) + batch["y"][:, None]
    assert torch.equal(learner.predict(batch), expected)
    assert torch.equal(learner.forward(batch), expected)


def test_two_methods_that_decide_the_answer_are_refused() -> None:
    from holdfast.methods import ICaRL

    with pytest.raises(UsageError, match="Shifted and ICaRL cannot be chained: both decide the p"):
        chain(Shifted(), ICaRL())
