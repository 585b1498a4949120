"""EATA: filters, weights and anchor by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.methods import EATA


class Given(nn.Module):
    """Logits that are told, times a scale that a norm layer holds."""

    def __init__(self, logits):
        super().__init__()
        self.norm = nn.LayerNorm(logits.shape[1], elementwise_affine=True)
        self.logits = logits

    def forward(self, x):
        return self.logits[x.long().flatten()] * self.norm.weight.mean() + self.norm.bias


def logits_of(rows):
    return torch.tensor(rows).clamp(min=1e-6).log()


@pytest.fixture
def told(adapter):
    """An EATA on told probabilities, one step of plain SGD a batch."""

    def make(rows, **options):
        from holdfast.adapt import TestTimeAdapter

        options = {"strength": 0.0, "lr": 0.1, **options}
        return TestTimeAdapter(Given(logits_of(rows)), EATA(**options))

    return make


def test_unreliable_and_redundant_samples_are_left_out(told):
    rows = [
        [0.98, 0.01, 0.01],  # sure of the first class
        [0.34, 0.33, 0.33],  # unsure
        [0.97, 0.02, 0.01],  # sure of the first class again
        [0.01, 0.98, 0.01],  # sure of another
    ]
    eata = told(rows, redundancy=0.5)
    eata.predict(torch.tensor([[0.0], [1.0]]))
    method = eata.method
    assert (method.seen, method.reliable, method.kept) == (2, 1, 1)  # no mean yet: none redundant
    torch.testing.assert_close(method.mean_answer, torch.tensor(rows[0]), atol=1e-4, rtol=0)
    before = method.mean_answer.clone()
    eata.predict(torch.tensor([[1.0], [2.0], [3.0]]))
    assert (method.seen, method.reliable, method.kept) == (5, 3, 2)
    answer = eata.answer(torch.tensor([[3.0]]))  # weights moved since, a little
    kept = answer.softmax(1)[0]
    assert torch.allclose(method.mean_answer, 0.9 * before + 0.1 * kept, atol=0.01)
    assert method.report() == {"reliable": 3 / 5, "kept": 2 / 5}


def test_the_loss_weighs_kept_samples_by_how_sure_they_are(told):
    rows = [[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.05, 0.05, 0.9]]
    eata = told(rows, margin=0.6)
    weight = eata.model.norm.weight.detach().clone()
    x = torch.tensor([[0.0], [1.0], [2.0]])
    eata.predict(x)
    other = Given(logits_of(rows))
    z = other(x)
    p = z.softmax(1)
    h = -(p * p.log()).sum(1)
    limit = 0.6 * math.log(3)
    kept = h < limit
    loss = ((limit - h[kept].detach()).exp() * h[kept]).sum() / kept.sum()
    loss.backward()
    assert kept.tolist() == [True, False, True]
    torch.testing.assert_close(
        eata.model.norm.weight.detach(), weight - 0.1 * other.norm.weight.grad
    )


def test_no_step_is_made_if_none_is_kept_not_even_by_momentum(told):
    eata = told([[0.98, 0.01, 0.01], [0.34, 0.33, 0.33]], lr=1.0)
    eata.predict(torch.tensor([[0.0]]))  # a step, which leaves momentum
    before = copy.deepcopy(eata.model.state_dict())
    eata.predict(torch.tensor([[1.0]]))
    after = eata.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_published_redundancy_depends_on_the_number_of_classes(told):
    sure = torch.full((3, 200), 1e-4)
    sure[torch.arange(3), torch.tensor([0, 0, 1])] = 1 - 199e-4
    eata = told(sure.tolist())
    eata.predict(torch.tensor([[0.0]]))
    eata.predict(torch.tensor([[1.0], [2.0]]))
    assert eata.method.kept == 2  # the second is like the first


def test_the_anchor_is_the_fisher_information_under_the_models_own_labels(model, batches, adapter):
    past = Table({"x": torch.cat(batches)})
    eata = adapter(EATA(strength=5.0, examples=1000), past=past)
    eata.predict(batches[0])
    chosen = eata.learner.named
    found = dict(zip((n for n, _ in chosen), eata.method.importance.get(chosen), strict=True))
    labels = model(past["x"]).argmax(1)
    total = {name: torch.zeros_like(p) for name, p in chosen}
    for x, y in zip(past["x"], labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(x[None]), y[None]).backward()
        for name, p in model.named_parameters():
            if name in total:
                total[name] += p.grad.square()
    for name, value in total.items():
        torch.testing.assert_close(found[name], value / len(labels), atol=1e-5, rtol=1e-3)
    anchors = eata.method.anchor.get(chosen)
    source = dict(model.named_parameters())
    assert all(torch.equal(a, source[n]) for (n, _), a in zip(chosen, anchors, strict=True))


def test_the_anchor_holds_weights(batches, adapter):
    past = Table({"x": torch.cat(batches)})

    def distance(strength):
        eata = adapter(
            EATA(strength=strength, lr=1e-3, margin=2.0, redundancy=2.0, optimizer="adam"),
            past=past,
        )
        for _ in range(5):
            for x in batches:
                eata.predict(x)
        return eata.distance()

    assert distance(1e4) < 0.7 * distance(0.0)


def test_without_images_of_the_source_it_says_what_to_do(adapter, batches):
    with pytest.raises(StreamRefused, match="give them as past, or strength=0"):
        adapter(EATA()).predict(batches[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"margin": 0.0}, "margin must be above 0; given: 0.0"),
        ({"redundancy": -1.0}, "redundancy must be above 0"),
        ({"strength": -1.0}, "strength must be at least 0"),
    ],
)
def test_arguments_are_checked(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        EATA(**arguments)
