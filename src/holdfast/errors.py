"""What can go wrong, in the user's language.

Every error that a user can cause is a `HoldfastError`: its message is one sentence or two that say
what was given and what is accepted. The command line prints the message without a traceback and
exits with the error's `exit_status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HoldfastError(Exception):
    """Base of all errors raised for a reason that the user can act on."""

    exit_status = 1


class UsageError(HoldfastError):
    """Something asked for does not exist or does not fit: a name, an argument, a combination."""

    exit_status = 2


class DataError(UsageError):
    """Data that cannot be read or cannot be learned from."""


class StreamRefused(UsageError):
    """A method was given a stream, or a model, that it cannot serve."""


class RunError(HoldfastError):
    """A run that had begun could not go on."""


class Diverged(RunError):
    """The loss became NaN or infinite."""


class CheckpointError(RunError):
    """A checkpoint is damaged, foreign, or from a newer version."""


def at_least(least: int, **given: float | None) -> None:
    """Raise `UsageError` for the first argument that is smaller than `least`; None passes."""
    for name, value in given.items():
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}; given: {value}.")


def above_zero(**given: float | None) -> None:
    """Raise `UsageError` for the first argument that is not above 0; None passes."""
    for name, value in given.items():
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be above 0; given: {value}.")


def unknown(kind: str, name: str, accepted: Iterable[str], owner: str = "") -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = sorted(accepted)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"There is no {kind} {name!r}{owner}.{hint} Accepted: {', '.join(names)}.")
