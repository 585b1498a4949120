"""WISE: side memories, shards and their merges, and the router that decides between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.errors import StreamRefused, UsageError
from holdfast.methods import WISE
from holdfast.models.projections import Projection, projection
from holdfast.models.side_memory import SideMemory
from holdfast.testing import check_method

SMALL = {"steps": 6, "prefixes": 2, "layer": 1, "lr": 0.5}


def one_layer(changes, least, ratio=1.0):
    """A memory of some changes on a layer that maps everything to 0."""
    layer = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(layer.weight)
    memory = SideMemory(ratio)
    memory.kept, memory.least = torch.tensor(changes), torch.tensor(least)
    return memory, Projection("layer", "block", 0, layer, False)


def test_a_row_is_answered_by_the_memory_exactly_where_its_activation_passes_the_threshold():
    memory, place = one_layer([[[1.0, 0.0], [0.0, 1.0]]], [4.0], ratio=0.5)
    # Lengths 3 and 1, mean 2: at the threshold. Lengths 3 and 0.9: below it.
    keys = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 0.9]]])
    answered = memory.changed(place, keys, torch.zeros(2, 2, 2))
    assert torch.equal(answered[0], keys[0])
    assert torch.equal(answered[1], torch.zeros(2, 2))


def test_padding_does_not_count_for_an_activation():
    memory, place = one_layer([[[1.0, 0.0], [0.0, 1.0]]], [2.9])
    keys = torch.tensor([[[3.0, 0.0], [0.0, 0.0]]])
    memory.passing.mask = torch.tensor([[True, False]])
    assert memory.changed(place, keys, torch.zeros(1, 2, 2))[0, 0, 0] == 3.0
    memory.passing.mask = None
    memory.passing.chosen = None
    assert not memory.changed(place, keys, torch.zeros(1, 2, 2)).any()


def test_of_memories_that_pass_the_most_active_answers_and_a_more_active_one_that_fails_does_not():
    twice, thrice = [[2.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 3.0]]
    keys = torch.tensor([[[1.0, 0.0]]])
    memory, place = one_layer([[[1.0, 0.0], [0.0, 1.0]], twice], [0.5, 0.5])
    assert memory.changed(place, keys, torch.zeros(1, 1, 2)).tolist() == [[[2.0, 0.0]]]
    memory, place = one_layer([twice, thrice], [1.0, 4.0])
    assert memory.changed(place, keys, torch.zeros(1, 1, 2)).tolist() == [[[2.0, 0.0]]]


def test_a_long_input_is_judged_by_its_most_active_token():
    memory, place = one_layer([[[1.0, 0.0], [0.0, 1.0]]], [1.0])
    keys = torch.zeros(1, 101, 2)
    keys[0, 7, 0] = 1.5
    assert memory.changed(place, keys, torch.zeros(1, 101, 2))[0, 7, 0] == 1.5
    memory.passing.chosen = None
    assert not memory.changed(place, keys[:, :100], torch.zeros(1, 100, 2)).any()


def test_the_margin_loss_is_the_sum_of_the_means_of_what_is_violated():
    method = WISE(alpha=5.0, beta=20.0, gamma=10.0, relative=False)
    request, unrelated = torch.tensor([25.0, 12.0]), torch.tensor([4.0, 7.0])
    # 7 - 5 = 2; 20 - 12 = 8; 10 + 7 - 12 = 5: each violated once.
    assert float(method.margins(request, unrelated)) == 2 + 8 + 5
    both = method.margins(torch.tensor([10.0, 14.0]), torch.tensor([0.0, 0.0]))
    assert float(both) == (10 + 6) / 2 + 0  # gamma + 0 - 10 is not above 0
    relative = WISE(alpha=0.25, beta=1.0, gamma=0.5)
    relative.unit = 20.0  # 0.35 - 0.25 and 0.5 + 0.35 - 0.6; 1 - 0.6
    found = relative.margins(torch.tensor([12.0]), torch.tensor([7.0]))
    assert float(found) == pytest.approx(0.1 + 0.4 + 0.25)


def test_an_edit_is_learned_and_moves_nothing_outside_the_mask_nor_beyond_the_clamp(
    model, asked, edited, logprob
):
    stream = asked(1)
    before = logprob(model, stream[0])
    weights = {n: p.clone() for n, p in model.named_parameters()}
    method = WISE(**{**SMALL, "steps": 20, "lr": 5.0, "mask": 0.5, "clamp": 0.2, "ratio": 0.0})
    edited(model, method, stream)
    change = method.memory.change
    assert not change[~method.allowed].any()
    assert 0.4 < float(method.allowed.float().mean()) < 0.6
    assert 0 < float(change.abs().max()) <= 0.2 + 1e-6
    assert logprob(model, stream[0]) > before + 0.1
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in weights.items())


def test_a_memory_in_use_is_the_model_with_its_change_in_the_weight(model, asked, edited):
    stream = asked(1)
    method = WISE(**{**SMALL, "ratio": 0.0})
    edited(model, method, stream)
    ids = stream[0].train["input_ids"]
    with torch.no_grad():
        routed = model(input_ids=ids, use_cache=False).logits
        change = method.memory.change.detach().clone()
        method.finish(model)
        plain = model(input_ids=ids, use_cache=False).logits
        projection(model, 1, 0.0).module.weight.data += change
        written = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(routed, written, atol=1e-5)
    assert not torch.allclose(plain, written, atol=1e-5)
    assert not any("change" in name for name in model.state_dict())


def test_every_shard_begins_at_the_weight_with_a_mask_of_its_own(llama, asked, edited):
    masks = []

    class Looking(WISE):
        def begin(self, learner, experience):
            super().begin(learner, experience)
            masks.append((self.allowed.clone(), bool(self.memory.change.any())))

    method = Looking(**SMALL, shard=2, merge=4)
    edited(llama, method, asked(3))
    assert [started for _, started in masks] == [False, True, False]
    assert torch.equal(masks[0][0], masks[1][0])
    assert not torch.equal(masks[1][0], masks[2][0])
    assert method.shards.shape[0] == 1
    assert method.in_shard == 1


def with_shards(method, changes, least):
    """A method that has put some changes aside, each with its least activation."""
    for change, activation in zip(changes, least, strict=True):
        method.memory.change = nn.Parameter(torch.tensor(change))
        method.open_least = activation
        method.whole_least = min(method.whole_least, activation)
        method.put_aside()
    return method


ONE = [[4.0, -1.0, 0.0], [2.0, 3.0, -2.0]]
TWO = [[2.0, 3.0, 0.5], [-4.0, 1.0, -4.0]]


def test_shards_are_merged_by_trimming_electing_and_averaging_what_agrees():
    """By hand: half of the entries stay (4, 2, 3 and 3, -4, -4), then 2 - 4 elects minus."""
    method = with_shards(WISE(shard=1, merge=2, density=0.5), [ONE, TWO], [3.0, 2.0])
    method.merge_shards()
    expected = [[4.0, 3.0, 0.0], [-4.0, 3.0, -4.0]]
    assert method.memory.kept.tolist() == [expected]
    assert method.memory.least.tolist() == [2.0]
    assert method.shards is None


def test_a_later_merge_gives_the_old_memory_six_tenths():
    method = with_shards(WISE(shard=1, merge=1, density=1.0), [ONE], [3.0])
    method.merge_shards()
    assert method.memory.kept.tolist() == [ONE]
    method = with_shards(method, [TWO], [5.0])
    method.merge_shards()
    (merged,) = method.memory.kept.tolist()
    assert merged[0][0] == pytest.approx(0.4 * 2 + 0.6 * 4)  # both agree
    assert merged[0][1] == pytest.approx(
        3.0
    )  # 0.4 * 3 - 0.6 * 1 elects plus, and only the new one has it
    assert merged[1][0] == pytest.approx(-4.0)  # 0.6 * 2 - 0.4 * 4 elects minus
    assert method.memory.least.tolist() == [3.0]


def test_retrieval_keeps_a_memory_for_every_merge_with_the_least_of_its_own():
    method = WISE(mode="retrieve", shard=1, merge=2, density=1.0)
    for least in ([5.0, 4.0], [9.0, 7.0]):
        with_shards(method, [ONE, TWO], least).merge_shards()
    assert method.memory.least.tolist() == [4.0, 7.0]
    assert len(method.memory.kept) == 2
    with_shards(method, [ONE], [6.0])
    changes, least = method.now()
    assert len(changes) == 3
    assert least == [4.0, 7.0, 6.0]


@pytest.mark.parametrize(
    ("rule", "entry"),
    [
        ("linear", 3.0),
        ("sign", 3.0),
        ("magnitude", 3.0),
        ("slerp", None),
        ("dare", None),
        ("dare_ties", None),
    ],
)
def test_other_rules_merge_too(rule, entry):
    method = WISE(mode="retrieve", shard=1, merge=2, rule=rule, density=1.0)
    with_shards(method, [ONE, TWO], [1.0, 1.0]).merge_shards()
    merged = method.memory.kept[0]
    assert merged.isfinite().all()
    assert bool(merged.any())
    if entry is not None:
        assert float(merged[0, 0]) == entry


def test_use_between_edits_merges_what_is_pending_and_changes_nothing():
    method = with_shards(WISE(shard=1, merge=2, density=1.0), [ONE], [3.0])
    before = {k: v for k, v in method.state_dict().items() if torch.is_tensor(v)}
    (change,), least = method.served()
    assert change.tolist() == ONE
    assert least == [3.0]
    after = method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_replay_keeps_past_edits_and_asks_them_again(llama, asked, edited):
    method = WISE(**SMALL, mode="retrieve", shard=1, merge=1, replay=True)
    edited(llama, method, asked(3))
    assert [entry[0] for entry in method.history] == [0, 1, 2]
    assert [entry[2] for entry in method.history] == [5, 5, 5]


@pytest.mark.parametrize("scope", ["subject", "row"])
def test_activations_can_be_of_the_subject_or_of_the_whole_row(llama, asked, edited, scope):
    method = WISE(**SMALL, scope=scope)
    edited(llama, method, asked(1))
    assert 0 < method.open_least < float("inf")


def test_an_edit_that_is_learned_ends_early(llama, asked, edited):
    method = WISE(**{**SMALL, "enough": 1e9, "steps": 50, "lr": 1e-9})
    learner = edited(llama, method, asked(1))
    assert learner.record.steps == [2]


def test_what_does_not_fit_is_refused(llama, asked):
    from holdfast.learner import Learner
    from holdfast.testing import small_stream

    for arguments, complaint in (
        ({"mode": "both"}, "mode must be one of merge, retrieve"),
        ({"merge": 3, "shard": 2}, "merge must be a multiple of shard"),
        ({"replay": True}, "it needs mode='retrieve'"),
        ({"rule": "slerp"}, "slerp joins two shards"),
        ({"mask": 0.0}, "mask must be above 0"),
        ({"prefixes": 11}, "prefixes must be at most 10"),
        ({"lr": 0.0}, "lr must be above 0"),
    ):
        with pytest.raises(UsageError, match=complaint):
            WISE(**arguments)
    with pytest.raises(StreamRefused, match="needs the subject of every request"):
        Learner(llama, WISE(scope="subject")).learn(small_stream("text"))
    with pytest.raises(StreamRefused, match=r"number of a block, 0\.\.2"):
        Learner(llama, WISE(layer=7)).learn(asked())


def test_a_run_in_retrieval_with_replay_is_resumed_exactly():
    check_method(
        lambda: WISE(
            steps=2, prefixes=1, layer=0, mode="retrieve", shard=40, merge=80, replay=True
        ),
        only=["exact_resume"],
    )
