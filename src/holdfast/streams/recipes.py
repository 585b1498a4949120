"""Recipes: the ways to make a stream of a source. Their parameters are what a spec can say.

Every recipe takes the source, the stream's name and the seed first; the rest, typed and with
defaults, are the arguments of spec strings, of the catalogue and of the Python functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError, unknown
from holdfast.stream import Stream, spread, white_in
from holdfast.streams.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from holdfast.streams.domains import permute, pixels, rotate
from holdfast.streams.labels import partly_labelled
from holdfast.streams.sampling import stratified
from holdfast.streams.source import Source, class_incremental, domain_incremental

Known = Literal["class", "task"]
Order = Literal["seed", "natural"]
First = Literal["identity", "permuted"]
Angles = Literal["even", "drawn"]
Change = Literal["abrupt", "gradual"]


def split(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    scenario: Known = "class",
    online: bool = False,
    order: Order = "seed",
    limit: int | None = None,
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    evaluations: int | None = None,
    class_order: list[int] | None = None,
    base: int | None = None,
) -> Stream:
    """The classes arrive in turn, as many in each experience as in the others.

    What the field calls "B50 Inc10", 50 of 100 classes and then 10 at a time, is `base=50,
    experiences=6`; "B0 Inc10" is `experiences=10`.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the order of the classes and what `limit` keeps.
        experiences: At most as many as there are classes.
        scenario: `"class"`, or `"task"`: the task is known in training and at test.
        online: Whether each example may be seen only once.
        order: Of the classes: by `"seed"`, or `"natural"`.
        limit: Training examples an experience, drawn by seed, classes in proportion; None: all.
        test_limit: Likewise, test examples.
        labels: Share of each class's training examples that have a label.
        ordered: Whether an experience's examples come as the data have them, in every epoch,
            instead of shuffled.
        evaluations: How often all test sets are scored, evenly spread over the stream; None: after
            each experience.
        class_order: The classes' numbers as they are to come, in place of `order`: a published
            one, say.
        base: Classes of the first experience, where it is to have more or fewer than the others,
            which share the rest; None: as many as they have.

    Raises:
        DataError: If there is a single class.
        UsageError: If an argument is out of range.
    """
    one_of("scenario", scenario, get_args(Known))
    one_of("order", order, get_args(Order))
    if source.classes < 2:
        raise DataError(
            f"{source.name!r} has a single class ({', '.join(source.class_names)}); a split needs "
            "at least two."
        )
    drawn = seed if order == "seed" else None
    stream = class_incremental(source, experiences, drawn, name, class_order, base)
    return arriving(stream, seed, scenario, online, limit, test_limit, labels, ordered, evaluations)


def arriving(
    stream: Stream,
    seed: int,
    scenario: Known = "class",
    online: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    labels: float = 1.0,
    ordered: bool = False,
    evaluations: int | None = None,
) -> Stream:
    """A stream of classes that arrive, as it is asked for; the arguments are those of `split`."""
    parts = limited([(e.train, e.test) for e in stream], limit, test_limit, seed)
    if labels != 1:
        parts = [(partly_labelled(train, labels, seed), test) for train, test in parts]
    stream = replace(
        stream,
        online=online,
        semi_labelled=labels != 1,
        evaluations=spread(len(stream), evaluations),
        experiences=[
            replace(experience, train=train, test=test, ordered=ordered)
            for experience, (train, test) in zip(stream, parts, strict=True)
        ],
    )
    return stream.with_tasks() if scenario == "task" else stream


def permuted(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    first: First = "identity",
    online: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    evaluations: int | None = None,
) -> Stream:
    """All classes in every experience, the pixels in another order each time.

    One permutation an experience, the same for all its examples; the channels of a pixel stay
    together.

    Args:
        source: The data.
        name: Of the stream.
        seed: Draws the permutations and what `limit` keeps.
        experiences: How many permutations.
        first: Whether the first one is the `"identity"` or `"permuted"` too.
        online: Whether each example may be seen only once.
        limit: Training examples an experience, drawn anew for each; None: all.
        test_limit: Likewise, test examples.
        evaluations: How often all test sets are scored, evenly spread over the stream; None: after
            each experience.

    Raises:
        UsageError: If an argument is out of range.

    Source: Goodfellow et al., "An empirical investigation of catastrophic forgetting in
    gradient-based neural networks" (2013).
    """
    at_least_one("experiences", experiences)
    one_of("first", first, get_args(First))
    source = _alike(source)
    generator = torch.Generator().manual_seed(seed)
    count = pixels(source.shape)
    orders = [torch.randperm(count, generator=generator) for _ in range(experiences)]
    if first == "identity":
        orders = [torch.arange(count), *orders[:-1]]
    parts = limited([(source.train, source.test)] * experiences, limit, test_limit, seed)
    domains = []
    for index, ((train, test), order) in enumerate(zip(parts, orders, strict=True)):
        label = "identity" if first == "identity" and index == 0 else f"permutation {index}"
        changed = [part.with_columns(x=permute(part["x"], order)) for part in (train, test)]
        domains.append((label, changed[0], changed[1]))
    return replace(
        domain_incremental(source, domains, name),
        online=online,
        evaluations=spread(experiences, evaluations),
    )


def rotated(
    source: Source,
    name: str,
    seed: int,
    experiences: int = 5,
    step: float | None = None,
    angles: Angles = "even",
    online: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    evaluations: int | None = None,
) -> Stream:
    """All classes in every experience, the images turned further each time.

    Args:
        source: The data: images.
        name: Of the stream.
        seed: Draws what `limit` keeps, and angles that are to be drawn.
        experiences: How many angles; the first is 0, unless it is drawn.
        step: Degrees from one to the next, counter-clockwise; None: 180 / experiences, which
            spreads them evenly over the half circle without its end.
        angles: `"even"`: as `step` says; or `"drawn"`: each by seed, uniform over the half circle,
            the first too.
        online: Whether each example may be seen only once.
        limit: Training examples an experience, drawn anew for each; None: all.
        test_limit: Likewise, test examples.
        evaluations: How often all test sets are scored, evenly spread over the stream; None: after
            each experience.

    Raises:
        DataError: If the inputs are not images.
        UsageError: If an argument is out of range.

    Source: Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning" (2017), who
    draw each angle from its part of the half circle; angles drawn from all of it are those of
    Buzzega et al., "Dark experience for general continual learning" (2020).
    """
    at_least_one("experiences", experiences)
    one_of("angles", angles, get_args(Angles))
    number = isinstance(step, (int, float)) and not isinstance(step, bool)
    if step is not None and not (number and math.isfinite(step)):
        raise UsageError(f"step must be a number of degrees or none; given: {step!r}.")
    if angles == "drawn" and step is not None:
        raise UsageError(f"step is for angles='even'; given: step={step:g} with angles='drawn'.")
    turn = 180 / experiences if step is None else step
    degrees = [index * turn for index in range(experiences)]
    if angles == "drawn":
        generator = torch.Generator().manual_seed(seed)
        degrees = (180 * torch.rand(experiences, generator=generator)).tolist()
    parts = limited([(source.train, source.test)] * experiences, limit, test_limit, seed)
    domains = []
    for (train, test), angle in zip(parts, degrees, strict=True):
        changed = [part.with_columns(x=rotate(part["x"], angle)) for part in (train, test)]
        domains.append((f"{angle:.4g} degrees", changed[0], changed[1]))
    return replace(
        domain_incremental(source, domains, name),
        online=online,
        evaluations=spread(experiences, evaluations),
    )


def corrupted(
    source: Source,
    name: str,
    seed: int,
    experiences: int | None = None,
    severity: int = 5,
    rounds: int = 1,
    change: Change = "abrupt",
    order: Order = "natural",
    kinds: list[str] | None = None,
    limit: int | None = 1000,
    test_limit: int | None = None,
) -> Stream:
    """First the images as they are, then under one corruption after another.

    Corrupted images come once (one epoch), as many rounds as asked for, each time the same. What
    adapts at test time meets the test images; the training images are for what learns with labels.

    Args:
        source: The data: images.
        name: Of the stream.
        seed: Draws the corruptions, their order and what `limit` keeps.
        experiences: The first so many, the clean one among them; None: all.
        severity: From 1 to 5, where the change is abrupt.
        rounds: How often all corruptions come.
        change: `"abrupt"`: each at `severity`; `"gradual"`: each at severities 1-2-3-4-5-4-3-2-1,
            the very first from 5 downwards.
        order: Of the corruptions: `"natural"`, the field's; or by `"seed"`, drawn anew each round.
        kinds: Names of corruptions; None: all fifteen.
        limit: Training images of each corrupted experience; None: all.
        test_limit: Test images an experience; None: all.

    Raises:
        DataError: If the inputs are not images.
        UsageError: If an argument is out of range.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations" (2019); the gradual change is that of Wang et al., "Continual test-time
    domain adaptation" (2022).
    """
    at_least_one("rounds", rounds)
    if experiences is not None:
        at_least_one("experiences", experiences, " or none")
    one_of("change", change, get_args(Change))
    one_of("order", order, get_args(Order))
    if isinstance(severity, bool) or severity not in range(1, SEVERITIES + 1):
        raise UsageError(f"severity must be a whole number from 1 to 5; given: {severity!r}.")
    chosen = list(CORRUPTIONS) if kinds is None else list(kinds)
    for kind in chosen:
        if kind not in CORRUPTIONS:
            raise unknown("corruption", str(kind), CORRUPTIONS)
    if not chosen:
        raise UsageError("kinds must name at least one corruption; given: none.")
    (clean,) = limited([(source.train, source.test)], None, test_limit, seed)
    few = clean[0] if limit is None else limited([clean], limit, None, seed)[0][0]
    white, generator = (
        white_in(source.train["x"], source.white),
        torch.Generator().manual_seed(seed),
    )
    made: dict[tuple[str, int], tuple[Table, Table]] = {}
    parts = [("clean", clean)]
    for turn in range(rounds):
        drawn = torch.randperm(len(chosen), generator=generator).tolist()
        for place, kind in enumerate(chosen if order == "natural" else [chosen[i] for i in drawn]):
            levels = [(severity, "")]
            if change == "gradual":
                rising = [] if not turn and not place else [(level, "") for level in range(1, 5)]
                levels = [*rising, (5, ""), *((level, " falling") for level in range(4, 0, -1))]
            for level, suffix in levels:
                if (kind, level) not in made and (experiences is None or len(parts) < experiences):
                    made[kind, level] = (
                        under_corruption(few, kind, level, 2 * seed, white),
                        under_corruption(clean[1], kind, level, 2 * seed + 1, white),
                    )
                if (kind, level) in made:
                    parts.append((f"{kind} {level}{suffix}", made[kind, level]))
    stream = domain_incremental(source, [(label, *part) for label, part in parts], name)
    return replace(
        stream,
        experiences=[
            replace(experience, epochs=1 if experience.index else None)
            for experience in stream.experiences[:experiences]
        ],
    )


def under_corruption(table: Table, kind: str, severity: int, seed: int, white: float) -> Table:
    """Images as bytes where white is 255, else as floats in their own unit."""
    x = table["x"]
    if x.dtype == torch.uint8 and white == 255:
        return table.with_columns(x=corrupt(x, kind, severity, seed))
    return table.with_columns(x=corrupt(x.float() / white, kind, severity, seed) * white)


RECIPES: dict[str, Callable[..., Stream]] = {
    "split": split,
    "permuted": permuted,
    "rotated": rotated,
    "corrupted": corrupted,
}


def limited(
    parts: Sequence[tuple[Table, Table]], limit: Any, test_limit: Any, seed: int
) -> list[tuple[Table, Table]]:
    """At most so many examples of every part; an experience's draw depends on none after it."""
    for name, value in (("limit", limit), ("test_limit", test_limit)):
        if value is not None:
            at_least_one(name, value, " or none")
    training, testing = (torch.Generator().manual_seed(seed) for _ in range(2))
    return [
        (
            train if limit is None else stratified(train, limit, training),
            test if test_limit is None else stratified(test, test_limit, testing),
        )
        for train, test in parts
    ]


