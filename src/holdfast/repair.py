"""Repair: give a tuned model back what it lost, by mixing it with its base.

No training and no gradient: mixtures of base and tuned weights are made by one or several rules of
merging, each is measured on what the base could do and on what was learned, and of those that keep
enough of the new the one that has lost least of the old is written. The two numbers of every
mixture together are the frontier of what can be had.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from holdfast.diff import probe_sets
from holdfast.errors import UsageError
from holdfast.language import checkpoints
from holdfast.language.measured import Measured
from holdfast.language.paired import RESAMPLES
from holdfast.language.probe import ProbeSet, measure
from holdfast.language.saving import refuse_overwriting
from holdfast.language.verdict import SetDiff, compare_set, finite
from holdfast.merge.catalogue import build
from holdfast.merge.checkpoints import merge
from holdfast.merge.frontier import (
    APART,
    RULES,
    Point,
    candidates,
    chosen,
    half,
    on_front,
    point,
    worth,
)
from holdfast.merge.plan import prepare, refuse_full_disk

FORMAT = 1
ENDS = {"base": "wise_ft(alpha=0.0)", "tuned": "wise_ft(alpha=1.0)"}
"""The ends of all paths, as mixtures."""


@dataclass(frozen=True)
class Repair:
    """What was found, and what was written.

    Attributes:
        base: Folder of the base.
        tuned: Folder of the tuned model.
        out: Folder of the mixture chosen.
        keep_new: Share of the new gain that it had to keep.
        max_drop: What of an old ability may be lost.
        points: All mixtures, the base first and the tuned model last.
        best: The one that was written.
        sets: The mixture against the base, on examples by which it was not chosen: old abilities.
        gains: Likewise, new abilities.
        before: The tuned model against the base, on the same examples: old, then new.
        notes: What is worth knowing.
    """

    base: str
    tuned: str
    out: str
    keep_new: float
    max_drop: float
    points: list[Point]
    best: Point
    sets: list[SetDiff]
    gains: list[SetDiff]
    before: list[SetDiff]
    notes: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> list[SetDiff]:
        """Old abilities of which the mixture still lost more than allowed, beyond chance."""
        return [found for found in self.sets if found.verdict == "drop"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is no finite number is None."""
        found = {"format": FORMAT, **asdict(self), "dropped": [s.name for s in self.dropped]}
        clean: dict[str, Any] = finite(found)
        return clean


