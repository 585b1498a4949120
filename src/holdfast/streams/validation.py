"""Parts of a stream with which settings are chosen, so that no test set is looked at."""

from __future__ import annotations

from dataclasses import replace

import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.stream import Experience, Experiences, Stream
from holdfast.streams.sampling import shuffled_place


def until(stream: Stream, count: int) -> Stream:
    """The first `count` experiences of a stream; classes keep their numbers.

    Raises:
        UsageError: If there are not so many, or if the stream's test sets are not its experiences'.
    """
    if not 1 <= count <= len(stream):
        raise UsageError(
            f"{stream.name} has {len(stream)} experiences, of which the first ones can be learned; "
            f"given: {count}."
        )
    if count == len(stream):
        return stream
    _refuse_others(stream, "be learned in part")
    kept = tuple(index for index in stream.evaluations if index < count)
    if stream.evaluations and (not kept or kept[-1] != count - 1):
        kept = (*kept, count - 1)
    first = Experiences(count, lambda index: stream.experiences[index])
    return replace(stream, experiences=first, evaluations=kept)


def held_out(stream: Stream, share: float, seed: int) -> Stream:
    """The stream with a share of every experience's training examples in its test set's place.

    The test sets are not looked at, and not kept. Of every class with two or more examples in an
    experience at least one is held out and one trained on; where examples have no class they are
    drawn from all.

    Args:
        stream: Of experiences with test sets of their own.
        share: In 0..1, both exclusive.
        seed: Draws what is held out, in each experience by itself.

    Raises:
        UsageError: If the share is out of range, or if the stream has test sets for itself.
        DataError: If an experience has too few examples to be parted.

    Example:
        >>> from holdfast import streams
        >>> stream = streams.build("split-digits(limit=100)")
        >>> [len(e.test) for e in held_out(stream, 0.1, seed=0)]
        [10, 10, 10, 10, 10]
    """
    if not 0 < share < 1:
        raise UsageError(f"The share held out must be above 0 and below 1; given: {share}.")
    _refuse_others(stream, "be validated")

    def make(index: int) -> Experience:
        experience = stream.experiences[index]
        train, test = _parted(experience.train, share, seed + index)
        if not len(train) or not len(test):
            raise DataError(
                f"Experience {index} of {stream.name} has {len(experience.train)} examples, too "
                "few to hold some of them out."
            )
        return replace(experience, train=train, test=test)

    parts = [make(index) for index in range(len(stream))]
    return replace(stream, experiences=parts)


def _parted(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    groups = torch.zeros(len(table), dtype=torch.long)
    if "y" in table and table["y"].dim() == 1:
        groups = table["y"].cpu() - table["y"].min().cpu()  # from 0, also where some are unlabelled
    counts = groups.bincount()
    apart = (share * counts).round().long().clamp(min=1).where(counts > 1, 0)
    apart = apart.minimum(counts - 1)
    generator = torch.Generator().manual_seed(seed)
    test = (shuffled_place(groups, generator) < apart[groups]).to(table.device)
    return table.where(~test), table.where(test)


def _refuse_others(stream: Stream, what: str) -> None:
    if stream.tests or stream.scorer is not None:
        raise UsageError(
            f"{stream.name} is scored as a whole, not by test sets of its experiences, and cannot "
            f"{what}."
        )
