"""Diff: what a tuned model lost against its base, and where it changed.

A regression test for models. Both are measured on the same probe sets, one model in memory at a
time; every number of a set comes with a paired interval, and the verdict says whether a loss is
more than chance and more than is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError
from holdfast.language import checkpoints, harness, representation
from holdfast.language.checkpoints import Loaded
from holdfast.language.files import listed
from holdfast.language.folders import existing, is_adapter
from holdfast.language.movement import Moved, Movement, adapter_movement, movement
from holdfast.language.paired import RESAMPLES
from holdfast.language.probe import Measured, ProbeSet, measure, questions_of
from holdfast.language.representation import Layer, States
from holdfast.language.verdict import SetDiff, compare_set, compare_task, finite

LOOKED_AT = 64
"""Examples of each probe set whose hidden states are compared."""

FORMAT = 1


@dataclass(frozen=True)
class Diff:
    """Everything that was found.

    Attributes:
        base: Path of the base.
        tuned: Path of the tuned model.
        max_drop: What is allowed.
        sets: One entry a probe set, then one a task.
        movement: How far weights went; None if not asked for or not measurable.
        layers: Likeness of representations.
        notes: What was not measured, and why.
    """

    base: str
    tuned: str
    max_drop: float
    sets: list[SetDiff]
    movement: Movement | None = None
    layers: list[Layer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> list[SetDiff]:
        """The sets on which more was lost than is allowed, beyond chance."""
        return [found for found in self.sets if found.verdict == "drop"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is no finite number is None."""
        sets = [{**asdict(s), "perplexity": s.perplexity} for s in self.sets]
        found: dict[str, Any] = {
            "format": FORMAT,
            "base": self.base,
            "tuned": self.tuned,
            "max_drop": self.max_drop,
            "dropped": [s.name for s in self.dropped],
            "sets": sets,
            "layers": [asdict(layer) for layer in self.layers],
            "movement": None,
            "notes": self.notes,
        }
        if self.movement is not None:
            found["movement"] = {
                "tensors": [_moved(t) for t in self.movement.tensors],
                "blocks": [_moved(t) for t in self.movement.by("block").values()],
                "parts": [_moved(t) for t in self.movement.by("part").values()],
                "unmatched": self.movement.unmatched,
            }
        clean: dict[str, Any] = finite(found)
        return clean


