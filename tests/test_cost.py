"""Costs are those counted by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.cost import Meter, peak_memory, reset_peak_memory, stored_bytes
from holdfast.learner import Learner, Observer
from holdfast.methods.distillation.lwf import LwF
from holdfast.methods.replay.er import ER
from holdfast.models import build
from holdfast.stream import Stream

MakeStream = Callable[..., Stream]
CPU = torch.device("cpu")


def product(size: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.ones(size, size) @ torch.ones(size, size)


def test_a_matrix_product_costs_two_operations_an_entry_and_term() -> None:
    meter = Meter(CPU)
    meter.counted(lambda: torch.ones(3, 4) @ torch.ones(4, 5))
    assert meter.flops == 2 * 3 * 4 * 5


def test_what_is_counted_is_also_done_and_returned() -> None:
    meter = Meter(CPU)
    assert torch.equal(meter.counted(product(2)), torch.full((2, 2), 2.0))
    assert torch.equal(meter.step(3, product(2)), torch.full((2, 2), 2.0))
    assert meter.steps == 1


def test_where_counting_is_off_work_is_done_and_no_operations_are_told() -> None:
    meter = Meter(CPU)
    meter.counting = False
    assert torch.equal(meter.step(0, product(2)), torch.full((2, 2), 2.0))
    assert torch.equal(meter.counted(product(2)), torch.full((2, 2), 2.0))
    assert (meter.steps, meter.flops) == (1, 0)


def test_a_step_between_counts_is_charged_like_the_last_one_counted() -> None:
    meter, charged = Meter(CPU), []
    for index, size in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 9]):
        before = meter.flops
        meter.step(index, product(size))
        charged.append(meter.flops - before)
    counted = {i: 2 * (i + 1) ** 3 for i in (0, 1, 2, 4, 8)}
    assert charged == [counted[i] for i in (0, 1, 2, 2, 4, 4, 4, 4, 8)]


def mlp_step(rows: int, inputs: int, width: int, classes: int) -> int:
    """Forward, gradient by weights, and gradient by inputs but for the first layer's."""
    layers = [inputs * width, width * width, width * classes]
    return 2 * rows * (sum(layers) + sum(layers) + sum(layers[1:]))


def test_the_operations_of_an_mlp_are_those_counted_by_hand(make_stream: MakeStream) -> None:
    stream = make_stream()  # 24 rows an experience
    learner = Learner(build("mlp(width=8)", stream, seed=0), batch_size=8, epochs=2)
    cost = learner.learn(stream).cost
    assert cost["steps"] == 3 * 2 * 3
    assert cost["flops"] == 3 * 2 * 3 * mlp_step(8, 5, 8, 6)


def test_replayed_examples_cost_as_much_as_new_ones(make_stream: MakeStream) -> None:
    stream = make_stream()
    learner = Learner(build("mlp(width=8)", stream, seed=0), ER(50), batch_size=8)
    cost = learner.learn(stream).cost
    assert cost["flops"] == mlp_step(8, 5, 8, 6) + 8 * mlp_step(16, 5, 8, 6)


def test_evaluation_costs_no_operations_and_no_seconds(make_stream: MakeStream) -> None:
    class Slow(Observer):
        def on_step(self, learner: Learner) -> None:
            time.sleep(0.02)

    stream = make_stream()
    costs = []
    for every in (None, 1):
        learner = Learner(build("mlp(width=8)", stream, seed=0), evaluate_every=every)
        costs.append(learner.learn(stream, [Slow()]).cost)
    assert costs[0]["flops"] == costs[1]["flops"]
    learner = Learner(build("mlp(width=8)", stream, seed=0), batch_size=1)
    start = time.perf_counter()
    seconds = learner.learn(stream, [Slow()]).cost["seconds"]
    assert seconds < time.perf_counter() - start - 72 * 0.02


def test_seconds_run_only_between_start_and_stop() -> None:
    meter = Meter(CPU)
    meter.stop()
    assert meter.seconds == 0
    meter.start()
    time.sleep(0.02)
    meter.stop()
    once = meter.seconds
    assert once >= 0.02
    meter.stop()
    assert meter.seconds == once


def test_a_meters_state_comes_back() -> None:
    meter, other = Meter(CPU), Meter(CPU)
    meter.step(0, product(3))
    other.load_state_dict(meter.state_dict())
    assert other.state_dict() == meter.state_dict()


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux alone"
)
def test_the_peak_of_memory_rises_with_what_is_held_and_begins_anew() -> None:
    size = 64 * 2**20
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    held = torch.ones(size, dtype=torch.uint8)
    assert size * 0.9 < peak_memory(CPU) - before < size * 1.5
    del held
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < before + size / 2


def test_stored_bytes_are_those_of_all_tensors_in_the_state() -> None:
    module = nn.Linear(3, 2)
    module.register_buffer("bytes", torch.zeros(5, dtype=torch.uint8))
    assert stored_bytes(module) == 4 * (3 * 2 + 2) + 5


def test_a_replay_methods_bytes_are_its_rows(make_stream: MakeStream) -> None:
    stream = make_stream()
    cost = Learner(build("mlp", stream), ER(10)).learn(stream).cost
    row = 5 * 4 + 8  # five floats and a label; one spare row takes what is not kept
    assert cost["method_bytes"] == 11 * row
    assert cost["example_bytes"] == 10 * 5 * 4


def test_bytes_of_examples_and_of_the_model_are_told_apart(make_stream: MakeStream) -> None:
    stream = make_stream()
    model = build("mlp(width=3, depth=1)", stream)
    model.backbone[-1][1].bias.requires_grad_(False)
    cost = Learner(model, LwF()).learn(stream).cost
    assert cost["model_bytes"] == 4 * ((5 + 1) * 3 + (3 + 1) * stream.classes)
    assert cost["method_bytes"] >= cost["model_bytes"]  # the teacher
    assert cost["example_bytes"] == 0


def test_bytes_of_examples_are_of_the_rows_held_alone(make_stream: MakeStream) -> None:
    stream = make_stream()
    rows = sum(len(e.train) for e in stream)
    cost = Learner(build("mlp", stream), ER(rows + 100)).learn(stream).cost
    assert cost["example_bytes"] == rows * 5 * 4


def test_in_a_long_stream_operations_are_counted_in_ever_fewer_experiences() -> None:
    counted = []
    meter = Meter(CPU)
    for experience in range(200):
        meter.begin(experience)
        if meter.exact:
            counted.append(experience)
    assert counted == [*range(17), 32, 64, 128]


def test_what_is_not_counted_is_charged_as_its_kind_was_last() -> None:
    meter, charged = Meter(CPU), []
    for experience, size in ((16, 3), (17, 5), (32, 7), (33, 9)):
        meter.begin(experience)
        before = meter.flops
        meter.counted(product(size), "end")
        charged.append(meter.flops - before)
    assert charged == [2 * 3**3, 2 * 3**3, 2 * 7**3, 2 * 7**3]
    meter.begin(34)
    before = meter.flops
    meter.counted(product(2), "begin")  # never counted before: it is now
    assert meter.flops - before == 2 * 2**3
    meter.step(0, product(4))
    assert meter.flops - before == 2 * 2**3  # no step has been counted in any experience
    again = Meter(CPU)
    again.load_state_dict(meter.state_dict())
    assert again.known == {"end": 2 * 7**3, "begin": 16}
