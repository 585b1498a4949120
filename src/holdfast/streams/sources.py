"""Data sets that come with the installation, or are found through HOLDFAST_DATA."""

from __future__ import annotations

import torch

from holdfast.data import Table
from holdfast.streams.split import Source


def digits() -> Source:
    """Scikit-learn's 1,797 handwritten digits, 8x8; every fifth of a class is a test example."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1)
    y = torch.from_numpy(raw.target).long()
    place = torch.zeros_like(y)
    for label in range(10):
        members = (y == label).nonzero().flatten()
        place[members] = torch.arange(len(members))
    held_out = place % 5 == 4
    table = Table({"x": x, "y": y})
    train = table.where(~held_out)
    values = train["x"].float()
    return Source(
        name="digits",
        train=train,
        test=table.where(held_out),
        class_names=tuple(str(label) for label in range(10)),
        scale=((float(values.mean()),), (float(values.std()),)),
    )
