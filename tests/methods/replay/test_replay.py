"""Replay within the budget: a share of every batch is old, and nothing is added."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.language.generate import sample_tokens
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, Replay
from holdfast.stream import Experience, Stream
from holdfast.testing import check_method, small_stream
from holdfast.testing.trials import small_llama

OLD, NEW = 10, 100
"""The first token of rows of the past; of experience k: NEW + 10 k."""


def text(first: int, rows: int, length: int, number: int = 0) -> Table:
    """Rows that begin with `first` and their own number."""
    ids = torch.randint(0, 9, (rows, 12), generator=torch.Generator().manual_seed(first))
    ids[:, 0], ids[:, 1] = first, torch.arange(number, number + rows)
    real = (torch.arange(12) < length).expand(rows, 12)
    return Table(
        {
            "input_ids": ids * real,
            "labels": torch.where(real, ids, -100),
            "attention_mask": real.long(),
            "length": torch.full((rows,), length),
        }
    )


def stream(experiences: int = 1, rows: int = 64, new: int = 12, old: int = 12) -> Stream:
    return Stream(
        "lines",
        [
            Experience(k, text(NEW + 10 * k, rows, new), text(NEW + 10 * k, 4, new), (), str(k))
            for k in range(experiences)
        ],
        "text",
        0,
        (12,),
        past=text(OLD, 20, old),
    )


@pytest.fixture
def trained(watching):
    """Batches as the model sees them, with what was said to come from the stream."""

    def run(method, given, batch_size=16, **options):
        seen = []

        def loss(self, learner, batch, outputs, loss):
            ids = batch["input_ids"]
            seen.append(
                {
                    "first": ids[:, 0].tolist(),
                    "number": ids[:, 1].tolist(),
                    "tokens": batch["length"].tolist(),
                    "stream_rows": learner.stream_rows,
                    "incoming": learner.incoming["input_ids"][:, 1].tolist(),
                    "experience": learner.index,
                }
            )
            return loss

        learner = Learner(
            small_llama(),
            chain(method, watching(loss=loss)),
            batch_size=batch_size,
            pretrained=True,
            seed=0,
            **options,
        )
        learner.learn(given)
        return seen, learner

    return run


def test_the_budget_stays_and_the_streams_last_rows_are_given_up(trained):
    with_replay, _ = trained(Replay(0.25, source="past"), stream())
    plain, _ = trained(Replay(0.0, source="past"), stream())
    for mixed, whole in zip(with_replay, plain, strict=True):
        assert len(mixed["first"]) == len(whole["first"]) == 16
        assert mixed["stream_rows"] == 12
        assert mixed["number"][:12] == mixed["incoming"] == whole["number"][:12]
        assert mixed["first"] == [NEW] * 12 + [OLD] * 4


def test_the_share_of_tokens_is_right_where_old_rows_are_shorter(trained):
    seen, learner = trained(Replay(0.25, source="past"), stream(rows=160, new=12, old=4))
    old = sum(t for b in seen for f, t in zip(b["first"], b["tokens"], strict=True) if f == OLD)
    everything = sum(sum(b["tokens"]) for b in seen)
    assert old / everything == pytest.approx(0.25, abs=0.004)
    assert sum(f == OLD for b in seen for f in b["first"]) / 160 == pytest.approx(0.5)
    (note,) = learner.record.notes
    assert note["replayed_tokens"] == old
    assert note["new_tokens"] == everything - old


def test_a_share_of_examples_counts_rows(trained):
    seen, _ = trained(Replay(0.25, source="past", share="examples"), stream(new=12, old=4))
    assert [sum(f == OLD for f in b["first"]) for b in seen] == [4] * 4


def test_a_share_of_less_than_a_row_comes_every_few_batches(trained):
    seen, _ = trained(Replay(0.05, source="past"), stream(rows=160), batch_size=8)
    counts = [sum(f == OLD for f in b["first"]) for b in seen]  # 0.4 rows a batch
    assert counts == [0, 0, 1, 0, 1] * 4
    assert {len(b["first"]) for b in seen} == {8}


def test_even_batches_of_one_row_have_their_share(trained):
    seen, _ = trained(Replay(0.25, source="past"), stream(rows=16), batch_size=1)
    assert [b["first"] for b in seen] == ([[NEW]] * 3 + [[OLD]]) * 4


def test_extra_rows_are_added_to_the_streams(trained):
    seen, _ = trained(Replay(0.2, source="past", extra=True), stream())
    assert [(b["stream_rows"], len(b["first"])) for b in seen] == [(16, 20)] * 4


def test_the_past_comes_in_its_order_over_all_experiences(trained):
    seen, _ = trained(Replay(0.25, source="past"), stream(experiences=2))
    numbers = [n for b in seen for f, n in zip(b["first"], b["number"], strict=True) if f == OLD]
    assert numbers == [*range(20), *range(12)]  # 2 x 4 batches of 4 old rows


def test_the_buffer_replays_earlier_experiences_in_the_order_first_seen(trained):
    seen, learner = trained(Replay(0.25, capacity=10_000), stream(experiences=3))
    first = [n for b in seen[:4] for n in b["incoming"]]
    assert all(f == NEW for b in seen[:4] for f in b["first"])
    again = [n for b in seen[4:8] for f, n in zip(b["first"], b["number"], strict=True) if f == NEW]
    assert again == first[:16]
    third = [f for b in seen[8:] for f in b["first"]]
    assert third.count(NEW + 10) + third.count(NEW) == 16
    later = [n for b in seen[8:] for f, n in zip(b["first"], b["number"], strict=True) if f == NEW]
    assert later == first[16 : 16 + len(later)]
    assert 0 < len(later) < 16  # both have their share
    assert learner.record.notes[0]["experience"] == 1


def test_the_model_rehearses_what_it_said_before_training(trained):
    given = replace(stream(), past=None)
    seen, learner = trained(Replay(0.25, source="self", self_rows=6), given)
    config = small_llama().config
    begun = torch.randint(
        config.vocab_size, (6,), generator=torch.Generator().manual_seed(learner.seed)
    )
    said = sample_tokens(small_llama(), 6, 12, seed=learner.seed, begin=begun)
    replayed = [
        n
        for b in seen
        for n in zip(b["first"][b["stream_rows"] :], b["number"][b["stream_rows"] :], strict=True)
    ]
    expected = [tuple(row[:2].tolist()) for row in said] * 3
    assert replayed == expected[:16]


def test_what_others_have_mixed_in_stays(trained):
    seen, _ = trained(chain(ER(capacity=8, batch_size=2), Replay(0.25, source="past")), stream())
    assert [len(b["first"]) for b in seen] == [16, 18, 18, 18]
    assert seen[1]["first"] == [NEW] * 14 + [OLD] * 4


def test_passes_of_an_update_have_their_share_each(trained):
    seen, _ = trained(Replay(0.25, source="past"), stream(), batch_size=4, accumulate=4)
    assert [sum(f == OLD for f in b["first"]) for b in seen] == [1] * 16


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        (Replay(source="past"), {"past": None}, "comes with none"),
        (Replay(source="self"), {"scenario": "domain"}, "sampled from a language model"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(method, change, said):
    learner = Learner(small_llama(), method, pretrained=True)
    with pytest.raises(StreamRefused, match=said):
        learner.start(replace(stream(), **change))


def test_a_model_that_was_never_trained_has_nothing_to_say():
    with pytest.raises(StreamRefused, match="pretrained=True"):
        Learner(small_llama(), Replay(source="self")).learn(stream())


@pytest.mark.parametrize(
    "arguments",
    [{"fraction": 1.0}, {"fraction": -0.1}, {"source": "web"}, {"share": "words"}],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError):
        Replay(**arguments)


def test_images_are_replayed_by_examples(learned, numbered):
    learner = learned(numbered(), Replay(0.25, capacity=20), batch_size=20)
    shares = [note["replayed_share"] for note in learner.record.notes]
    assert shares == [0.25, 0.25]
    kept = learner.method.reservoir.table()
    assert len(kept) == 20


@pytest.mark.contract
@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "self", "self_rows": 6, "fraction": 0.3},
        {"source": "past+buffer", "order": "random", "capacity": 200, "fraction": 0.3},
        {"source": "self+buffer", "split": "equal", "self_rows": 6, "extra": True},
    ],
)
def test_every_source_keeps_the_contract(arguments):
    assert small_stream("text").past is not None
    check_method(
        partial(Replay, **arguments),
        only=["determinism", "exact_resume", "state_dict", "device", "last_batch_of_one"],
    )
