"""PackNet: pruned shares are exact, and what a task is answered never changes again."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, EWC, PackNet
from holdfast.models import Classifier, build
from holdfast.testing import small_stream

ADAM = partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)


def started(method, model="mlp(width=8, depth=1)", head="full"):
    stream = small_stream("task")
    learner = Learner(build(model, stream, head=head, seed=1), method)
    learner.start(stream)
    learner.begin(stream[0])
    return learner


def owners(learner):
    return {name: owner for name, _, owner in learner.method.layers(learner)}


@pytest.mark.parametrize("model", ["mlp(width=12)", "cnn(width=4, depth=2)", "resnet18(width=4)"])
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_answers_to_earlier_tasks_do_not_change_by_a_bit(model, optimizer, answering):
    stream = small_stream("task")
    watch = answering(stream, every=3)
    learner = Learner(
        build(model, stream, seed=1), PackNet(), optimizer=optimizer, epochs=2, batch_size=20
    )
    learner.learn(stream, [watch])
    assert {index for index, _ in watch.within} == {0, 1, 2}
    for index, found in watch.within:
        for task in range(index):
            assert torch.equal(found[task], watch.after[task][task])
    assert not torch.equal(watch.after[0][2], watch.after[2][2])  # the last task was learned


@pytest.mark.parametrize("head", ["full", "growing", "cosine", "multi"])
def test_every_head_keeps_the_rows_of_earlier_tasks(head, answering):
    stream = small_stream("task")
    watch = answering(stream)
    model = build("mlp(width=12)", stream, head=head, seed=1)
    learner = Learner(model, PackNet(), optimizer=ADAM, epochs=2, optimizer_state="keep")
    learner.learn(stream, [watch])
    for index, found in enumerate(watch.after):
        for task in range(index):
            # A product of another width may round otherwise.
            same = torch.equal if head in ("full", "multi") else torch.allclose
            assert same(found[task], watch.after[task][task])


def test_each_task_keeps_its_share_of_what_is_free_in_every_layer(learned):
    stream = small_stream("task")
    learner = learned(stream, PackNet(keep=0.3), model="mlp(width=10)")
    for name, owner in owners(learner).items():
        free = owner.numel()
        for task in (1, 2, 3):
            kept = round(0.3 * free)
            assert int((owner == task).sum()) == kept, name
            free -= kept
        assert int((owner == 0).sum()) == free
    assert learner.record.notes[-1]["free_weights"] == pytest.approx(0.7**3, abs=1e-2)


def test_without_a_share_the_whole_is_dealt_out_evenly(learned):
    learner = learned(small_stream("task"), PackNet(keep=None), model="mlp(width=10)")
    for owner in owners(learner).values():
        counts = [int((owner == task).sum()) for task in range(4)]
        assert counts[0] == 0
        assert max(counts[1:]) - min(counts[1:]) <= 1
    assert learner.record.notes[-1]["free_weights"] == 0


def test_the_largest_weights_of_a_layer_are_kept_and_the_rest_are_zero():
    learner = started(PackNet(keep=0.25))
    before = learner.model.backbone[1][1].weight.detach().clone()
    learner.method.turn(learner)
    now, owner = learner.model.backbone[1][1].weight, owners(learner)["backbone.1.1.weight"]
    least_kept = before.abs().flatten().sort(descending=True).values[before.numel() // 4 - 1]
    assert torch.equal(owner == 1, before.abs() >= least_kept)
    assert torch.equal(now, before * (before.abs() >= least_kept))


def test_only_weights_of_the_task_at_hand_are_pruned():
    learner = started(PackNet(keep=0.5))
    learner.method.turn(learner)
    first = {name: owner == 1 for name, owner in owners(learner).items()}
    learner.method.end(learner, learner.experience)
    learner.begin(learner.stream[1])
    assert all(set(owner.unique().tolist()) == {1, 2} for owner in owners(learner).values())
    learner.method.turn(learner)
    assert all(torch.equal(owner == 1, first[name]) for name, owner in owners(learner).items())


def test_weights_of_earlier_tasks_take_part_in_later_ones(learned):
    learner = learned(small_stream("task"), PackNet(), model="mlp(width=12)")
    batch = small_stream("task")[2].test[torch.arange(5)]
    with undisturbed(learner.model):
        together = learner.predict(batch)
        for _, weight, owner in learner.method.layers(learner):
            weight.data.masked_fill_(owner == 1, 0.0)
        assert not torch.allclose(learner.predict(batch), together)


def test_a_batch_of_several_tasks_is_answered_by_the_network_of_each_row(learned):
    stream = small_stream("task")
    learner = learned(stream, PackNet(), model="mlp(width=12)")
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    mixed = Table.concat([e.test for e in stream])
    with undisturbed(learner.model):
        found = learner.predict(mixed[order])
        for task in range(3):
            kept = {n: (o > 0) & (o <= task + 1) for n, _, o in learner.method.layers(learner)}
            whole = {n: w.clone() for n, w in learner.model.state_dict().items()}
            for name, mask in kept.items():
                learner.model.get_parameter(name).data.mul_(mask)
            rows = mixed["task"][order] == task
            expected = learner.model(mixed["x"][order][rows])
            torch.testing.assert_close(found[rows], expected)
            learner.model.load_state_dict(whole)


def test_biases_and_normalisation_stay_after_the_first_experience(learned, watching):
    seen = []

    def end(self, learner, experience):
        owned = set(learner.method.parts().__next__()._names)
        state = learner.model.backbone.state_dict()
        seen.append({n: t.clone() for n, t in state.items() if f"backbone.{n}" not in owned})

    stream = small_stream("task")
    method = chain(PackNet(), watching(end=end))
    learned(stream, method, model="cnn(width=4, depth=2)", optimizer=ADAM)
    initial = build("cnn(width=4, depth=2)", stream, seed=1).backbone.state_dict()
    assert {name.rpartition(".")[2] for name in seen[0]} >= {"running_mean", "weight", "bias"}
    for name, first in seen[0].items():
        assert not torch.equal(first, initial[name])  # the first experience trains them
        assert torch.equal(first, seen[2][name])


def test_retraining_takes_half_the_epochs_at_a_tenth_of_the_rate(learned, watching):
    seen = []

    def step(self, learner):
        rate = learner.optimizer.param_groups[0]["lr"]
        seen.append((learner.index, learner.phase, learner.epoch, rate))

    learned(small_stream("task"), chain(PackNet(), watching(step=step)), epochs=3, lr=0.05)
    of_second = [entry[1:] for entry in seen if entry[0] == 1]
    again = [(1, epoch, pytest.approx(0.005)) for epoch in (0, 1) for _ in range(4)]
    assert of_second == [(0, epoch, 0.05) for epoch in (0, 1, 2) for _ in range(4)] + again


def test_pruned_weights_stay_zero_while_the_rest_are_retrained(learned, watching):
    seen = []

    def step(self, learner):
        if learner.phase:
            layers = next(learner.method.parts()).layers(learner)
            seen.append(all(not w[o == 0].any() for _, w, o in layers))

    learned(small_stream("task"), chain(PackNet(), watching(step=step)), optimizer=ADAM)
    assert seen == [True] * 12


def test_a_network_that_was_trained_before_is_pruned_in_an_experience_of_no_epochs(learned):
    stream = small_stream("task")
    whole = replace(stream, experiences=[replace(stream[0], epochs=0), *stream.experiences[1:]])
    model = build("mlp(width=12)", whole, seed=1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    learner = learned(whole, PackNet(keep=0.5), model=model)
    assert learner.record.steps[0] == 0
    for name, weight, owner in learner.method.layers(learner):
        assert torch.equal(weight[owner == 1], before[name][owner == 1])
        assert int((owner == 1).sum()) == owner.numel() // 2


def test_owners_are_a_byte_a_weight(learned):
    learner = learned(small_stream("task"), PackNet(), model="mlp(width=10)")
    held = [v for v in learner.method.state_dict().values() if torch.is_tensor(v)]
    weights = sum(w.numel() for _, w, _ in learner.method.layers(learner))
    assert sum(v.nbytes for v in held) == weights == 64 * 10 + 10 * 10


def test_it_works_beside_replay_and_importance():
    stream = small_stream("task")
    for others in (ER(capacity=20), EWC(examples=8)):
        learner = Learner(build("mlp(width=8, depth=1)", stream, seed=1), chain(others, PackNet()))
        assert len(learner.learn(stream).matrix) == 3


def test_unfit_streams_and_models_are_refused_with_a_sentence():
    stream = small_stream("task")
    shared = small_stream("domain").with_tasks()
    bare = build("mlp(depth=0)", stream)
    custom = Classifier(build("mlp(width=4)", stream).backbone, torch.nn.Sequential())
    for given, model, words in (
        (small_stream(), build("mlp", small_stream()), "serves task-incremental streams"),
        (shared, build("mlp", shared), "class 0 of 'small-domain' comes in several tasks"),
        (stream, bare, "has none that is trained"),
        (stream, custom, "give a linear, growing, cosine or multi head"),
    ):
        with pytest.raises(StreamRefused, match=words):
            Learner(model, PackNet()).start(given)
    own = small_stream("domain").with_tasks(own_classes=True)
    assert own.classes == 30
    assert len(Learner(build("mlp(width=8)", own), PackNet()).learn(own).matrix) == 3


def test_bad_arguments_are_named():
    for arguments, words in (
        ({"keep": 0.0}, "keep must be above 0 and at most 1, or none; given: 0.0"),
        ({"retrain_epochs": -1}, "retrain_epochs must be at least 0; given: -1"),
        ({"retrain_rate": 0.0}, "retrain_rate must be above 0; given: 0.0"),
    ):
        with pytest.raises(UsageError, match=words):
            PackNet(**arguments)
