"""FPF and k-FPF: fine-tuning what forgets."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast import catalogue, streams
from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain
from holdfast.methods import CLSER, DER, ER, FPF, GEM, KFPF, SCR, BiC, Finetune, ICaRL
from holdfast.methods.replay.fpf import at_random
from holdfast.models.groups import Group
from holdfast.optim.dynamics import sensitive

CNN = "cnn(width=4, depth=2)"


class Before(Finetune):
    """Keeps the model as it is before another method's `end`."""

    def end(self, learner, experience):
        self.kept = deepcopy(learner.model)


def changed(one, other):
    """Names of what differs between two models' states."""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return {name for (name, a), b in pairs if not torch.equal(a, b)}


def notes(learner):
    return [note for note in learner.record.notes if "tuned" in note]


def names(model, *endings):
    return {n for n in model.state_dict() if any(n.startswith(e) for e in endings)}


@pytest.mark.parametrize(
    ("tune", "moving"),
    [
        ("head", ["head."]),
        ("norm", ["backbone.1.blocks.1.", "backbone.1.blocks.5."]),
        ("norm-2 head", ["backbone.1.blocks.5.", "head."]),
        ("convolution-1", ["backbone.1.blocks.0."]),
        ("all", ["backbone.1.", "head."]),
    ],
)
def test_only_the_modules_named_are_tuned_each_normalisation_with_its_statistics(
    numbered, learned, tune, moving
):
    before = Before()
    method = chain(before, FPF(iterations=4, tune=tune))
    learner = learned(numbered(), method, model=CNN, epochs=1)
    assert changed(before.kept, learner.model) == names(learner.model, *moving)
    assert all(p.requires_grad for p in learner.model.parameters()), "nothing stays frozen"


def test_it_runs_once_after_the_last_experience(numbered, learned):
    learner = learned(numbered(), FPF(iterations=2), model=CNN)
    assert [note["experience"] for note in notes(learner)] == [2]


