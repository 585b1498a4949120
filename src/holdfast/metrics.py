"""Metrics of what was kept, as pure functions of score matrices.

`matrix[i, j]` is the score on test set j after experience i, both from 0; T experiences give a
T x T matrix. Scores are fractions, larger is better. Test sets weigh equally. Curves are the
matrices of continual evaluation: `curve[n, j]` is the score on test set j at evaluation n.

Where test sets are not those of the experiences, or are not scored after each, `met[j]` says from
which row on test set j has been met (`Record.met`): what is asked of test set j after experience j
is then asked of it in row `met[j]`, and test sets never met count as not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

Matrix = Float[NDArray[np.float64], "after on"]
Met = Sequence[int] | None
"""The row from which each test set has been met; None: row j for test set j."""


def average_accuracy(matrix: ArrayLike, met: Met = None) -> float:
    """Mean score over all test sets after the last experience ("final average")."""
    return float(_matrix(matrix, met)[0][-1].mean())


def average_anytime_accuracy(matrix: ArrayLike, met: Met = None) -> float:
    """Mean, over experiences i, of the mean score on test sets 0..i ("incremental average")."""
    r, first = _matrix(matrix, met)
    return _mean([r[i, first <= i].mean() for i in range(len(r)) if (first <= i).any()])


def forgetting(matrix: ArrayLike, met: Met = None) -> float:
    """Mean, over test sets but the last, of the best earlier score minus the final one.

    Source: Chaudhry et al., "Riemannian walk for incremental learning" (2018). Zero for a single
    experience.
    """
    r, first = _matrix(matrix, met)
    earlier = np.flatnonzero(first < len(r) - 1)
    return _mean([r[first[j] : -1, j].max() - r[-1, j] for j in earlier])


def backward_transfer(matrix: ArrayLike, met: Met = None) -> float:
    """Mean, over test sets but the last, of the final score minus the score just after learning.

    Source: Lopez-Paz and Ranzato, "Gradient episodic memory" (2017). Zero for one experience.
    """
    r, first = _matrix(matrix, met)
    earlier = np.flatnonzero(first < len(r) - 1)
    return _mean([r[-1, j] - r[first[j], j] for j in earlier])


def forward_transfer(matrix: ArrayLike, initial: ArrayLike, met: Met = None) -> float:
    """Mean, over test sets but the first, of the score before learning minus that of no training.

    Args:
        initial: Score on every test set before any training.

    Source: Lopez-Paz and Ranzato (2017). Zero for one experience.
    """
    (r, first), b = _matrix(matrix, met), np.asarray(initial, dtype=float)
    later = np.flatnonzero((first > 0) & (first < len(r)))
    return _mean([r[first[j] - 1, j] - b[j] for j in later])


def plasticity(matrix: ArrayLike, met: Met = None) -> float:
    """Mean score on each test set just after its experience: how well new things are learned."""
    r, first = _matrix(matrix, met)
    return _mean([r[first[j], j] for j in np.flatnonzero(first < len(r))])


def intransigence(matrix: ArrayLike, reference: ArrayLike) -> float:
    """Mean, over experiences, of what a reference reaches on the newest test set and we do not.

    Args:
        reference: The matrix of a learner that had all data up to each experience (`cumulative`).

    Source: Chaudhry et al. (2018), averaged over experiences.
    """
    theirs, ours = _matrix(reference, None)[0], _matrix(matrix, None)[0]
    return float((np.diag(theirs) - np.diag(ours)).mean())


class WorstCase(NamedTuple):
    """What continual evaluation adds, each a mean over test sets.

    Attributes:
        min_accuracy: Lowest score after a test set's experience had ended, over earlier test sets.
        worst_case_accuracy: (1/k) score on the newest + (1 - 1/k) min_accuracy, for k experiences.
    """

    min_accuracy: float
    worst_case_accuracy: float


def worst_case(curve: ArrayLike, experiences: Sequence[int]) -> WorstCase:
    """min-ACC and WC-ACC at the end of a curve.

    Args:
        curve: Evaluations by test sets.
        experiences: The experience in which each evaluation was made, ascending from 0.

    With a single experience there is nothing earlier: min-ACC is then NaN.

    Source: De Lange et al., "Continual evaluation for lifelong learning" (2023).
    """
    a, during = np.asarray(curve, dtype=float), np.asarray(experiences)
    k = int(during[-1]) + 1
    if k == 1:
        return WorstCase(float("nan"), float(a[-1, 0]))
    lowest = float(np.mean([a[during > i, i].min() for i in range(k - 1)]))
    return WorstCase(lowest, float(a[-1, k - 1] / k + (1 - 1 / k) * lowest))


def windowed_forgetting(curve: ArrayLike, window: int) -> float:
    """Mean over test sets of the largest drop within any `window` consecutive evaluations.

    NaN stands for an evaluation that does not count (`begun` puts it where a test set's experience
    had not begun).

    Source: De Lange et al. (2023), WF. Needs no boundaries.
    """
    return _largest_change(-np.asarray(curve, dtype=float), window)


def windowed_plasticity(curve: ArrayLike, window: int) -> float:
    """Mean over test sets of the largest rise within any `window` consecutive evaluations.

    Source: De Lange et al. (2023), WP.
    """
    return _largest_change(np.asarray(curve, dtype=float), window)


def _largest_change(curve: NDArray[np.float64], window: int) -> float:
    """Mean over columns of max a[n] - a[m] over m < n < m + window; NaN takes no part."""
    best = np.zeros(curve.shape[1])
    for gap in range(1, min(window, len(curve))):
        best = np.fmax(best, np.fmax.reduce(curve[gap:] - curve[:-gap]))
    return float(best.mean())


def begun(
    curve: ArrayLike, experiences: Sequence[int], since: Sequence[int] = ()
) -> NDArray[np.float64]:
    """A curve with NaN for test sets whose experience had not begun when it was evaluated.

    Args:
        curve: Evaluations by test sets.
        experiences: The experience in which each evaluation was made, ascending from 0.
        since: The experience of each test set; none given: that of the same number.

    Example:
        >>> begun([[0.9, 0.1], [0.8, 0.7]], [0, 1]).tolist()
        [[0.9, nan], [0.8, 0.7]]
    """
    a, during = np.array(curve, dtype=float), np.asarray(experiences)
    first = np.asarray(since) if len(since) else np.arange(a.shape[1])
    a[during[:, None] < first] = np.nan
    return a


class Gap(NamedTuple):
    """What happens to earlier test sets while one more experience is learned.

    Each is a mean over experiences but the first and over the test sets before them.

    Attributes:
        drop: Score before the experience minus the lowest score during it.
        dip: How far the lowest score lies below both the score before the experience and the one
            at its end: the part of the drop that is made good again, and that evaluation after
            experiences cannot see. Zero for a score that only falls.
        fluctuation: The dip of the second half of the experience alone, where the switch is long
            past: what a dip would be without a switch.
        recovery: Evaluations until a score that fell below `level` of what it was before is back
            there, after its lowest point; over those that come back. NaN if none does.
        recovered: Share of those that come back within the experience. NaN if none fell so far.
    """

    drop: float
    dip: float
    fluctuation: float
    recovery: float
    recovered: float


def stability_gap(curve: ArrayLike, experiences: Sequence[int], level: float = 0.95) -> Gap:
    """How deep earlier scores fall when an experience begins, and how soon they are back.

    Args:
        curve: Evaluations by test sets.
        experiences: The experience in which each evaluation was made, ascending from 0.
        level: Share of the former score that counts as recovered.

    All are NaN with a single experience.

    Example:
        >>> curve = [[0.9, 0.0], [0.5, 0.6], [0.7, 0.9], [0.8, 0.9], [0.8, 0.9]]
        >>> gap = stability_gap(curve, [0, 1, 1, 1, 1], level=0.8)
        >>> round(gap.drop, 2), round(gap.dip, 2), gap.recovery
        (0.4, 0.3, 3.0)
    """
    a, during = np.asarray(curve, dtype=float), np.asarray(experiences)
    found: list[tuple[float, float, float]] = []
    back: list[int] = []
    fallen = 0
    for experience in range(1, int(during[-1]) + 1):
        before = a[during == experience - 1][-1]
        scores = a[during == experience]
        for i in range(experience):
            column = scores[:, i]
            late = column[len(column) // 2 :]
            dips = _dip(before[i], column), _dip(late[0], late)
            found.append((before[i] - column.min(), *dips))
            lowest = int(column.argmin())
            if column[lowest] >= level * before[i]:
                continue
            fallen += 1
            again = np.flatnonzero(column[lowest:] >= level * before[i])
            if len(again):
                back.append(lowest + int(again[0]) + 1)
    if not found:
        return Gap(*[float("nan")] * 5)
    drop, dip, fluctuation = np.mean(found, axis=0)
    recovery = float(np.mean(back)) if back else float("nan")
    share = len(back) / fallen if fallen else float("nan")
    return Gap(float(drop), float(dip), float(fluctuation), recovery, share)


def _dip(before: float, scores: NDArray[np.float64]) -> float:
    return max(0.0, float(min(before, scores[-1]) - scores.min()))


def learning_curve_area(curve: ArrayLike, experiences: Sequence[int], first: int = 10) -> float:
    """Mean score on the present test set over the first evaluations of its experience.

    Args:
        curve: Evaluations by test sets.
        experiences: The experience in which each evaluation was made, ascending from 0.
        first: How many evaluations; fewer if an experience has fewer.

    Source: LCA of Chaudhry et al., "Efficient lifelong learning with A-GEM" (2019), over
    evaluations 1 to `first`, without the one before the first step.
    """
    a, during = np.asarray(curve, dtype=float), np.asarray(experiences)
    areas = [a[during == k, k][:first].mean() for k in range(int(during[-1]) + 1)]
    return float(np.mean(areas))


class Errors(NamedTuple):
    """Wrong answers by what was shown and what was answered: counts."""

    old_as_old: int
    old_as_new: int
    new_as_old: int
    new_as_new: int


def error_decomposition(
    predicted: ArrayLike, labels: ArrayLike, old: Sequence[int], new: Sequence[int]
) -> Errors:
    """Which confusions the errors are: among old classes, among new ones, or across.

    Args:
        predicted: Class answered, one an example.
        labels: Class shown.
        old: Classes learned before; `new`: classes just learned. Others must not occur.

    Raises:
        ValueError: If the lengths differ or a class is in neither list.

    Source: Zhao et al., "Maintaining discrimination and fairness in class incremental learning"
    (2020).

    Example:
        >>> error_decomposition([0, 1, 2, 2], [0, 0, 0, 3], old=[0, 1], new=[2, 3])
        Errors(old_as_old=1, old_as_new=1, new_as_old=0, new_as_new=1)
    """
    p, y = np.asarray(predicted), np.asarray(labels)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(f"Predictions {p.shape} and labels {y.shape} must be equally long lists.")
    stray = set(np.concatenate([p, y]).tolist()) - {*old, *new}
    if stray:
        raise ValueError(f"Classes {sorted(stray)} are neither among the old nor the new ones.")
    wrong, shown_old, answered_old = p != y, np.isin(y, list(old)), np.isin(p, list(old))
    return Errors(
        int((wrong & shown_old & answered_old).sum()),
        int((wrong & shown_old & ~answered_old).sum()),
        int((wrong & ~shown_old & answered_old).sum()),
        int((wrong & ~shown_old & ~answered_old).sum()),
    )


def summary(matrix: ArrayLike, initial: ArrayLike, met: Met = None) -> dict[str, float]:
    """All metrics that need nothing but one run's matrix."""
    return {
        "average_accuracy": average_accuracy(matrix, met),
        "average_anytime_accuracy": average_anytime_accuracy(matrix, met),
        "forgetting": forgetting(matrix, met),
        "backward_transfer": backward_transfer(matrix, met),
        "forward_transfer": forward_transfer(matrix, initial, met),
        "plasticity": plasticity(matrix, met),
    }


