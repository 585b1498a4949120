"""Cosines between gradients, against gradients taken one by one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.data import size
from holdfast.models.backbones import CNN
from holdfast.models.heads import CosineHead, GrowingHead
from holdfast.optim import gradient_similarity as module
from holdfast.optim.gradient_similarity import gradient_similarity


def losses(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def batch(rows, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((rows, *shape), generator=generator)
    return {"x": x, "y": torch.randint(3, (rows,), generator=generator)}


def plainly(model, rows, others, groups):
    """One backward pass a row and a group."""
    trained = [p for p in model.parameters() if p.requires_grad]

    def gradient(part):
        found = torch.autograd.grad(losses(model, part).mean(), trained, materialize_grads=True)
        return torch.cat([g.flatten() for g in found]).double()

    def parts(whole, count):
        step = size(whole) // count
        return [
            gradient({k: c[at : at + step] for k, c in whole.items()})
            for at in range(0, size(whole), step)
        ]

    old = parts(others, groups)
    return torch.stack(
        [
            torch.stack([torch.dot(g, o) / (g.norm() * o.norm()) for o in old])
            for g in parts(rows, size(rows))
        ]
    )


def mlp(head=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), head or nn.Linear(4, 3)
    )


def frozen(model, *names):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    return model


class Twice(nn.Module):
    """A layer that is used twice, and one that is not used at all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.other, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.first(self.first(x).relu()))


class Unused(Twice):
    def forward(self, x):
        return self.last(self.first(x).relu())


class Tied(Twice):
    def __init__(self):
        super().__init__()
        self.other.weight = self.first.weight

    def forward(self, x):
        return self.last(self.other(self.first(x).relu()))


LINEAR = {
    "linear": mlp,
    "growing head": lambda: mlp(GrowingHead(4, 3)),
    "no bias": lambda: mlp(nn.Linear(4, 3, bias=False)),
    "frozen biases": lambda: frozen(mlp(), "0.bias", "4.bias"),
    "frozen weights": lambda: frozen(mlp(), "0.weight", "2.weight", "2.bias"),
}
OTHER = {
    "cosine head": lambda: mlp(CosineHead(4, 3)),
    "overwritten": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "used twice": Twice,
    "unused": Unused,
    "tied": Tied,
}


@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
@pytest.mark.parametrize(("others", "groups"), [(8, 4), (6, 1), (3, 3)])
def test_cosines_are_those_of_gradients_taken_one_by_one(name, others, groups):
    model = {**LINEAR, **OTHER}[name]().eval()
    rows, old = batch(5, 6), batch(others, 6, seed=1)
    found = gradient_similarity(model, losses, rows, old, groups)
    torch.testing.assert_close(found.double(), plainly(model, rows, old, groups), atol=1e-5, rtol=0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", [*LINEAR, *OTHER])
def test_linear_models_form_no_gradient_and_others_do(name, monkeypatch):
    formed = []
    monkeypatch.setattr(module, "_one_by_one", lambda *a: formed.append(a) or _ones())
    gradient_similarity({**LINEAR, **OTHER}[name](), losses, batch(2, 6), batch(4, 6), 2)
    assert bool(formed) == (name in OTHER)


def _ones():
    return module._Products(torch.ones(2), torch.ones(2, 2), torch.ones(2))


def test_convolutions_and_batch_normalisation_in_evaluation_mode_are_served():
    torch.manual_seed(0)
    model = nn.Sequential(CNN(1, width=3, depth=2), nn.Linear(6, 3))
    model(torch.randn(20, 1, 8, 8))  # running statistics of its own
    model.eval()
    held = {k: v.clone() for k, v in model.state_dict().items()}
    rows, old = batch(4, 1, 8, 8), batch(6, 1, 8, 8, seed=1)
    with torch.no_grad():
        found = gradient_similarity(model, losses, rows, old, 3)
    torch.testing.assert_close(found.double(), plainly(model, rows, old, 3), atol=1e-5, rtol=0)
    assert all(torch.equal(v, held[k]) for k, v in model.state_dict().items())


def test_columns_that_the_rows_lack_are_left_aside():
    rows, old = batch(2, 6), batch(4, 6, seed=1)
    plain = gradient_similarity(mlp(), losses, rows, old, 2)
    scored = {**old, "score": torch.ones(4)}
    for model in (mlp(), mlp(CosineHead(4, 3))):
        assert gradient_similarity(model, losses, rows, scored, 2).shape == (2, 2)
    assert torch.equal(plain, gradient_similarity(mlp(), losses, rows, scored, 2))


def test_an_example_without_a_gradient_is_like_none():
    rows = {"x": torch.tensor([[0.0, 0.0], [1.0, 0.0]])}
    others = {"x": torch.tensor([[0.0, 3.0], [2.0, 0.0]])}
    layer = nn.Linear(2, 1, bias=False)
    found = gradient_similarity(layer, lambda m, b: m(b["x"]).squeeze(1), rows, others, 2)
    assert found.tolist() == [[0.0, 0.0], [0.0, 1.0]]