@pytest.mark.parametrize("clip", [None, 0.05, 1e6])
def test_fine_tuning_is_plain_descent_on_draws_of_the_memory(numbered, learned, clip):
    class Watched(FPF):
        def finetune(self, learner):
            self.was, self.rng = deepcopy(learner.model), learner.generator.get_state()
            super().finetune(learner)

    method = Watched(capacity=30, iterations=5, batch_size=7, rate=0.3, clip=clip, tune="norm head")
    learner = learned(numbered(), method, model=CNN, epochs=1)
    model, generator = method.was, torch.Generator()
    generator.set_state(method.rng)
    model.train()
    trained = [p for n, p in model.named_parameters() if "blocks.0" not in n and ".4." not in n]
    assert len(trained) == 6
    for _ in range(5):
        drawn = method.buffer.sample(7, generator)
        loss = F.cross_entropy(model(drawn["x"]), drawn["y"])
        slopes = torch.autograd.grad(loss, trained)
        length = sum(float(slope.square().sum()) for slope in slopes) ** 0.5
        shorter = min(1.0, clip / length) if clip else 1.0
        assert (shorter < 1) == (clip == 0.05)
        with torch.no_grad():
            for weight, slope in zip(trained, slopes, strict=True):
                weight -= 0.3 * shorter * slope
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(learner.model.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("partner", [lambda: ER(capacity=30), lambda: DER(capacity=30)])
def test_the_memory_is_that_of_the_method_before_it(numbered, learned, partner):
    learner = learned(numbered(), chain(partner(), FPF(iterations=2)), model=CNN, epochs=1)
    first, last = learner.method.parts()
    assert last.memory(learner) is first.buffer
    assert len(last.buffer) == 0
    assert len(notes(learner)) == 1


def test_a_memory_is_found_under_any_name_also_one_by_experience(numbered, learned):
    for partner, held in ((BiC(capacity=40), "exemplars"), (GEM(capacity=30), "memory")):
        learner = learned(numbered(), chain(partner, FPF(iterations=2)), model=CNN, epochs=1)
        fpf = list(learner.method.parts())[1]
        assert fpf.memory(learner) is getattr(partner, held)
        assert len(fpf.buffer) == 0
        assert len(notes(learner)) == 1


@pytest.mark.parametrize("kind", [ICaRL, SCR])
def test_class_means_are_those_of_the_tuned_network(numbered, learned, kind):
    learner = learned(numbered(), chain(kind(capacity=30), FPF(iterations=20)), model=CNN, epochs=1)
    method = next(iter(learner.method.parts()))
    held = method.means.means.clone()
    method.renew(learner)
    torch.testing.assert_close(method.means.means, held)
    learner.method = method  # by itself: means before tuning
    alone = learned(numbered(), kind(capacity=30), model=CNN, epochs=1)
    assert not torch.allclose(next(iter(alone.method.parts())).means.means, held)


@pytest.mark.parametrize("partner", [lambda: CLSER(), lambda: catalogue.build("packnet")])
def test_who_answers_with_other_weights_is_refused(learned, partner):
    stream = streams.build("split-digits(scenario=task, limit=20)")
    with pytest.raises(UsageError, match="answers with others"):
        learned(stream, chain(partner(), FPF(iterations=2)))


def test_without_one_it_keeps_a_reservoir_of_its_own_in_which_every_example_counts_once(
    numbered, learned
):
    learner = learned(numbered(), chain(Finetune(), FPF(capacity=25, iterations=2)), epochs=2)
    memory = list(learner.method.parts())[1].buffer
    assert (len(memory), memory.seen) == (25, 120)
    assert len(set(memory.columns["id"].tolist())) == 25


def test_the_modules_are_chosen_by_their_leaps_in_the_first_switches(numbered, learned, watching):
    weights = []

    def begin(self, learner, experience):
        weights.append([p.detach().clone() for p in learner.parameters])

    def step(self, learner):
        if (learner.step + 1) % 4 == 0:
            weights.append([p.detach().clone() for p in learner.parameters])

    method = FPF(iterations=2, switches=2)
    watch = watching(begin=begin, step=step)
    learner = learned(numbered(), chain(method, watch), model=CNN, epochs=2)
    assert len(weights) == 9, "at the start of each of three tasks, and after two epochs of each"
    scores = method.dynamics.scores("leap")
    parts = {"convolution-1": [0], "norm-1": [1, 2], "convolution-2": [3], "norm-2": [4, 5],
             "head": [6, 7]}  # fmt: skip
    for name, places in parts.items():
        pairs = [
            [(weights[k][p], weights[k - 1][p]) for p in places] for k in range(1, len(weights))
        ]
        moved = [sum(float((a - b).abs().sum()) for a, b in epoch) for epoch in pairs]
        leaps = [moved[3] / moved[1], moved[6] / moved[4]]
        assert scores[name] == pytest.approx(sum(leaps) / 2, rel=1e-4)
    assert notes(learner)[0]["tuned"] == sensitive(scores)
    assert 0 < len(notes(learner)[0]["tuned"]) < 5


def test_scores_are_not_measured_once_they_are_known(numbered, learned):
    learner = learned(numbered(), FPF(iterations=2, switches=1), model=CNN, epochs=2)
    assert learner.method.dynamics.tasks == [0, 0, 1, 1]
    named = learned(numbered(), FPF(iterations=2, tune="head"), model=CNN)
    assert named.method.dynamics.tasks == []


def test_what_is_not_sensitive_and_as_many_at_random_can_be_tuned_instead(numbered, learned):
    runs = {
        tune: learned(numbered(), FPF(iterations=1, tune=tune, top=2), model=CNN)
        for tune in ("sensitive", "insensitive", "random")
    }
    tuned = {tune: notes(learner)[0]["tuned"] for tune, learner in runs.items()}
    every = ["convolution-1", "norm-1", "convolution-2", "norm-2", "head"]
    assert sorted([*tuned["sensitive"], *tuned["insensitive"]]) == sorted(every)
    assert len(tuned["sensitive"]) == 2


def test_at_random_about_as_many_weights_are_tuned():
    sizes = {"a": 100, "b": 30, "c": 20, "d": 1}
    groups = {name: Group({"w": nn.Parameter(torch.zeros(size))}) for name, size in sizes.items()}
    for seed in range(20):
        found = at_random(groups, 50, seed)
        order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
        sums = [sum(list(sizes.values())[p] for p in order[: k + 1]) for k in range(4)]
        assert abs(sum(sizes[name] for name in found) - 50) == min(abs(s - 50) for s in sums)
    assert len({tuple(at_random(groups, 50, seed)) for seed in range(20)}) > 3


def test_on_a_copy_it_serves_until_training_goes_on(numbered, learned, watching):
    seen = []

    def look(self, learner, experience):
        plain = deepcopy(learner.model)
        with learner.serving():
            seen.append(changed(plain, learner.model))
        assert changed(plain, learner.model) == set()

    after = watching(end=look)
    method = chain(FPF(iterations=2, tune="norm-2", when="each"), after)
    each = learned(numbered(), method, model=CNN, epochs=1)
    expected = names(each.model, "backbone.1.blocks.5.")
    assert seen == [expected, expected, set()], "the last is tuned in place"
    assert [note["experience"] for note in notes(each)] == [0, 1, 2]


def test_tuning_copies_changes_nothing_of_what_is_learned_after(numbered, learned, watching):
    runs = []

    def batch(self, learner, batch):
        runs[-1].append(batch["id"].tolist())
        return batch

    def end(self, learner, experience):  # comes before what FPF does
        runs[-1].append({n: t.clone() for n, t in learner.model.state_dict().items()})

    for when in ("each", "end"):
        runs.append([])
        fpf = FPF(iterations=2, when=when)
        method = chain(ER(capacity=30), watching(batch=batch, end=end), fpf)
        learned(numbered(), method, model=CNN, epochs=1)
    assert len(runs[0]) == len(runs[1]) == 3 * 4 + 3
    for one, other in zip(*runs, strict=True):
        if isinstance(one, list):
            assert one == other
        else:
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_grouping_of_ones_own_takes_the_place_of_kinds_and_depths(numbered, learned):
    before, method = Before(), FPF(iterations=2, tune="mine")
    method.grouping = lambda model: {
        "mine": Group({"head.bias": model.head.bias}),
        "rest": Group({n: p for n, p in model.named_parameters() if n != "head.bias"}),
    }
    learner = learned(numbered(), chain(before, method), model=CNN, epochs=1)
    assert changed(before.kept, learner.model) == {"head.bias"}


# k-FPF


def triggers(learner):
    """After which update of the stream each fine-tuning came."""
    per_task = learner.record.steps[0]
    return [n["experience"] * per_task + n["step"] for n in notes(learner)]


@pytest.mark.parametrize(("k", "expected"), [(1, [23]), (2, [11, 23]), (5, [4, 9, 14, 19, 24])])
def test_fine_tunings_go_by_steps_and_the_last_is_at_the_end(numbered, learned, k, expected):
    # Three experiences of eight steps: 24 in all; a note in a step has the steps before it.
    learner = learned(numbered(), KFPF(k=k, iterations=1, tune="head"), model=CNN)
    assert triggers(learner) == expected


def test_steps_between_fine_tunings_can_be_given(numbered, learned):
    learner = learned(numbered(), KFPF(every=10, iterations=1, tune="head"), model=CNN)
    assert triggers(learner) == [9, 19, 24]


def test_between_them_nothing_is_replayed(numbered, learned, watching):
    def loss(self, learner, batch, outputs, loss):
        assert torch.equal(batch["id"], learner.incoming["id"])
        expected = F.cross_entropy(outputs, batch["y"])
        assert torch.equal(loss, expected)
        return loss

    method = chain(KFPF(k=2, iterations=1, tune="head"), watching(loss=loss))
    tuned = learned(numbered(), method, model=CNN, epochs=1)
    plain = learned(numbered(), Finetune(), model=CNN, epochs=1)
    assert tuned.record.steps == plain.record.steps


def test_before_the_first_switch_is_measured_there_is_nothing_to_choose(numbered, learned):
    learner = learned(numbered(), KFPF(every=4, iterations=1), model=CNN, epochs=1)
    # The second task's only epoch ends with step 8, the first at which a switch has been seen.
    assert triggers(learner) == [7, 11]


def test_its_own_movement_is_left_out_of_the_scores(numbered, learned):
    # Both end their first task's last epoch with a fine-tuning, one of them a violent one.
    histories = []
    for rate in (1e-12, 0.5):
        method = KFPF(every=7, iterations=20, rate=rate)
        method.choose = lambda learner: ["head"]
        learned(numbered(), method, model=CNN, epochs=2)
        histories.append(method.dynamics.history()["head"][1][1])
    # The eighth step of the task is made from other weights, and is still one step.
    assert histories[1] < 3 * histories[0]


def test_nor_does_it_count_in_the_distance_between_tasks(numbered, learned):
    scores = []
    for rate in (1e-12, 5.0):  # after the first of three tasks
        method = KFPF(every=8, iterations=20, rate=rate, score="change", clip=None)
        method.choose = lambda learner: ["head"] if learner.index == 1 else []
        learned(numbered(), method, model=CNN, epochs=2)
        scores.append(float(method.dynamics.moves[0][method.dynamics.names.index("head")]))
    assert scores[1] < 3 * scores[0]


def test_distillation_holds_to_the_logits_of_the_pass_in_which_an_example_was_stored(
    numbered, learned, watching
):
    offered = {}

    def loss(self, learner, batch, outputs, loss):
        for one, logits in zip(batch["id"].tolist(), outputs.detach(), strict=True):
            offered.setdefault(one, []).append(logits.clone())
        return loss

    method = KFPF(capacity=20, k=1, iterations=1, tune="head")
    learner = learned(numbered(), chain(method, watching(loss=loss)), model=CNN)
    held = method.buffer.columns
    for one, logits in zip(held["id"].tolist(), held["outputs"], strict=True):
        assert any(torch.equal(logits, given) for given in offered[one])
    batch = {name: column[:6] for name, column in held.items()}
    learner.model.eval()
    with torch.no_grad():
        outputs = learner.model(batch["x"])
        expected = F.cross_entropy(outputs, batch["y"])
        expected += 0.5 * (outputs - batch["outputs"]).square().mean()
        torch.testing.assert_close(method.tuning_loss(learner, batch), expected)
        method.gamma = 0.0
        plain = F.cross_entropy(outputs, batch["y"])
        torch.testing.assert_close(method.tuning_loss(learner, batch), plain)


def test_without_distillation_no_logits_are_kept(numbered, learned):
    learner = learned(numbered(), KFPF(gamma=0.0, iterations=1), model=CNN)
    assert "outputs" not in learner.method.buffer.columns


# Cost


@pytest.mark.parametrize("spec", ["fpf(iterations={n})", "k_fpf(k=3, iterations={n}, tune=all)"])
def test_what_fine_tuning_costs_is_told_apart_and_linear_in_its_steps(numbered, learned, spec):
    costs = []
    for n in (2, 6):
        learner = learned(numbered(), catalogue.build(spec.format(n=n)), model=CNN)
        costs.append(learner.record.cost)
    assert costs[1]["apart_flops"] == 3 * costs[0]["apart_flops"] > 0
    assert 0 < costs[0]["apart_seconds"] < costs[0]["seconds"]
    rest = [cost["flops"] - cost["apart_flops"] for cost in costs]
    assert rest[0] == rest[1], "steps are charged what steps cost"
    plain = learned(numbered(), Finetune(), model=CNN).record.cost
    assert rest[0] == plain["flops"]
    assert "apart_flops" not in plain


def test_fewer_modules_cost_less(numbered, learned):
    spent = {
        tune: learned(numbered(), FPF(iterations=2, tune=tune), model=CNN).record.cost
        for tune in ("all", "head")
    }
    assert spent["head"]["apart_flops"] < 0.6 * spent["all"]["apart_flops"]


# Refusals


def test_without_a_switch_the_modules_must_be_named(numbered, learned, make_stream):
    with pytest.raises(StreamRefused, match="tune='norm head'"):
        learned(make_stream(experiences=1), FPF())
    learner = learned(make_stream(experiences=1), FPF(tune="head", iterations=1))
    assert len(notes(learner)) == 1


def test_a_module_that_there_is_not_is_named_with_the_nearest(numbered, learned):
    with pytest.raises(UsageError, match="no module 'norms'"):
        learned(numbered(), FPF(tune="norms"), model=CNN)
    with pytest.raises(UsageError, match="at most the 5 modules"):
        learned(numbered(), FPF(top=6), model=CNN)


@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"batch_size": 0},
        {"rate": 0},
        {"clip": 0},
        {"score": "size"},
        {"top": 0},
        {"switches": 0},
    ],
)
@pytest.mark.parametrize("method", [FPF, KFPF])
def test_arguments_out_of_range_are_refused(method, bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        method(**bad)
    with pytest.raises(UsageError):
        KFPF(**{"k": 0})
    with pytest.raises(UsageError):
        FPF(when="always")


def test_models_without_normalisation_serve_too(numbered, learned):
    learner = learned(numbered(), FPF(iterations=2, tune="linear-1 head"))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in learner.model.modules())
    assert notes(learner)[0]["tuned"] == ["linear-1", "head"]
