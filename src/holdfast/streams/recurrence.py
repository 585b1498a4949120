"""Recipes in which what was there comes again: recurring classes, rehearsed and mixed tasks.

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
from holdfast.stream import Stream, white_in
from holdfast.streams import occurrence, samplers
from holdfast.streams.corruptions import CORRUPTIONS, SEVERITIES
from holdfast.streams.generator import Draws, by_class, by_task
from holdfast.streams.occurrence import Rehearsal
from holdfast.streams.recipes import (
    a_share,
    at_least_one,
    one_of,
    permuted,
    rotated,
    split,
    tested,
    under_corruption,
)
from holdfast.streams.samplers import Subsets
from holdfast.streams.sampling import stratified
from holdfast.streams.source import Source

Tasks = Literal["permuted", "rotated", "split"]


def recurring(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 100,
    classes: int = 2,
    sampler: str = "uniform",
    limit: int | None = None,
    pool: int | None = None,
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
        pool: Training examples that there are, classes in proportion; None: all.
        test_limit: Test examples in all, classes in proportion; None: all.
        draws: `deck`: all examples of a class come once before any comes again; `fresh`: drawn anew
            each time.
        decrease: How unequal the classes' probabilities are; 0: alike.
        damping: A class's probability is divided by it after a visit (`damped`).
        replaced: Chance that a class gives way to another (`cyclic`).
        meeting: Share of the subsets that may come (`restricted`).
        severity: Of the corruption, drawn for each experience, of its training images; 0: none;
            -1: drawn too, from 0 to 4.
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
    if sampler not in samplers.SAMPLERS:
        raise unknown("sampler", str(sampler), samplers.SAMPLERS)
    if classes > source.classes:
        raise UsageError(
            f"{source.name!r} has {source.classes} classes, so at most as many come together; "
            f"given: {classes}."
        )
    if decrease < 0 or (decrease and sampler not in samplers.BY_PROBABILITY):
        raise UsageError(
            "decrease must be 0 or more, and is for the samplers "
            f"{', '.join(samplers.BY_PROBABILITY)}; given: {decrease} for {sampler}."
        )
    a_share("replaced", replaced)
    a_share("meeting", meeting)
    if damping < 1:
        raise UsageError(f"damping must be at least 1; given: {damping}.")
    generator = torch.Generator().manual_seed(seed)
    subsets = samplers.SAMPLERS[sampler](
        Subsets(
            source.classes,
            classes,
            experiences,
            samplers.probabilities(source.classes, decrease, generator),
            damping,
            replaced,
            meeting,
            generator,
        )
    )
    if pool is not None:
        at_least_one("pool", pool, " or none")
        kept = stratified(source.train, max(pool, source.classes), generator)
        source = replace(source, train=kept)
    sizes = source.train["y"].bincount(minlength=source.classes)
    counts = occurrence.presence(subsets, source.classes) * sizes
    if limit is not None:
        at_least_one("limit", limit, " or none")
        counts = torch.stack([_alike(row, limit) for row in counts])
    stream = by_class(
        tested(source, test_limit, seed),
        counts,
        name,
        seed,
        draws=draws,
        evaluations=evaluations,
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
    pool: int | None = None,
    test_limit: int | None = None,
    draws: Draws = "fresh",
    stored: int | None = None,
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
        pool: Training examples that there are of a task; None: all.
        test_limit: Test examples a task; None: all.
        draws: `fresh`: drawn anew in each experience from all of a task; `deck`: all come once
            before any comes again.
        stored: Examples of an earlier task that are drawn from, of those that came when it was new,
            each as often as it takes; None: all of the task's.
        exponent: Of the power law in the lag.
        scale: Of its lags, in experiences.
        decay: Experiences in which an exponential falls to 1/e.
        alpha: Of the power function.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        online: Whether each experience is gone through only once.

    Raises:
        DataError: If images are to be rotated and the inputs are none.
        UsageError: If an argument is out of range.

    Source: Gandhi et al., "Catastrophic interference is mitigated in naturalistic power-law
    learning environments" (2024).
    """
    one_of("rehearsal", rehearsal, get_args(Rehearsal))
    for label, value in (("exponent", exponent), ("scale", scale), ("decay", decay)):
        if not value > 0:
            raise UsageError(f"{label} must be above 0; given: {value}.")
    if alpha <= 1:
        raise UsageError(f"alpha must be above 1; given: {alpha}.")
    if not share >= 0:
        raise UsageError(f"share must be 0 or more; given: {share}.")
    made, most = _tasks(source, name, seed, experiences, tasks, pool, test_limit)
    if limit is not None:
        at_least_one("limit", limit, " or none")
    new = min(limit or most, most)
    if stored is not None:
        at_least_one("stored", stored, " or none")
        if stored > new or draws != "fresh":
            raise UsageError(
                f"stored must be at most the {new} examples that a new task brings, with draws "
                f"'fresh'; given: {stored}, with {draws!r}."
            )
    counts = occurrence.rehearsal(experiences, new, rehearsal, share, exponent, scale, decay, alpha)
    stream = by_task(made, counts, name, seed, draws=draws, stored=stored, ordered=ordered)
    return replace(stream, online=online)


