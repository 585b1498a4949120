"""From one data set to a stream: its classes arrive in turn, or its conditions change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.stream import Experience, Stream

Scale = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Source:
    """A labelled data set, before it becomes a stream.

    Attributes:
        name: For messages and tables.
        train: Columns `x` (bytes or floats) and `y` (0 .. classes - 1).
        test: Likewise.
        class_names: By label.
        scale: `(mean, deviation)` of the training inputs, as `scale_of` finds them.
        white: The value of white in images, where black is 0; None: 255 in bytes, 1 in floats.
        tokens: Of which encoder the inputs are tokens; None: they are none.
    """

    name: str
    train: Table
    test: Table
    class_names: tuple[str, ...]
    scale: Scale
    white: float | None = None
    tokens: str | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train["x"].shape[1:])


def scale_of(x: Shaped[Tensor, "examples ..."], by_feature: bool = False) -> Scale:
    """Mean and deviation of inputs: by channel of an image, by feature if wished, else of all.

    Where nothing varies the deviation is given as 1, so that it can be divided by.

    Args:
        x: Bytes or floats.
        by_feature: For vectors whose entries are measured in units of their own.

    Example:
        >>> scale_of(torch.tensor([[0.0, 5.0], [2.0, 5.0]]), by_feature=True)
        ((1.0, 5.0), (1.0, 1.0))
    """
    channels = x.shape[1] if x.dim() == 4 or (by_feature and x.dim() == 2) else 1
    means, deviations = [], []
    for channel in range(channels):
        values = (x[:, channel] if channels > 1 else x).flatten()
        if values.dtype == torch.uint8:
            # A histogram is exact, and needs no copy of the data as floats.
            count = values.bincount(minlength=256).double()
            level = torch.arange(256, dtype=torch.float64)
            mean = (count * level).sum() / count.sum()
            variance = (count * (level - mean).square()).sum() / count.sum()
        else:
            variance, mean = torch.var_mean(values.double(), correction=0)
        means.append(float(mean))
        deviations.append(float(variance.sqrt()) or 1.0)
    return tuple(means), tuple(deviations)


def class_incremental(
    source: Source,
    experiences: int = 5,
    seed: int | None = 0,
    name: str | None = None,
    class_order: Sequence[int] | None = None,
    base: int | None = None,
) -> Stream:
    """Split the classes over experiences, as evenly as they go.

    Labels are renumbered by arrival: the first experience brings 0, 1, ..., so that a growing
    head's rows come in order. `class_names` keeps the names in the new order.

    Args:
        experiences: At most as many as there are classes.
        seed: Draws the order of the classes; None keeps their natural order.
        class_order: The order itself, by the classes' numbers in the source; None: by seed.
        base: Classes of the first experience, after which the others share the rest; None: as many
            as the others have.

    Raises:
        UsageError: If there are more experiences than classes, if the order is none, or if the
            first experience leaves too few classes for the others.
    """
    parts = evenly(source.classes, experiences, seed, source.name, class_order, base)
    return by_parts(source, parts, name or f"split-{source.name}")


def evenly(
    classes: int,
    experiences: int,
    seed: int | None,
    name: str,
    class_order: Sequence[int] | None = None,
    base: int | None = None,
) -> list[list[int]]:
    """Classes, in an order drawn by seed, given, or their own, split over experiences.

    The first has `base` of them, if it is given, and the others share the rest.

    Raises:
        UsageError: If there are more experiences than classes, if the order is none, or if the
            first experience leaves too few classes for the others.
    """
    if not 1 <= experiences <= classes:
        raise UsageError(
            f"{name!r} has {classes} classes, so it splits into 1 to {classes} experiences; "
            f"given: {experiences}."
        )
    order = drawn_order(classes, seed)
    if class_order is not None:
        if sorted(class_order) != list(range(classes)):
            raise UsageError(
                f"class_order must name each class of {name!r} once, 0 to {classes - 1}; "
                f"given: {list(class_order)}."
            )
        order = torch.tensor(class_order)
    if base is None:
        return [part.tolist() for part in order.tensor_split(experiences)]
    most = classes - experiences + 1
    least = 1 if experiences > 1 else most
    if type(base) is not int or not least <= base <= most:
        raise UsageError(
            f"The first of {experiences} experiences of {name!r} can bring {least} to {most} of "
            f"its {classes} classes; given: base={base!r}."
        )
    later = order[base:].tensor_split(experiences - 1) if experiences > 1 else ()
    return [part.tolist() for part in (order[:base], *later)]


def by_parts(source: Source, parts: Sequence[Sequence[int]], name: str) -> Stream:
    """One experience for each part of the classes; labels are renumbered by arrival.

    Args:
        source: The data.
        parts: All classes of the source, each once.
        name: Of the stream.
    """
    order = torch.tensor([c for part in parts for c in part])
    renumbered = order.argsort()
    train = source.train.with_columns(y=renumbered[source.train["y"]])
    test = source.test.with_columns(y=renumbered[source.test["y"]])
    arrived = torch.arange(source.classes).split([len(part) for part in parts])
    return Stream(
        name=name,
        experiences=[
            Experience(
                index=index,
                train=train.where((train["y"] >= part[0]) & (train["y"] <= part[-1])),
                test=test.where((test["y"] >= part[0]) & (test["y"] <= part[-1])),
                classes=tuple(part.tolist()),
                name=", ".join(source.class_names[int(order[c])] for c in part),
            )
            for index, part in enumerate(arrived)
        ],
        scenario="class",
        classes=source.classes,
        shape=source.shape,
        scale=source.scale,
        white=source.white,
        class_names=tuple(source.class_names[int(c)] for c in order),
        tokens=source.tokens,
    )


def drawn_order(classes: int, seed: int | None) -> Tensor:
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
        white=source.white,
        class_names=source.class_names,
    )
