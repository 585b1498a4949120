"""Methods as Bregman divergences, against the library's own methods."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from holdfast import unified
from holdfast.bregman import At, objective
from holdfast.data import concat
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.losses import entropy
from holdfast.method import Method
from holdfast.methods import DER, ER, EWC, L2, MAS, SI, DERpp, ICaRL, LwF, OnlineEWC, RWalk
from holdfast.models import build
from holdfast.testing import check_method, small_stream
from holdfast.unified import Unified

CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def met(method, experiences=2, scenario="class", head="full"):
    """A learner in the midst of its third experience, in double precision, and its next batch."""
    stream = small_stream(scenario)
    learner = Learner(build("mlp(width=16, depth=1)", stream, head=head, seed=1), method, seed=0)
    learner.model.double()
    learner.start(stream)
    for experience in list(stream)[:experiences]:
        learner.begin(experience)
        learner.train()
        learner.end()
    learner.begin(stream[experiences])
    learner.model.train()
    batches = iter(learner.batches)
    learner.update(next(batches))
    learner.optimizer.zero_grad()
    return learner, next(batches)


def graded(learner, loss):
    """A loss and its gradient by all weights."""
    return [loss.detach(), *torch.autograd.grad(loss, learner.parameters, materialize_grads=True)]


def same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert max(float(a.abs().max()) for a in one[1:]) > 1e-4


def terms(learner, batch):
    """What a batch brings: the model's outputs, and the plain loss on them."""
    learner.incoming = batch
    outputs = learner.objective.forward(learner.model, batch)
    return outputs, learner.objective.loss(outputs, batch)


@pytest.mark.parametrize("head", ["full", "growing"])
def test_er_is_a_divergence_from_labels(head):
    learner, batch = met(ER(capacity=30, batch_size=7), head=head)
    replayed = learner.method.buffer.sample(7, torch.Generator().manual_seed(3))
    joined = concat(batch, replayed)
    direct = learner.objective.loss(learner.objective.forward(learner.model, joined), joined)
    _, new = terms(learner, batch)
    at = At(learner.forward(replayed), replayed)
    rows, old = len(batch["y"]), len(replayed["y"])
    share = rows / (rows + old)  # ER takes the mean over both
    built = share * objective([unified.er(old / rows)], new, at)
    same(graded(learner, direct), graded(learner, built))


@pytest.mark.parametrize("head", ["full", "growing"])
@pytest.mark.parametrize(
    ("make", "build_penalties"),
    [
        (lambda: DER(capacity=30, alpha=0.7), lambda: [unified.der(0.7)]),
        (
            lambda: DERpp(capacity=30, alpha=0.7, beta=0.4),
            lambda: unified.derpp(alpha=0.7, beta=0.4),
        ),
    ],
    ids=["DER", "DER++"],
)
def test_der_is_a_divergence_from_stored_logits_and_derpp_has_both(head, make, build_penalties):
    learner, batch = met(make(), head=head)
    state = learner.generator.get_state()
    kept = {k: v.clone() for k, v in learner.method.state_dict().items() if hasattr(v, "clone")}
    direct = learner.method.loss(learner, batch, *terms(learner, batch))
    learner.generator.set_state(state)
    learner.method.buffer.load_state_dict(
        {k.removeprefix("buffer."): v for k, v in kept.items()}
        | {"_extra_state": learner.method.buffer.get_extra_state()}
    )
    other = Unified(on_memory=build_penalties(), capacity=30)
    other.buffer = learner.method.buffer
    built = other.loss(learner, batch, *terms(learner, batch))
    same(graded(learner, direct), graded(learner, built))


@pytest.mark.parametrize(
    ("make", "penalties"),
    [
        (lambda: DER(capacity=30, alpha=0.7), [unified.der(0.7)]),
        (lambda: DERpp(capacity=30), unified.derpp()),
    ],
    ids=["DER", "DER++"],
)
def test_a_whole_run_by_divergences_is_a_whole_run_of_the_method(numbered_stream, make, penalties):
    runs = []
    for method in (make(), Unified(on_memory=penalties, capacity=30)):
        model = build("mlp(width=16, depth=1)", numbered_stream, seed=1).double()
        learner = Learner(model, method, epochs=2, batch_size=10, seed=0)
        learner.learn(numbered_stream)
        runs.append([p.detach() for p in learner.parameters])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.fixture
