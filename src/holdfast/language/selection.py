"""Choosing training examples by their scores: by size, by density, by chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast.errors import UsageError, unknown
from holdfast.language.example_scores import ExampleScores

RULES = ("grads", "topk_magnitude", "density", "stratified", "random", "loss", "el2n")
SIGNALS = ("mean", "product", "embedding", "head", "both")
BANDWIDTHS = ("scott", "silverman")

FITTED = 20_000
"""Examples that the density is estimated from, at most."""

STRATA = 10


class Landscape(NamedTuple):
    """How the examples' gradient signals are distributed.

    Attributes:
        magnitude: Each example's signal, standardised over the set; NaN where there is none (an
            example of which nothing is asked, or of which nothing is left to learn).
        density: Of the signals, at each example; NaN likewise.
        mode: Magnitude at which the density is largest.
        cutoff: Magnitude above the mode from which on the density is below its share `kappa` of
            the largest: what lies beyond is taken for noise.
        inside: Whether an example lies between the two; as many are chosen if no budget is given.
        length_correlation: Pearson's, of magnitude and number of labelled tokens; NaN where either
            is constant.
    """

    magnitude: Float[np.ndarray, " examples"]
    density: Float[np.ndarray, " examples"]
    mode: float
    cutoff: float
    inside: Bool[np.ndarray, " examples"]
    length_correlation: float


def landscape(
    scores: ExampleScores,
    *,
    signal: str = "mean",
    kappa: float = 0.05,
    bandwidth: str = "scott",
    regress_length: bool = False,
) -> Landscape:
    """The distribution of the gradient signals.

    Args:
        scores: Of all examples.
        signal: One number of the two norms' logarithms: `"mean"` of both, each standardised;
            `"product"`: of the norms; `"embedding"` or `"head"` alone; `"both"`: the mean for the
            magnitude, and the density in the plane of the two.
        kappa: Share of the largest density below which an example is an outlier, above 0, below 1.
        bandwidth: Of the Gaussian kernels: `"scott"` or `"silverman"`.
        regress_length: Whether what the logarithm of the number of labelled tokens explains of the
            magnitude is taken away first.

    Raises:
        UsageError: If an option is not known, or no example has a signal.
    """
    if signal not in SIGNALS:
        raise unknown("signal", signal, SIGNALS)
    if bandwidth not in BANDWIDTHS:
        raise unknown("bandwidth", bandwidth, BANDWIDTHS)
    if not 0 < kappa < 1:
        raise UsageError(f"kappa must lie between 0 and 1; given: {kappa}.")
    norms = np.stack([scores.embedding.numpy(), scores.head.numpy()])
    length = scores.length.numpy()
    usable = np.isfinite(norms).all(0) & (norms > 0).all(0) & (length > 0)
    if not usable.any():
        raise UsageError("No example has a gradient: nothing is asked of any of them.")
    logs = np.log(norms[:, usable])
    plane = np.stack([_standardised(log) for log in logs])
    if signal in ("mean", "both"):
        c = plane.mean(0)
    elif signal == "product":
        c = logs.sum(0)
    else:
        c = plane[("embedding", "head").index(signal)]
    correlation = _correlation(c, length[usable])
    if regress_length:
        c = _residual(c, np.log(length[usable]))
    c = _standardised(c)
    density, mode, cutoff = _density(c, kappa, bandwidth)
    inside = (c >= mode) & (c <= cutoff)
    if signal == "both":
        density = _density_in_plane(plane, bandwidth)
        inside = (c >= mode) & (density >= kappa * density.max())
    magnitude, everywhere = np.full(len(scores), np.nan), np.full(len(scores), np.nan)
    magnitude[usable], everywhere[usable] = c, density
    within = np.zeros(len(scores), dtype=bool)
    within[usable] = inside
    return Landscape(magnitude, everywhere, mode, cutoff, within, correlation)


def select(
    scores: ExampleScores,
    budget: float | None = None,
    rule: str = "grads",
    *,
    signal: str = "mean",
    kappa: float = 0.05,
    bandwidth: str = "scott",
    regress_length: bool = False,
    distinct: bool = False,
    seed: int = 0,
) -> Int[Tensor, " chosen"]:
    """The rows of the examples to train on, in ascending order.

    With c the gradient signal and f its density (`landscape`), `"grads"` prefers

        rank(c_i)/n * rank(f(c_i))/n

    large, and takes examples between the mode of c and the upper cut-off first, then those below
    the mode, then those beyond the cut-off. Smaller budgets are subsets of larger ones.

    Args:
        scores: Of all examples.
        budget: Share of the examples to choose, above 0 and at most 1; None: as many as lie
            between the mode and the cut-off, whatever the rule.
        rule: `"grads"`; `"topk_magnitude"`: largest c; `"density"`: largest f; `"stratified"`: from
            each tenth of c a share in proportion to f, by chance; `"random"`; `"loss"`: largest
            loss; `"el2n"`: largest error of the probabilities.
        signal: See `landscape`.
        kappa: See `landscape`.
        bandwidth: See `landscape`.
        regress_length: See `landscape`.
        distinct: Whether repetitions of an example come after all others.
        seed: Of the rules that draw.

    Raises:
        UsageError: If an argument is not accepted.

    Example:
        >>> from holdfast.language.example_scores import score
        >>> from holdfast.testing.trials import small_llama, small_stream
        >>> scores = score(small_llama(), small_stream("text")[0].train)
        >>> few, more = select(scores, 0.1), select(scores, 0.5)
        >>> len(few), len(more), set(few.tolist()) <= set(more.tolist())
        (4, 20, True)
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if budget is not None and not 0 < budget <= 1:
        raise UsageError(f"budget must be above 0 and at most 1; given: {budget}.")
    found = landscape(
        scores, signal=signal, kappa=kappa, bandwidth=bandwidth, regress_length=regress_length
    )
    count = int(found.inside.sum()) if budget is None else round(budget * len(scores))
    count = max(1, count)
    draw = np.random.default_rng(seed)
    n = len(scores)
    value: Float[np.ndarray, " n"]
    first = np.zeros(n)  # groups, smaller first
    if rule == "grads":
        value = _ranks(found.magnitude) * _ranks(found.density)
        first = np.where(found.inside, 0, np.where(found.magnitude < found.mode, 1, 2))
    elif rule == "topk_magnitude":
        value = found.magnitude
    elif rule == "density":
        value = found.density
    elif rule == "stratified":
        value = _stratified(found, count, draw)
    elif rule == "random":
        value = draw.random(n)
    else:
        value = (scores.loss if rule == "loss" else scores.error).numpy().copy()
    unusable = np.isnan(found.magnitude)
    later = np.zeros(n)
    if distinct:
        later[_repetitions(scores.content.numpy())] = 1
    value = np.nan_to_num(value, nan=-np.inf)
    # the last key of lexsort counts first; ties go by place
    order = np.lexsort((np.arange(n), -value, first, later, unusable))
    return torch.from_numpy(np.sort(order[:count]))


