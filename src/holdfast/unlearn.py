"""Unlearning with a language model, from a request to a checkpoint and its audit.

A folder holds `request.json`, the newest checkpoints of training under `checkpoints/`, the model
under `model/` (an ordinary Hugging Face folder, or a PEFT adapter), `reference.json` (the logs of a
model that never knew, where one was given), and `unlearn.json`, the audit. Each is written wholly
or not at all, so an unlearning that was killed at any moment goes on from its newest checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.checkpoint import write_atomically
from holdfast.evaluation import Record
from holdfast.finetune import Forecast, told_what_fits
from holdfast.language import checkpoints
from holdfast.language.audit import Logs, Look, divergences, look_at, privacy_leak
from holdfast.language.memory import advice, free_memory
from holdfast.language.plan import trial
from holdfast.language.relearning import relearn
from holdfast.language.unlearning import Plan, method_of, prepare
from holdfast.language.verdict import finite
from holdfast.learner import Learner, Observer
from holdfast.optim import schedules
from holdfast.optim.adamw import adamw
from holdfast.optim.stages import warmup_linear
from holdfast.request import Request
from holdfast.run import Checkpoints, device, environment, locked

FULL_RATE, ADAPTER_RATE = 1e-5, 1e-4
"""Learning rates that are usual for all weights, and for low-rank adapters."""

REFERENCE = "reference.json"


@dataclass(frozen=True)
class Outcome:
    """What an unlearning came to.

    Attributes:
        request: What was asked for.
        before: The model as it came.
        after: The model that has unlearned.
        reference: Logs of the model that never knew; None: none was given.
        trajectory: A point before, and one after every epoch: forget quality and utility.
        divergence: KL(before || after) by set, in nats a token.
        relearning: Loss on the forget set by step, of the unlearned model, when it is taught again.
        record: Of training: losses, cost, what methods wrote down.
        warnings: From preparing; also why there is no forget quality, if there is none.
        environment: Versions and machine.
    """

    request: Request
    before: Look
    after: Look
    reference: Logs | None
    trajectory: list[dict[str, Any]]
    divergence: dict[str, float]
    relearning: list[float]
    record: Record
    warnings: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def leak(self) -> dict[str, float]:
        """By attack, how far membership is from that of a model that never knew; may be empty."""
        told = {} if self.reference is None else self.reference.membership
        return privacy_leak(self.after.membership, told)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is no finite number is None."""
        never = self.reference
        found: dict[str, Any] = finite(
            {
                "request": self.request.to_dict(),
                "before": self.before.to_dict(),
                "after": self.after.to_dict(),
                "reference": None
                if never is None
                else {
                    "sets": never.sets,
                    "utility": never.utility,
                    "membership": never.membership,
                    "relearning": never.relearning,
                },
                "trajectory": self.trajectory,
                "divergence": self.divergence,
                "relearning": self.relearning,
                "privacy_leak": self.leak,
                "record": self.record.to_dict(),
                "warnings": self.warnings,
                "environment": self.environment,
            }
        )
        return found


def unlearn(
    request: Request,
    out: Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    plan: Plan | None = None,
) -> Outcome:
    """Let a model forget as a request says, and audit what is forgotten and what is kept.

    Args:
        request: Everything that the result depends on.
        out: The folder; it must be new, or hold this very unlearning.
        resume: Go on with what is there.
        observers: Look on at every update. One that raises `Stopped` ends it there; what has been
            done is saved first.
        plan: From `prepare`, if it has been made already.

    Raises:
        UsageError: If the request names what does not exist or does not fit, or if `out` holds
            something else.
        RunError: If memory does not suffice, or the loss becomes NaN or infinite.
    """
    _check_folder(out, request, resume)
    plan = plan or prepare(request, device(request.device))
    with locked(out):
        if not (out / "request.json").exists():
            request.write(out / "request.json")
        with _told_what_fits(plan):
            logs = _logs(plan, out)
            before = looked(plan, plan.loaded.model, logs)
            learner = _train(plan, out, logs, observers)
            with learner.serving():
                model = learner.model
                after = looked(plan, model, logs)
                if not _is_model(out / "model"):
                    checkpoints.save(model, plan.loaded.tokenizer, out / "model")
                apart = _divergences(plan, model)
                relearned = relearning(plan, model)
        points = [note["trajectory"] for note in learner.record.notes if "trajectory" in note]
        outcome = Outcome(
            request,
            before,
            after,
            logs,
            [before.point(0.0), *points],
            apart,
            relearned,
            learner.record,
            plan.warnings,
            environment(learner.device),
        )
        content = json.dumps(outcome.to_dict(), indent=1) + "\n"
        write_atomically(out / "unlearn.json", content.encode())
    return outcome


