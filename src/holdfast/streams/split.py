"""From one data set to a stream: splits by class, permuted pixels, rotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.stream import Experience, Stream


@dataclass(frozen=True)
class Source:
    """A labelled data set, before it becomes a stream.

    Attributes:
        name: For messages and tables.
        train: Columns `x` (bytes or floats) and `y` (0 .. classes - 1).
        test: Likewise.
        class_names: By label.
        scale: `(mean, deviation)` of the training inputs, by channel.
    """

    name: str
    train: Table
    test: Table
    class_names: tuple[str, ...]
    scale: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train["x"].shape[1:])


def class_incremental(
    source: Source, experiences: int = 5, seed: int | None = 0, name: str | None = None
) -> Stream:
    """Split the classes over experiences, as evenly as they go.

    Labels are renumbered by arrival: the first experience brings 0, 1, ..., so that a growing
    head's rows come in order. `class_names` keeps the names in the new order.

    Args:
        experiences: At most as many as there are classes.
        seed: Draws the order of the classes; None keeps their natural order.

    Raises:
        UsageError: If there are more experiences than classes.
    """
    if not 1 <= experiences <= source.classes:
        raise UsageError(
            f"{source.name!r} has {source.classes} classes, so it splits into 1 to "
            f"{source.classes} experiences; given: {experiences}."
        )
    order = class_order(source.classes, seed)
    renumbered = order.argsort()
    train = source.train.with_columns(y=renumbered[source.train["y"]])
    test = source.test.with_columns(y=renumbered[source.test["y"]])
    parts = torch.arange(source.classes).tensor_split(experiences)
    return Stream(
        name=name or f"split-{source.name}",
        experiences=[
            Experience(
                index=index,
                train=train.where(torch.isin(train["y"], part)),
                test=test.where(torch.isin(test["y"], part)),
                classes=tuple(part.tolist()),
                name=", ".join(source.class_names[int(order[c])] for c in part),
            )
            for index, part in enumerate(parts)
        ],
        scenario="class",
        classes=source.classes,
        shape=source.shape,
        scale=source.scale,
        class_names=tuple(source.class_names[int(c)] for c in order),
    )


def class_order(classes: int, seed: int | None) -> Tensor:
    """A permutation of the classes by seed; the natural order for None."""
    if seed is None:
        return torch.arange(classes)
    return torch.randperm(classes, generator=torch.Generator().manual_seed(seed))


def domain_incremental(
    source: Source,
    domains: Sequence[tuple[str, Table, Table]],
    name: str,
) -> Stream:
    """All classes in every experience, under changing conditions.

    Args:
        domains: Name, training and test table of every experience.
    """
    return Stream(
        name=name,
        experiences=[
            Experience(index, train, test, tuple(range(source.classes)), label)
            for index, (label, train, test) in enumerate(domains)
        ],
        scenario="domain",
        classes=source.classes,
        shape=source.shape,
        scale=source.scale,
        class_names=source.class_names,
    )
