"""What is kept of a stream by tokens, and whose turn it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.memory.rehearsal import Rehearsal, TokenReservoir, alike, tokens, up_to


def rows(start: int, count: int, length: int = 4, width: int = 6) -> Table:
    """Rows whose first token is their number."""
    ids = torch.zeros(count, width, dtype=torch.long)
    ids[:, 0] = torch.arange(start, start + count)
    real = (torch.arange(width) < length).expand(count, width)
    return Table(
        {
            "input_ids": ids,
            "labels": torch.where(real, ids, -100),
            "attention_mask": real.long(),
            "length": torch.full((count,), length),
        }
    )


def numbers(batch: Table | dict[str, torch.Tensor]) -> list[int]:
    return batch["input_ids"][:, 0].tolist()


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tokens_are_told_by_length_mask_or_width_and_rows_count_one_without_text() -> None:
    table = rows(0, 2, length=3)
    assert tokens(table.columns).tolist() == [3, 3]
    assert tokens({"attention_mask": table["attention_mask"]}).tolist() == [3, 3]
    assert tokens({"input_ids": table["input_ids"]}).tolist() == [6, 6]
    assert tokens({"x": torch.zeros(4, 7)}).tolist() == [1] * 4
    both = {"length": torch.tensor([3]), "label_length": torch.tensor([5])}
    assert tokens(both).tolist() == [8]


def test_a_reservoir_holds_no_more_tokens_than_its_capacity() -> None:
    memory = TokenReservoir(capacity=50)
    for corpus, length in enumerate((4, 6, 2)):
        memory.open(mean_tokens=length)
        for start in range(0, 40, 8):
            batch = rows(100 * corpus + start, 8, length).columns
            memory.add(batch, corpus, chance(corpus))
        memory.close(chance(corpus + 10))
        held = memory.table()
        assert held is not None
        total = int(held["length"].sum())
        assert 50 - 6 < total <= 50
        assert held["arrival"].tolist() == sorted(held["arrival"].tolist())


def test_every_row_is_kept_with_the_same_chance_whenever_it_came() -> None:
    kept = torch.zeros(60)
    trials = 600
    for seed in range(trials):
        draw, memory = chance(seed), TokenReservoir(capacity=4 * 12)
        for corpus in range(3):
            memory.open(mean_tokens=4)
            for start in range(0, 20, 5):
                memory.add(rows(20 * corpus + start, 5).columns, corpus, draw)
            memory.close(draw)
        held = memory.table()
        assert held is not None
        kept[torch.tensor(numbers(held))] += 1
    share = kept / trials
    assert float(share.mean()) == pytest.approx(12 / 60)
    deviation = (0.2 * 0.8 / trials) ** 0.5
    assert float((share - 0.2).abs().max()) < 4.5 * deviation
    by_corpus = share.view(3, 20).mean(1)
    assert float((by_corpus - 0.2).abs().max()) < 4.5 * deviation / 20**0.5


def test_a_reservoir_is_restored_in_the_middle_of_an_experience() -> None:
    one, other = TokenReservoir(40), TokenReservoir(40)
    draw = chance()
    one.open(4)
    one.add(rows(0, 8).columns, 0, draw)
    one.close(draw)
    one.open(4)
    one.add(rows(8, 8).columns, 1, draw)
    other.load_state_dict(one.state_dict())
    for memory in (one, other):
        again = chance(9)
        memory.add(rows(16, 8).columns, 1, again)
        memory.close(again)
    first, second = one.table(), other.table()
    assert first is not None
    assert second is not None
    assert numbers(first) == numbers(second)
    assert [len(c) for c in one.corpora()] == [len(c) for c in other.corpora()]


def test_rows_come_in_their_order_and_none_again_before_all_have() -> None:
    old = Rehearsal()
    old.fill([rows(0, 7)], chance())
    seen = [n for _ in range(4) for n in numbers(old.draw(4, chance()))]
    assert seen == [*range(7), *range(7), 0, 1]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    draws=st.lists(st.integers(1, 5), min_size=1, max_size=12),
)
def test_in_random_order_too_none_comes_again_before_all_have(
    sizes: list[int], draws: list[int]
) -> None:
    old, draw = Rehearsal(order="random"), chance()
    old.fill([rows(100 * k, size) for k, size in enumerate(sizes)], draw)
    seen = [n for count in draws for n in numbers(old.draw(count, draw))]
    for k, size in enumerate(sizes):
        own = [n for n in seen if n // 100 == k]
        for start in range(0, len(own), size):
            turn = own[start : start + size]
            assert len(set(turn)) == len(turn)


def test_rows_go_on_where_they_were_when_some_have_been_given_up() -> None:
    old, first = Rehearsal(), rows(0, 10).with_columns(arrival=torch.arange(10))
    old.fill([first], chance())
    assert numbers(old.draw(4, chance())) == [0, 1, 2, 3]
    remaining = first.take(torch.tensor([1, 3, 5, 8]))
    new = rows(50, 4).with_columns(arrival=torch.arange(50, 54))
    old.fill([remaining, new], chance())
    drawn = numbers(old.draw(6, chance()))
    assert [n for n in drawn if n < 50] == [5, 8, 1]
    assert [n for n in drawn if n >= 50] == [50, 51, 52]


def test_several_corpora_share_by_tokens_or_equally() -> None:
    corpora = [rows(0, 30, length=2), rows(100, 10, length=6)]  # 60 tokens each
    by_size, equal = Rehearsal(split="size"), Rehearsal(split="equal")
    for old, expected, mean in ((by_size, (30, 10), 3.0), (equal, (30, 10), 3.0)):
        old.fill(corpora, chance())
        drawn = [n for _ in range(8) for n in numbers(old.draw(5, chance()))]
        assert (sum(n < 100 for n in drawn), sum(n >= 100 for n in drawn)) == expected
        assert old.mean_tokens == pytest.approx(mean)
    corpora = [rows(0, 30, length=4), rows(100, 10, length=4)]
    for old, expected in ((by_size, (30, 10)), (equal, (20, 20))):
        old.fill(corpora, chance())
        drawn = [n for _ in range(8) for n in numbers(old.draw(5, chance()))]
        assert (sum(n < 100 for n in drawn), sum(n >= 100 for n in drawn)) == expected


def test_rehearsal_is_restored_exactly() -> None:
    one, draw = Rehearsal(order="random"), chance()
    one.fill([rows(0, 7), rows(100, 5)], draw)
    one.draw(9, draw)
    other, again = Rehearsal(order="random"), chance()
    other.load_state_dict(one.state_dict())
    again.set_state(draw.get_state())
    ours = [numbers(one.draw(3, draw)) for _ in range(8)]
    assert ours == [numbers(other.draw(3, again)) for _ in range(8)]


def test_old_rows_are_given_the_columns_of_the_new_ones() -> None:
    plain = Table({"input_ids": torch.ones(2, 5).long(), "labels": torch.ones(2, 5).long()})
    like = rows(0, 1).with_columns(position_ids=torch.arange(6)[None], source=torch.zeros(1))
    made = alike(plain, like)
    assert set(made.columns) == {
        "input_ids",
        "labels",
        "attention_mask",
        "length",
        "position_ids",
    }
    assert made["length"].tolist() == [5, 5]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert set(alike(rows(0, 2), plain).columns) == {"input_ids", "labels"}


def test_packed_old_rows_are_refused_where_they_would_see_one_another() -> None:
    packed = rows(0, 2).with_columns(position_ids=torch.zeros(2, 6).long())
    with pytest.raises(DataError, match="packed"):
        alike(packed, rows(0, 2))


def test_the_first_rows_up_to_a_capacity_are_at_least_one() -> None:
    assert numbers(up_to(rows(0, 9, length=4), 10)) == [0, 1]
    assert numbers(up_to(rows(0, 9, length=4), 3)) == [0]


def test_policies_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match="order must be one of"):
        Rehearsal(order="sorted")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="capacity must be at least 1"):
        TokenReservoir(0)
