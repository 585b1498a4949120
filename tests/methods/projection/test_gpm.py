"""GPM."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, GPM
from holdfast.models import build
from holdfast.testing import small_stream

ADAMW = {"optimizer": partial(torch.optim.AdamW, lr=0.02, weight_decay=0.1)}
MOMENTUM = {
    "optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "optimizer_state": "keep",
}
PLAIN = {"optimizer": partial(torch.optim.SGD, lr=0.05)}
ALL = partial(GPM, threshold=1.0, growth=0.0, examples=1000)


def answers(learner, table):
    learner.model.eval()
    with torch.no_grad():
        return learner.model(table["x"])


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Watched:
    """Answers on the first experience's inputs, and the weights, at the end of each experience."""

    def __init__(self, watching):
        self.answers, self.states = [], []

        def end(method, learner, experience):
            self.answers.append(answers(learner, learner.stream[0].train))
            self.states.append(copied(learner.model))

        self.method = watching(end=end)


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("mlp(width=64, depth=3)", 20),
        ("cnn(width=16, depth=3)", 2),
        ("resnet18(width=8)", 4),
    ],
)
@pytest.mark.parametrize("options", [PLAIN, MOMENTUM, ADAMW], ids=["plain", "momentum", "adamw"])
def test_nothing_changes_on_what_came_before_when_all_of_it_is_held(
    numbered, learned, watching, model, rows, options
):
    stream = numbered("domain")
    cut = [replace(e, train=e.train.take(slice(0, rows * (1 + e.index)))) for e in stream]
    watched = Watched(watching)
    method = chain(watched.method, ALL())
    learned(replace(stream, experiences=cut[:2]), method, model=model, batch_size=8, **options)
    first, second = watched.answers
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-4)
    moved = [n for n, t in watched.states[0].items() if not torch.equal(t, watched.states[1][n])]
    assert "head.weight" in moved
    assert len(moved) > 2, "and yet something was learned"


def test_without_it_the_same_run_changes_what_came_before(numbered, learned, watching):
    watched = Watched(watching)
    learned(numbered("domain"), watched.method, model="mlp(width=64, depth=3)", **PLAIN)
    assert (watched.answers[1] - watched.answers[0]).abs().max() > 0.05


def test_gradients_are_projected_by_the_formula_on_bases_found_by_the_papers_rule(
    numbered, learned, watching
):
    bases, plain, ends = {}, {}, []

    def before(self, learner):
        plain.update({n: p.grad.double().numpy() for n, p in learner.named})

    def after(self, learner):
        for name, parameter in learner.named:
            g, found = plain[name], parameter.grad.double().numpy()
            if not learner.index:
                assert np.array_equal(found, g)
                continue
            m = bases[name]
            np.testing.assert_allclose(found, g - g @ m @ m.T, rtol=1e-3, atol=1e-6)
        names = [n for n, _ in learner.named]
        assert names == (list(plain) if not learner.index else [*bases])

    def end(self, learner, experience):
        plain.clear()
        model, x = learner.model, experience.train["x"]
        model.eval()
        with torch.no_grad():
            pixels = model.backbone[1][0](model.backbone[0](x))
            entering = {"backbone.1.1.weight": pixels, "head.weight": model.features(x)}
        for (name, inputs), held in zip(entering.items(), (0.8, 0.95), strict=True):
            r = inputs.T.double().numpy()
            m = bases.get(name, np.zeros((len(r), 0)))
            threshold = min(1.0, held + 0.02 * experience.index)
            u, s, _ = np.linalg.svd(r - m @ m.T @ r, full_matrices=False)
            gained = np.cumsum(s**2) + np.sum((m.T @ r) ** 2)
            held_already = np.sum((m.T @ r) ** 2) >= threshold * np.sum(r**2)
            count = 0 if held_already else np.sum(gained < threshold * np.sum(r**2)) + 1
            bases[name] = np.hstack([m, u[:, :count]])
        ends.append({n.removesuffix(".weight"): m.shape[1] for n, m in bases.items()})

    method = GPM(threshold=0.95, growth=0.02, first_threshold=0.8, examples=1000)
    look = (watching(gradients=before), method, watching(gradients=after, end=end))
    learner = learned(numbered("domain"), chain(*look))
    notes = [note["gpm_ranks"] for note in learner.record.notes]
    assert [{n: rank for n, (rank, _) in note.items()} for note in notes] == ends
    assert ends[0]["backbone.1.1"] < ends[-1]["backbone.1.1"] < 64


