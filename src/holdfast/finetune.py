"""Fine-tuning a language model without losing what it knows, from a recipe to a checkpoint.

A run's folder holds `recipe.json`, the newest checkpoints of training under `checkpoints/`, the
model under `model/` (an ordinary Hugging Face folder, or a PEFT adapter), and `finetune.json`, what
was gained and what was kept. Each is written wholly or not at all, so a run that was killed at any
moment goes on from its newest checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from holdfast.checkpoint import write_atomically
from holdfast.errors import RunError
from holdfast.evaluation import Record
from holdfast.language import checkpoints
from holdfast.language.memory import advice, free_memory
from holdfast.language.plan import Plan, method_of, prepare, trial
from holdfast.language.probe import Measured, ProbeSet, measure
from holdfast.language.verdict import SetDiff, compare_set, finite
from holdfast.learner import Learner, Observer
from holdfast.optim import schedules
from holdfast.optim.adamw import adamw
from holdfast.recipe import Recipe
from holdfast.run import Checkpoints, device, environment, locked

FULL_RATE, ADAPTER_RATE = 2e-5, 2e-4
"""Learning rates that are usual for all weights, and for low-rank adapters."""


@dataclass(frozen=True)
class Outcome:
    """What a fine-tuning came to.

    Attributes:
        recipe: What was asked for.
        sets: What is held out first, then every guard set: before against after.
        plain: The same after plain training, with `baseline`; empty otherwise.
        record: Of training: losses, cost, what methods wrote down.
        warnings: From preparing.
        environment: Versions and machine.
    """

    recipe: Recipe
    sets: list[SetDiff]
    plain: list[SetDiff]
    record: Record
    warnings: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def dropped(self) -> list[SetDiff]:
        """The guard sets on which too much was lost."""
        return [found for found in self.sets[1:] if found.verdict == "drop"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is no finite number is None."""
        found: dict[str, Any] = finite(
            {
                "recipe": self.recipe.to_dict(),
                "sets": [asdict(one) for one in self.sets],
                "plain": [asdict(one) for one in self.plain],
                "record": self.record.to_dict(),
                "warnings": self.warnings,
                "environment": self.environment,
            }
        )
        return found


def finetune(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    plan: Plan | None = None,
) -> Outcome:
    """Train a model as a recipe says, and measure what was gained and what was kept.

    Args:
        recipe: Everything that the result depends on.
        out: The folder; it must be new, or hold this very run.
        resume: Go on with what is there.
        observers: Look on at every update. One that raises `Stopped` ends the run there; what has
            been learned is saved first.
        plan: From `prepare`, if it has been made already.

    Raises:
        UsageError: If the recipe names what does not exist or does not fit, or if `out` holds
            another run.
        RunError: If memory does not suffice, or the loss becomes NaN or infinite.
    """
    _check_folder(out, recipe, resume)
    plan = plan or prepare(recipe, device(recipe.device))
    with locked(out):
        if not (out / "recipe.json").exists():
            recipe.write(out / "recipe.json")
        with _told_what_fits(plan):
            before = _measure(plan)
            learner = _train(plan, out, observers)
            with learner.serving():
                after = _measure(plan, learner.model)
                if not _is_model(out / "model"):
                    checkpoints.save(learner.model, plan.loaded.tokenizer, out / "model")
            plain: list[Measured] = []
            if recipe.baseline:
                del plan.loaded, learner.model  # one model in memory at a time
                plain = _baseline(recipe, out, observers)
        outcome = Outcome(
            recipe,
            _compared(before, after, recipe),
            _compared(before, plain, recipe) if plain else [],
            learner.record,
            plan.warnings,
            environment(learner.device),
        )
        content = json.dumps(outcome.to_dict(), indent=1) + "\n"
        write_atomically(out / "finetune.json", content.encode())
    return outcome


def build_learner(plan: Plan, plain: bool = False) -> Learner:
    """The learner that a plan asks for; equal plans give equal ones."""
    recipe = plan.recipe
    adapter = bool(recipe.lora) or plan.loaded.adapter
    rate = recipe.lr or (ADAPTER_RATE if adapter else FULL_RATE)
    method = method_of(recipe, plain)
    return Learner(
        plan.loaded.model,
        method,
        optimizer=adamw(rate, recipe.weight_decay),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        accumulate=recipe.accumulate,
        clip=recipe.clip or None,
        precision="bfloat16" if recipe.precision == "bfloat16" else "float32",
        pretrained=True,
        schedule=schedules.build(recipe.schedule),
        seed=recipe.seed,
        device=plan.loaded.model.device,
    )


