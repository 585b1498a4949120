"""The greedy sampler."""

from __future__ import annotations

import torch

from holdfast.memory.greedy import greedily_kept


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(labels, kept):
    return torch.bincount(labels[kept]).tolist()


def test_every_class_gets_its_share_whatever_order_the_classes_come_in():
    for labels in ([0] * 50 + [1] * 50 + [2] * 50, [0, 1, 2] * 50, [2] * 90 + [0] * 30 + [1] * 30):
        labels = torch.tensor(labels)
        assert counts(labels, greedily_kept(labels[:0], labels, 12, generator())) == [4, 4, 4]


def test_the_first_rows_of_a_class_stay_and_later_ones_are_let_pass():
    labels = torch.tensor([0, 1] * 50)
    kept = greedily_kept(labels[:0], labels, 8, generator())
    # The very first class may have the whole memory until a second one is seen.
    assert sorted(kept.tolist()) == list(range(8))


def test_a_class_at_its_quota_gets_no_more_though_there_is_room():
    labels = torch.tensor([1, *[0] * 50])
    kept = greedily_kept(labels[:0], labels, 10, generator())
    assert counts(labels, kept) == [5, 1]


def test_a_new_class_takes_rows_of_the_largest_alone_each_equally_likely():
    held = torch.tensor([0] * 6 + [1] * 2)
    offered = torch.tensor([2])
    gone = torch.zeros(9)
    for seed in range(600):
        kept = greedily_kept(held, offered, 8, generator(seed))
        gone += 1 - torch.zeros(9).index_fill_(0, kept, 1)
    assert gone[6:].tolist() == [0, 0, 0]
    # Six rows, 100 each, deviation 9.
    assert float((gone[:6] - 100).abs().max()) < 5 * 9.2


def test_it_is_the_papers_algorithm_row_by_row():
    """Against algorithm 1 as it is written down, with sets; which rows go is left to chance."""
    draw = generator(3)
    labels = torch.randint(5, (400,), generator=draw) * torch.randint(2, (400,), generator=draw)
    held, seen, capacity = {}, [], 17
    for label in labels.tolist():
        new = label not in seen
        if new or held[label] < capacity / len(seen):
            if sum(held.values()) >= capacity:
                held[max(held, key=held.get)] -= 1
            held[label] = held.get(label, 0) + 1
        seen += [label] * new
    kept = greedily_kept(labels[:0], labels, capacity, generator())
    assert counts(labels, kept) == [held[label] for label in range(5)]
    assert len(set(kept.tolist())) == len(kept) == capacity


def test_a_class_that_was_crowded_out_of_a_tiny_memory_counts_as_seen():
    held = torch.tensor([1, 2])
    kept = greedily_kept(held, torch.tensor([2, 1]), 2, generator(), seen=(0, 1, 2))
    assert sorted(kept.tolist()) == [0, 1]
    kept = greedily_kept(held, torch.tensor([0]), 2, generator(), seen=(0, 1, 2))
    assert 2 in kept.tolist()