@pytest.mark.parametrize("head", ["full", "growing", "multi"])
@pytest.mark.parametrize("options", [PLAIN, MOMENTUM, ADAMW], ids=["plain", "momentum", "adamw"])
def test_known_tasks_have_heads_of_their_own(numbered, learned, watching, head, options):
    watched, gpm = Watched(watching), GPM()
    learned(numbered("task"), chain(gpm, watched.method), head=head, **options)
    assert set(gpm.spaces.ranks) == {"backbone.1.1"}

    def rows(state, task):
        if head == "multi":
            return state[f"head.heads.{task}.weight"], state[f"head.heads.{task}.bias"]
        own = slice(2 * task, 2 * task + 2)
        return state["head.weight"][own], state["head.bias"][own]

    for earlier, later in ((0, 1), (1, 2)):
        before, after = watched.states[earlier], watched.states[later]
        for task in range(later if head == "growing" else 3):
            pairs = zip(rows(before, task), rows(after, task), strict=True)
            assert [torch.equal(a, b) for a, b in pairs] == [task != later] * 2


def test_replayed_examples_do_not_train_the_heads_of_their_tasks(numbered, learned, watching):
    watched = Watched(watching)
    learned(numbered("task"), chain(ER(capacity=20), GPM(), watched.method), **PLAIN)
    first = [state["head.weight"][:2] for state in watched.states]
    assert torch.equal(first[0], first[2])


@pytest.mark.parametrize("options", [PLAIN, ADAMW], ids=["plain", "adamw"])
def test_biases_scales_and_statistics_are_those_of_the_first_experience(
    numbered, learned, watching, options
):
    watched = Watched(watching)
    learned(
        numbered("domain"), chain(GPM(), watched.method), model="cnn(width=4, depth=2)", **options
    )
    weights = {"backbone.1.blocks.0.weight", "backbone.1.blocks.4.weight", "head.weight"}
    for name, tensor in watched.states[0].items():
        same = torch.equal(tensor, watched.states[2][name])
        assert same == (name not in weights), name


def test_tasks_that_share_their_classes_share_a_head_which_is_projected(numbered, learned):
    gpm = GPM()
    learned(numbered("domain").with_tasks(), gpm)
    assert set(gpm.spaces.ranks) == {"backbone.1.1", "head"}


def test_a_method_that_changes_gradients_after_it_moves_nothing_inside(numbered, learned, watching):
    def gradients(self, learner):
        for parameter in learner.parameters:
            parameter.grad = torch.ones_like(parameter)

    stream = numbered("domain")
    watched = Watched(watching)
    method = chain(watched.method, ALL(), watching(gradients=gradients))
    two = replace(stream, experiences=[stream[0], stream[1]])
    learned(two, method, model="mlp(width=64, depth=2)", **PLAIN)
    torch.testing.assert_close(watched.answers[1], watched.answers[0], rtol=1e-4, atol=1e-4)


def test_what_was_frozen_before_stays_frozen(numbered, learned):
    stream = numbered("domain")
    model = build("mlp(width=16, depth=2)", stream, seed=1)
    frozen = model.backbone[1][1].weight.requires_grad_(False)
    before = frozen.clone()
    learned(stream, GPM(), model=model, **PLAIN)
    assert torch.equal(frozen, before)


def test_nothing_is_looked_at_where_nothing_is_learned_after(numbered, learned):
    learner = learned(replace(numbered("domain"), final=True), GPM())
    assert [note["experience"] for note in learner.record.notes] == [0, 1]


class Deep(nn.Module):
    def __init__(self, groups):
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 3, groups=groups)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Deep(2), r"the groups of a grouped convolution \(layer\) have one each"),
        (nn.Flatten(), "Flatten has neither"),
        (build("mlp", small_stream(), head="cosine"), "accepted are full, growing and multi"),
    ],
)
def test_models_that_it_cannot_hold_are_refused(model, reason):
    stream = small_stream()
    with pytest.raises(StreamRefused, match=reason):
        Learner(model, GPM()).start(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, r"threshold must be above 0 and at most 1; given: 0\.0\."),
        ({"first_threshold": 1.1}, r"first_threshold must be above 0 and at most 1; given: 1\.1\."),
        ({"growth": -0.1}, r"growth must lie between 0 and 1; given: -0\.1\."),
        ({"examples": 0}, "examples must be at least 1; given: 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        GPM(**arguments)
