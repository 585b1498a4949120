"""Recipes of generated streams: classes that come again, tasks mixed, boundaries blurred, tails.

All are matrices of counts (`occurrence`) given to one generator (`generator`). Parameters are as in
`recipes`: what a spec can say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import UsageError, unknown
from holdfast.stream import Stream
from holdfast.streams import occurrence
from holdfast.streams.corruptions import CORRUPTIONS, SEVERITIES
from holdfast.streams.generator import Draws, by_class, by_task
from holdfast.streams.occurrence import Rehearsal, Subsets
from holdfast.streams.recipes import (
    at_least_one,
    one_of,
    permuted,
    rotated,
    split,
    under_corruption,
    white_of,
)
from holdfast.streams.sampling import stratified
from holdfast.streams.source import Source, class_order

Tasks = Literal["permuted", "rotated", "split"]
Arrangement = Literal["seed", "descending", "ascending"]


def recurring(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 100,
    classes: int = 2,
    sampler: str = "uniform",
    limit: int | None = None,
    test_limit: int | None = None,
    draws: Draws = "deck",
    decrease: float = 0.0,
    damping: float = 2.0,
    replaced: float = 0.1,
    meeting: float = 0.5,
    severity: int = 0,
    labels: float = 1.0,
    ordered: bool = False,
    evaluations: int | None = 100,
    online: bool = False,
) -> Stream:
    """A few classes at a time come again and again, in hundreds of experiences.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the classes and the examples.
        experiences: How many.
        classes: How many come together.
        sampler: Which: `uniform`; `damped`, the less probable the more often they came; `cyclic`,
            all subsets in a fixed order; `restricted`, a part of all subsets; `halves`, one half of
            the classes and then the other; `retention`, all and then only half of them; `disjoint`,
            all in turn, in cycles; `all`.
        limit: Training examples an experience, its classes alike; None: all of its classes.
        test_limit: Test examples in all, classes in proportion; None: all.
        draws: `deck`: all examples of a class come once before any comes again; `fresh`: drawn anew
            each time.
        decrease: How unequal the classes' probabilities are; 0: alike.
        damping: A class's probability is divided by it after a visit (`damped`).
        replaced: Chance that a class gives way to another (`cyclic`).
        meeting: Share of the subsets that may come (`restricted`).
        severity: Of the corruption, drawn for each experience, of its training images; 0: none.
        labels: Share of the training examples that have a label.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        evaluations: How often everything is scored, evenly spread; None: after each experience.
        online: Whether each experience is gone through only once.

    Raises:
        DataError: If corruptions are asked for and the inputs are not images.
        UsageError: If an argument is out of range.

    Source: Lesort et al., "Challenging common assumptions about catastrophic forgetting and
    knowledge accumulation" (2023).
    """
    at_least_one("experiences", experiences)
    at_least_one("classes", classes)
    if sampler not in occurrence.SAMPLERS:
        raise unknown("sampler", str(sampler), occurrence.SAMPLERS)
    if classes > source.classes:
        raise UsageError(
            f"{source.name!r} has {source.classes} classes, so at most as many come together; "
            f"given: {classes}."
        )
    if decrease < 0 or (decrease and sampler not in occurrence.BY_PROBABILITY):
        raise UsageError(
            "decrease must be 0 or more, and is for the samplers "
            f"{', '.join(occurrence.BY_PROBABILITY)}; given: {decrease} for {sampler}."
        )
    _share("replaced", replaced)
    _share("meeting", meeting)
    if damping < 1:
        raise UsageError(f"damping must be at least 1; given: {damping}.")
    generator = torch.Generator().manual_seed(seed)
    subsets = occurrence.SAMPLERS[sampler](
        Subsets(
            source.classes,
            classes,
            experiences,
            occurrence.probabilities(source.classes, decrease, generator),
            damping,
            replaced,
            meeting,
            generator,
        )
    )
    sizes = source.train["y"].bincount(minlength=source.classes)
    counts = occurrence.presence(subsets, source.classes) * sizes
    if limit is not None:
        at_least_one("limit", limit, " or none")
        counts = torch.stack([_alike(row, limit) for row in counts])
    stream = by_class(
        _tested(source, test_limit, seed),
        counts,
        name,
        seed,
        draws=draws,
        evaluations=_evaluations(evaluations),
        labels=labels,
        ordered=ordered,
        change=_corruptions(source, severity, experiences, seed),
    )
    return replace(stream, online=online)


def rehearsed(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    rehearsal: Rehearsal = "power-law",
    share: float = 0.5,
    tasks: Tasks = "permuted",
    limit: int | None = None,
    test_limit: int | None = None,
    draws: Draws = "fresh",
    exponent: float = 5.6,
    scale: float = 10.0,
    decay: float = 1.0,
    alpha: float = 5.0,
    ordered: bool = False,
    online: bool = False,
) -> Stream:
    """Each experience brings a new task, and of earlier ones the less the longer ago they were new.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the tasks and the examples.
        experiences: As many as tasks.
        rehearsal: How what comes again is shared out over earlier tasks: `uniform`, `exponential`,
            `power-law`, `power-function`; `natural`, by a power law without a common total; `none`,
            `all`.
        share: Of a new task's examples, for all earlier tasks together; not for the last three.
        tasks: `permuted` (all of them), `rotated`, or `split`: classes in turn.
        limit: Examples of a new task; None: all (of the smallest, where tasks differ in size).
        test_limit: Test examples a task; None: all.
        draws: `fresh`: drawn anew in each experience from all of a task; `deck`: all come once
            before any comes again.
        exponent: Of the power law in the lag.
        scale: Of its lags, in experiences.
        decay: Experiences in which an exponential falls to 1/e.
        alpha: Of the power function.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        online: Whether each experience is gone through only once.

    Raises:
        DataError: If images are to be rotated and the inputs are none.
        UsageError: If an argument is out of range.

    Source: archana53, "Catastrophic interference is mitigated in naturalistic power-law learning
    environments" (2024).
    """
    one_of("rehearsal", rehearsal, get_args(Rehearsal))
    for label, value in (("exponent", exponent), ("scale", scale), ("decay", decay)):
        if not value > 0:
            raise UsageError(f"{label} must be above 0; given: {value}.")
    if alpha <= 1:
        raise UsageError(f"alpha must be above 1; given: {alpha}.")
    if not share >= 0:
        raise UsageError(f"share must be 0 or more; given: {share}.")
    made, most = _tasks(source, name, seed, experiences, tasks, test_limit)
    if limit is not None:
        at_least_one("limit", limit, " or none")
    counts = occurrence.rehearsal(
        experiences, min(limit or most, most), rehearsal, share, exponent, scale, decay, alpha
    )
    stream = by_task(made, counts, name, seed, draws=draws, ordered=ordered)
    return replace(stream, online=online)


def mixed(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    own: float = 0.6,
    tasks: Tasks = "permuted",
    limit: int | None = None,
    test_limit: int | None = None,
    draws: Draws = "deck",
    ordered: bool = False,
    online: bool = False,
) -> Stream:
    """All tasks in every experience, each time another one the most.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the tasks and the examples.
        experiences: As many as tasks.
        own: Share of an experience that is of its own task; the rest is of all others alike.
        tasks: `permuted` (all of them), `rotated`, or `split`: classes in turn.
        limit: Examples an experience; None: as many as a task has, so that all come once.
        test_limit: Test examples a task; None: all.
        draws: `deck`: all examples of a task come once before any comes again; `fresh`: drawn anew.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        online: Whether each experience is gone through only once.

    Raises:
        DataError: If images are to be rotated and the inputs are none.
        UsageError: If an argument is out of range.
    """
    _share("own", own)
    made, most = _tasks(source, name, seed, experiences, tasks, test_limit)
    if limit is not None:
        at_least_one("limit", limit, " or none")
    counts = occurrence.mixed(experiences, min(limit or most, most), own)
    stream = by_task(made, counts, name, seed, draws=draws, ordered=ordered)
    return replace(stream, online=online)


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
    _at_most_classes(source, experiences)
    _share("separate", separate)
    _share("blur", blur)
    sizes = source.train["y"].bincount(minlength=source.classes)
    generator = torch.Generator().manual_seed(seed)
    counts = occurrence.blurry(sizes, experiences, separate, blur, stochastic, generator)
    stream = by_class(
        _tested(source, test_limit, seed), counts, name, seed, labels=labels, ordered=ordered
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
    if not width > 0:
        raise UsageError(f"width must be above 0; given: {width}.")
    if limit is None:
        limit = max(1, len(source.train) // experiences)
    at_least_one("limit", limit, " or none")
    order = class_order(source.classes, seed)
    counts = torch.empty(experiences, source.classes, dtype=torch.long)
    counts[:, order] = occurrence.gaussian(experiences, source.classes, limit, width)
    stream = by_class(
        _tested(source, test_limit, seed),
        counts,
        name,
        seed,
        evaluations=_evaluations(evaluations),
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
    _at_most_classes(source, experiences)
    if not 0 < factor <= 1:
        raise UsageError(f"factor must be above 0 and at most 1; given: {factor}.")
    arrival = class_order(source.classes, seed)
    ranks = {
        "seed": class_order(source.classes, seed + 1),
        "descending": arrival,
        "ascending": arrival.flip(0),
    }[arrangement]
    sizes = source.train["y"].bincount(minlength=source.classes)
    counts = occurrence.in_parts(
        occurrence.long_tailed(sizes, factor, ranks), arrival.tensor_split(experiences)
    )
    stream = by_class(
        _tested(source, test_limit, seed), counts, name, seed, labels=labels, ordered=ordered
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
    _at_most_classes(source, experiences)
    at_least_one("shots", shots)
    first = (source.classes + 1) // 2 if base is None else base
    at_least_one("base", first, " or none")
    if source.classes - first < experiences - 1:
        raise UsageError(
            f"{source.classes} classes, {first} of them in the first experience, leave none for "
            f"some of {experiences - 1} later ones: give fewer experiences or a smaller base."
        )
    order = class_order(source.classes, seed)
    parts = [order[:first]]
    if experiences > 1:
        parts += order[first:].tensor_split(experiences - 1)
    sizes = source.train["y"].bincount(minlength=source.classes)
    counts = occurrence.in_parts(sizes, parts)
    counts[1:] = counts[1:].clamp(max=shots)
    return by_class(_tested(source, test_limit, seed), counts, name, seed, ordered=ordered)


MIXTURES: dict[str, Callable[..., Stream]] = {
    "recurring": recurring,
    "rehearsed": rehearsed,
    "mixed": mixed,
    "blurry": blurry,
    "gaussian": gaussian,
    "long-tailed": long_tailed,
    "few-shot": few_shot,
}
"""By name; of classes, but for `rehearsed` and `mixed`, which are of domains unless told."""


def _tasks(
    source: Source, name: str, seed: int, experiences: int, kind: str, test_limit: int | None
) -> tuple[Stream, int]:
    """The tasks as a stream, and the examples of the smallest."""
    one_of("tasks", kind, get_args(Tasks))
    if kind == "permuted":
        stream = permuted(source, name, seed, experiences, "permuted", test_limit=test_limit)
    elif kind == "rotated":
        stream = rotated(source, name, seed, experiences, test_limit=test_limit)
    else:
        stream = split(source, name, seed, experiences, test_limit=test_limit)
    return stream, min(len(e.train) for e in stream)


def _tested(source: Source, limit: int | None, seed: int) -> Source:
    """The source with at most so many test examples, of every class at least one."""
    if limit is None:
        return source
    at_least_one("test_limit", limit, " or none")
    if limit < source.classes:
        raise UsageError(
            f"test_limit must be at least {source.classes}, one for each class; given: {limit}."
        )
    return replace(source, test=stratified(source.test, limit, torch.Generator().manual_seed(seed)))


def _alike(sizes: Tensor, limit: int) -> Tensor:
    """So many examples shared out alike over the classes that are there, as far as they have any.

    What a small class cannot give, the others do.
    """
    taken = torch.zeros_like(sizes)
    while limit and bool((open_ := taken < sizes).any()):
        more = occurrence.apportioned(limit, open_.double())
        taken_now = torch.minimum(taken + more, sizes)
        limit -= int((taken_now - taken).sum())
        taken = taken_now
    return taken


def _corruptions(
    source: Source, severity: int, experiences: int, seed: int
) -> Callable[[int, Tensor], Tensor] | None:
    """A corruption for each experience, by seed."""
    if isinstance(severity, bool) or severity not in range(SEVERITIES + 1):
        raise UsageError(f"severity must be a whole number from 0 to 5; given: {severity!r}.")
    if not severity:
        return None
    generator = torch.Generator().manual_seed(seed + 1)
    kinds = torch.randint(len(CORRUPTIONS), (experiences,), generator=generator).tolist()
    white, names = white_of(source), list(CORRUPTIONS)

    def change(index: int, x: Tensor) -> Tensor:
        kind = names[kinds[index]]
        corrupted: Tensor = under_corruption(Table({"x": x}), kind, severity, seed, white)["x"]
        return corrupted

    return change


def _evaluations(value: Any) -> int | None:
    if value is not None:
        at_least_one("evaluations", value, " or none")
    return None if value is None else int(value)


def _at_most_classes(source: Source, experiences: int) -> None:
    if not 1 <= experiences <= source.classes:
        raise UsageError(
            f"{source.name!r} has {source.classes} classes, so it takes 1 to {source.classes} "
            f"experiences; given: {experiences}."
        )


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be a share from 0 to 1; given: {value}.")