def repair(
    base: str | Path,
    tuned: str | Path,
    on: str | Path | Sequence[str | Path],
    new: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    rules: Sequence[str] = RULES,
    keep_new: float = 0.95,
    max_drop: float = 0.02,
    common_rows: bool = False,
    metric: str = "auto",
    fields: str | None = None,
    length: int = 1024,
    batch_tokens: int | None = None,
    end: bool = False,
    template: str | None = None,
    generate: bool = False,
    max_new_tokens: int = 64,
    resamples: int = RESAMPLES,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> Repair:
    """Search mixtures of a base and a tuned model, and write the best as an ordinary checkpoint.

    The best is the one that lost least of the old among those that keep at least `keep_new` of what
    tuning gained on the new. The tuned model itself is always among them. Sets of 40 examples and
    more are halved: every second example chooses, the others judge what was chosen.

    Args:
        base: Folder of the model before.
        tuned: Folder of the model after, with the same tokenizer.
        on: Files and folders of what the base could do; each file is a probe set, as in `diff`.
        new: Likewise, of what the tuned model learned.
        out: Folder to write, which must not exist yet, or be empty.
        rules: Specs of rules of merging. An argument may be a list of values to search; arguments
            that are not given are searched over `GRIDS`.
        keep_new: Share of the new gain that has to be kept, from 0 to 1.
        max_drop: What of an old ability may be lost, as in `diff`.
        common_rows: As of `merge`.
        metric: As of `ProbeSet`, for all sets.
        fields: As of `records.read`.
        length: As of `measure`.
        batch_tokens: As of `measure`.
        end: As of `measure`.
        template: As of `measure`.
        generate: As of `measure`.
        max_new_tokens: As of `measure`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        dtype: Of weights in memory while they are measured.
        device: Where models run.
        trust_remote_code: Whether code that came with a checkpoint may run.
        progress: Called with what is being done.

    Raises:
        UsageError: If the models cannot be mixed, if tuning gained nothing on a new set, or if an
            option does not fit.
        DataError: If a probe set cannot be used.
        CheckpointError: If the disk is too full.
    """
    if not 0 <= keep_new <= 1:
        raise UsageError(f"keep_new must lie between 0 and 1; given: {keep_new}.")
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"max_drop must be 0 or more; given: {max_drop}.")
    target = Path(out)
    refuse_overwriting(target.resolve(), replace=False)
    specs = [spec for rule in rules for spec in candidates(rule)]
    if not specs:
        raise UsageError("Nothing to search: no rule was given.")
    merging: dict[str, Any] = {
        "base": base, "common_rows": common_rows, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    for spec in specs:
        build(spec).check(1, base=True)
    refuse_full_disk(prepare([tuned], build(specs[0]), **merging), target)
    old_sets, new_sets = probe_sets(on, metric, fields), probe_sets(new, metric, fields)
    _refuse_no_sets(old_sets, new_sets)

    def measured(folder: str | Path, name: str) -> list[Measured]:
        loaded = checkpoints.load(
            folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        found = []
        for probe in (*old_sets, *new_sets):
            progress(f"{name} on {probe.name}")
            found.append(
                measure(
                    loaded.model, loaded.tokenizer, probe, batch_tokens=batch_tokens,
                    length=length, end=end, template=template, generate=generate,
                    max_new_tokens=max_new_tokens,
                )
            )  # fmt: skip
        return found

    old = len(old_sets)
    before, after = measured(base, "base"), measured(tuned, "tuned")
    _refuse_no_gain(before[old:], after[old:])
    mixtures = {"base": before}
    trial = target.resolve().with_name(f".{target.name}.trial")
    try:
        for at, spec in enumerate(specs):
            name = f"{spec} ({at + 1} of {len(specs)})"
            progress(f"mixing {name}")
            merge([tuned], trial, rule=spec, replace=True, **merging)
            mixtures[spec] = measured(trial, name)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    mixtures["tuned"] = after
    choosing = {name: [half(found, 0) for found in sets] for name, sets in mixtures.items()}
    points = on_front(
        [
            point(name, sets, choosing["base"], choosing["tuned"], old)
            for name, sets in choosing.items()
        ]
    )
    best = chosen(points, keep_new)
    progress(f"writing {best.rule}")
    merge([tuned], target, rule=ENDS.get(best.rule, best.rule), **merging)
    judging = {
        name: [half(found, 1) for found in mixtures[name]] for name in ("base", "tuned", best.rule)
    }

    def against_base(name: str) -> list[SetDiff]:
        return [
            compare_set(one, other, max_drop, resamples=resamples, seed=seed)
            for one, other in zip(judging["base"], judging[name], strict=True)
        ]

    sets = against_base(best.rule)
    return Repair(
        str(base), str(tuned), str(out), keep_new, max_drop, points, best, sets[:old], sets[old:],
        against_base("tuned"), _notes(before, best, points, keep_new),
    )  # fmt: skip


def _refuse_no_sets(old: Sequence[ProbeSet], new: Sequence[ProbeSet]) -> None:
    for sets, option in ((old, "--on"), (new, "--new")):
        if not sets:
            raise UsageError(f"Nothing was found to measure on: {option} names no probe set.")
    both = {probe.name for probe in old} & {probe.name for probe in new}
    if both:
        raise UsageError(
            f"{sorted(both)[0]!r} is the name of an old and of a new probe set; rename one of them."
        )


def _refuse_no_gain(base: Sequence[Measured], tuned: Sequence[Measured]) -> None:
    for one, other in zip(base, tuned, strict=True):
        halves = [(one, other), (half(one, 0), half(other, 0))]
        if any(worth(b) <= worth(a) for a, b in halves):
            what = "loss" if one.score is None else one.metric
            pair = [m.loss if m.score is None else m.score for m in (one, other)]
            raise UsageError(
                f"On {one.name} the tuned model is no better than the base ({what} {pair[0]:.3f} "
                f"and {pair[1]:.3f}), so there is no gain to keep; give --new what it learned."
            )


def _notes(
    base: Sequence[Measured], best: Point, points: Sequence[Point], keep_new: float
) -> list[str]:
    notes = []
    small = [found.name for found in base if len(found) < APART]
    if small:
        notes.append(
            f"Too few examples to choose by some and judge by others: {', '.join(small)}; there "
            "the verdict is on the examples that chose."
        )
    if best.rule == "tuned":
        notes.append(
            f"No mixture keeps {100 * keep_new:g} % of the new and has lost less of the old: what "
            "was written is the tuned model."
        )
    return notes
