"""Equal numbers of every class."""

import torch

from holdfast.memory.balanced import balanced_rows


def test_every_class_has_as_many_rows_as_the_rarest_and_none_twice():
    labels = torch.tensor([3] * 20 + [0] * 5 + [7] * 9)[torch.randperm(34)]
    rows = balanced_rows(labels, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[rows]).tolist() == [5, 0, 0, 5, 0, 0, 0, 5]
    assert len(set(rows.tolist())) == 15


def test_every_row_of_a_class_is_as_likely():
    labels = torch.tensor([0] * 6 + [1] * 3)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([balanced_rows(labels, generator) for _ in range(2000)])
    share = torch.bincount(drawn, minlength=9) / 2000
    assert float((share[:6] - 0.5).abs().max()) < 0.05  # over four standard deviations
    assert share[6:].tolist() == [1.0, 1.0, 1.0]
