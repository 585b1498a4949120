"""I-LoRA."""

import copy

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ILoRA, LoRA
from holdfast.methods.adapter.i_lora import distance, hidden_states
from holdfast.models import adapters
from holdfast.testing.trials import small_llama


def small_t5():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=256, decoder_start_token_id=0, dropout_rate=0.0, **sizes)
    )


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def in_use(learner):
    with learner.serving():
        return adapters.weights(learner.model)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("decay", [0.25, 0.9])
def test_the_slow_adapter_follows_after_every_update_by_the_ramp(
    text, tuned, watching, decay, accumulate
):
    fast = []

    def begin(self, learner, experience):
        if not experience.index:
            fast.append(adapters.weights(learner.model))

    def step(self, learner):
        fast.append(adapters.weights(learner.model))

    method = ILoRA(rank=2, decay=decay, capacity=12)
    looking = chain(method, watching(begin=begin, step=step))
    learner = tuned(text, looking, epochs=2, accumulate=accumulate)
    assert len(fast) == 1 + learner.updates == 1 + 3 * 2 * (3 if accumulate == 1 else 1)
    slow = fast[0]
    for k, now in enumerate(fast[1:], 1):
        share = min(1 - 1 / (k + 1), decay)
        slow = {name: share * slow[name] + (1 - share) * now[name] for name in slow}
    for name, found in in_use(learner).items():
        torch.testing.assert_close(found, slow[name], rtol=1e-5, atol=1e-6)
    assert min(1 - 1 / 2, 0.9) == 0.5  # the ramp is what holds a large decay down at first


def test_without_memory_the_fast_adapter_is_sequential_lora_bit_for_bit(text, tuned):
    settings = {"rank": 2, "alpha": 8.0, "dropout": 0.1, "targets": "q,v"}
    plain = tuned(text, LoRA(**settings))
    i_lora = tuned(text, ILoRA(**settings, capacity=0, consistency=0.0))
    assert same(adapters.weights(plain.model), adapters.weights(i_lora.model))
    assert not same(adapters.weights(plain.model), in_use(i_lora))
    read_fast = tuned(text, ILoRA(**settings, capacity=0, slow_share=0.0))
    assert read_fast.record.measures == plain.record.measures
    assert i_lora.record.measures != plain.record.measures


def test_the_first_experience_has_neither_replay_nor_consistency(text, tuned, watching):
    ends = []

    def end(self, learner, experience):
        ends.append(adapters.weights(learner.model))

    tuned(text, chain(LoRA(rank=2, targets="attention"), watching(end=end)))
    tuned(text, chain(ILoRA(rank=2, alpha=16.0, dropout=0.0), watching(end=end)))
    assert same(ends[0], ends[3])
    assert not same(ends[1], ends[4])


def met(text, method, model=None):
    """A learner in its second experience, its slow adapter away from the fast one."""
    learner = Learner(small_llama() if model is None else model, method, batch_size=8, seed=0)
    learner.start(text)
    learner.begin(text[0])
    learner.index = 1
    draw = torch.Generator().manual_seed(7)
    for p in learner.parameters:
        p.data.normal_(generator=draw).mul_(0.2)
    method.step(learner)
    for p in learner.parameters:
        p.data.normal_(generator=draw).mul_(0.2)
    return learner