def mixed(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    own: float = 0.6,
    tasks: Tasks = "permuted",
    limit: int | None = None,
    pool: int | None = None,
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
        pool: Training examples that there are of a task; None: all.
        test_limit: Test examples a task; None: all.
        draws: `deck`: all examples of a task come once before any comes again; `fresh`: drawn anew.
        ordered: Whether examples come in one random order, by seed, in every epoch.
        online: Whether each experience is gone through only once.

    Raises:
        DataError: If images are to be rotated and the inputs are none.
        UsageError: If an argument is out of range.
    """
    a_share("own", own)
    made, most = _tasks(source, name, seed, experiences, tasks, pool, test_limit)
    if limit is not None:
        at_least_one("limit", limit, " or none")
    counts = occurrence.mixed(experiences, min(limit or most, most), own)
    stream = by_task(made, counts, name, seed, draws=draws, ordered=ordered)
    return replace(stream, online=online)


RECURRENCE: dict[str, Callable[..., Stream]] = {
    "recurring": recurring,
    "rehearsed": rehearsed,
    "mixed": mixed,
}
"""By name; `rehearsed` and `mixed` are of domains, unless they are told to split classes."""


def _tasks(
    source: Source,
    name: str,
    seed: int,
    experiences: int,
    kind: str,
    pool: int | None,
    test_limit: int | None,
) -> tuple[Stream, int]:
    """The tasks as a stream, and the examples of the smallest."""
    one_of("tasks", kind, get_args(Tasks))
    limits: Any = {"limit": pool, "test_limit": test_limit}
    if kind == "permuted":
        stream = permuted(source, name, seed, experiences, "permuted", **limits)
    elif kind == "rotated":
        stream = rotated(source, name, seed, experiences, **limits)
    else:
        stream = split(source, name, seed, experiences, **limits)
    return stream, min(len(e.train) for e in stream)


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
    if isinstance(severity, bool) or severity not in range(-1, SEVERITIES + 1):
        raise UsageError(
            f"severity must be a whole number from 0 to {SEVERITIES}, or -1, which draws it for "
            f"each experience; given: {severity!r}."
        )
    if not severity:
        return None
    generator = torch.Generator().manual_seed(seed + 1)
    kinds = torch.randint(len(CORRUPTIONS), (experiences,), generator=generator).tolist()
    levels = torch.full((experiences,), severity)
    if severity == -1:
        levels = torch.randint(SEVERITIES, (experiences,), generator=generator)
    white, names = white_in(source.train["x"], source.white), list(CORRUPTIONS)

    def change(index: int, x: Tensor) -> Tensor:
        kind, level = names[kinds[index]], int(levels[index])
        if not level:
            return x
        corrupted: Tensor = under_corruption(Table({"x": x}), kind, level, seed, white)["x"]
        return corrupted

    return change
