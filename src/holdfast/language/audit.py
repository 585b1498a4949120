"""The audit of an unlearning: what is forgotten, what is kept, and what gives it away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.checkpoint import write_atomically
from holdfast.errors import UsageError
from holdfast.language.facts import digest
from holdfast.language.membership import areas, attacks
from holdfast.language.tokenwise import Tokens, mean_divergence, read_tokens
from holdfast.language.truth_ratio import ForgetQuality, forget_quality, harmonic_mean
from holdfast.language.unlearned import (
    FactSet,
    Known,
    known_of,
    own_questions,
    parts_of_utility,
)
from holdfast.language.verdict import finite
from holdfast.settings import read_json

FORMAT = "holdfast retain-only logs 1"


@dataclass(frozen=True)
class Look:
    """What one model makes of everything.

    Attributes:
        sets: By name, the means of what is measured of a set.
        utility: Harmonic mean of `parts`; None where nothing is to be kept.
        parts: Numbers by set and kind.
        quality: Forget quality; None where it cannot be computed.
        membership: Area under the curve by attack; empty without strangers.
        ratios: Truth ratios on the forget set; None where it has no wrong answers.
        losses: Mean loss of every question to be forgotten, and of every stranger.
    """

    sets: dict[str, dict[str, float | None]]
    utility: float | None
    parts: dict[str, float]
    quality: ForgetQuality | None
    membership: dict[str, float]
    ratios: list[float] | None
    losses: dict[str, list[float]]

    def point(self, epoch: float) -> dict[str, Any]:
        """The look as a point of the trajectory."""
        forget = self.sets["forget"]
        return {
            "epoch": epoch,
            "log10_p": None if self.quality is None else self.quality.log10_p,
            "statistic": None if self.quality is None else self.quality.statistic,
            "utility": self.utility,
            **{f"forget_{name}": value for name, value in forget.items()},
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; without what only logs need."""
        found = asdict(self)
        for name in ("ratios", "losses"):
            del found[name]
        return found


@dataclass(frozen=True)
class Logs:
    """What is kept of a model that was trained without what is to be forgotten.

    Attributes:
        questions: Fingerprint of the questions to be forgotten that were measured.
        ratios: Truth ratios on them.
        losses: As in `Look`.
        sets: As in `Look`.
        utility: As in `Look`.
        membership: As in `Look`.
        relearning: Loss on them by step, when that model learns them.
    """

    questions: str
    ratios: list[float] | None
    losses: dict[str, list[float]]
    sets: dict[str, dict[str, float | None]]
    utility: float | None
    membership: dict[str, float]
    relearning: list[float] = field(default_factory=list)

    @staticmethod
    def of(look: Look, forget: FactSet, relearning: Sequence[float] = ()) -> Logs:
        """Of what that model was seen to make of everything."""
        return Logs(
            digest(forget.facts),
            look.ratios,
            look.losses,
            look.sets,
            look.utility,
            look.membership,
            list(relearning),
        )

    def check(self, forget: FactSet, where: str) -> None:
        """Raise `UsageError` unless they were made of these questions."""
        if self.questions != digest(forget.facts):
            raise UsageError(
                f"{where} holds logs on other questions than those to be forgotten now: give the "
                "model itself, or logs made with the same --forget and --look."
            )

    def write(self, path: Path) -> None:
        """Write them as JSON, wholly or not at all."""
        content = json.dumps({"format": FORMAT, **finite(asdict(self))}, indent=1) + "\n"
        write_atomically(path, content.encode())

    @staticmethod
    def read(path: Path) -> Logs:
        """What `write` wrote.

        Raises:
            UsageError: If the file is missing or holds anything else.
        """
        state = read_json(path, "the logs of a retain-only model")
        if state.pop("format", None) != FORMAT:
            raise UsageError(
                f"{path} is neither the folder of a model nor logs of one ({FORMAT!r}), as an "
                "unlearning with --reference FOLDER writes them."
            )
        try:
            return Logs(**state)
        except TypeError as error:
            raise UsageError(f"{path} is damaged: {error}.") from error


def look_at(
    model: Any,
    tokenizer: Any,
    sets: Sequence[FactSet],
    strangers: FactSet | None = None,
    logs: Logs | None = None,
    *,
    write: bool = True,
    max_new_tokens: int = 64,
    length: int | None = None,
    batch_size: int = 16,
) -> Look:
    """Measure everything of one model, leaving it and the global chance as they were.

    Args:
        model: A causal or sequence-to-sequence model of transformers, or a PEFT model.
        tokenizer: Its tokenizer.
        sets: What is to be forgotten first, then what is to be kept.
        strangers: What no model has seen.
        logs: Of a model that never knew.
        write: Whether answers are written, for ROUGE.
        max_new_tokens: The longest of these.
        length: Most tokens of a question with an answer; None: the context.
        batch_size: Answers that are written at a time.
    """
    known = [
        known_of(
            model,
            tokenizer,
            one,
            write=write,
            max_new_tokens=max_new_tokens,
            length=length,
            batch_size=batch_size,
        )
        for one in sets
    ]
    forget = known[0]
    parts = parts_of_utility(known)
    quality = None
    if logs is not None and logs.ratios is not None and forget.ratio is not None:
        quality = forget_quality(forget.ratio, logs.ratios)
    losses = {"forget": forget.tokens.mean_nll.tolist()}
    membership: dict[str, float] = {}
    if strangers is not None:
        unseen = read_tokens(model, own_questions(model, tokenizer, strangers, length))
        losses["strangers"] = unseen.mean_nll.tolist()
        membership = _membership(forget, unseen, sets[0], strangers, logs)
    return Look(
        {one.name: one.numbers() for one in known},
        harmonic_mean(list(parts.values())) if parts else None,
        parts,
        quality,
        membership,
        None if forget.ratio is None else forget.ratio.tolist(),
        losses,
    )


def divergences(
    model: Any, before: Any, tokenizer: Any, sets: Sequence[FactSet], length: int | None = None
) -> dict[str, float]:
    """KL(before || now) of the next token over the answers of every set, in nats a token."""
    return {
        one.name: mean_divergence(model, before, own_questions(model, tokenizer, one, length))
        for one in sets
    }


def privacy_leak(attacked: dict[str, float], reference: dict[str, float]) -> dict[str, float]:
    """How far attacks on the unlearned model are from those on one that never knew: 0 is best.

        (AUC_unlearned - AUC_reference) / AUC_reference

    Above 0 it still betrays its members, below 0 it betrays that they were pushed away.

    Source: Shi et al., "MUSE: machine unlearning six-way evaluation" (2024), whose areas are of
    non-members against members, and whose signs are therefore the other way about.
    """
    return {
        name: (value - reference[name]) / reference[name]
        for name, value in attacked.items()
        if reference.get(name)
    }


def _membership(
    forget: Known, unseen: Tokens, members: FactSet, others: FactSet, logs: Logs | None
) -> dict[str, float]:
    told = {} if logs is None else logs.losses
    sizes = {"forget": len(members.facts), "strangers": len(others.facts)}
    has = all(len(told.get(name, ())) == size for name, size in sizes.items())
    return areas(
        attacks(
            forget.tokens,
            [fact.answer for fact in members.facts],
            told["forget"] if has else None,
        ),
        attacks(
            unseen,
            [fact.answer for fact in others.facts],
            told["strangers"] if has else None,
        ),
    )