class Trajectory(Observer):
    """Looks at forget quality and utility after every epoch; the learner's record keeps it."""

    def __init__(self, plan: Plan, logs: Logs | None) -> None:
        self.plan, self.logs = plan, logs

    def on_step(self, learner: Learner) -> None:
        assert learner.batches is not None
        per_epoch = learner.planned // learner.batches.epochs
        if learner.step % per_epoch:
            return
        with learner.serving():
            point = looked(self.plan, learner.model, self.logs).point(learner.step / per_epoch)
        learner.note(trajectory=finite(point))


def build_learner(plan: Plan) -> Learner:
    """The learner that a plan asks for; equal plans give equal ones."""
    request = plan.request
    schedule = (
        warmup_linear(warmup=plan.per_epoch, floor=0.0)
        if request.schedule is None
        else schedules.build(request.schedule)
    )
    return Learner(
        plan.loaded.model,
        method_of(request),
        optimizer=adamw(rate_of(plan), request.weight_decay),
        epochs=request.epochs,
        batch_size=request.batch_size,
        accumulate=request.accumulate,
        clip=request.clip or None,
        precision="bfloat16" if request.precision == "bfloat16" else "float32",
        pretrained=True,
        schedule=schedule,
        seed=request.seed,
        device=plan.loaded.model.device,
    )


def rate_of(plan: Plan) -> float:
    """The learning rate of a plan."""
    adapter = bool(plan.request.lora) or plan.loaded.adapter
    return plan.request.lr or (ADAPTER_RATE if adapter else FULL_RATE)


def looked(plan: Plan, model: Any, logs: Logs | None) -> Look:
    """Everything that a plan measures, of one model."""
    request = plan.request
    return look_at(
        model,
        plan.loaded.tokenizer,
        plan.sets,
        plan.strangers,
        logs,
        write=not request.no_writing,
        max_new_tokens=request.new_tokens,
        length=request.length,
    )


def relearning(plan: Plan, model: Any) -> list[float]:
    """Loss on the forget set by step, when a copy of a model is taught it (again)."""
    request = plan.request
    if not request.relearn_steps:
        return []
    table = plan.stream[0].train
    return relearn(
        model,
        table.take(slice(0, request.look)),
        steps=request.relearn_steps,
        lr=request.relearn_lr or rate_of(plan),
        batch_size=request.batch_size,
        seed=request.seed,
    )


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
        seconds = trial(learner, plan.request.batch_size)
    trained = sum(p.numel() for p in learner.parameters)
    description = checkpoints.describe(plan.request.model)
    settings = _memory(plan, trained)
    updates = plan.per_epoch * plan.request.epochs
    return Forecast(
        updates,
        trained,
        sum(p.numel() for p in learner.model.parameters()),
        checkpoints.estimate_memory(description, **settings),
        seconds * updates * plan.request.accumulate,
        advice(description, free_memory(learner.device), **settings),
    )


def _train(plan: Plan, out: Path, logs: Logs | None, observers: Sequence[Observer]) -> Learner:
    """Train, or go on training, from the newest checkpoint in `out`."""
    learner = build_learner(plan)
    keeper = Checkpoints(out / "checkpoints", plan.request)
    keeper.learn(learner, plan.stream, observers, before=[Trajectory(plan, logs)])
    return learner


def _logs(plan: Plan, out: Path) -> Logs | None:
    """Logs of the model that never knew: as given, as made before, or made now and kept."""
    kept = out / REFERENCE
    if plan.logs is None and plan.reference is None:
        return None
    if plan.logs is None and kept.exists():
        return Logs.read(kept)
    logs = plan.logs
    if logs is None:
        assert plan.reference is not None
        loaded = checkpoints.load(
            plan.reference,
            device=plan.loaded.model.device,
            trust_remote_code=plan.request.trust_remote_code,
        )
        never = replace(plan, loaded=replace(plan.loaded, model=loaded.model))
        logs = Logs.of(
            looked(never, loaded.model, None), plan.sets[0], relearning(plan, loaded.model)
        )
    logs.write(kept)
    return logs


def _divergences(plan: Plan, model: Any) -> dict[str, float]:
    """KL to the model as it came, which is read from its folder once more."""
    before = checkpoints.load(
        plan.request.model,
        device=plan.loaded.model.device,
        trust_remote_code=plan.request.trust_remote_code,
    )
    return divergences(model, before.model, plan.loaded.tokenizer, plan.sets, plan.request.length)


def _is_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))


def _check_folder(out: Path, request: Request, resume: bool) -> None:
    held = request.held_in(out, "request.json", resume, "an unlearning")
    if held is not None:
        request.refuse_other(held, f"{out} holds an unlearning")


@contextmanager
def _told_what_fits(plan: Plan) -> Iterator[None]:
    """Turn a lack of memory into what to do about it."""
    model = plan.loaded.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with told_what_fits(plan.request.model, model.device, _memory(plan, trainable)):
        yield


def _memory(plan: Plan, trainable: int) -> dict[str, Any]:
    """What a step's memory depends on, as `estimate_memory` asks."""
    return {
        "batch": plan.request.batch_size,
        "length": plan.stream.shape[0],
        "trainable": trainable,
        "checkpointing": plan.request.checkpointing,
    }