def numbered_stream():
    return small_stream()


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_lwf_is_a_divergence_from_a_teachers_softened_answers(scenario):
    learner, batch = met(LwF(alpha=0.8, temperature=3.0), scenario=scenario)
    method, forward = learner.method, learner.objective.forward
    outputs, loss = terms(learner, batch)
    direct = method.loss(learner, batch, outputs, loss)
    penalties = [
        unified.distilled(
            lambda rows: method.teacher.outputs(forward, rows), 0.8, 3.0, classes=classes
        )
        for classes in method.heads
    ]
    outputs, loss = terms(learner, batch)
    built = objective(penalties, loss, At(outputs, batch))
    found, expected = graded(learner, built), graded(learner, direct)
    # LwF descends the cross-entropy, which is the divergence and the teacher's own entropy.
    old = method.teacher.outputs(forward, batch)
    own = sum(0.8 * 9 * entropy(old[:, classes] / 3).mean() for classes in method.heads)
    same([expected[0] - own, *expected[1:]], found)


QUADRATIC = {
    "L2": (lambda: L2(strength=2.0), 2.0, lambda m: (m.anchor, None)),
    "EWC": (lambda: EWC(strength=30.0), 30.0, lambda m: (m.centre, m.importance)),
    "online EWC": (lambda: OnlineEWC(strength=30.0), 30.0, lambda m: (m.anchor, m.importance)),
    "MAS": (lambda: MAS(strength=0.5), 1.0, lambda m: (m.anchor, m.importance)),
}


@pytest.mark.parametrize("name", QUADRATIC)
def test_quadratic_penalties_are_divergences_of_weights(name):
    make, weight, stores = QUADRATIC[name]
    learner, batch = met(make())
    anchor, importance = stores(learner.method)
    direct = learner.method.loss(learner, batch, *terms(learner, batch))
    penalty = unified.anchored(
        anchor.get(learner.named),
        importance.get(learner.named) if importance is not None else None,
        weight,
    )
    outputs, loss = terms(learner, batch)
    built = objective([penalty], loss, At(outputs, batch, learner.parameters))
    same(graded(learner, direct), graded(learner, built))
    assert float(penalty(At(outputs, batch, learner.parameters)).detach()) > 1e-6