def _train(plan: Plan, out: Path, observers: Sequence[Observer], plain: bool = False) -> Learner:
    """Train, or go on training, from the newest checkpoint in `out`."""
    learner = build_learner(plan, plain)
    Checkpoints(out / "checkpoints", plan.recipe).learn(learner, plan.stream, observers)
    return learner


def _baseline(recipe: Recipe, out: Path, observers: Sequence[Observer]) -> list[Measured]:
    """What plain training makes of the same data, from the same model."""
    plan = prepare(recipe, device(recipe.device))
    learner = _train(plan, out / "plain", observers, plain=True)
    with learner.serving():
        return _measure(plan, learner.model)


def _measure(plan: Plan, model: Any = None) -> list[Measured]:
    """Every set, by the model as it came or as it is now."""
    sets: list[ProbeSet] = [plan.gained, *plan.guards]
    return [
        measure(
            plan.loaded.model if model is None else model,
            plan.loaded.tokenizer,
            probe,
            generate=plan.recipe.generate and not _is_text(probe),
        )
        for probe in sets
    ]


def _compared(
    before: Sequence[Measured], after: Sequence[Measured], recipe: Recipe
) -> list[SetDiff]:
    return [
        compare_set(one, other, recipe.max_drop, seed=recipe.seed)
        for one, other in zip(before, after, strict=True)
    ]


def _is_text(probe: ProbeSet) -> bool:
    return next(iter(probe.samples)).kind == "text"


def _is_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))


def _check_folder(out: Path, recipe: Recipe, resume: bool) -> None:
    held = recipe.held_in(out, "recipe.json", resume, "a fine-tuning")
    if held is not None:
        recipe.refuse_other(held, f"{out} holds a fine-tuning")


@contextmanager
def _told_what_fits(plan: Plan) -> Iterator[None]:
    """Turn a lack of memory into what to do about it."""
    trainable = sum(p.numel() for p in plan.loaded.model.parameters() if p.requires_grad)
    settings = memory_settings(plan, trainable)
    with told_what_fits(plan.recipe.model, plan.loaded.model.device, settings):
        yield


@contextmanager
def told_what_fits(model: str, where: torch.device, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn a lack of memory into what to do about it.

    Args:
        model: The checkpoint's folder.
        where: The device.
        settings: What a step's memory depends on, as `estimate_memory` asks.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        scarce = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not scarce and "not enough memory" not in str(error):
            raise
        said = advice(checkpoints.describe(model), free_memory(where), **settings)
        raise RunError(
            "Memory has run out. "
            + (said or "A smaller --batch-size, --checkpointing or --lora 'lora(rank=8)' may fit.")
        ) from error


def memory_settings(plan: Plan, trainable: int) -> dict[str, Any]:
    """What a step's memory depends on, as `estimate_memory` asks."""
    return {
        "batch": plan.recipe.batch_size,
        "length": plan.stream.shape[0],
        "trainable": trainable,
        "checkpointing": plan.recipe.checkpointing,
    }


@dataclass(frozen=True)
class Forecast:
    """What a fine-tuning would come to, without doing it.

    Attributes:
        updates: How many.
        trained: Weights that would be trained.
        parameters: Weights in all.
        memory: Bytes of a step, about.
        seconds: Of training alone, about: one real pass, times the passes.
        scarce: What to change if memory would not suffice; None if it would.
    """

    updates: int
    trained: int
    parameters: int
    memory: int
    seconds: float
    scarce: str | None


def forecast(plan: Plan) -> Forecast:
    """Set everything up, make one real pass on the longest rows, and tell what is to come.

    Raises:
        StreamRefused: If the method cannot serve the model.
        RunError: If memory does not suffice even for that pass.
    """
    with _told_what_fits(plan):
        learner = build_learner(plan)
        learner.start(plan.stream)
        learner.expand(plan.stream[0])
        learner.renew_optimizer()
        seconds = trial(learner, plan.recipe.batch_size)
    trained = sum(p.numel() for p in learner.parameters)
    description = checkpoints.describe(plan.recipe.model)
    settings = memory_settings(plan, trained)
    passes = plan.updates * plan.recipe.accumulate
    return Forecast(
        plan.updates,
        trained,
        sum(p.numel() for p in learner.model.parameters()),
        checkpoints.estimate_memory(description, **settings),
        seconds * passes,
        advice(description, free_memory(learner.device), **settings),
    )
