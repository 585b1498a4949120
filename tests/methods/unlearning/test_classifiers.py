"""Unlearning of classifiers: each method is its equation, written out beside it."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast import catalogue
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.method import chain
from holdfast.methods import (
    GA,
    SCRUB,
    BoundaryExpand,
    BoundaryShrink,
    CFk,
    EUk,
    FinetuneRetain,
    L1Sparse,
    RandomLabels,
    Retrain,
    Saliency,
    SalUn,
)
from holdfast.methods.unlearning.saliency import forget_gradient, top_share
from holdfast.models import CNN, Classifier, LinearHead, build
from holdfast.testing import small_stream


@pytest.fixture
def stream():
    """One request: 40 digits to forget, 24 to retain."""
    from dataclasses import replace

    three = small_stream("domain")
    return replace(three, experiences=[three[0]])


@pytest.fixture
def model(stream):
    return build("mlp(width=16, depth=1)", stream, seed=1)


def learner_of(model, method, **options):
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "batch_size": 10, **options}
    return Learner(deepcopy(model), method, **options)


def begun(learner, stream):
    learner.start(stream)
    learner.begin(stream[0])
    learner.model.train()
    return list(learner.batches)


class Losses(Observer):
    """Batches and epochs as they came."""

    def __init__(self):
        self.seen = []

    def on_step(self, learner):
        self.seen.append((learner.epoch, {n: c.clone() for n, c in learner.incoming.items()}))


def rows_of(table):
    return {tuple(row.flatten().tolist()) for row in table["x"]}


@pytest.mark.parametrize("method", [FinetuneRetain, L1Sparse, Retrain, EUk, CFk])
def test_methods_that_relearn_see_the_retain_set_and_nothing_else(model, stream, method):
    learner, look = learner_of(model, method()), Losses()
    learner.learn(stream, [look])
    seen = set().union(*(rows_of(batch) for _, batch in look.seen))
    assert seen == rows_of(stream[0].sets["retain"])


@pytest.mark.parametrize("method", [GA, BoundaryExpand, BoundaryShrink])
def test_methods_that_only_push_away_see_the_forget_set_and_nothing_else(model, stream, method):
    learner, look = learner_of(model, method()), Losses()
    learner.learn(stream, [look])
    assert set().union(*(rows_of(b) for _, b in look.seen)) == rows_of(stream[0].train)


def test_retraining_starts_from_new_weights_and_no_momentum(model, stream):
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    learner = learner_of(model, Retrain(), optimizer=sgd)
    begun(learner, stream)
    before = dict(model.named_parameters())
    assert not any(torch.equal(p, before[n]) for n, p in learner.named)
    assert not learner.optimizer.state
    bound = 1 / 64**0.5  # of a linear layer with 64 inputs
    assert learner.model.backbone[1][1].weight.abs().max() <= bound


def test_the_l1_penalty_fades_over_the_epochs_and_its_gradient_is_the_sign(model, stream):
    learner = learner_of(model, L1Sparse(alpha=0.01), epochs=4)
    batch = begun(learner, stream)[0]
    learner.batches.epoch = 3
    plain = learner.gradient(batch)
    before = [p.detach().clone() for p in learner.parameters]
    learner.update(batch)
    for p, was, g in zip(learner.parameters, before, plain, strict=True):
        expected = was - 0.1 * (g + 0.01 * (1 - 3 / 4) * was.sign())
        assert torch.allclose(p, expected, atol=1e-6)


def test_the_last_epochs_may_be_free_of_the_penalty(model, stream):
    learner = learner_of(model, L1Sparse(alpha=0.01, free_epochs=2), epochs=4)
    begun(learner, stream)
    weights = []
    for epoch in range(4):
        learner.batches.epoch = epoch
        weights.append(learner.method.weight(learner))
    assert weights == pytest.approx([0.01, 0.005, 0.0, 0.0])


def test_random_labels_change_what_is_forgotten_alone_and_anew_in_every_epoch(model, stream):
    drawn = []

    class Look(RandomLabels):
        def batch(self, learner, batch):
            new = super().batch(learner, batch)
            drawn.append((batch["forget"].clone(), batch["y"].clone(), new["y"].clone()))
            return new

    learner = learner_of(model, Look(), epochs=30, batch_size=64)
    learner.learn(stream)
    forget, y, given = (torch.cat(column) for column in zip(*drawn, strict=True))
    assert torch.equal(given[~forget], y[~forget])
    assert int(forget.sum()) == 30 * 40
    share = given[forget].bincount(minlength=10) / forget.sum()
    assert share.min() > 0.06  # a tenth each, the right one among them
    assert share.max() < 0.14
    assert len({tuple(labels[mask].tolist()) for mask, _, labels in drawn}) == 30


def test_saliency_keeps_the_largest_gradients_of_all_tensors_together(model, stream):
    """The mask by hand: gradient of the mean forget loss, sorted over the whole model."""
    forget = stream[0].train
    reference = deepcopy(model).eval()
    F.cross_entropy(reference(forget["x"]), forget["y"]).backward()
    joint = torch.cat([p.grad.abs().flatten() for p in reference.parameters()])
    least = joint.sort(descending=True).values[int(0.3 * len(joint)) - 1]
    learner = learner_of(model, Saliency(share=0.3))
    begun(learner, stream)
    masks = learner.method.masks.get(learner.named)
    for mask, p in zip(masks, reference.parameters(), strict=True):
        sure = (p.grad.abs() - least).abs() > 1e-7
        assert torch.equal(mask[sure], (p.grad.abs() >= least)[sure])
    assert sum(int(mask.sum()) for mask in masks) == int(0.3 * len(joint))
    shares = [float(mask.float().mean()) for mask in masks]
    assert max(shares) - min(shares) > 0.05  # not a share of every tensor


def test_the_forget_gradient_does_not_depend_on_how_it_is_cut(model, stream, monkeypatch):
    learner = learner_of(model, None)
    begun(learner, stream)
    whole = forget_gradient(learner, stream[0].train)
    monkeypatch.setattr("holdfast.methods.unlearning.saliency.ROWS", 7)
    for a, b in zip(whole, forget_gradient(learner, stream[0].train), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_masked_weights_keep_their_bits_under_momentum_and_decay(model, stream):
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    for method in (SalUn(share=0.2), chain(GA(), Saliency(share=0.2))):
        learner = learner_of(model, method, optimizer=sgd, epochs=3)
        learner.learn(stream)
        saliency = next(m for m in learner.method.modules() if isinstance(m, Saliency))
        masks = saliency.masks.get(learner.named)
        for mask, before, now in zip(
            masks, model.parameters(), learner.model.parameters(), strict=True
        ):
            assert torch.equal(now[~mask], before[~mask])
        moved = sum(
            int((a != b).sum())
            for a, b in zip(model.parameters(), learner.model.parameters(), strict=True)
        )
        assert moved > 0.9 * 0.2 * sum(p.numel() for p in model.parameters())


def test_salun_is_random_labels_under_a_saliency_mask(model, stream):
    one = learner_of(model, catalogue.build("salun(share=0.4)"), epochs=2)
    other = learner_of(model, catalogue.build("random_labels+saliency(share=0.4)"), epochs=2)
    for learner in (one, other):
        learner.learn(stream)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_share_is_exact_even_among_equal_values():
    masks = top_share([torch.ones(3, 3), torch.ones(4)], 0.5)
    assert sum(int(mask.sum()) for mask in masks) == 6


def test_gradient_ascent_climbs_the_loss_of_the_forget_set(model, stream):
    learner = learner_of(model, GA())
    batch = begun(learner, stream)[0]
    down = learner.gradient(batch)
    before = [p.detach().clone() for p in learner.parameters]
    learner.update(batch)
    for p, was, g in zip(learner.parameters, before, down, strict=True):
        assert torch.allclose(p, was + 0.1 * g, atol=1e-6)


def scrub_reference(student, teacher, x, y, maximise):
    """The two losses from their definition, in ten lines."""
    temperature, gamma, alpha, total = 4.0, 0.99, 0.001, 0.0
    for row in range(len(x)):
        p = (teacher(x[row : row + 1])[0] / temperature).softmax(0).detach()
        log_q = (student(x[row : row + 1])[0] / temperature).log_softmax(0)
        kl = temperature**2 * (p * (p.log() - log_q)).sum()
        ce = -student(x[row : row + 1])[0].log_softmax(0)[y[row]]
        total = total + (-kl if maximise else gamma * ce + alpha * kl)
    return total / len(x)


@pytest.mark.parametrize("maximise", [True, False])
def test_scrubs_losses_are_those_of_a_ten_line_reference(model, stream, maximise):
    learner = learner_of(model, SCRUB(), epochs=4)
    begun(learner, stream)
    with torch.no_grad():  # a student that has left its teacher
        for parameter in learner.parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=learner.generator)
    table = stream[0].train if maximise else stream[0].sets["retain"]
    batch = {**table[:10], "forget": torch.full((10,), maximise)}
    learner.batches.epoch = 0 if maximise else 1
    expected = scrub_reference(
        deepcopy(learner.model), deepcopy(model).eval(), batch["x"], batch["y"], maximise
    )
    assert torch.allclose(learner.descend(batch), expected, atol=1e-5)
    assert (expected < 0) == maximise


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"max_steps": 2}, "frfrr"),
        ({"max_steps": 2, "alternate": False}, "ffrrr"),
        ({"max_steps": 0}, "rrrrr"),
    ],
)
def test_scrubs_passes_go_over_the_forget_or_the_retain_set_whole(model, stream, options, order):
    learner, look = learner_of(model, SCRUB(**options), epochs=5, batch_size=16), Losses()
    learner.learn(stream, [look])
    passes = {}
    for epoch, batch in look.seen:
        passes.setdefault(epoch, []).append(batch["forget"])
    told = "".join("f" if torch.cat(passes[e]).all() else "r" for e in range(5))
    assert told == order
    assert [len(torch.cat(passes[e])) for e in range(5)] == [40 if p == "f" else 24 for p in order]
    assert learner.step == len(look.seen) == sum(3 if p == "f" else 2 for p in order)


def test_scrubs_smoothing_pulls_to_an_average_of_past_weights(model, stream):
    method = SCRUB(smoothing=0.5, beta=0.25, max_steps=1)
    learner = learner_of(model, method, epochs=3)
    first = begun(learner, stream)
    start = [p.detach().clone() for p in learner.parameters]
    assert float(method.distance(learner).detach()) == 0
    learner.update(first[0])
    moved = [p.detach().clone() for p in learner.parameters]
    learner.batches.epoch = 1
    expected = sum(0.75 * (a - b).norm() for a, b in zip(moved, start, strict=True))
    assert torch.allclose(method.distance(learner), expected, atol=1e-5)


def test_a_shadow_class_is_learned_and_then_cut_off(model, stream):
    learner = learner_of(model, BoundaryExpand())
    batch = begun(learner, stream)[0]
    head = learner.model.head
    assert head.weight.shape == (11, 16)
    assert torch.equal(head.weight[:10], model.head.weight)
    outputs = learner.model(batch["x"])
    expected = F.cross_entropy(outputs, torch.full((10,), 10))
    assert torch.allclose(learner.descend(batch), expected)
    assert learner.predict(batch).shape == (10, 10)
    learner.end()
    assert learner.model.head.weight.shape == (10, 16)
    assert learner.model.state_dict().keys() == model.state_dict().keys()


def test_boundary_shrinking_learns_the_classes_across_the_boundary(model, stream):
    """One step of the fast gradient sign method by hand, on bytes between 0 and 16."""
    forget = stream[0].train
    x = forget["x"].float().requires_grad_()
    F.cross_entropy(model(x), forget["y"]).backward()
    across = (x.detach() + 0.3 * 16 * x.grad.sign()).clamp(0, 16).round()
    expected = model(across).argmax(1)
    learner = learner_of(model, BoundaryShrink(bound=0.3))
    begun(learner, stream)
    assert torch.equal(learner.batches.table["y"], expected)
    assert (expected != forget["y"]).any()


def convolutional(stream):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Classifier(CNN(1, width=4, depth=2), LinearHead(8, stream.classes))


@pytest.mark.parametrize(("method", "fresh"), [(EUk, True), (CFk, False)])
@pytest.mark.parametrize("k", [1, 2])
def test_only_the_last_k_layers_move_and_frozen_statistics_stay(stream, method, fresh, k):
    from dataclasses import replace

    floats = [
        replace(
            stream[0],
            train=stream[0].train.with_columns(x=stream[0].train["x"].float()),
            test=stream[0].test.with_columns(x=stream[0].test["x"].float()),
            sets={
                "retain": stream[0]
                .sets["retain"]
                .with_columns(x=stream[0].sets["retain"]["x"].float())
            },
        )
    ]
    model = convolutional(stream)
    learner = learner_of(model, method(k=k))
    learner.start(replace(stream, experiences=floats))
    learner.begin(floats[0])
    same = {n: torch.equal(p, dict(model.named_parameters())[n]) for n, p in learner.named}
    assert any(not equal for equal in same.values()) == fresh
    before = deepcopy(learner.model.state_dict())
    learner.train()
    now = learner.model.state_dict()
    moved = {n for n in now if not torch.equal(now[n], before[n])}
    last = {"head.weight", "head.bias"}
    second = {
        "backbone.blocks.4.weight",
        "backbone.blocks.5.weight",
        "backbone.blocks.5.bias",
        "backbone.blocks.5.running_mean",
        "backbone.blocks.5.running_var",
        "backbone.blocks.5.num_batches_tracked",
    }
    assert moved == (last if k == 1 else last | second)
    learner.end()
    assert all(p.requires_grad for p in learner.model.parameters())


def test_without_a_retain_set_methods_that_need_one_refuse(model, stream):
    from dataclasses import replace

    bare = replace(stream, experiences=[replace(stream[0], sets={})])
    with pytest.raises(
        StreamRefused, match=r"Retrain needs a retain set beside .* sets\['retain'\]"
    ):
        learner_of(model, Retrain()).start(bare)
    learner_of(model, GA()).start(bare)


def test_heads_and_weights_that_do_not_fit_are_refused(stream):
    cosine = build("mlp(width=8)", stream, head="cosine", seed=0)
    with pytest.raises(StreamRefused, match=r"adds an output to a linear head; .* CosineHead"):
        learner_of(cosine, BoundaryExpand()).start(stream)
    model = build("mlp(width=8, depth=1)", stream, seed=0)
    with pytest.raises(StreamRefused, match=r"k must be at most the 2 .* given: 3"):
        learner_of(model, CFk(k=3)).start(stream)
    model.backbone.register_parameter("own", nn.Parameter(torch.ones(1)))
    with pytest.raises(StreamRefused, match=r"Sequential has weights and no reset_parameters"):
        learner_of(model, Retrain()).start(stream)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Saliency(share=0), "share must be above 0 and at most 1; given: 0"),
        (lambda: SalUn(share=1.5), "share must be above 0 and at most 1; given: 1.5"),
        (lambda: L1Sparse(alpha=-1), "alpha must be at least 0"),
        (lambda: SCRUB(temperature=0), "temperature must be above 0"),
        (lambda: SCRUB(beta=2), "beta must lie between 0 and 1"),
        (lambda: SCRUB(max_steps=-1), "max_steps must be at least 0"),
        (lambda: BoundaryShrink(bound=0), "bound must be above 0"),
        (lambda: EUk(k=0), "k must be at least 1"),
        (lambda: chain(SCRUB(), SCRUB()), "both choose the rows of an epoch"),
        (lambda: chain(L1Sparse(), GA()), "GA replaces the loss"),
    ],
)
def test_arguments_and_chains_that_make_no_sense_are_refused(make, complaint):
    with pytest.raises(UsageError, match=complaint):
        make()
