"""Verdicts: what became of a probe set, and whether it is more than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.errors import DataError
from holdfast.language.harness import Task
from holdfast.language.measured import Measured, calibration
from holdfast.language.paired import RESAMPLES, Difference, paired_bootstrap


@dataclass(frozen=True)
class Flip:
    """An example that one model got right and the other wrong.

    Attributes:
        where: File and line.
        prompt: The end of what was asked.
        expected: The right answer.
        base: What the base answered.
        tuned: What the tuned model answered.
    """

    where: str
    prompt: str
    expected: str
    base: str
    tuned: str


@dataclass(frozen=True)
class Worse:
    """A text that the tuned model predicts worse than the base: losses in nats a token."""

    where: str
    base: float
    tuned: float


@dataclass(frozen=True)
class SetDiff:
    """One probe set under both models.

    Attributes:
        name: Of the set.
        kind: `"text"`, `"choice"`, `"answer"`, `"generated"` or `"task"`.
        metric: What scores are; empty for text.
        examples: How many; pieces of long texts count each.
        tokens: How many are predicted.
        loss: Of base and tuned, nats a token; None for a task.
        loss_difference: Tuned minus base.
        score: Of base and tuned, from 0 to 1; None for text.
        score_difference: Tuned minus base.
        normalised: For choices: accuracy of both with log-probabilities divided by length.
        calibration: Expected calibration error of both, where there is a confidence.
        lost: Examples right before and wrong after.
        gained: Examples wrong before and right after.
        worse: Texts that became hardest, worst first.
        drop: How much was lost: score, as a difference; for text, the rise of the loss by the
            base's loss. Negative for a gain.
        verdict: `"drop"` if more was lost than is allowed and the interval excludes 0; else
            `"loss"` or `"gain"` if it excludes 0; else `"same"`.
    """

    name: str
    kind: str
    metric: str
    examples: int
    tokens: int
    loss: tuple[float, float] | None
    loss_difference: Difference | None
    score: tuple[float, float] | None
    score_difference: Difference | None
    normalised: tuple[float, float] | None
    calibration: tuple[float, float] | None
    lost: list[Flip]
    gained: list[Flip]
    worse: list[Worse]
    drop: float
    verdict: str

    @property
    def perplexity(self) -> tuple[float, float] | None:
        return None if self.loss is None else (math.exp(self.loss[0]), math.exp(self.loss[1]))

    @property
    def judged(self) -> Difference:
        """The difference that the verdict is on."""
        found = self.score_difference or self.loss_difference
        assert found is not None
        return found


def compare_set(
    base: Measured,
    tuned: Measured,
    max_drop: float = 0.02,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SetDiff:
    """What became of one probe set.

    Args:
        base: As the base was measured.
        tuned: As the tuned model was, on the same samples.
        max_drop: What may be lost, as in `diff`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DataError: If the two were not measured on the same tokens.
    """
    if base.tokens.tolist() != tuned.tokens.tolist() or base.where != tuned.where:
        raise DataError(
            f"The probe set {base.name} has other examples or other tokens for the tuned model "
            "than for the base, so that losses cannot be compared."
        )
    options: Any = {"resamples": resamples, "seed": seed}
    loss = paired_bootstrap(base.nll, tuned.nll, base.tokens, **options)
    score = None
    lost: list[Flip] = []
    gained: list[Flip] = []
    if base.score is not None:
        score = paired_bootstrap(base.scores, tuned.scores, **options)
        lost, gained = _flips(base, tuned), _flips(tuned, base)
        gained = [Flip(f.where, f.prompt, f.expected, f.tuned, f.base) for f in gained]
    drop = loss.value / base.loss if score is None else -score.value
    judged = loss if score is None else score
    has = len(base.confidence) > 0
    return SetDiff(
        base.name,
        base.kind,
        base.metric,
        len(base),
        int(base.tokens.sum()),
        (base.loss, tuned.loss),
        loss,
        None if score is None else (float(base.scores.mean()), float(tuned.scores.mean())),
        score,
        (float(base.normalised.mean()), float(tuned.normalised.mean()))
        if len(base.normalised)
        else None,
        (calibration(base.confidence, base.scores), calibration(tuned.confidence, tuned.scores))
        if has
        else None,
        lost,
        gained,
        _worse(base, tuned) if score is None else [],
        drop,
        _verdict(drop, judged.significant, max_drop),
    )


def _flips(right: Measured, wrong: Measured) -> list[Flip]:
    """Examples that scored fully in one and not in the other."""
    chosen = np.flatnonzero((right.scores >= 1) & (wrong.scores < 1))
    return [
        Flip(
            right.where[i], right.prompts[i], right.expected[i], right.answers[i], wrong.answers[i]
        )
        for i in chosen
    ]


def _worse(base: Measured, tuned: Measured, most: int = 20) -> list[Worse]:
    rise = (tuned.nll - base.nll) / base.tokens
    order = np.argsort(-rise, kind="stable")[:most]
    return [
        Worse(base.where[i], base.nll[i] / base.tokens[i], tuned.nll[i] / tuned.tokens[i])
        for i in order.tolist()
        if rise[i] > 0
    ]


def _verdict(drop: float, significant: bool, max_drop: float) -> str:
    if not significant:
        return "same"
    if drop > max_drop:
        return "drop"
    return "loss" if drop > 0 else "gain"


def compare_task(
    base: Task, tuned: Task, max_drop: float = 0.02, *, resamples: int = RESAMPLES, seed: int = 0
) -> SetDiff:
    """What became of one task of lm-eval; arguments as in `compare_set`.

    Raises:
        DataError: If the two were not scored on the same examples by the same metric.
    """
    if (base.name, base.metric, len(base.scores)) != (tuned.name, tuned.metric, len(tuned.scores)):
        raise DataError(f"The task {base.name} was scored otherwise for the tuned model.")
    score = paired_bootstrap(base.scores, tuned.scores, resamples=resamples, seed=seed)
    means = float(np.mean(base.scores)), float(np.mean(tuned.scores))
    verdict = _verdict(-score.value, score.significant, max_drop)
    return SetDiff(
        base.name, "task", base.metric, len(base.scores), 0, None, None, means, score, None, None,
        [], [], [], -score.value, verdict,
    )  # fmt: skip


def finite(value: Any) -> Any:
    """A tree of JSON values with None for numbers that are not finite, which JSON has not."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
