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
    """

    name: str
    train: Table
    test: Table
    class_names: tuple[str, ...]
    scale: Scale
    white: float | None = None

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
    if not 1 <= experiences <= source.classes:
        raise UsageError(
            f"{source.name!r} has {source.classes} classes, so it splits into 1 to "
            f"{source.classes} experiences; given: {experiences}."
        )
    order = drawn_order(source.classes, seed)
    if class_order is not None:
        if sorted(class_order) != list(range(source.classes)):
            raise UsageError(
                f"class_order must name each class of {source.name!r} once, 0 to "
                f"{source.classes - 1}; given: {list(class_order)}."
            )
        order = torch.tensor(class_order)
    renumbered = order.argsort()
    train = source.train.with_columns(y=renumbered[source.train["y"]])
    test = source.test.with_columns(y=renumbered[source.test["y"]])
    parts = torch.arange(source.classes).tensor_split(experiences)
    if base is not None:
        most = source.classes - experiences + 1
        least = 1 if experiences > 1 else most
        if type(base) is not int or not least <= base <= most:
            raise UsageError(
                f"The first of {experiences} experiences of {source.name!r} can bring {least} to "
                f"{most} of its {source.classes} classes; given: base={base!r}."
            )
        start, rest = torch.arange(source.classes).split([base, source.classes - base])
        parts = (start, *(rest.tensor_split(experiences - 1) if experiences > 1 else ()))
    return Stream(
        name=name or f"split-{source.name}",
        experiences=[
            Experience(
                index=index,
                train=train.where((train["y"] >= part[0]) & (train["y"] <= part[-1])),
                test=test.where((test["y"] >= part[0]) & (test["y"] <= part[-1])),
                classes=tuple(part.tolist()),
                name=", ".join(source.class_names[int(order[c])] for c in part),
            )
            for index, part in enumerate(parts)
        ],
        scenario="class",
        classes=source.classes,
        shape=source.shape,
        scale=source.scale,
        white=source.white,
        class_names=tuple(source.class_names[int(c)] for c in order),
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
