"""TENT: its gradient and step against ten lines by hand."""

import copy

import pytest
import torch
from torch import nn

from holdfast import streams
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.losses import entropy
from holdfast.methods import TENT


def by_hand(model, batches, make):
    """Batch statistics, entropy of the own answer, one step of scales and shifts a batch."""
    model = copy.deepcopy(model).train().requires_grad_(False)
    trained = []
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
            trained += [p.requires_grad_(True) for p in (part.weight, part.bias)]
    optimizer, answers = make(trained), []
    for x in batches:
        z = model(x)
        answers.append(z.detach())
        p = z.exp() / z.exp().sum(1, keepdim=True)
        optimizer.zero_grad()
        (-(p * p.log()).sum(1)).mean().backward()
        optimizer.step()
    return model, answers


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_answers_and_weights_are_those_of_ten_lines_by_hand(model, batches, adapter, rule):
    tent = adapter(TENT(lr=0.01, optimizer=rule))
    with torch.no_grad():
        ours = [tent.predict(x) for x in batches]
    make = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    }[rule]
    other, theirs = by_hand(model, batches, make)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(tent.model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_only_scales_and_shifts_move(model, batches, adapter):
    tent = adapter(TENT(lr=0.1))
    for x in batches:
        tent.predict(x)
    before = dict(model.named_parameters())
    moved = {n for n, p in tent.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {f"0.blocks.{k}.{part}" for k in (1, 5) for part in ("weight", "bias")} or (
        moved and all(".weight" in n or ".bias" in n for n in moved) and not {"1.weight"} & moved
    )
    assert not any(p.grad is not None for n, p in tent.model.named_parameters() if n not in moved)


def test_entropy_falls_on_a_batch_that_is_seen_again(batches, adapter):
    tent = adapter(TENT(lr=0.01))
    found = [float(entropy(tent.predict(batches[0])).mean()) for _ in range(10)]
    assert found[-1] < found[0]


def test_layer_normalisation_adapts_where_there_is_no_batch_normalisation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    before = copy.deepcopy(net.state_dict())
    from holdfast.adapt import TestTimeAdapter

    adapter = TestTimeAdapter(net, TENT(lr=0.1))
    adapter.predict(torch.randn(6, 3, 2, 2))
    moved = {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"2.weight", "2.bias"}


def test_a_model_without_norm_layers_is_refused_with_a_way_on():
    from holdfast.adapt import TestTimeAdapter

    adapter = TestTimeAdapter(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), TENT())
    with pytest.raises(StreamRefused, match="normalisation layers, and Sequential has none; cotta"):
        adapter.predict(torch.randn(6, 3, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": 0.0}, "lr must be above 0"),
        ({"optimizer": "lion"}, "one of adam, sgd; given: 'lion'"),
    ],
)
def test_arguments_are_checked(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        TENT(**arguments)


def test_in_a_run_the_first_experience_is_learned_and_the_rest_adapted_to_without_labels():
    from dataclasses import replace

    from holdfast.models import build

    stream = streams.build("corrupted-digits(limit=60, test_limit=60, kinds=[fog, contrast])")

    def learned(stream):
        learner = Learner(build("cnn(width=8)", stream, seed=0), TENT(lr=0.01), epochs=4)
        return learner, learner.learn(stream)

    learner, record = learned(stream)
    assert record.matrix[0][0] > 0.6
    wrong = [
        replace(e, train=e.train.with_columns(y=(e.train["y"] + 1) % 10)) if e.index else e
        for e in stream
    ]
    _, changed = learned(replace(stream, experiences=wrong))
    assert changed.matrix == record.matrix  # labels after the first experience play no part
    assert record.steps == [4 * -(-len(stream[0].train) // 32), 2, 2]
    assert isinstance(learner.optimizer, torch.optim.Adam)