@pytest.mark.parametrize("make", [SI, RWalk], ids=["SI", "RWalk"])
def test_path_penalties_are_divergences_whose_gradients_are_added(make):
    learner, batch = met(make(strength=3.0))
    method, parameters = learner.method, learner.parameters
    _, loss = terms(learner, batch)
    loss.backward()
    plain = [p.grad.clone() for p in parameters]
    method.gradients(learner)
    added = [p.grad - was for p, was in zip(parameters, plain, strict=True)]
    anchor, importance = (s.get(learner.named) for s in (method.anchor, method.importance))
    penalty = unified.anchored(anchor, importance, 2 * 3.0)
    value = penalty(At(torch.empty(0), {}, parameters))
    for one, other in zip(added, torch.autograd.grad(value, parameters), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert float(value.detach()) > 1e-6


def test_fdr_is_the_squared_distance_of_probabilities():
    outputs = torch.randn(4, 5, dtype=torch.float64).requires_grad_()
    stored = torch.randn(4, 5, dtype=torch.float64)
    stored[:2, 3:] = torch.nan
    found = unified.fdr(0.6)(At(outputs, {"outputs": stored}))
    then = torch.zeros(4, 5, dtype=torch.float64)
    then[:2, :3], then[2:] = stored[:2, :3].softmax(1), stored[2:].softmax(1)
    direct = 0.6 * (outputs.softmax(1) - then).square().sum(1).mean()
    for one, other in zip(
        [found, *torch.autograd.grad(found, outputs)],
        [direct, *torch.autograd.grad(direct, outputs)],
        strict=True,
    ):
        torch.testing.assert_close(one, other, **CLOSE)


def test_fdr_counts_chances_of_zero_also_where_no_memory_knows_the_class():
    outputs = torch.randn(3, 5, dtype=torch.float64)
    stored = torch.randn(3, 4, dtype=torch.float64)
    found = unified.fdr()(At(outputs, {"outputs": stored}))
    then = F.pad(stored.softmax(1), (0, 1))
    torch.testing.assert_close(found, (outputs.softmax(1) - then).square().sum(1).mean(), **CLOSE)


@pytest.mark.parametrize("experiences", [0, 2])
def test_icarl_is_a_divergence_of_each_class_by_itself(experiences):
    learner, batch = met(ICaRL(capacity=20), experiences=experiences)
    method, forward = learner.method, learner.objective.forward
    outputs, loss = terms(learner, batch)
    direct = method.loss(learner, batch, outputs, loss)
    teacher = (lambda rows: method.teacher.outputs(forward, rows)) if experiences else None
    penalty = unified.icarl(teacher, learner.absent_logits, learner.known)
    outputs, _ = terms(learner, batch)
    found, expected = graded(learner, penalty(At(outputs, batch))), graded(learner, direct)
    own = torch.zeros((), dtype=torch.float64)
    if teacher:  # iCaRL descends the cross-entropy: the divergence and the aims' own entropy
        chance = teacher(batch)[:, learner.absent_logits].sigmoid()
        own = -(chance * chance.log() + (1 - chance) * (1 - chance).log()).sum(1).mean()
    same([expected[0] - own, *expected[1:]], found)


def test_cpr_takes_the_entropy_off_the_loss():
    outputs = torch.randn(6, 5, dtype=torch.float64).requires_grad_()
    found = unified.cpr(0.3, classes=[0, 1, 4])(At(outputs, {}))
    direct = -0.3 * entropy(outputs[:, [0, 1, 4]]).mean()
    (one,), (other,) = (torch.autograd.grad(value, outputs) for value in (found, direct))
    torch.testing.assert_close(one, other, **CLOSE)
    constant = 0.3 * torch.tensor(3.0, dtype=torch.float64).log()
    torch.testing.assert_close(found, direct + constant, **CLOSE)


def test_variational_learning_is_the_divergence_of_gaussians():
    mean, rho = (torch.randn(7, dtype=torch.float64).requires_grad_() for _ in range(2))
    old_mean, old_variance = torch.randn(7).double(), torch.rand(7).double() + 0.1
    penalty = unified.variational(lambda at: (mean, F.softplus(rho)), old_mean, old_variance, 0.2)
    found = penalty(At(torch.empty(0), {}))
    now, old = Normal(mean, F.softplus(rho).sqrt()), Normal(old_mean, old_variance.sqrt())
    direct = 0.2 * kl_divergence(now, old).sum()
    for one, other in zip(
        [found, *torch.autograd.grad(found, [mean, rho])],
        [direct, *torch.autograd.grad(direct, [mean, rho])],
        strict=True,
    ):
        torch.testing.assert_close(one, other, **CLOSE)


def test_divergences_on_the_batch_and_on_weights_add_up():
    learner, batch = met(Method())
    anchor = [torch.zeros_like(p) for p in learner.parameters]
    method = Unified(on_stream=[unified.cpr(0.3), unified.anchored(anchor, weight=0.1)])
    found = method.loss(learner, batch, *terms(learner, batch))
    outputs, loss = terms(learner, batch)
    width = torch.tensor(float(outputs.shape[1])).double()
    direct = loss + 0.3 * (width.log() - entropy(outputs).mean())
    direct = direct + 0.05 * sum(p.square().sum() for p in learner.parameters)
    same(graded(learner, direct), graded(learner, found))


def test_the_method_keeps_the_contract():
    check_method(lambda: Unified(on_stream=[unified.cpr()], on_memory=unified.derpp(), capacity=20))


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one penalty"):
        Unified()
    assert isinstance(Unified(on_stream=[unified.cpr()]), nn.Module)
