"""Local inhibition of hidden units, against pairs of units counted one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import EWC, MAS, SLNI
from holdfast.methods.penalties.slni import Locality, inhibition
from holdfast.models import build
from holdfast.models.classifier import Classifier
from holdfast.stream import Experience, Stream
from holdfast.testing import small_stream


def pairs(answers, scale, alpha):
    """Every pair of units by itself."""
    units, total = answers.shape[1], 0.0
    for i in range(units):
        for j in range(units):
            if i == j:
                continue
            near = 1.0 if scale is None else math.exp(-((i - j) ** 2) / (2 * (units / scale) ** 2))
            spared = math.exp(-float(alpha[i] + alpha[j]))
            together = sum(float(h[i] * h[j]) for h in answers) / len(answers)
            total += near * spared * abs(together)
    return total


@pytest.mark.parametrize("scale", [6.0, 2.0, None])
@pytest.mark.parametrize("discounted", [True, False])
def test_the_penalty_is_the_sum_over_pairs_of_units(scale, discounted):
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(5, 7, generator=generator)  # of either sign, as tanh gives them
    alpha = torch.rand(7, generator=generator) if discounted else torch.zeros(7)
    found = inhibition(answers, Locality(7, scale).weight, alpha if discounted else None)
    assert float(found) == pytest.approx(pairs(answers, scale, alpha), rel=1e-4)


def hidden(model, x):
    """Answers of both layers of a network of two."""
    parts = list(model.backbone[1])
    first = parts[2](parts[1](model.backbone[0](x).flatten(1)))
    return first, parts[4](parts[3](first))


def unit_by_unit(learner, table):
    """Mean over examples of |d sum_c f_c(x)^2 / d h_i|, one example after another."""
    model = learner.model.eval()
    totals = [torch.zeros(8), torch.zeros(8)]
    for row in range(len(table)):
        first, second = hidden(model, table["x"][row : row + 1])
        norm = model.head(second).square().sum()
        for total, g in zip(totals, torch.autograd.grad(norm, [first, second]), strict=True):
            total += g[0].abs() / len(table)
    model.train()
    return totals


@pytest.mark.parametrize("discount", [True, False])
def test_the_loss_has_the_penalty_of_the_batch_discounted_by_what_mattered_before(
    numbered, learned, watching, discount
):
    alpha, compared = [torch.zeros(8), torch.zeros(8)], []

    def loss(self, learner, batch, outputs, loss):
        answers = hidden(learner.model, batch["x"])
        terms = [
            inhibition(h, Locality(8, 3.0).weight, a if discount else None)
            for h, a in zip(answers, alpha, strict=True)
        ]
        expected = F.cross_entropy(outputs, batch["y"]) + 0.02 * sum(terms)
        torch.testing.assert_close(loss, expected)
        compared.append(float(sum(terms).detach()))
        return loss

    def end(self, learner, experience):
        for total, new in zip(alpha, unit_by_unit(learner, experience.train), strict=True):
            total += new

    method = SLNI(strength=0.02, scale=3.0, discount=discount)
    looking = watching(loss=loss, end=end)
    model = "mlp(width=8, depth=2)"
    learned(numbered("domain", 12), chain(method, looking), model, epochs=2)
    assert min(compared) > 0
    if discount:
        assert method.importance(0) is not None


def test_the_importance_of_units_is_the_closed_form():
    """With f = V h: d |f|^2 / d h_i = 2 sum_c f_c V_ci, of its own task's classes if known."""
    generator = torch.Generator().manual_seed(0)
    columns = {"x": torch.randn(9, 5, generator=generator), "y": torch.arange(9) % 3}
    for scenario, own in (("class", torch.ones(9, 3)), ("task", None)):
        task = torch.arange(9) % 2
        table = Table({**columns, "task": task})
        if own is None:
            own = torch.tensor([[1.0, 0, 1], [0, 1, 0]])[task]
        experiences = [Experience(i, table, table, c) for i, c in enumerate([(0, 2), (1,)])]
        model = Classifier(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), nn.Linear(4, 3))
        method = SLNI()
        learner = Learner(model, method, seed=0)
        learner.start(Stream("made", experiences, scenario, 3, (5,)))
        learner.begin(learner.stream[0])
        (found,) = method.sensitivity(learner, table)
        h = model.backbone(columns["x"])
        weight = model.head.weight
        expected = (2 * ((h @ weight.T + model.head.bias) * own) @ weight).abs().mean(0)
        torch.testing.assert_close(found, expected.detach())


def test_a_convolutions_unit_is_a_channel(numbered, learned, watching):
    stream, seen = numbered("domain", 10), []
    model = build("cnn(width=4, depth=2)", stream, seed=0)
    activations = [part for part in model.modules() if isinstance(part, nn.ReLU)]
    maps = []
    for part in activations:
        part.register_forward_hook(lambda module, inputs, output: maps.append(output))

    def loss(self, learner, batch, outputs, loss):
        terms = [
            inhibition(m.mean((2, 3)), Locality(m.shape[1], 6.0).weight, method.importance(place))
            for place, m in enumerate(maps[-len(activations) :])
        ]
        gap = loss - F.cross_entropy(outputs, batch["y"])
        torch.testing.assert_close(gap, 0.5 * sum(terms), rtol=1e-3, atol=1e-5)
        seen.append(float(gap.detach()))
        return loss

    method = SLNI(strength=0.5)
    learned(stream, chain(method, watching(loss=loss)), model, epochs=1)
    assert max(seen) > 0.1


def test_passes_that_other_methods_make_for_their_losses_are_not_taken_for_the_batch(
    numbered, learned, watching
):
    def passing(self, learner, batch, outputs, loss):
        learner.model(torch.full_like(batch["x"][:3], 15))
        return loss

    stream = numbered("domain", 20)
    plain = learned(stream, SLNI(strength=0.05))
    beside = learned(stream, chain(watching(loss=passing), SLNI(strength=0.05)))
    for a, b in zip(plain.parameters, beside.parameters, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("holder", [MAS, EWC])
def test_fewer_units_answer_and_nothing_is_left_on_the_model(numbered, learned, holder):
    def answering(learner):
        first, _ = hidden(learner.model.eval(), stream[0].test["x"])
        return float((first > 0).float().mean())

    stream, model = numbered("domain", 40), "mlp(width=8, depth=2)"
    dense = learned(stream, holder(strength=0.01), model, epochs=5)
    sparse = learned(stream, chain(holder(strength=0.01), SLNI(strength=0.05)), model, epochs=5)
    assert answering(sparse) < answering(dense)
    for part in sparse.model.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_a_growing_head_is_served(numbered, learned):
    learner = learned(numbered(), chain(MAS(strength=0.01), SLNI()), head="growing")
    assert learner.model.head.classes == 6


def test_backbones_whose_units_are_mixed_are_refused():
    stream = small_stream("domain")
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.ReLU())
    with pytest.raises(StreamRefused, match=r"LayerNorm"):
        Learner(Classifier(mixed, nn.Linear(8, 10)), SLNI()).start(stream)


@pytest.mark.parametrize("arguments", [{"strength": -1.0}, {"scale": 0.0}, {"examples": 0}])
def test_numbers_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} must be .*; given: "):
        SLNI(**arguments)