def diff(
    base: str | Path,
    tuned: str | Path,
    on: str | Path | Sequence[str | Path],
    *,
    max_drop: float = 0.02,
    tasks: Sequence[str] = (),
    metric: str = "auto",
    fields: str | None = None,
    length: int = 1024,
    batch_tokens: int | None = None,
    end: bool = False,
    template: str | None = None,
    generate: bool = False,
    max_new_tokens: int = 64,
    weights: bool = True,
    ranks: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
    task_limit: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> Diff:
    """Compare two models on probe sets, and their weights and representations.

    A set has dropped if the interval of its difference excludes 0 and the loss is larger than
    `max_drop`: for scores (accuracy, exact match, a metric), base minus tuned; for plain text, the
    rise of the mean loss per token divided by the base's loss, so that 0.02 allows 2 % more nats.

    Args:
        base: Folder of a model.
        tuned: Folder of a model with the same tokenizer, or of an adapter on `base`.
        on: Files and folders; each file, and each folder saved by `datasets`, is a probe set.
        max_drop: What may be lost, 0 or more.
        tasks: Names of lm-eval tasks, scored by that package.
        metric: As of `ProbeSet`, for all sets.
        fields: As of `records.read`.
        length: As of `measure`.
        batch_tokens: As of `measure`.
        end: As of `measure`.
        template: As of `measure`.
        generate: As of `measure`.
        max_new_tokens: As of `measure`.
        weights: Whether the movement of weights is measured.
        ranks: Whether ranks of differences are, which for large models takes longest.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        task_limit: At most so many examples of each lm-eval task.
        dtype: Of weights in memory, as of `checkpoints.load`.
        device: Where models run.
        trust_remote_code: Whether code that came with a checkpoint may run.
        progress: Called with what is being done.

    Raises:
        UsageError: If the models cannot be compared, or an option does not fit.
        DataError: If a probe set cannot be used.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"max_drop must be 0 or more; given: {max_drop}.")
    sets = probe_sets(on, metric, fields)
    if not sets and not tasks:
        raise UsageError("Nothing to compare on: no probe set and no task was given.")
    if tasks:
        harness.check(tasks)
    _refuse_other_tokenizer(base, tuned, trust_remote_code)

    def side(path: str | Path) -> tuple[list[Measured], States, list[harness.Task], Loaded]:
        progress(f"loading {path}")
        body = base if is_adapter(existing(path)) and not is_adapter(existing(base)) else None
        loaded = checkpoints.load(
            path, base=body, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        model, tokenizer = loaded.model, loaded.tokenizer
        measured = []
        states: dict[str, list[Any]] = {}
        for probe in sets:
            progress(f"{path} on {probe.name}")
            measured.append(
                measure(
                    model, tokenizer, probe, batch_tokens=batch_tokens, length=length, end=end,
                    template=template, generate=generate, max_new_tokens=max_new_tokens,
                )
            )  # fmt: skip
            first = list(islice(probe.samples, LOOKED_AT))
            asked = questions_of(model, tokenizer, first, length, template)[:LOOKED_AT]
            seen = representation.hidden_states(model, asked, batch_tokens or 4096)
            for name, state in seen.items():
                states.setdefault(name, []).append(state)
        done = harness.run(model, tokenizer, tasks, task_limit, progress) if tasks else []
        joined = {name: representation.joined(parts) for name, parts in states.items()}
        return measured, joined, done, loaded

    before, seen_before, tasks_before, loaded = side(base)
    kind = loaded.kind
    del loaded  # one model in memory at a time
    after, seen_after, tasks_after, loaded = side(tuned)
    if loaded.kind != kind:
        raise UsageError(
            f"{base} is {kind} and {tuned} is {loaded.kind}; both must be of one kind."
        )
    progress("comparing")
    found = [
        compare_set(one, other, max_drop, resamples=resamples, seed=seed)
        for one, other in zip(before, after, strict=True)
    ]
    found += [
        compare_task(one, other, max_drop, resamples=resamples, seed=seed)
        for one, other in zip(tasks_before, tasks_after, strict=True)
    ]
    moved, notes = None, []
    if weights:
        progress("comparing weights")
        try:
            moved = _movement(Path(base), Path(tuned), loaded, ranks, trust_remote_code)
        except UsageError as error:
            notes.append(f"Weights were not compared. {error}")
    layers = representation.compare(seen_before, seen_after)
    return Diff(str(base), str(tuned), max_drop, found, moved, layers, notes)


def probe_sets(
    on: str | Path | Sequence[str | Path], metric: str = "auto", fields: str | None = None
) -> list[ProbeSet]:
    """The probe sets in files and folders, by name of file.

    Raises:
        DataError: If a path does not exist or a folder holds nothing that can be read.
        UsageError: If two files have the same name.
    """
    given = [on] if isinstance(on, (str, Path)) else list(on)
    files = [file for path in given for file in listed(Path(path))]
    sets = [ProbeSet.read(file, metric=metric, fields=fields) for file in files]
    names = [probe.name for probe in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        paths = " and ".join(str(f) for f, n in zip(files, names, strict=True) if n == twice)
        raise UsageError(f"Two probe sets would be called {twice!r}: {paths}. Rename one of them.")
    return sets


def _movement(
    base: Path, tuned: Path, loaded: Loaded, ranks: bool, trust_remote_code: bool
) -> Movement:
    if is_adapter(base):
        raise UsageError("The base is an adapter itself; movement is measured from a whole model.")
    if loaded.adapter:
        return adapter_movement(loaded.model, ranks=ranks)
    return movement(base, tuned, ranks=ranks, trust_remote_code=trust_remote_code)


def _refuse_other_tokenizer(base: str | Path, tuned: str | Path, trust_remote_code: bool) -> None:
    """Losses per token mean the same only if the tokens are the same."""
    body = base if is_adapter(existing(tuned)) and not is_adapter(existing(base)) else None
    one = checkpoints.load_tokenizer(base, trust_remote_code=trust_remote_code).get_vocab()
    other = checkpoints.load_tokenizer(
        tuned, base=body, trust_remote_code=trust_remote_code
    ).get_vocab()
    if one == other:
        return
    before, after = ({i: token for token, i in words.items()} for words in (one, other))
    first = min(i for i in {**before, **after} if before.get(i) != after.get(i))
    shown = [repr(words[first]) if first in words else "nothing" for words in (before, after)]
    raise UsageError(
        f"The two models have different vocabularies ({len(one)} and {len(other)} tokens; token "
        f"{first} is {shown[0]} in {base} and {shown[1]} in {tuned}), so that losses per token "
        "cannot be compared."
    )


def _moved(tensor: Moved) -> dict[str, Any]:
    return {**asdict(tensor), "relative": tensor.relative}
