"""The learner is an ordinary training loop: bit by bit the one written out here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import DataError, Diverged, UsageError
from holdfast.learner import Learner, Observer
from holdfast.method import Method, chain
from holdfast.methods.replay.er import ER
from holdfast.models import build
from holdfast.optim.schedules import cosine
from holdfast.stream import Stream

MakeStream = Callable[..., Stream]
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_plain_training_is_the_loop_written_by_hand(
    make_stream: MakeStream, optimizer_state: Any
) -> None:
    stream = make_stream()
    learner = Learner(
        build("mlp(width=8)", stream, seed=0),
        optimizer=SGD,
        epochs=2,
        batch_size=7,
        schedule=cosine,
        optimizer_state=optimizer_state,
        seed=3,
    )
    learner.learn(stream)

    model = build("mlp(width=8)", stream, seed=0)
    generator = torch.Generator().manual_seed(3)
    optimizer = SGD(model.parameters())
    for experience in stream:
        if optimizer_state == "reset":
            optimizer = SGD(model.parameters())
        for epoch, factor in ((0, 1.0), (1, 0.5)):  # half a cosine over two epochs
            optimizer.param_groups[0]["lr"] = 0.1 * factor
            for rows in torch.randperm(24, generator=generator).split(7):
                x, y = experience.train["x"][rows], experience.train["y"][rows]
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            assert epoch in (0, 1)
    assert same_weights(learner.model, model)
    assert learner.record.cost["steps"] == 3 * 2 * 4


def test_experience_replay_is_the_loop_written_by_hand(make_stream: MakeStream) -> None:
    """While everything fits in the memory, no reservoir has to be drawn by hand."""
    stream = make_stream()
    learner = Learner(build("mlp(width=8)", stream, seed=0), ER(100), optimizer=SGD, batch_size=6)
    learner.learn(stream)

    model = build("mlp(width=8)", stream, seed=0)
    generator = torch.Generator().manual_seed(0)
    kept_x, kept_y = torch.empty(0, 5), torch.empty(0).long()
    for experience in stream:
        optimizer = SGD(model.parameters())
        for rows in torch.randperm(24, generator=generator).split(6):
            new_x, new_y = experience.train["x"][rows], experience.train["y"][rows]
            x, y = new_x, new_y
            if len(kept_x):
                drawn = torch.randperm(len(kept_x), generator=generator)[:6]
                x, y = torch.cat([x, kept_x[drawn]]), torch.cat([y, kept_y[drawn]])
            kept_x, kept_y = torch.cat([kept_x, new_x]), torch.cat([kept_y, new_y])
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert same_weights(learner.model, model)


def test_the_matrix_holds_the_scores_after_every_experience(make_stream: MakeStream) -> None:
    stream = make_stream()
    learner = Learner(build("mlp(width=8)", stream, seed=0), optimizer=SGD, batch_size=4)

    class Check(Observer):
        rows: list[list[float]] = []  # noqa: RUF012

        def on_experience(self, learner: Learner) -> None:
            self.rows.append(
                [
                    float((learner.model(e.test["x"]).argmax(1) == e.test["y"]).float().mean())
                    for e in stream
                ]
            )

    record = learner.learn(stream, [Check()])
    for ours, expected in zip(record.matrix, Check.rows, strict=True):
        assert ours == pytest.approx(expected)
    assert len(record.initial) == 3
    # Task scores come from the same outputs and can only be better.
    for plain, task in zip(record.matrix, record.task_matrix, strict=True):
        assert all(a <= b for a, b in zip(plain, task, strict=True))


class Noisy(nn.Module):
    """A classifier with everything that has a state: a growing head, dropout, batch statistics."""

    def __init__(self) -> None:
        from holdfast.models import GrowingHead

        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = GrowingHead(8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def noisy_learner(initial: int = 5, **changes: Any) -> Learner:
    torch.manual_seed(initial)
    arguments: dict[str, Any] = {
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "optimizer_state": "keep",
        "epochs": 2,
        "batch_size": 9,
        "schedule": cosine,
        "augment": lambda x: x + 0.1 * torch.randn_like(x),
        "evaluate_every": 2,
        "evaluate_subset": 5,
        "seed": 1,
    }
    return Learner(Noisy(), ER(20, storage="class_balanced"), **{**arguments, **changes})


class Keep(Observer):
    """The states after every step and every experience, as a checkpoint would hold them."""

    def __init__(self, folder: Any) -> None:
        self.folder, self.paths = folder, []

    def _save(self, learner: Learner) -> None:
        from holdfast import checkpoint

        path = self.folder / f"{len(self.paths)}"
        checkpoint.save(path, learner.state_dict())
        self.paths.append(path)

    on_step = _save
    on_experience = _save


@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_a_run_resumed_at_any_step_ends_bit_identical(
    make_stream: MakeStream, tmp_path: Any, optimizer_state: str
) -> None:
    from holdfast import checkpoint

    stream = make_stream()
    original = noisy_learner(optimizer_state=optimizer_state)
    keep = Keep(tmp_path)
    record = original.learn(stream, [keep])
    assert len(keep.paths) == 3 * (2 * 3 + 1)
    for path in keep.paths:
        # Whatever weights and random numbers the new process begins with, the run has its own.
        resumed = noisy_learner(initial=99, optimizer_state=optimizer_state)
        resumed.restore(stream, checkpoint.load(path))
        again = resumed.learn(stream)
        assert same_weights(original.model, resumed.model), path.name
        assert same_method(original, resumed), path.name
        assert again.matrix == record.matrix
        assert again.curve == record.curve
        assert again.cost["steps"] == record.cost["steps"]
        assert again.cost["flops"] == record.cost["flops"]
        assert torch.equal(original.generator.get_state(), resumed.generator.get_state())


def same_method(one: Learner, other: Learner) -> bool:
    a, b = one.method.state_dict(), other.method.state_dict()
    return list(a) == list(b) and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], Tensor) else a[k] == b[k] for k in a
    )


def test_a_finished_run_that_is_resumed_is_finished(make_stream: MakeStream) -> None:
    stream = make_stream()
    learner = noisy_learner()
    record = learner.learn(stream)
    resumed = noisy_learner(initial=99)
    resumed.restore(stream, learner.state_dict())
    assert resumed.learn(stream).matrix == record.matrix


def test_continual_evaluation_leaves_training_bit_identical(make_stream: MakeStream) -> None:
    stream = make_stream()
    often, never = noisy_learner(evaluate_every=1), noisy_learner(evaluate_every=None)
    a, b = often.learn(stream), never.learn(stream)
    assert same_weights(often.model, never.model)
    assert (a.matrix, a.task_matrix) == (b.matrix, b.task_matrix)
    assert [point["step"] for point in a.curve] == [1, 2, 3, 4, 5, 6] * 3
    assert b.curve == []


def test_the_curve_is_taken_every_so_many_steps(make_stream: MakeStream) -> None:
    curve = noisy_learner(evaluate_every=4).learn(make_stream()).curve
    assert [(p["experience"], p["step"]) for p in curve] == [(0, 4), (1, 4), (2, 4)]


def test_learning_neither_uses_nor_changes_the_programs_random_numbers(
    make_stream: MakeStream,
) -> None:
    stream = make_stream()
    models = []
    for global_seed in (1, 2):
        learner = noisy_learner()
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        learner.learn(stream)
        assert torch.equal(torch.get_rng_state(), state)
        models.append(learner.model)
    assert same_weights(*models)


def test_the_seed_decides(make_stream: MakeStream) -> None:
    stream = make_stream()
    one, other = noisy_learner(seed=1), noisy_learner(seed=2)
    one.learn(stream)
    other.learn(stream)
    assert not same_weights(one.model, other.model)


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_loss_that_is_not_finite_stops_the_run_naming_step_and_experience(
    make_stream: MakeStream, step: int
) -> None:
    class Spoil(Method):
        def loss(self, learner, batch, outputs, loss):  # type: ignore[no-untyped-def]
            spoiled = learner.index == 1 and learner.step == step
            return loss * torch.nan if spoiled else loss

    learner = Learner(build("mlp(width=8)", make_stream(), seed=0), Spoil(), batch_size=4)
    learner.last_checkpoint = "run/3.ckpt"
    with pytest.raises(Diverged) as stopped:
        learner.learn(make_stream())
    assert f"loss became nan at step {step} of experience 1" in str(stopped.value)
    assert "last good checkpoint: run/3.ckpt" in str(stopped.value)
    assert len(learner.record.matrix) == 1


def test_a_state_after_a_bad_loss_is_not_given_out(make_stream: MakeStream) -> None:
    class Save(Observer):
        def on_step(self, learner: Learner) -> None:
            learner.state_dict()

    stream = make_stream()
    learner = Learner(
        build("mlp(width=8)", stream, seed=0), augment=lambda x: x * torch.inf, batch_size=4
    )
    with pytest.raises(Diverged, match="at step 0 of experience 0; last good checkpoint: none"):
        learner.learn(stream, [Save()])


def test_weights_that_the_last_step_spoiled_stop_the_run(make_stream: MakeStream) -> None:
    class Spoil(Method):
        def step(self, learner):  # type: ignore[no-untyped-def]
            if learner.step == 5:
                learner.parameters[0].data.fill_(torch.inf)

    learner = Learner(build("mlp(width=8)", make_stream(), seed=0), Spoil(), batch_size=4)
    with pytest.raises(Diverged, match="A weight became NaN or infinite at step 6 of exper"):
        learner.learn(make_stream())


def test_a_kept_optimizer_goes_on_with_its_momentum_when_the_head_grows(
    make_stream: MakeStream,
) -> None:
    moments: list[dict[str, Tensor]] = []

    class Look(Method):
        def begin(self, learner, experience):  # type: ignore[no-untyped-def]
            moments.append(
                {
                    name: learner.optimizer.state[p]["momentum_buffer"].clone()
                    for name, p in learner.named
                    if p in learner.optimizer.state
                }
            )

        def end(self, learner, experience):  # type: ignore[no-untyped-def]
            self.begin(learner, experience)

    stream = make_stream()
    for optimizer_state in ("keep", "reset"):
        moments.clear()
        model = build("mlp(width=8)", stream, head="growing", seed=0)
        Learner(model, Look(), optimizer=SGD, optimizer_state=optimizer_state).learn(stream)
        after, next_begin = moments[1], moments[2]
        assert after["head.weight"].shape == (2, 8)
        if optimizer_state == "reset":
            assert next_begin == {}
            continue
        assert next_begin["head.weight"].shape == (4, 8)
        for name, moment in after.items():
            assert torch.equal(next_begin[name][: len(moment)], moment), name
        assert not next_begin["head.weight"][2:].any()


def test_a_growing_head_has_the_classes_seen_so_far(make_stream: MakeStream) -> None:
    rows = []

    class Count(Observer):
        def on_experience(self, learner: Learner) -> None:
            rows.append((learner.model.head.classes, learner.seen, learner.new))

    stream = make_stream()
    Learner(build("mlp(width=8)", stream, head="growing", seed=0)).learn(stream, [Count()])
    assert rows == [
        (2, (), (0, 1)),
        (4, (0, 1), (2, 3)),
        (6, (0, 1, 2, 3), (4, 5)),
    ]


def test_every_forward_pass_of_training_is_augmented_replay_included(
    make_stream: MakeStream,
) -> None:
    seen: list[int] = []

    def note(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x

    stream = make_stream()
    Learner(build("mlp", stream, seed=0), ER(50), batch_size=8, augment=note).learn(stream)
    assert seen == [8] + [16] * 8


def test_the_streams_rows_come_first_and_as_they_came(make_stream: MakeStream) -> None:
    class Check(Method):
        def batch(self, learner, batch):  # type: ignore[no-untyped-def]
            rows = learner.stream_rows
            assert torch.equal(batch["x"][:rows], learner.incoming["x"])
            assert set(learner.incoming["y"].tolist()) <= set(learner.experience.classes)
            learner.note(rows=rows, replayed=len(batch["y"]) - rows)
            return batch

    stream = make_stream()
    learner = Learner(build("mlp", stream, seed=0), chain(ER(50), Check()), batch_size=10)
    notes = learner.learn(stream).notes
    assert [n["rows"] for n in notes] == [10, 10, 4] * 3
    assert notes[0] == {"experience": 0, "step": 0, "rows": 10, "replayed": 0}
    assert [n["replayed"] for n in notes[1:]] == [10] * 8


def test_the_gradient_of_a_batch_is_that_of_its_mean_loss(make_stream: MakeStream) -> None:
    stream = make_stream()
    learner = Learner(build("mlp(width=8)", stream, seed=0))
    learner.start(stream)
    learner.begin(stream[0])
    batch = stream[0].train[:6]
    found = learner.gradient(batch)
    assert all(p.grad is None for p in learner.parameters)
    F.cross_entropy(learner.model(batch["x"]), batch["y"]).backward()
    for gradient, parameter in zip(found, learner.parameters, strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_frozen_parameters_are_not_trained(make_stream: MakeStream) -> None:
    stream = make_stream()
    model = build("mlp(width=8)", stream, seed=0)
    model.backbone.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Learner(model, optimizer=SGD).learn(stream)
    changed = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
    assert changed == ["head.weight", "head.bias"]


def test_a_model_with_nothing_to_train_is_refused(make_stream: MakeStream) -> None:
    model = build("mlp(width=8)", make_stream()).requires_grad_(False)
    with pytest.raises(UsageError, match="Classifier has no trainable parameters"):
        Learner(model).learn(make_stream())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1; given: 0"),
        ({"batch_size": -2}, "batch_size must be at least 1; given: -2"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1; given: 0"),
        ({"optimizer_state": "forget"}, "optimizer_state must be 'reset' or 'keep'"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Learner(nn.Linear(2, 2), **arguments)


def test_an_online_stream_is_seen_once(make_stream: MakeStream) -> None:
    stream = replace(make_stream(), online=True)
    Learner(build("mlp", stream), epochs=1).learn(stream)
    with pytest.raises(UsageError, match=r"online: .* so epochs must be 1; given: 2"):
        Learner(build("mlp", stream), epochs=2).learn(stream)


def test_a_learner_learns_one_stream(make_stream: MakeStream) -> None:
    learner = Learner(build("mlp", make_stream()))
    learner.learn(make_stream())
    with pytest.raises(UsageError, match="begun another stream"):
        learner.learn(make_stream())


def test_a_stream_made_by_hand_is_checked_before_it_is_learned(make_stream: MakeStream) -> None:
    stream = make_stream()
    spoilt = stream[1].train["x"].clone()
    spoilt[3] = torch.nan
    part = replace(stream[1], train=stream[1].train.with_columns(x=spoilt))
    bad = replace(stream, experiences=[stream[0], part, stream[2]])
    with pytest.raises(DataError, match=r"inputs of experience 1 .*\(first in row 3"):
        Learner(build("mlp(width=8)", bad, seed=0)).learn(bad)


def test_an_experience_may_say_how_often_it_is_gone_through(make_stream: MakeStream) -> None:
    stream = make_stream()
    given = [None, 0, 3, None][: len(stream)]
    parts = [replace(e, epochs=epochs) for e, epochs in zip(stream, given, strict=True)]
    stream = replace(stream, experiences=parts)
    learner = Learner(build("mlp(width=8)", stream, seed=0), epochs=2, batch_size=8)
    record = learner.learn(stream)
    once = [-(-len(experience.train) // 8) for experience in stream]
    passes = [2 if epochs is None else epochs for epochs in given]
    assert record.steps == [n * p for n, p in zip(once, passes, strict=True)]
    assert record.matrix[1] == record.matrix[0], "what is known already is not trained on"
