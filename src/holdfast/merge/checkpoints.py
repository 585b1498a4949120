"""Merging checkpoints: several model folders become one, tensor by tensor, wholly or not at all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import CheckpointError, UsageError
from holdfast.language.saving import refuse_overwriting, written_wholly
from holdfast.language.tensors import DTYPES, Writer
from holdfast.merge.catalogue import Rule, build
from holdfast.merge.changes import Begin, spans
from holdfast.merge.plan import Plan, prepare, refuse_full_disk

WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf",
)  # fmt: skip
LEFT = (
    "model.safetensors.index.json",
    "README.md",
    "recipe.json",
    "trainer_state.json",
    "merge.json",
    "edits.json",
)
"""What says nothing of a merged model, or something that is wrong of it."""
TRIAL = 8
"""Pieces of the largest tensor by which the time is forecast."""


@dataclass(frozen=True)
class Merged:
    """What was merged, or would be.

    Attributes:
        rule: As a spec, with all arguments that were given.
        base: Folder; None without one.
        models: Folders.
        out: Where the result is; None for a trial.
        tensors: How many were merged.
        copied: How many were taken from the first model as they are.
        bytes: Of the merged weights.
        memory: Bytes held at once, about.
        seconds: That it took, or would take, about.
        free: Bytes free on the disk before.
        notes: What is worth knowing.
    """

    rule: str
    base: str | None
    models: tuple[str, ...]
    out: str | None
    tensors: int
    copied: int
    bytes: int
    memory: int
    seconds: float
    free: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"format": 1, **vars(self), "models": list(self.models)}


def merge(
    models: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    rule: str | Rule = "average",
    base: str | Path | None = None,
    prefix: str | None = None,
    common_rows: bool = False,
    dtype: str = "auto",
    replace: bool = False,
    dry_run: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> Merged:
    """Merge model folders into one, an ordinary folder that `from_pretrained` loads.

    Configuration, tokenizer and all tensors that only the first model has (a vision tower, rows of
    added tokens) are the first model's. A few rows of one tensor are in memory at a time, and for
    rules that look at whole tensors the magnitudes of one of them.

    Args:
        models: Folders of one architecture; the first gives the frame.
        out: The folder to write; it must not exist yet, or be empty.
        rule: A spec such as `"ties(density=0.2)"`, or a rule.
        base: Folder of what the models were tuned from, for rules that merge changes.
        prefix: The component by which names in a multimodal checkpoint are longer than the base's,
            such as `"language_model"`; None: the one that fits.
        common_rows: Where vocabularies were resized: merge the rows that all have, keep the others
            of the first model.
        dtype: Of the merged weights: `"auto"` for as the first model stores them, `"float32"`,
            `"bfloat16"` or `"float16"`. Sums are in single precision always.
        replace: Whether an older checkpoint at `out` may be replaced.
        dry_run: Check everything, try a few pieces for the time, and write nothing.
        trust_remote_code: Whether code that came with a checkpoint may run.
        progress: Called with the share that is done.

    Raises:
        UsageError: If the models cannot be merged by this rule.
        CheckpointError: If the disk is too full; nothing is left of what was written.
    """
    given = [models] if isinstance(models, (str, Path)) else list(models)
    target = Path(out)
    refuse_overwriting(target.resolve(), replace)
    plan = prepare(
        given, build(rule), base=base, prefix=prefix, common_rows=common_rows, dtype=dtype,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    free = refuse_full_disk(plan, target)
    begun = time.monotonic()
    begin = plan.rule.start(plan.inputs)
    seconds = forecast(plan, begin) + time.monotonic() - begun if dry_run else 0.0
    if not dry_run:
        with written_wholly(target, replace=replace) as folder:
            copy_frame(plan, folder)
            write(plan, begin, folder, progress)
            told = _merged(plan, target, free, time.monotonic() - begun).to_dict()
            (folder / "merge.json").write_text(json.dumps(told, indent=1) + "\n")
        seconds = time.monotonic() - begun
    return _merged(plan, None if dry_run else target, free, seconds)


def write(
    plan: Plan, begin: Begin, folder: Path, progress: Callable[[float], None] = lambda share: None
) -> None:
    """The merged weights into an existing folder.

    Raises:
        CheckpointError: If the disk is full.
    """
    done, total = 0, max(1, plan.bytes)
    try:
        with Writer(folder, plan.entries) as writer:
            for name, entry in plan.entries.items():
                for piece in rows(plan, begin, name):
                    if entry.dtype in DTYPES:
                        piece = piece.to(DTYPES[entry.dtype])
                    writer.write(name, piece)
                    done += piece.numel() * piece.element_size()
                    progress(done / total)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the merged model: {error.strerror or error}. Nothing of it was left."
        ) from error


def rows(plan: Plan, begin: Begin, name: str) -> Iterator[Tensor]:
    """All rows of a tensor of the merged model: merged ones, then those of the first model."""
    frame = plan.models[0].tensors
    known = plan.common.get(name)
    shape = frame.shape(name)
    merged = plan.inputs.shapes.get(known) if known is not None else None
    if known is not None and merged is not None:
        yield from plan.inputs.merged(known, begin)
    first = merged[0] if merged else 0
    if merged is None or (shape and shape[0] > first):
        for start, stop in spans(shape):
            if stop > first or not shape:
                yield frame.rows(name, max(start, first), stop)


def copy_frame(plan: Plan, folder: Path) -> None:
    """Configuration, tokenizer and whatever else belongs to the first model, but its weights."""
    frame, base = plan.models[0], plan.base
    sources = [frame.path]
    if frame.tokens is None and base is not None and base.tokens is not None:
        sources.insert(0, base.path)
    for source in sources:
        for file in sorted(source.iterdir()):
            left = file.suffix in WEIGHTS or file.name in LEFT or file.name.startswith(".")
            # Of the base nothing but the tokenizer's files is wanted.
            if file.is_file() and not left and (source == frame.path or file.name != "config.json"):
                shutil.copyfile(file, folder / file.name)
    dtypes = {entry.dtype for name, entry in plan.entries.items() if entry.real}
    if len(dtypes) == 1:
        _tell_dtype(folder / "config.json", str(DTYPES[dtypes.pop()]).removeprefix("torch."))


def _tell_dtype(path: Path, dtype: str) -> None:
    """Configurations say in which dtype weights are stored, by one of two names."""
    config = json.loads(path.read_text("utf-8"))
    for name in ("dtype", "torch_dtype"):
        if name in config and config[name] != dtype:
            config[name] = dtype
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def forecast(plan: Plan, begin: Begin) -> float:
    """Seconds that merging will take, from a few pieces of the largest tensor; about."""
    shapes = plan.inputs.shapes
    if not shapes:
        return 0.0
    name = max(shapes, key=lambda name: torch.Size(shapes[name]).numel())
    begun = time.monotonic()
    entries = sum(piece.numel() for piece in islice(plan.inputs.merged(name, begin), TRIAL))
    share = entries / max(1, sum(torch.Size(shape).numel() for shape in shapes.values()))
    return (time.monotonic() - begun) / max(share, 1e-9)


def _merged(plan: Plan, out: Path | None, free: int, seconds: float) -> Merged:
    return Merged(
        str(plan.rule.spec),
        None if plan.base is None else str(plan.base.path),
        tuple(str(model.path) for model in plan.models),
        None if out is None else str(out),
        len(plan.inputs.shapes),
        len(plan.copied),
        plan.bytes,
        plan.memory,
        seconds,
        free,
        list(plan.notes),
    )


def soup(
    models: Sequence[str | Path],
    out: str | Path,
    score: Callable[[Path], float],
    **options: Any,
) -> tuple[Merged, list[str]]:
    """A greedy soup: models join the average one by one, best first, where that is no worse.

    Args:
        models: Folders.
        out: The folder to write.
        score: From the folder of a checkpoint to a number, larger is better, on held-out examples.
        options: As of `merge`, but its rule and base.

    Returns:
        The merge, and the folders whose average it is.

    Raises:
        UsageError: If there are fewer than two models.

    Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves
    accuracy without increasing inference time" (2022).
    """
    if len(models) < 2:
        raise UsageError(f"A soup takes at least two models; given: {len(models)}.")
    refuse_overwriting(Path(out).resolve(), bool(options.get("replace")))
    each = {str(model): score(Path(model)) for model in models}
    order = sorted(each, key=lambda model: -each[model])
    chosen, best = order[:1], each[order[0]]
    trial = Path(out).resolve().with_name(f".{Path(out).name}.trial")
    try:
        for model in order[1:]:
            merge([*chosen, model], trial, **{**options, "replace": True})
            found = score(trial)
            if found >= best:
                chosen, best = [*chosen, model], found
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    if len(chosen) > 1:
        return merge(chosen, out, **options), chosen
    # One model alone is where a line from itself begins.
    return merge(chosen, out, rule="wise_ft(alpha=0.0)", **{**options, "base": chosen[0]}), chosen
