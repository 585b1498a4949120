"""HAT: gates by task, and what they protect."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import StreamRefused, UsageError
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, EWC, HAT
from holdfast.models import Classifier, build
from holdfast.testing import small_stream

ADAM = partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)


def started(method, model="mlp(width=8, depth=2)", index=0, **options):
    """A learner in the midst of an experience, and one of its batches."""
    stream = small_stream("task")
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1), "batch_size": 10, **options}
    learner = Learner(build(model, stream, seed=1), method, **options)
    learner.start(stream)
    for experience in stream.experiences[: index + 1]:
        learner.begin(experience)
    learner.model.train()
    batches = iter(learner.batches)
    next(batches)
    return learner, next(batches)


def embeddings(learner):
    return [p for n, p in learner.model.named_parameters() if n.endswith("embedding")]


def by_hand(model, x, gates):
    """The gated network of two hidden layers, written out."""
    first, second = [p for p in model.backbone.modules() if isinstance(p, torch.nn.Linear)]
    standardised = model.backbone[0](x).flatten(1)
    hidden = F.relu(first(standardised)) * gates[0]
    hidden = F.relu(second(hidden)) * gates[1]
    return model.head(hidden)


def saturate(self, learner, experience):
    """Move the embeddings to where sigmoids round to 0 and 1, as long training does."""
    for embedding in embeddings(learner):
        embedding.data[experience.index] = 6 * embedding.data[experience.index].sign()


def test_training_follows_the_equations_by_hand():
    """One update in a second task, with every line of the method written out beside it."""
    method = HAT(sparsity=0.5, s_max=50.0)
    learner, batch = started(method, index=1)
    torch.manual_seed(0)
    method.used = torch.rand(16) * torch.tensor([0.0, 1.0] * 8)
    method.used[1] = 1.0
    model, s = learner.model, 1 / 50 + (50 - 1 / 50) * 1 / 3  # the second of four batches
    layers = [p for p in model.backbone.modules() if isinstance(p, torch.nn.Linear)]
    used = list(method.used.split(8))
    rows = [e.detach()[1].clone().requires_grad_() for e in embeddings(learner)]
    gates = [(s * e).sigmoid() for e in rows]
    outputs = by_hand(model, batch["x"], gates)[:, 2:4]
    spent = (torch.cat(gates) * (1 - method.used)).sum() / (1 - method.used).sum()
    loss = F.cross_entropy(outputs, batch["y"] - 2) + 0.5 * spent
    weights = [p for layer in layers for p in (layer.weight, layer.bias)]
    found = torch.autograd.grad(loss, [*weights, *rows])
    expected = []
    for weight, gradient, closed in zip(
        weights,
        found[:4],
        [
            used[0][:, None].expand(8, 64),
            used[0],
            torch.minimum(used[1][:, None].expand(8, 8), used[0][None].expand(8, 8)),
            used[1],
        ],
        strict=True,
    ):
        expected.append(weight.detach() - 0.1 * (1 - closed) * gradient)
    for row, gradient in zip(rows, found[4:], strict=True):
        factor = [
            50 * (math.cosh(min(abs(s * e), 50)) + 1) / (s * (math.cosh(e) + 1))
            for e in row.tolist()
        ]
        expected.append((row - 0.1 * torch.tensor(factor) * gradient).clamp(-6, 6).detach())
    reported = learner.update(batch)
    torch.testing.assert_close(reported, loss.detach())
    now = [*weights, *(e.detach()[1] for e in embeddings(learner))]
    for value, wanted in zip(now, expected, strict=True):
        torch.testing.assert_close(value.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_compensated_gradients_of_the_gates_agree_with_finite_differences():
    """Gradients for embeddings are those of a soft gate's slope, whatever s stands at.

    The compensation replaces the slope s a(1 - a) at sharpness s by s_max times that of s = 1.
    """
    method = HAT(sparsity=0.0, s_max=30.0)
    learner, batch = started(method)
    model, s = learner.model.double(), method.sharpness(learner)
    batch = {**batch, "x": batch["x"].double()}
    rows = [e.detach()[0].clone() for e in embeddings(learner)]
    gates = [(s * e).sigmoid() for e in rows]

    @torch.no_grad()
    def loss(layer, unit, by):
        moved = [gate.clone() for gate in gates]
        moved[layer][unit] += by
        return float(F.cross_entropy(by_hand(model, batch["x"], moved)[:, :2], batch["y"]))

    captured = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: captured.extend(e.grad[0].clone() for e in embeddings(learner))
    )
    slopes = [[(loss(k, u, 1e-6) - loss(k, u, -1e-6)) / 2e-6 for u in range(8)] for k in range(2)]
    learner.update(batch)
    for layer in range(2):
        soft = rows[layer].sigmoid()
        expected = 30.0 * torch.tensor(slopes[layer]) * soft * (1 - soft)
        torch.testing.assert_close(captured[layer], expected, rtol=1e-4, atol=1e-7)


def test_s_goes_from_its_inverse_to_its_maximum_in_every_epoch(learned, watching):
    seen = []

    def loss(self, learner, batch, outputs, loss):
        seen.append(next(learner.method.parts()).sharpness(learner))
        return loss

    method = chain(HAT(s_max=100.0), watching(loss=loss))
    learned(small_stream("task"), method, epochs=2, batch_size=10)
    epoch = [0.01 + (100 - 0.01) * b / 3 for b in range(4)]
    assert seen == pytest.approx(epoch * 6)
    seen.clear()
    learned(small_stream("task"), chain(HAT(), watching(loss=loss)), batch_size=100)
    assert seen == [400.0] * 6  # an epoch of one batch
    seen.clear()
    method = chain(HAT(s_max=100.0), watching(loss=loss))
    learned(small_stream("task"), method, epochs=1, batch_size=10, accumulate=2)
    assert seen == pytest.approx([0.01, 0.01, 100.0, 100.0] * 3)


@pytest.mark.parametrize("model", ["mlp(width=12)", "cnn(width=4, depth=2)", "resnet18(width=4)"])
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_answers_through_saturated_gates_do_not_change(model, optimizer, answering, watching):
    stream = small_stream("task")
    watch = answering(stream, every=3)
    method = chain(watching(end=saturate), HAT())
    options = {"epochs": 2, "batch_size": 20, "optimizer": optimizer, "optimizer_state": "keep"}
    learner = Learner(build(model, stream, seed=1), method, **options)
    learner.learn(stream, [watch])
    for index, found in watch.within:
        for task in range(index):
            torch.testing.assert_close(found[task], watch.after[task][task], rtol=1e-5, atol=1e-5)
    assert len(watch.within) >= 3
    assert not torch.allclose(watch.after[0][2], watch.after[2][2])  # the last task was learned


def test_embeddings_and_head_rows_of_other_tasks_stay_to_the_bit(learned, watching):
    seen = []

    def end(self, learner, experience):
        rows = [e.detach().clone() for e in embeddings(learner)]
        seen.append((rows, learner.model.head.weight.detach().clone()))

    method = chain(ER(capacity=20), HAT(), watching(end=end))
    learned(small_stream("task"), method, optimizer=ADAM, optimizer_state="keep")
    for before, after in ((0, 1), (0, 2), (1, 2)):
        for old, new in zip(seen[before][0], seen[after][0], strict=True):
            assert torch.equal(old[before], new[before])
            assert not torch.equal(old[after], new[after])
        own = slice(2 * before, 2 * before + 2)
        assert torch.equal(seen[before][1][own], seen[after][1][own])


def test_rows_of_several_tasks_are_answered_through_their_own_gates(learned):
    stream = small_stream("task")
    learner = learned(stream, HAT(), model="mlp(width=8)")
    tasks = torch.tensor([2, 0, 1, 0])
    x = torch.stack([stream[int(t)].test["x"][i] for i, t in enumerate(tasks)])
    with undisturbed(learner.model):
        found = learner.predict({"x": x, "task": tasks})
        for row, task in enumerate(tasks.tolist()):
            gates = [(400 * e[task]).sigmoid() for e in embeddings(learner)]
            expected = by_hand(learner.model, x[row : row + 1], gates)
            torch.testing.assert_close(found[row : row + 1], expected)


def test_replayed_rows_pass_the_gates_of_their_task(watching):
    """Also where replay comes after it in a chain, and so mixes rows in later."""
    for before in (True, False):
        hat, er = HAT(), ER(capacity=20)
        compared = []

        def loss(self, learner, batch, outputs, loss, hat=hat, compared=compared):
            if learner.index:
                s = hat.sharpness(learner)
                for row, task in enumerate(batch["task"]):
                    gates = [(s * e[task]).sigmoid() for e in embeddings(learner)]
                    expected = by_hand(learner.model, batch["x"][row : row + 1], gates)
                    torch.testing.assert_close(outputs[row : row + 1], expected)
                compared.append(int(batch["task"][-1]) < learner.index)
            return loss

        parts = (er, hat) if before else (hat, er)
        stream = small_stream("task")
        model = build("mlp(width=8)", stream, seed=1)
        Learner(model, chain(*parts, watching(loss=loss)), batch_size=10).learn(stream)
        assert any(compared)


def test_units_are_marked_as_used_by_the_gates_of_all_tasks_so_far(learned):
    learner = learned(small_stream("task"), HAT(), model="mlp(width=8)")
    rows = torch.cat([400 * e.detach() for e in embeddings(learner)], 1).sigmoid()
    torch.testing.assert_close(learner.method.used, rows.max(0).values)
    assert learner.record.notes[-1]["units_used"] == pytest.approx(float(rows.max(0).values.mean()))


def test_more_sparsity_leaves_more_units_free(learned):
    used = [
        learned(
            small_stream("task"), HAT(sparsity=c), model="mlp(width=32)", epochs=20, lr=0.1
        ).record.notes[-1]["units_used"]
        for c in (0.0, 4.0)
    ]
    assert used[1] < used[0] - 0.1


def test_where_no_unit_is_free_the_penalty_is_nothing():
    method = HAT()
    learner, batch = started(method, index=1)
    method.used = torch.ones(16)
    assert math.isfinite(learner.update(batch))


def test_normalisation_stays_after_the_first_experience(learned, watching):
    seen = []

    def end(self, learner, experience):
        state = learner.model.state_dict()
        seen.append({n: t.clone() for n, t in state.items() if ".blocks.1." in n})

    stream = small_stream("task")
    learned(stream, chain(HAT(), watching(end=end)), model="cnn(width=4, depth=2)", optimizer=ADAM)
    assert {n.rpartition(".")[2] for n in seen[0]} > {"running_mean", "weight", "bias"}
    assert all(torch.equal(seen[0][n], seen[2][n]) for n in seen[0])


def test_it_works_beside_importance():
    stream = small_stream("task")
    model = build("cnn(width=4, depth=2)", stream, seed=1)
    record = Learner(model, chain(EWC(examples=8), HAT())).learn(stream)
    assert len(record.matrix) == 3


def test_unfit_streams_and_models_are_refused_with_a_sentence():
    stream = small_stream("task")
    shared = small_stream("domain").with_tasks()
    mixed = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.LayerNorm(4), torch.nn.ReLU()
    )
    for given, model, words in (
        (small_stream(), build("mlp", small_stream()), "serves task-incremental streams"),
        (shared, build("mlp", shared), "class 0 of 'small-domain' comes in several tasks"),
        (stream, build("mlp(depth=0)", stream), "It has no layers with weights"),
        (stream, Classifier(mixed, torch.nn.Linear(4, 6)), "A LayerNorm stands where gates"),
    ):
        with pytest.raises(StreamRefused, match=words):
            Learner(model, HAT()).start(given)


def test_bad_arguments_are_named():
    with pytest.raises(UsageError, match="sparsity must be at least 0; given: -1"):
        HAT(sparsity=-1)
    with pytest.raises(UsageError, match=r"s_max must be at least 1; given: 0\.5"):
        HAT(s_max=0.5)
