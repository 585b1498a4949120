"""Recipes in which classes arrive unevenly: with blurred boundaries, gradually, rare, or few.

All are matrices of counts (`occurrence`) given to one generator (`generator`). Parameters are as in
`recipes`: what a spec can say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch

from holdfast.errors import UsageError, above_zero
from holdfast.stream import Stream
from holdfast.streams import occurrence
from holdfast.streams.generator import by_class
from holdfast.streams.recipes import a_share, at_least_one, one_of, tested
from holdfast.streams.source import Source, drawn_order

Arrangement = Literal["seed", "descending", "ascending"]


def blurry(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    separate: float = 0.5,
    blur: float = 0.1,
    stochastic: bool = False,
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    boundaries: bool = True,
    online: bool = True,
) -> Stream:
    """Some classes come in one experience alone, the others mostly in one and a little in all.

    Every example comes once: this is i-Blurry, and Si-Blurry where it is stochastic.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the classes and the examples.
        experiences: How many.
        separate: Share of the classes that come in one experience alone.
        blur: Share of the other classes' examples that comes elsewhere.
        stochastic: Whether experiences have random numbers of classes, and what comes elsewhere is
            drawn by chance.
        test_limit: Test examples in all, classes in proportion; None: all.
        labels: Share of the training examples that have a label.
        ordered: Whether examples come in one random order, by seed.
        boundaries: Whether methods are told where experiences end.
        online: Whether each example may be seen only once.

    Raises:
        UsageError: If an argument is out of range.

    Source: Koh et al. (2022); Moon et al. (2023): see `holdfast.streams.occurrence.blurry`.
    """
    at_most_classes(source, experiences)
    a_share("separate", separate)
    a_share("blur", blur)
    sizes = source.train["y"].bincount(minlength=source.classes)
    generator = torch.Generator().manual_seed(seed)
    counts = occurrence.blurry(sizes, experiences, separate, blur, stochastic, generator)
    stream = by_class(
        tested(source, test_limit, seed), counts, name, seed, labels=labels, ordered=ordered
    )
    return replace(stream, online=online, boundaries=boundaries)


def gaussian(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 100,
    width: float = 1.0,
    limit: int | None = None,
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = True,
    evaluations: int | None = 20,
) -> Stream:
    """Classes come and go gradually in a long stream without boundaries, each example online.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the order of the classes and the examples.
        experiences: How many; methods are not told where one ends.
        width: For how long a class comes, as a deviation, in units of the time from one class to
            the next.
        limit: Examples an experience; None: as many as let the whole data come about once.
        test_limit: Test examples in all, classes in proportion; None: all.
        labels: Share of the training examples that have a label.
        ordered: Whether examples come in one random order, by seed.
        evaluations: How often everything is scored, evenly spread; None: after each experience.

    Raises:
        UsageError: If an argument is out of range.

    Source: Shanahan et al., "Encoders and ensembles for task-free continual learning" (2021).
    """
    at_least_one("experiences", experiences)
    above_zero(width=width)
    if limit is None:
        limit = max(1, len(source.train) // experiences)
    at_least_one("limit", limit, " or none")
    order = drawn_order(source.classes, seed)
    counts = torch.empty(experiences, source.classes, dtype=torch.long)
    counts[:, order] = occurrence.gaussian(experiences, source.classes, limit, width)
    stream = by_class(
        tested(source, test_limit, seed),
        counts,
        name,
        seed,
        evaluations=evaluations,
        labels=labels,
        ordered=ordered,
    )
    return replace(stream, online=True, boundaries=False)


def long_tailed(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    factor: float = 0.01,
    arrangement: Arrangement = "seed",
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    online: bool = False,
) -> Stream:
    """The classes arrive in turn, and have exponentially fewer examples from first to last.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the order of the classes and the examples.
        experiences: At most as many as there are classes.
        factor: Examples of the smallest class as a share of the largest.
        arrangement: Whether large classes come first (`descending`), last (`ascending`), or in an
            order by `seed`.
        test_limit: Test examples in all, classes in proportion; None: all.
        labels: Share of the training examples that have a label.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        online: Whether each example may be seen only once.

    Raises:
        UsageError: If an argument is out of range.

    Source: Liu et al., "Long-tailed class incremental learning" (2022).
    """
    one_of("arrangement", arrangement, get_args(Arrangement))
    at_most_classes(source, experiences)
    if not 0 < factor <= 1:
        raise UsageError(f"factor must be above 0 and at most 1; given: {factor}.")
    arrival = drawn_order(source.classes, seed)
    ranks = {
        "seed": drawn_order(source.classes, seed + 1),
        "descending": arrival,
        "ascending": arrival.flip(0),
    }[arrangement]
    sizes = source.train["y"].bincount(minlength=source.classes)
    counts = occurrence.in_parts(
        occurrence.long_tailed(sizes, factor, ranks), arrival.tensor_split(experiences)
    )
    stream = by_class(
        tested(source, test_limit, seed), counts, name, seed, labels=labels, ordered=ordered
    )
    return replace(stream, online=online)


def few_shot(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    base: int | None = None,
    shots: int = 5,
    test_limit: int | None = None,
    ordered: bool = False,
) -> Stream:
    """Many classes with all their examples first, then a few at a time with a few examples.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the order of the classes and the examples.
        experiences: How many, the first among them.
        base: Classes of the first; None: half of them, rounded up. The rest is shared out over the
            others, as evenly as it goes.
        shots: Training examples of each later class, or all where there are fewer.
        test_limit: Test examples in all, classes in proportion; None: all.
        ordered: Whether examples come in one random order, by seed, in every epoch.

    Raises:
        UsageError: If an argument is out of range.

    Source: Tao et al., "Few-shot class-incremental learning" (2020).
    """
    at_most_classes(source, experiences)
    at_least_one("shots", shots)
    first = (source.classes + 1) // 2 if base is None else base
    at_least_one("base", first, " or none")
    if source.classes - first < experiences - 1:
        raise UsageError(
            f"{source.classes} classes, {first} of them in the first experience, leave none for "
            f"some of {experiences - 1} later ones: give fewer experiences or a smaller base."
        )
    order = drawn_order(source.classes, seed)
    parts = [order[:first]]
    if experiences > 1:
        parts += order[first:].tensor_split(experiences - 1)
    sizes = source.train["y"].bincount(minlength=source.classes)
    counts = occurrence.in_parts(sizes, parts)
    counts[1:] = counts[1:].clamp(max=shots)
    return by_class(tested(source, test_limit, seed), counts, name, seed, ordered=ordered)


ARRIVAL: dict[str, Callable[..., Stream]] = {
    "blurry": blurry,
    "gaussian": gaussian,
    "long-tailed": long_tailed,
    "few-shot": few_shot,
}
"""By name."""


def at_most_classes(source: Source, experiences: int) -> None:
    if not 1 <= experiences <= source.classes:
        raise UsageError(
            f"{source.name!r} has {source.classes} classes, so it takes 1 to {source.classes} "
            f"experiences; given: {experiences}."
        )
