"""Negative preference optimization: does a bounded loss forget without collapse?

Claim: gradient ascent on what is to be forgotten drives a model to collapse; a loss that treats it
as an answer that is not preferred collapses far more slowly, keeps the model useful, and forgets
better.

Source: Zhang et al., "Negative Preference Optimization: From Catastrophic Collapse to Effective
Unlearning" (2024).

Run: in two parts. The first is the paper's own, exactly: logistic regression on random features
forgets one of two clouds of points, which overlap or lie apart, by eleven losses and by NPO with
five betas at one rate. The second is TOFU's: a small Llama that has learned fictitious authors by
heart forgets some of them by eighteen losses and settings; on the way its truth ratios are held
against those of a model that was trained on everything else alone, and its utility is measured on
the authors to be kept, on real authors and on facts about the world. Without TOFU's files, authors
are made up.
"""

from __future__ import annotations

import math
from itertools import pairwise

from holdfast.streams.language import tofu
from holdfast.studies import npo_features
from holdfast.studies.npo_figures import (
    ALONE,
    APART,
    FOLLOWED,
    LOSSES,
    OVERLAP,
    SMALLER,
    average,
    figures,
    grids,
    growth,
    of_points,
)
from holdfast.studies.study import (
    Claim,
    Condition,
    Measured,
    Results,
    Scale,
    Settings,
    Study,
)


def arms(scale: Scale) -> dict[str, Settings]:
    """Both parts at a scale.

    The first part is the paper's, learning rates and betas included. Of the second, sizes are what
    time allows, and rates were chosen on seed 100, which no verdict uses: one for all losses that
    claims compare, at which ascent forgets within three epochs.
    """
    quick = scale == "quick"
    points: Settings = {
        "part": "points",
        "fit_steps": 200 if quick else 20_000,
        "steps": 50 if quick else 2000,
        "drift": 1000 if quick else 10_000,
    }
    language: Settings = {
        "part": "authors",
        "width": 16 if quick else 128,
        "depth": 2 if quick else 4,
        "vocabulary": 512 if quick else 2048,
        "forgotten": 1 if quick else 4,
        "memorise": 1 if quick else 12,
        "look": 10 if quick else 16,
        "epochs": 1 if quick else 8,
    }
    if scale == "data":
        real = {"world": "tofu", "questions": 10, "wrong": 3, "others": 40, "read": 2}
        language = {**language, **real}
    else:
        language = {**language, "world": "authors", "authors": 4 if quick else 20, "read": 0}
    found: dict[str, Settings] = {
        OVERLAP: {**points, "clouds": "overlapping", "drift": 0},
        APART: {**points, "clouds": "apart"},
    }
    for arm, (method, lr) in LOSSES.items():
        looks = 1 if quick else language["epochs"] if arm in FOLLOWED else 3
        asked = "answers" if arm == ALONE else "both"
        found[arm] = {**language, "method": method, "lr": lr, "looks": looks, "asked": asked}
    return found


def measure(settings: Settings, seed: int) -> Measured:
    """One arm: all losses on one arrangement of points, or one loss on the authors."""
    if settings["part"] == "points":
        return npo_features.measure(
            settings["clouds"], seed, settings["fit_steps"], settings["steps"], settings["drift"]
        )
    from holdfast.studies import npo_authors

    return npo_authors.measure(settings, seed)


def _apart(clouds: str, what: str, one: str, other: str, words: str, bound: float = 0) -> Condition:
    def difference(results: Results) -> list[float]:
        pairs = zip(
            of_points(clouds, one, what)(results),
            of_points(clouds, other, what)(results),
            strict=True,
        )
        return [a - b for a, b in pairs]

    return Condition(f"{words}: {one} minus {other} (nats)", difference, bound, percent=False)


def _held(results: Results, arm: str) -> list[float]:
    """Utility by that before, mean over the epochs; NaN where there was none before."""
    ways = [[point["utility"] for point in run["way"]] for run in results.runs[arm]]
    return [average(way[1:]) / way[0] if way[0] else math.nan for way in ways]


