"""Scenes of real pictures with questions and answers, for models that see.

A scene is a square of four places. One to four pictures of one class stand in it, all tinted alike;
asked is what they are, how many, and in which colour. Pictures are Fashion-MNIST's where
HOLDFAST_DATA has them, else scikit-learn's digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.data import Table
from holdfast.language.fields import Sample
from holdfast.streams.sources import digits, fashion_mnist
from holdfast.studies.text_abilities import tabled

IMAGE = "<image>"
COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.3, 1.0)}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = ("what is it?", "how many?", "which colour?")
PLACES = 4
PATCHES = 16
"""Of a scene, as the vision tower cuts it: four by four."""


@dataclass(frozen=True)
class Scenes:
    """Scenes with what is in them.

    Attributes:
        pixels: From 0 to 1.
        kind: The class of the pictures.
        count: How many.
        colour: By number.
        names: Of the classes.
    """

    pixels: Float[Tensor, "scenes 3 side side"]
    kind: Int[Tensor, " scenes"]
    count: Int[Tensor, " scenes"]
    colour: Int[Tensor, " scenes"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.kind)

    def answers(self, scene: int) -> tuple[str, str, str]:
        """To the three questions, in order."""
        return (
            self.names[int(self.kind[scene])],
            NUMBERS[int(self.count[scene])],
            tuple(COLOURS)[int(self.colour[scene])],
        )

    def asked(self, tokenizer: Any, question: int | None = None) -> Table:
        """One question a scene, each in turn or always the same, as tokens beside the pixels."""
        samples = [
            Sample(
                prompt=f"{IMAGE * PATCHES}look: {QUESTIONS[asked]} =",
                answer=f" {self.answers(at)[asked]}",
            )
            for at in range(len(self))
            for asked in [at % len(QUESTIONS) if question is None else question]
        ]
        return Table({**tabled(samples, tokenizer).columns, "pixel_values": self.pixels})


def scenes(source: str, count: int, seed: int, *, held_out: bool = False) -> Scenes:
    """Scenes drawn from real pictures.

    Args:
        source: `"digits"`, or with HOLDFAST_DATA `"fashion"`.
        count: How many.
        seed: Of the draw.
        held_out: Whether the pictures are test examples.
    """
    found = fashion_mnist() if source == "fashion" else digits()
    table = found.test if held_out else found.train
    names = found.class_names if source == "fashion" else NUMBERS
    pictures = table["x"].float().squeeze(1) / table["x"].max()
    if source == "fashion":
        pictures = F.avg_pool2d(pictures, 2)
    draw = torch.Generator().manual_seed(seed)
    side = pictures.shape[-1]
    kinds = torch.randint(len(names), (count,), generator=draw)
    counts = torch.randint(1, PLACES + 1, (count,), generator=draw)
    colours = torch.randint(len(COLOURS), (count,), generator=draw)
    grey = torch.zeros(count, PLACES, side, side)
    members = [(table["y"] == kind).nonzero().flatten() for kind in range(len(names))]
    for at in range(count):
        of = members[int(kinds[at])]
        chosen = of[torch.randint(len(of), (int(counts[at]),), generator=draw)]
        places = torch.randperm(PLACES, generator=draw)[: len(chosen)]
        grey[at, places] = pictures[chosen]
    rows = grey.view(count, 2, 2, side, side).permute(0, 1, 3, 2, 4).reshape(count, 2 * side, -1)
    tints = torch.tensor(list(COLOURS.values()))[colours]
    pixels = rows[:, None] * tints[:, :, None, None]
    return Scenes(pixels, kinds, counts, colours, tuple(_plain(name) for name in names))


def _plain(name: str) -> str:
    return name.lower().split("/")[0].replace("-", "")


def sides(made: Scenes) -> int:
    """Of a scene, in pixels."""
    return int(made.pixels.shape[-1])


def joined(tables: Sequence[Table]) -> Table:
    """Tables of the same questions, one after another."""
    width = max(table["input_ids"].shape[1] for table in tables)
    columns: dict[str, Tensor] = {}
    fill = {"labels": -100}
    for name in tables[0].columns:
        parts = [table[name] for table in tables]
        if name in ("input_ids", "labels", "attention_mask"):
            parts = [F.pad(p, (0, width - p.shape[1]), value=fill.get(name, 0)) for p in parts]
        columns[name] = torch.cat(parts)
    return Table(columns)