@pytest.mark.parametrize("target", ["max", "slow"])
def test_the_loss_is_the_mean_of_both_cross_entropies_and_the_distance_of_all_states(
    text, target, monkeypatch
):
    method = ILoRA(rank=2, dropout=0.0, consistency=0.7, target=target, capacity=100)
    learner = met(text, method)
    memory = text[1].train[torch.arange(5)]
    monkeypatch.setattr(method.buffer, "sample", lambda count, generator: memory)
    learner.incoming = text[0].train[torch.arange(8)]
    outputs = learner.forward(learner.incoming)
    ours = learner.objective.loss(outputs, learner.incoming)
    found = method.loss(learner, learner.incoming, outputs, ours)

    def transformers(batch):
        given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        return learner.model(**given, output_hidden_states=True)

    now = transformers(memory)
    with learner.serving(), torch.no_grad():
        kept = transformers(memory)
    squares = []
    for h, r in zip(now.hidden_states, kept.hidden_states, strict=True):
        r = torch.where(h > r, h, r).detach() if target == "max" else r
        for row, length in enumerate(memory["length"]):
            squares.append((h[row, :length] - r[row, :length]).square().flatten())
    expected = (ours + now.loss) / 2 + 0.7 * torch.cat(squares).mean()
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, learner.parameters, retain_graph=True),
        torch.autograd.grad(expected, learner.parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_encoder_and_the_decoder_both_count_where_there_are_two(text):
    method = ILoRA(rank=2, dropout=0.0, consistency=1.0, target="slow")
    learner = met(text, method, small_t5())
    batch = text[0].train[torch.arange(4)]
    batch["labels"] = batch["labels"][:, :5].clone()
    batch["labels"][0, 3:] = -100
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    learner.model.eval()
    with torch.no_grad():
        now = learner.model(**given, output_hidden_states=True)
        with learner.serving():
            kept = learner.model(**given, output_hidden_states=True)
        squares = []
        for part, lengths in (
            ("encoder_hidden_states", batch["length"].tolist()),
            ("decoder_hidden_states", [3, 5, 5, 5]),
        ):
            for h, r in zip(now[part], kept[part], strict=True):
                for row, length in enumerate(lengths):
                    squares.append((h[row, :length] - r[row, :length]).square().flatten())
        fast = hidden_states(learner, batch)[1]
        found = distance(fast, method.slow_states(learner, batch), "slow")
    torch.testing.assert_close(found, torch.cat(squares).mean())


def test_no_gradient_goes_through_the_slow_branch_and_training_goes_on_as_it_was(text):
    method = ILoRA(rank=2, dropout=0.5)
    learner = met(text, method)
    learner.model.train()
    batch = text[0].train[torch.arange(4)]
    fast = adapters.weights(learner.model)
    switches = {name: p.requires_grad for name, p in learner.model.named_parameters()}
    states = method.slow_states(learner, batch)
    assert not any(h.requires_grad for h, _ in states)
    assert learner.model.training
    assert same(fast, adapters.weights(learner.model))
    assert {name: p.requires_grad for name, p in learner.model.named_parameters()} == switches
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    slow = method.slow.get(learner.named)
    assert not trained & {id(tensor) for tensor in slow}
    assert not any(tensor.requires_grad for tensor in slow)


def test_the_slow_branch_is_without_dropout_unless_it_is_asked_for(text):
    batch = text[0].train[torch.arange(4)]

    def twice(**options):
        method = ILoRA(rank=2, dropout=0.5, **options)
        learner = met(text, method)
        learner.model.train()
        with learner.chance.mine():
            one, two = (method.slow_states(learner, batch)[-1][0] for _ in range(2))
        return torch.equal(one, two)

    assert twice()
    assert not twice(slow_dropout=True)


def test_what_lies_on_padding_changes_nothing(text):
    method = ILoRA(rank=2, dropout=0.0)
    learner = met(text, method)
    batch = text[0].train[torch.arange(6)]
    other = {name: column.clone() for name, column in batch.items()}
    other["input_ids"][batch["attention_mask"] == 0] = 77

    def measured(batch):
        outputs, fast = hidden_states(learner, batch)
        slow = method.slow_states(learner, batch)
        return learner.objective.loss(outputs, batch), distance(fast, slow, "max")

    for a, b in zip(measured(batch), measured(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_replayed_rows_of_different_length_are_padded_without_being_learned_or_attended_to(text):
    short = Table({k: v[:, :9] if v.dim() > 1 else v for k, v in text[0].train.columns.items()})
    short = short.with_columns(length=short["length"].clamp(max=9))
    method = ILoRA(rank=2, capacity=200)
    draw = torch.Generator().manual_seed(0)
    method.buffer.add(short.columns, draw)
    method.buffer.add(text[1].train.columns, draw)
    rows = method.buffer.sample(40, draw)
    beyond = torch.arange(rows["input_ids"].shape[1]) >= rows["length"][:, None]
    assert {9, 16} <= set(rows["length"].tolist())
    assert bool((rows["labels"][beyond] == -100).all())
    assert not rows["attention_mask"][beyond].any()
    assert bool((rows["labels"][~beyond] != -100).all())


def test_every_example_is_offered_to_the_memory_once_so_that_old_ones_keep_their_share(text, tuned):
    method = ILoRA(rank=2, capacity=36)
    tuned(text, method, epochs=4)
    assert method.buffer.seen == 3 * 24
    rows = {tuple(row.tolist()) for row in method.buffer.columns["input_ids"]}
    first = {tuple(row.tolist()) for row in text[0].train["input_ids"]}
    assert 6 <= len(rows & first) <= 18  # 12 expected of 24 rows of 72, 36 of which are kept


def test_what_is_scored_and_saved_is_the_share_of_the_slow_adapter_that_was_asked_for(
    text, tuned, tmp_path
):
    from peft import PeftModel

    batch = text[0].test[torch.arange(4)]
    learner = tuned(text, ILoRA(rank=2, decay=0.9))
    slow, fast = in_use(learner), adapters.weights(learner.model)
    assert not same(slow, fast)
    with learner.serving():
        adapters.save(learner.model, tmp_path / "slow")
    loaded = PeftModel.from_pretrained(small_llama(), tmp_path / "slow").eval()
    learner.model.eval()
    with torch.no_grad(), learner.serving():
        used = learner.predict(batch)
        torch.testing.assert_close(learner.objective.forward(loaded, batch), used, rtol=0, atol=0)
    assert learner.test_sets.score(learner).measures["loss"] == learner.record.measures["loss"][-1]
    half = tuned(text, ILoRA(rank=2, decay=0.9, slow_share=0.5))
    for name, w in in_use(half).items():
        torch.testing.assert_close(w, (slow[name] + fast[name]) / 2)
    assert half.record.measures["loss"][-1] != learner.record.measures["loss"][-1]


def test_resync_sets_the_slow_adapter_to_the_fast_one_when_an_experience_ends(text, tuned):
    learner = tuned(text, ILoRA(rank=2, decay=0.9, resync=True))
    assert same(in_use(learner), adapters.weights(learner.model))


def test_a_chance_of_updates_passes_some_over_and_is_the_same_for_all_who_ask(text, tuned):
    learner = tuned(text, ILoRA(rank=2, update_chance=0.5))
    method = copy.copy(learner.method)
    passed = []
    for method.updates in range(1, 1001):
        passed.append(method.passed_over(learner))
        assert passed[-1] == method.passed_over(learner)
    assert 430 < sum(passed) < 570
    never = tuned(text, ILoRA(rank=2, update_chance=0.0))
    assert all(not w.any() for name, w in in_use(never).items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"decay": 1.5}, r"decay must lie in 0\.\.1; given: 1\.5\."),
        ({"consistency": -1.0}, r"consistency must not be negative; given: -1\.0\."),
        ({"target": "mean"}, r"target must be 'max' or 'slow'; given: 'mean'\."),
        ({"capacity": -1}, "capacity must be at least 0; given: -1"),
    ],
)
def test_arguments_out_of_range_are_refused(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        ILoRA(**given)