def _early(results: Results, name: str) -> list[float]:
    """The distance after a tenth of the steps, by that of gradient ascent."""
    runs = [run["drift"] for run in results.runs[APART]]
    return [run[name][len(run[name]) // 10] / run["GA"][len(run["GA"]) // 10] for run in runs]


def _least_step(results: Results) -> list[float]:
    """By seed, the least rise of the growing power from one beta to the next smaller, and to GA."""
    names = ["GA", *(f"{beta:g}" for beta in npo_features.BETAS)]
    powers = [growth(results, name) for name in names]
    return [min(a - b for a, b in pairwise(seed)) for seed in zip(*powers, strict=True)]


CLAIMS = (
    Claim(
        "Where the clouds overlap, NPO comes closer to the model that never knew, and does not run "
        "on.",
        (
            _apart(OVERLAP, "best", "GA", "NPO", "least divergence on the forget set"),
            _apart(OVERLAP, "best", "GradDiff", "NPO+retain", "least divergence on the forget set"),
            _apart(
                OVERLAP, "retain_at_end", "GA", "NPO", "divergence on the retain set at the end"
            ),
        ),
    ),
    Claim(
        "Where they lie apart all forget, but gradient ascent ruins what is kept.",
        (
            _apart(
                APART, "retain_at_end", "GA", "NPO", "divergence on what is kept at the end", 0.5
            ),
            _apart(
                APART,
                "retain_at_best",
                "GradDiff",
                "NPO+retain",
                "divergence on the retain set where the forget set is closest",
            ),
            Condition(
                "least divergence on the forget set by IDK (nats)",
                of_points(APART, "IDK", "best"),
                0.5,
                percent=False,
            ),
        ),
    ),
    Claim(
        "The smaller beta, the more NPO drifts as gradient ascent does; larger ones drift far more "
        "slowly.",
        (
            Condition(
                "distance after a tenth of the steps, beta 0.01 by gradient ascent",
                lambda results: _early(results, "0.01"),
                0.9,
            ),
            Condition(
                "power by which the distance grows, gradient ascent",
                lambda results: growth(results, "GA"),
                0.9,
                percent=False,
            ),
            Condition(
                "power by which the distance grows, beta 1",
                lambda results: growth(results, "1"),
                0.5,
                "below",
                percent=False,
            ),
            Condition(
                "least rise of that power to the next smaller beta", _least_step, percent=False
            ),
        ),
    ),
    Claim(
        "On the authors gradient ascent collapses, and NPO with a retain term keeps most of the "
        "utility.",
        (
            Condition(
                "utility at the end by that before, GA",
                lambda results: results.values("GA", "kept"),
                0.1,
                "below",
            ),
            Condition(
                "utility at the end by that before, NPO+retain",
                lambda results: results.values("NPO+retain", "kept"),
                0.8,
            ),
        ),
    ),
    Claim(
        "NPO with a retain term forgets better than gradient ascent.",
        (
            Condition(
                "log10 p of forget quality at the end: NPO+retain minus GA",
                lambda results: results.less("NPO+retain", "GA", "log10_p"),
                percent=False,
            ),
            Condition(
                "log10 p of forget quality: NPO+retain at the end minus before",
                lambda results: [
                    end - before
                    for end, before in zip(
                        results.values("NPO+retain", "log10_p"),
                        results.values("NPO+retain", "before_log10_p"),
                        strict=True,
                    )
                ],
                percent=False,
            ),
        ),
    ),
    Claim(
        "Also without a retain term NPO collapses more slowly than gradient ascent.",
        (
            Condition(
                "utility by that before, mean over all epochs: NPO minus GA",
                lambda results: [
                    npo - ga
                    for npo, ga in zip(_held(results, "NPO"), _held(results, "GA"), strict=True)
                ],
            ),
        ),
    ),
    Claim(
        "Where four fifths of the utility are left, NPO with a retain term has forgotten more than "
        "gradient ascent has.",
        (
            Condition(
                "best log10 p of forget quality on the way: NPO+retain minus GA",
                lambda results: results.less("NPO+retain", "GA", "usable"),
                1.0,
                percent=False,
            ),
        ),
        by="us",
    ),
    Claim(
        "A smaller beta forgets more, and costs more; a request in one wording forgets less.",
        (
            Condition(
                "log10 p at the end: NPO+retain with beta 0.03 minus 0.1",
                lambda results: results.less(SMALLER, "NPO+retain", "log10_p"),
                1.0,
                percent=False,
            ),
            Condition(
                "utility kept: NPO+retain with beta 0.1 minus 0.03",
                lambda results: results.less("NPO+retain", SMALLER, "kept"),
            ),
            Condition(
                "log10 p at the end: NPO+retain asked in both wordings minus in one",
                lambda results: results.less("NPO+retain", ALONE, "log10_p"),
                1.0,
                percent=False,
            ),
        ),
        by="us",
    ),
    Claim(
        "With a retain term NPO is no worse than gradient difference at any time at which four "
        "fifths of the utility are left.",
        (
            Condition(
                "best log10 p of forget quality on the way: NPO+retain minus GradDiff",
                lambda results: results.less("NPO+retain", "GradDiff", "usable"),
                -0.5,
                percent=False,
            ),
        ),
        by="us",
    ),
)


STUDY = Study(
    name="npo",
    title="Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    source="Zhang et al., 2024",
    claim=(
        "A bounded loss on what is to be forgotten unlearns it where gradient ascent ruins the "
        "model."
    ),
    minutes={"data": 38, "digits": 30, "quick": 1},
    data=(*tofu.FILES, "tofu/forget10.jsonl.gz", "tofu/idontknow.jsonl"),
    arms=arms,
    measure=measure,
    claims=CLAIMS,
    grids=grids,
    figures=figures,
    departures=(
        "The part on points is the paper's but for its seeds.",
        "In place of Llama 2 of 7 billion weights, a Llama of a million, which has read of TOFU's "
        "other authors before (their ten shortest questions), and nothing else.",
        "Of the 20 authors of TOFU's forget set, who alone have paraphrases and wrong answers, the "
        "seed says which 4 are to be forgotten; the other 16 are the retain set. Of every author "
        "the ten questions with the shortest answers are taught, with three of five wrong answers.",
        "So small a model knows no real authors and no facts about the world: 40 of either are "
        "taught to it and to the model that never knew, and never forgotten, so that utility is "
        "TOFU's harmonic mean of nine numbers.",
        "Nor does it carry a fact from one wording to another: everything is taught in the words "
        "of the answer and of its paraphrase, and what is to be forgotten is, as in TOFU, all that "
        "was taught of these authors: both wordings. One arm's request has the answers alone.",
        "Utility is measured on 16 questions of a set, and ROUGE on the first 32 tokens that the "
        "model writes.",
        "The learning rate is far above the paper's, for a model seven thousand times smaller, and "
        "stays up after its epoch of warm-up.",
        "Without TOFU's files, 20 authors of 10 questions made up here take their place; utility "
        "is then the harmonic mean of the retain set's three numbers.",
    ),
)