def _alike(source: Source) -> Source:
    """Features in one common scale, so that they can change places."""
    if len(source.shape) != 1 or len(source.scale[0]) == 1:
        return source
    mean, deviation = (torch.tensor(values) for values in source.scale)
    train, test = (
        part.with_columns(x=(part["x"] - mean) / deviation) for part in (source.train, source.test)
    )
    return replace(source, train=train, test=test, scale=((0.0,), (1.0,)))


def one_of(name: str, value: Any, accepted: Sequence[str]) -> None:
    """Raise `UsageError` for a word that is not accepted."""
    if value not in accepted:
        raise UsageError(f"{name} must be {' or '.join(accepted)}; given: {value!r}.")


def at_least_one(name: str, value: Any, alternative: str = "") -> None:
    """Raise `UsageError` for what is not a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be a whole number from 1{alternative}; given: {value!r}.")


def a_share(name: str, value: float) -> None:
    """Raise `UsageError` for what is not a share."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} must be a share from 0 to 1; given: {value}.")


def tested(source: Source, limit: int | None, seed: int) -> Source:
    """The source with at most so many test examples, of every class at least one."""
    if limit is None:
        return source
    at_least_one("test_limit", limit, " or none")
    if limit < source.classes:
        raise UsageError(
            f"test_limit must be at least {source.classes}, one for each class; given: {limit}."
        )
    return replace(source, test=stratified(source.test, limit, torch.Generator().manual_seed(seed)))
