"""Methods chain in the order given, and refuse what they cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import Chain, Method, Tags, chain, refuse_unfit
from holdfast.models import build
from holdfast.stream import Stream

MakeStream = Callable[..., Stream]
HOOKS = [
    "setup",
    "expand",
    "begin",
    "select",
    "batch",
    "logits",
    "loss",
    "gradients",
    "step",
    "end",
    "predict",
]


def spy(name: str, calls: list[str], hooks: list[str] = HOOKS) -> Method:
    """A method that writes down every call of its hooks."""

    def hook(which: str) -> Callable[..., Any]:
        def called(self: Method, learner: Learner, *given: Any) -> Any:
            calls.append(f"{name}.{which}")
            return given[-1] if given else None

        return called

    return type(name, (Method,), {which: hook(which) for which in hooks})()


def run(stream: Stream, method: Method | None, **arguments: Any) -> Learner:
    learner = Learner(build("mlp(width=8)", stream, seed=0), method, **arguments)
    learner.learn(stream)
    return learner


def test_hooks_run_in_the_order_of_the_step_and_of_the_chain(make_stream: MakeStream) -> None:
    stream = replace(make_stream(), experiences=make_stream().experiences[:1])
    calls: list[str] = []
    hooks = [hook for hook in HOOKS if hook != "predict"]
    run(stream, chain(spy("A", calls, hooks), spy("B", calls, hooks)), batch_size=24)
    assert calls == [f"{m}.{hook}" for hook in hooks for m in "AB"]


def test_predict_corrects_every_evaluation_and_no_training_step(make_stream: MakeStream) -> None:
    stream = make_stream()
    calls: list[str] = []
    run(stream, spy("A", calls, ["batch", "predict"]), batch_size=24)
    assert calls == ["A.predict", *["A.batch", "A.predict"] * 3]


def test_each_hook_receives_what_the_one_before_it_returned(make_stream: MakeStream) -> None:
    class Plus(Method):
        def __init__(self, amount: float) -> None:
            super().__init__()
            self.amount = amount
            self.losses: list[float] = []

        def loss(self, learner, batch, outputs, loss):  # type: ignore[no-untyped-def]
            self.losses.append(float(loss.detach()))
            return loss + self.amount

    stream = make_stream()
    one, two = Plus(1.0), Plus(10.0)
    run(stream, chain(one, two))
    assert two.losses == pytest.approx([loss + 1 for loss in one.losses])


def test_hooks_that_do_nothing_are_not_called(make_stream: MakeStream) -> None:
    stream = make_stream()
    learner = run(stream, Method())
    hooks = [learner._batch, learner._logits, learner._loss, learner._gradients, learner._step]
    assert hooks == [[], [], [], [], []]


def test_no_method_is_plain_training(make_stream: MakeStream) -> None:
    stream = make_stream()
    weights = [run(stream, method).model.state_dict() for method in (None, Method())]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_fit_takes_the_place_of_gradient_training(make_stream: MakeStream) -> None:
    class Fit(Method):
        rows: ClassVar[list[int]] = []

        def fit(self, learner, table):  # type: ignore[no-untyped-def]
            self.rows.append(len(table))
            return True

    stream = make_stream()
    before = build("mlp(width=8)", stream, seed=0).state_dict()
    learner = run(stream, Fit())
    assert Fit.rows == [24, 24, 24]
    assert learner.record.cost["steps"] == 0
    assert all(torch.equal(value, before[n]) for n, value in learner.model.state_dict().items())


def test_fit_may_decline_and_leave_an_experience_to_gradient_training(
    make_stream: MakeStream,
) -> None:
    class FitLater(Method):
        def fit(self, learner, table):  # type: ignore[no-untyped-def]
            return learner.index > 0

    assert run(make_stream(), FitLater(), batch_size=1).record.steps == [24, 0, 0]


def test_select_decides_what_is_trained_on(make_stream: MakeStream) -> None:
    class Half(Method):
        def select(self, learner, table):  # type: ignore[no-untyped-def]
            return table.take(slice(0, len(table) // 2))

    assert run(make_stream(), chain(Half(), Half()), batch_size=1).record.cost["steps"] == 3 * 6


def test_chains_are_flattened_and_one_method_stays_itself() -> None:
    a, b, c = Method(), Method(), Method()
    assert list(chain(chain(a, b), c).parts()) == [a, b, c]
    assert chain(a) is a


def test_a_chains_state_is_that_of_its_parts() -> None:
    class Counts(Method):
        remembers: ClassVar[tuple[str, ...]] = ("count",)
        count = 0

    before, after = (chain(Counts(), Counts()) for _ in range(2))
    list(before.parts())[1].count = 5
    after.load_state_dict(before.state_dict())
    assert [part.count for part in after.parts()] == [0, 5]


class Fits(Method):
    def fit(self, learner, table): ...  # type: ignore[no-untyped-def]


class Predicts(Method):
    def predict(self, learner, batch, outputs):  # type: ignore[no-untyped-def]
        return outputs


def test_two_methods_that_do_the_same_thing_alone_are_refused() -> None:
    with pytest.raises(UsageError, match="Fits and Fits cannot be chained: both replace gradient"):
        chain(Fits(), Method(), Fits())
    with pytest.raises(UsageError, match=r"Predicts and Predicts .* both decide the prediction"):
        chain(Predicts(), chain(Method(), Predicts()))
    assert isinstance(chain(Fits(), Predicts()), Chain)


def test_one_object_twice_and_nothing_at_all_are_refused() -> None:
    method = Method()
    with pytest.raises(UsageError, match="one method object twice"):
        chain(method, chain(Method(), method))
    with pytest.raises(UsageError, match="at least one method"):
        chain()
    with pytest.raises(UsageError, match=r"ask its parts\(\)"):
        chain(Method(), Method()).arguments()


@pytest.mark.parametrize(
    ("tags", "change", "sentence"),
    [
        ({"scenarios": frozenset({"task"})}, {}, "serves task-incremental streams; 'clouds' is cl"),
        ({"needs": frozenset({"boundaries"})}, {"boundaries": False}, "must know where exp"),
        ({"needs": frozenset({"labels"})}, {"labelled": False}, "learns from labels"),
        ({"needs": frozenset({"new classes"})}, {"classes": 2}, "acts when classes are added"),
    ],
)
def test_a_method_refuses_a_stream_it_cannot_serve_saying_why(
    make_stream: MakeStream, tags: dict, change: dict, sentence: str
) -> None:
    class Picky(Method):
        tags: ClassVar[Tags] = replace(Method.tags)

    Picky.tags = replace(Method.tags, **tags)
    stream = make_stream()
    refuse_unfit(Picky(), stream if "scenarios" not in tags else stream.with_tasks(), nn.Identity())
    with pytest.raises(StreamRefused, match=f"^Picky {sentence}"):
        refuse_unfit(chain(Method(), Picky()), replace(stream, **change), nn.Identity())


def test_a_method_refuses_a_model_without_the_part_it_works_on(make_stream: MakeStream) -> None:
    class Picky(Method):
        tags: ClassVar[Tags] = replace(Method.tags, needs=frozenset({"features", "linear head"}))

    stream = make_stream()
    with pytest.raises(StreamRefused, match=r"Picky works on features, and Linear has none: give"):
        refuse_unfit(Picky(), stream, nn.Linear(5, 6))
    with pytest.raises(StreamRefused, match="works on the weights of a linear head"):
        refuse_unfit(Picky(), stream, build("mlp", stream, head="multi"))
    refuse_unfit(Picky(), stream, build("mlp", stream))


def test_a_learner_refuses_before_anything_is_trained(make_stream: MakeStream) -> None:
    class Picky(Method):
        tags: ClassVar[Tags] = replace(Method.tags, scenarios=frozenset({"task"}))

    learner = Learner(build("mlp", make_stream()), Picky())
    with pytest.raises(StreamRefused):
        learner.learn(make_stream())
    assert learner.record.matrix == []


def test_arguments_are_those_from_which_an_equal_method_is_built() -> None:
    from holdfast.methods import ER

    given = ER(capacity=7, storage="ring").arguments()
    assert given["capacity"] == 7
    assert ER(**given).arguments() == given
