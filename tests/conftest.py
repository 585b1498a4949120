"""What tests share: small streams, one thread, and the folder of real data sets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from holdfast.data import Table
from holdfast.stream import Experience, Stream


def pytest_configure() -> None:
    torch.set_num_threads(1)
    os.fsync = lambda file: (
        None
    )  # what a killed process has written is kept; a power cut is not tried


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets; tests that ask for it are marked `data`."""
    folder = os.environ.get("HOLDFAST_DATA")
    if not folder:
        pytest.skip("set HOLDFAST_DATA to the folder of data sets")
    if not Path(folder).is_dir():
        pytest.fail(f"HOLDFAST_DATA names {folder}, which is not a folder")
    return Path(folder)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_stream() -> Callable[..., Stream]:
    """A small class-incremental stream: one Gaussian cloud of points a class."""

    def make(
        experiences: int = 3, per: int = 2, rows: int = 24, width: int = 5, seed: int = 0
    ) -> Stream:
        draw = torch.Generator().manual_seed(seed)
        classes = experiences * per
        centres = 2 * torch.randn(classes, width, generator=draw)

        def table(members: tuple[int, ...], count: int) -> Table:
            y = torch.tensor(members).repeat(-(-count // per))[:count]
            x = centres[y] + torch.randn(count, width, generator=draw)
            return Table({"x": x, "y": y})

        parts = [tuple(range(i * per, (i + 1) * per)) for i in range(experiences)]
        return Stream(
            name="clouds",
            experiences=[
                Experience(i, table(part, rows), table(part, 10 + i), part, name=str(part))
                for i, part in enumerate(parts)
            ],
            scenario="class",
            classes=classes,
            shape=(width,),
        )

    return make


@pytest.fixture
def methods_on_digits() -> list[str]:
    """The methods that learn split digits, as specs: others are for language, ask for further
    sets, or forget. RanPAC with fewer projections than it has by default, which take a gigabyte.
    """
    from holdfast import catalogue, models, streams

    stream = streams.build("split-digits")
    model = models.build("mlp", stream, head="growing")
    learns = [n for n in catalogue.METHODS if catalogue.entry(n).tags.family != "unlearning"]
    specs = [{"ranpac": "ranpac(projections=50)"}.get(n, n) for n in learns]
    return [s for s in specs if catalogue.build(s).refusal(stream, model) is None]