def _standardised(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    deviation = values.std()
    centred = values - values.mean()
    # equal values differ by rounding after the subtraction, which is no spread to divide by
    if deviation <= 1e-12 * max(1.0, np.abs(values).max()):
        return np.zeros_like(values)
    return np.asarray(centred / deviation)


def _correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    if len(a) < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _residual(c: Float[np.ndarray, " n"], log: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    spread = log - log.mean()
    square = float(spread @ spread)
    slope = float(spread @ c) / square if square else 0.0
    return np.asarray(c - slope * spread)


def _few(points: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d m"]:
    """At most `FITTED` of the points, drawn without a seed of the caller's."""
    if points.shape[1] <= FITTED:
        return points
    chosen = np.random.default_rng(0).choice(points.shape[1], FITTED, replace=False)
    return points[:, np.sort(chosen)]


def _density(
    c: Float[np.ndarray, " n"], kappa: float, bandwidth: str
) -> tuple[Float[np.ndarray, " n"], float, float]:
    """Density at every point, its mode, and where above it the density falls below its share.

    It is evaluated on a grid and interpolated, so the cost is linear in the number of points.
    """
    from scipy.stats import gaussian_kde

    if not c.std():  # all alike: nothing is denser, and nothing is an outlier
        return np.ones_like(c), float(c[0]), float(c[0])
    kernels = gaussian_kde(_few(c[None]), bw_method=bandwidth)
    grid = np.linspace(c.min(), c.max(), 1024)
    height = kernels(grid)
    top = int(height.argmax())
    low = np.flatnonzero(height[top:] < kappa * height[top])
    cutoff = grid[top + low[0]] if len(low) else grid[-1]
    return np.interp(c, grid, height), float(grid[top]), float(cutoff)


def _density_in_plane(plane: Float[np.ndarray, "2 n"], bandwidth: str) -> Float[np.ndarray, " n"]:
    from scipy.interpolate import RegularGridInterpolator
    from scipy.stats import gaussian_kde

    spread = np.linalg.matrix_rank(np.cov(plane)) if plane.shape[1] > 2 else 0
    if spread < 2:  # all on one line: no density in the plane
        raise UsageError(
            "signal='both' needs embedding and head norms that differ from one another; these lie "
            "on a line: use signal='mean'."
        )
    kernels = gaussian_kde(_few(plane), bw_method=bandwidth)
    axes = [np.linspace(side.min(), side.max(), 96) for side in plane]
    points = np.stack([side.ravel() for side in np.meshgrid(*axes, indexing="ij")])
    height = kernels(points).reshape(96, 96)
    return np.asarray(RegularGridInterpolator(axes, height)(plane.T))


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks as shares of the number of values, equal ones alike; NaN stays."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values, nan_policy="omit"))
    return np.asarray(ranks / max(1, np.count_nonzero(~np.isnan(values))))


def _stratified(found: Landscape, count: int, draw: np.random.Generator) -> Float[np.ndarray, " n"]:
    """A value above 1 for those drawn, below 1 for the others, from each tenth by its density."""
    value = draw.random(len(found.magnitude))
    usable = np.flatnonzero(~np.isnan(found.magnitude))
    by_size = usable[np.argsort(found.magnitude[usable], kind="stable")]
    strata = [part for part in np.array_split(by_size, STRATA) if len(part)]
    weight = np.array([found.density[part].sum() for part in strata])
    sizes = np.array([len(part) for part in strata])
    for part, share in zip(strata, _shared_out(count, weight, sizes), strict=True):
        value[draw.permutation(part)[:share]] += 1
    return value


def _shared_out(
    count: int, weight: Float[np.ndarray, " k"], sizes: Int[np.ndarray, " k"]
) -> Int[np.ndarray, " k"]:
    """`count` split in proportion to the weights, no part above its size, none lost to rounding."""
    shares = np.zeros(len(weight), dtype=int)
    count = min(count, int(sizes.sum()))
    while shares.sum() < count:
        open_ = shares < sizes
        left = count - shares.sum()
        wanted = left * np.where(open_, weight, 0) / weight[open_].sum()
        whole = np.minimum(np.floor(wanted).astype(int), sizes - shares)
        if not whole.any():  # less than one each: by the largest remainders
            whole[np.argsort(-np.where(open_, wanted, -1), kind="stable")[:left]] = 1
            whole = np.minimum(whole, sizes - shares)
        shares += whole
    return shares


def _repetitions(content: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Places of all but the first of equal values."""
    _, first = np.unique(content, return_index=True)
    return np.setdiff1d(np.arange(len(content)), first)
