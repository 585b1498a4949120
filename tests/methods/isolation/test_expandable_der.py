"""DER, dynamically expandable: what grows, what stays, and what the heads are trained and set to."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.method import chain
from holdfast.methods import ER, ExpandableDER, LwF
from holdfast.models import Classifier, build
from holdfast.stream import Experience

CNN = "cnn(width=2, depth=2)"
ADAM = partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def parts(learner):
    return learner.model.backbone.parts


@pytest.mark.parametrize(("optimizer", "head"), [(ADAM, "growing"), (SGD, "full")])
def test_earlier_extractors_do_not_change_by_a_bit(numbered, learned, watching, optimizer, head):
    kept = []

    def end(self, learner, experience):
        kept.append(state(parts(learner)[-1]))

    method = chain(ExpandableDER(capacity=12), watching(end=end))
    options = {"optimizer": optimizer, "optimizer_state": "keep", "head": head, "epochs": 1}
    learner = learned(numbered(), method, model=CNN, **options)
    assert len(parts(learner)) == len(kept) == 3
    for extractor, expected in zip(parts(learner), kept, strict=True):
        now = extractor.state_dict()
        assert all(torch.equal(now[name], tensor) for name, tensor in expected.items())
    before, after = kept[1], kept[2]
    assert not any(torch.equal(before[n], after[n]) for n in before if n.endswith("running_mean"))


def test_a_new_extractor_begins_as_the_last_one_ended(numbered, learned, watching):
    ended, begun = [], []

    def begin(self, learner, experience):
        begun.append(state(parts(learner)[-1]))

    def end(self, learner, experience):
        ended.append(state(parts(learner)[-1]))

    learned(
        numbered(),
        chain(ExpandableDER(capacity=12), watching(begin=begin, end=end)),
        model=CNN,
        epochs=1,
    )
    for one, other in zip(ended[:-1], begun[1:], strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_it_begins_with_the_weights_of_when_training_begins_not_of_when_room_was_made(numbered):
    stream = numbered()
    learner = Learner(build(CNN, stream, seed=1), ExpandableDER(capacity=12))
    learner.start(stream)
    for experience in stream:
        learner.expand(experience)
    with torch.no_grad():
        for parameter in parts(learner)[1].parameters():
            parameter.add_(1)
    learner.method.begin(learner, stream[2])
    newest = state(parts(learner)[2])
    assert all(torch.equal(t, newest[name]) for name, t in parts(learner)[1].state_dict().items())


@pytest.mark.parametrize("head", ["full", "growing"])
def test_a_wider_head_keeps_what_old_features_weigh_for_old_classes(
    numbered, learned, watching, head
):
    before, compared = [], []

    def begin(self, learner, experience):
        weight, bias = learner.model.head.weight.detach(), learner.model.head.bias.detach()
        if before:
            old, shift = before[-1]
            assert weight.shape[1] == old.shape[1] + 16
            assert torch.equal(weight[: len(old), :-16], old)
            assert torch.equal(bias[: len(old)], shift)
            assert float(weight[:, -16:].abs().min()) > 0
            compared.append(len(weight))

    def end(self, learner, experience):
        # Rows of a full head that have not come yet are rows like any other.
        before.append((learner.model.head.weight.detach().clone(), learner.model.head.bias.clone()))

    method = chain(ExpandableDER(capacity=12), watching(begin=begin, end=end))
    learned(numbered(), method, head=head, epochs=1)
    assert compared == ([6, 6] if head == "full" else [4, 6])


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_the_loss_is_cross_entropy_and_that_of_new_classes_against_all_old_ones(
    numbered, learned, watching, weight
):
    """Class 2 and 3 are places 1 and 2 in the second experience; everything else is place 0."""
    compared = []

    def loss(self, learner, batch, outputs, loss):
        x, y = batch["x"], batch["y"]
        extractors = parts(learner)
        features = torch.cat([extractor(x) for extractor in extractors], 1)
        head = learner.model.head
        expected = F.cross_entropy(features @ head.weight.T + head.bias, y)
        if learner.index:
            (auxiliary,) = learner.model.backbone.auxiliary.values()
            assert auxiliary.weight.shape == (3, 16)
            new = 2 * learner.index
            places = [label - new + 1 if label >= new else 0 for label in y.tolist()]
            logits = auxiliary(extractors[-1](x))
            expected = expected + weight * F.cross_entropy(logits, torch.tensor(places))
        torch.testing.assert_close(loss, expected)
        compared.append((learner.index, bool((y < 2 * learner.index).any())))
        return loss

    learned(numbered(), chain(ExpandableDER(12, auxiliary=weight), watching(loss=loss)), epochs=1)
    assert {(0, False), (1, True), (2, True)} <= set(compared)


def test_what_other_methods_pass_through_the_model_does_not_disturb_the_auxiliary_loss(
    numbered, learned, watching
):
    def elsewhere(self, learner, batch, *given):
        learner.model(torch.zeros_like(batch["x"])[:3])
        return given[-1] if given else batch

    plain = learned(numbered(), ExpandableDER(12), epochs=1)
    before, after = (
        watching(batch=elsewhere, loss=elsewhere),
        watching(batch=elsewhere, logits=elsewhere, loss=elsewhere),
    )
    for method in (chain(ExpandableDER(12), after), chain(before, ExpandableDER(12))):
        disturbed = learned(numbered(), method, epochs=1)
        expected = plain.model.state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in disturbed.model.state_dict().items())


def test_training_runs_over_new_data_and_exemplars_equally_many_a_class(
    numbered, learned, watching
):
    shown, held = {0: set(), 1: set(), 2: set()}, []

    def loss(self, learner, batch, outputs, loss):
        shown[learner.index].update(batch["id"].tolist())
        return loss

    def end(self, learner, experience):
        held.append(torch.bincount(next(learner.method.parts()).buffer.columns["y"]).tolist())

    learned(numbered(), chain(ExpandableDER(24), watching(loss=loss, end=end)), epochs=1)
    assert [len(ids) for ids in shown.values()] == [40, 40 + 24, 40 + 24]
    assert held == [[12] * 2, [6] * 4, [4] * 6]


class BeforeTheEnd(Observer):
    """What the last training step of every experience left of the head."""

    def __init__(self):
        self.heads = {}

    def on_step(self, learner):
        self.heads[learner.index] = deepcopy(learner.model.head)


def trained_and_ended(stream, method, head="growing", model="mlp(width=16, depth=1)"):
    learner = Learner(build(model, stream, head=head, seed=1), method, batch_size=10)
    before = BeforeTheEnd()
    learner.learn(stream, [before])
    return learner, before.heads


@pytest.mark.parametrize("head", ["full", "growing"])
def test_retuning_is_logistic_regression_on_balanced_data(numbered, watching, head):
    seen = []

    class Noted(ExpandableDER):
        def retune(self, learner, table):
            exemplars = deepcopy(self.buffer.columns)
            generator = learner.generator.clone_state()
            super().retune(learner, table)
            seen.append((learner.index, exemplars, table, generator))
            self.found = deepcopy(learner.model.head)

    stream = numbered()
    learner, _ = trained_and_ended(stream, Noted(capacity=20, ridge=0.05), head)
    assert [index for index, *_ in seen] == [1, 2]
    assert learner.record.notes[-1]["retuned_on"] == 5 * 6
    _, exemplars, table, generator = seen[-1]
    both = Table.concat([table, Table(exemplars)])
    rows = torch.randperm(len(both), generator=generator)
    chosen = torch.cat([rows[both["y"][rows] == label][:5] for label in range(6)])
    x = learner.features(both.take(chosen))
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double().numpy()
    fit = LogisticRegression(C=1 / (30 * 0.05), fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = fit.fit(x, both["y"][chosen].numpy()).coef_
    head = learner.model.head
    found = torch.cat([head.weight, head.bias[:, None]], 1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_first_experience_is_not_retuned(numbered):
    stream = replace(numbered(), experiences=numbered().experiences[:1])
    learner, heads = trained_and_ended(stream, ExpandableDER(12))
    assert torch.equal(learner.model.head.weight, heads[0].weight)


def test_aligning_gives_new_rows_the_length_of_old_ones(numbered):
    learner, heads = trained_and_ended(numbered(), ExpandableDER(12, classifier="align"))
    before, after = heads[2].weight.detach(), learner.model.head.weight.detach()
    gamma = float(before[:4].norm(dim=1).mean() / before[4:].norm(dim=1).mean())
    assert learner.record.notes[-1]["gamma"] == pytest.approx(gamma, rel=1e-5)
    assert torch.equal(after[:4], before[:4])
    torch.testing.assert_close(after[4:], gamma * before[4:])


def test_rows_are_not_lengthened_where_only_shrinking_is_asked_for(numbered):
    method = ExpandableDER(12, classifier="align", only_shrink=True)
    learner, heads = trained_and_ended(numbered(), method)
    assert learner.record.notes[-1]["gamma"] > 1
    assert torch.equal(learner.model.head.weight, heads[2].weight)


def test_the_head_may_be_left_as_training_left_it(numbered):
    learner, heads = trained_and_ended(numbered(), ExpandableDER(12, classifier="trained"))
    assert torch.equal(learner.model.head.weight, heads[2].weight)


def test_an_experience_without_new_classes_grows_nothing_and_trains_the_newest(
    numbered, learned, watching
):
    stream = numbered()
    first, second, _ = stream
    back = Experience(2, first.train, first.test, first.classes, "back")
    before = []

    def begin(self, learner, experience):
        before.append([state(part) for part in parts(learner)])

    method = chain(ExpandableDER(12), watching(begin=begin))
    learner = learned(replace(stream, experiences=[first, second, back]), method, epochs=1)
    assert len(parts(learner)) == 2
    assert not learner.model.backbone.auxiliary
    moved = [
        not all(torch.equal(tensor, now.state_dict()[n]) for n, tensor in held.items())
        for held, now in zip(before[2], parts(learner), strict=True)
    ]
    assert moved == [False, True]


def test_the_model_grows_by_an_extractor_its_columns_and_new_rows(numbered, learned):
    learner = learned(numbered(), ExpandableDER(12), head="growing", epochs=1)
    extractors, head, auxiliary = 3 * (64 + 1) * 16, 6 * (3 * 16 + 1), 3 * (16 + 1)
    assert learner.record.cost["model_bytes"] == 4 * (extractors + head + auxiliary)
    assert learner.record.cost["example_bytes"] == 12 * learner.stream[0].train["x"][0].nbytes


def test_a_teacher_of_fewer_extractors_comes_back_with_a_checkpoint(numbered):
    stream = numbered()

    class Keep(Observer):
        def on_step(self, learner):
            if (learner.index, learner.step) == (2, 3):
                self.state = deepcopy(learner.state_dict())

    def made():
        method = chain(ExpandableDER(12), LwF(new_classes_only=False))
        return Learner(build(CNN, stream, head="growing", seed=1), method, batch_size=10)

    whole, keep = made(), Keep()
    whole.learn(stream, [keep])
    resumed = made()
    resumed.restore(stream, keep.state)
    resumed.learn(stream)
    expected = whole.model.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in resumed.model.state_dict().items())


def test_it_forgets_less_than_replay_of_as_many_examples(numbered, learned):
    def accuracy(method):
        options = {"epochs": 5, "head": "growing"}
        return sum(learned(numbered(per_experience=120), method, **options).record.matrix[-1]) / 3

    assert accuracy(ExpandableDER(30)) > accuracy(ER(30)) + 0.02


def test_a_head_or_a_model_that_cannot_be_widened_is_refused(numbered, learned):
    stream = numbered()
    for head in ("cosine", "multi"):
        with pytest.raises(StreamRefused, match="head"):
            learned(stream, ExpandableDER(), model=build("mlp(width=4)", stream, head=head))

    class Featured(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 6)

        def features(self, x):
            return x.flatten(1).float()

        def forward(self, x):
            return self.head(self.features(x))

    with pytest.raises(StreamRefused, match="adds to the backbone, and Featured has none"):
        learned(stream, ExpandableDER(), model=Featured())


def test_a_head_without_bias_serves(numbered, learned):
    stream = numbered()
    model = build("mlp(width=8)", stream)
    model = Classifier(model.backbone, nn.Linear(8, 6, bias=False))
    learner = learned(stream, ExpandableDER(12), model=model, epochs=1)
    assert learner.model.head.bias is None
    assert learner.model.head.weight.shape == (6, 24)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"capacity": 0}, "capacity"),
        ({"auxiliary": -1.0}, "auxiliary must be at least 0; given: -1.0"),
        ({"classifier": "wa"}, "classifier must be one of retune, align, trained; given: 'wa'"),
        ({"ridge": 0.0}, "ridge must be above 0; given: 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(bad, words):
    with pytest.raises(UsageError, match=words):
        ExpandableDER(**bad)