def curve_summary(
    curve: Sequence[Mapping[str, object]], since: Sequence[int] = ()
) -> dict[str, float]:
    """The metrics of continual evaluation from a record's `curve`; empty for an empty curve.

    Args:
        curve: Of the record.
        since: Of the record, where test sets are not those of the experiences: min-ACC and WC-ACC,
            which ask for a newest test set in each experience, are then not defined.
    """
    if not curve:
        return {}
    scores = np.array([point["scores"] for point in curve], dtype=float)
    during = [int(str(point["experience"])) for point in curve]
    worst: dict[str, float] = {}
    if not len(since):
        lowest, least = worst_case(scores, during)
        worst = {"min_accuracy": lowest, "worst_case_accuracy": least}
    scores = begun(scores, during, since)
    return {
        **worst,
        "windowed_forgetting_10": windowed_forgetting(scores, 10),
        "windowed_forgetting_100": windowed_forgetting(scores, 100),
        "windowed_plasticity_10": windowed_plasticity(scores, 10),
        "windowed_plasticity_100": windowed_plasticity(scores, 100),
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t); the width of one value is NaN."""
    from scipy.stats import t

    v = np.asarray(values, dtype=float)
    if len(v) < 2:
        return float(v.mean()), float("nan")
    return float(v.mean()), float(t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)))


def _matrix(matrix: ArrayLike, met: Met) -> tuple[Matrix, NDArray[np.int64]]:
    """The matrix, and the row from which each of its test sets has been met."""
    r = np.asarray(matrix, dtype=float)
    square = met is not None or r.ndim != 2 or r.shape[0] == r.shape[1]
    if r.ndim != 2 or not r.size or not square:
        raise ValueError(f"A score matrix must be square and not empty; given shape {r.shape}.")
    first = np.arange(r.shape[1]) if met is None else np.asarray(met, dtype=np.int64)
    if first.shape != (r.shape[1],):
        raise ValueError(f"{r.shape[1]} test sets need as many rows of `met`; given: {len(first)}.")
    return r, first


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
