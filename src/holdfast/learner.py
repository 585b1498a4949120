"""The learner: model + objective + optimizer + methods, and the loop.

Read from `learn` down to `update`, this file is one batch's way from the stream to the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.chance import GlobalChance
from holdfast.cost import Meter, peak_memory, reset_peak_memory, stored_bytes
from holdfast.data import Batch, Batches, Table, columns, size
from holdfast.divergence import LossWatch, check_weights
from holdfast.errors import UsageError, at_least
from holdfast.evaluation import Record, Scorer, Scores, TestSets, undisturbed
from holdfast.footprint import memory_bytes
from holdfast.method import Method, Phase, refuse_unfit
from holdfast.models.frozen import Passed
from holdfast.objective import Classification, ClassificationOfTokens, Objective
from holdfast.optim.carry import carry_state
from holdfast.optim.schedules import Schedule, StepSchedule, constant
from holdfast.ranks import Ranks
from holdfast.stream import Experience, Stream

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
SGD: MakeOptimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


class Observer:
    """Looks on while a learner learns: progress bars, checkpoints, loggers.

    One that may stop the work says so in `stops`: it then looks on at all of it, at what comes
    before the learning of the stream as well.
    """

    stops: ClassVar[bool] = False

    def on_step(self, learner: Learner) -> None: ...

    def on_experience(self, learner: Learner) -> None: ...


class Learner:
    """Trains a model on one experience after another; several processes as one (`ranks`).

    Args:
        model: Any module from inputs to class logits; methods that need features or a head ask for
            a `holdfast.models.Classifier`.
        method: What keeps the model from forgetting; a `chain` for several. None: plain training.
        optimizer: From a list of parameters to an optimizer; by default SGD at 0.01, momentum 0.9.
        objective: What is asked of the model; None: classification as the stream describes it, or
            prediction of the next token where it is of language.
        epochs: Times that each experience is gone through.
        batch_size: Examples that the stream brings to a forward pass, in each process.
        accumulate: Forward passes an update, each weighing as many predictions as it asks for.
        clip: Largest norm of the whole gradient in an update; None: any.
        precision: `"float32"`, or `"bfloat16"` in forward passes (weights stay as they are).
        pretrained: Whether the model comes knowing something that methods are to keep.
        optimizer_state: `"reset"`: a fresh optimizer for every experience; `"keep"`: one for all.
        schedule: Factor on the learning rate by epoch and number of epochs, within an experience;
            or a `StepSchedule`, by update (`holdfast.optim.stages`).
        augment: Applied to inputs in every training forward pass, replayed examples included.
        evaluate_every: Score the test sets every so many steps (continual evaluation); None: only
            after each experience.
        evaluate_subset: Examples a test set in continual evaluation.
        seed: Of all random choices of the learner and its methods.
        device: Where to compute; None: where the model's parameters are.

    Raises:
        UsageError: If a number is out of range.

    Example:
        >>> from holdfast import Learner, streams, models
        >>> from holdfast.methods import ER
        >>> stream = streams.build("split-digits", seed=0)
        >>> learner = Learner(models.build("mlp(width=64)", stream), ER(capacity=200))
        >>> record = learner.learn(stream)
        >>> len(record.matrix)
        5
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | None = None,
        *,
        optimizer: MakeOptimizer = SGD,
        objective: Objective | None = None,
        epochs: int = 1,
        batch_size: int = 32,
        accumulate: int = 1,
        clip: float | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        pretrained: bool = False,
        optimizer_state: Literal["reset", "keep"] = "reset",
        schedule: Schedule = constant,
        augment: Callable[[Tensor], Tensor] | None = None,
        evaluate_every: int | None = None,
        evaluate_subset: int = 1000,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        at_least(1, epochs=epochs, batch_size=batch_size, evaluate_every=evaluate_every)
        at_least(1, accumulate=accumulate)
        if clip is not None and not clip > 0:
            raise UsageError(f"clip must be above 0; given: {clip}.")
        if precision not in ("float32", "bfloat16"):
            raise UsageError(f"precision must be 'float32' or 'bfloat16'; given: {precision!r}.")
        if optimizer_state not in ("reset", "keep"):
            raise UsageError(
                f"optimizer_state must be 'reset' or 'keep'; given: {optimizer_state!r}."
            )
        first = next(model.parameters(), None)
        self.device = torch.device(device or (first.device if first is not None else "cpu"))
        self.model: Any = model.to(self.device)
        self.method = (method or Method()).to(self.device)
        self.make_optimizer, self.optimizer_state = optimizer, optimizer_state
        self.schedule, self.augment = schedule, augment
        self.ranks = Ranks.here(self.device)
        self.epochs, self.accumulate = epochs, accumulate
        self.batch_size = batch_size * self.ranks.count
        self.clip, self.precision, self.pretrained = clip, precision, pretrained
        self.evaluate_every, self.evaluate_subset = evaluate_every, evaluate_subset
        self.seed = seed
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.chance = GlobalChance(seed, self.device)
        self.meter = Meter(self.device)
        self.record = Record()
        self.last_checkpoint: str | None = None
        self._given_objective = objective
        self.watch = LossWatch()
        self._collect_hooks()

        self.stream: Stream | None = None
        self._given: Stream | None = None  # the stream before anything was left out of it
        self.objective: Objective
        self.optimizer: Optimizer
        self.parameters: list[nn.Parameter] = []
        self.named: list[tuple[str, nn.Parameter]] = []
        self.experience: Experience
        self.batches: Batches | None = None
        self.incoming: Batch = {}
        self.answering = False  # whether answers of training passes count, and are kept
        self.outputs: Tensor  # of the latest pass, if so
        self.index = 0  # of the experience at hand, or next
        self.step = 0  # within the experience
        self.phases: Sequence[Phase] = (Phase(),)  # of the experience
        self.phase = 0  # at hand
        self.again = 0  # which update on the same batches
        self.updates = 0  # in all experiences
        self.enough = False  # ends the experience after the step at hand
        self._at_epoch = -1  # whose learning rate is set
        self._phase_began = 0  # at which step

    # A run, from the outside in.

    def learn(self, stream: Stream, observers: Sequence[Observer] = ()) -> Record:
        """Learn the stream, or what is left of it after `restore`, and return what was kept.

        Raises:
            DataError: If the stream cannot be learned from.
            StreamRefused: If a method cannot serve the stream.
            Diverged: If the loss becomes NaN or infinite.
        """
        if self.stream is None:
            self.start(stream)
        if self._given is not stream:
            raise UsageError("This learner has begun another stream; build a new learner.")
        assert self.stream is not None
        stream = self.stream
        with self.chance.mine():
            if not self.record.initial:
                self._describe(stream)
                scores = self.test_sets.score(self)
                self.record.initial = scores.plain
                self._measured(scores)
            while self.index < len(stream):
                if self.batches is None:
                    self.begin(stream[self.index])
                try:
                    self.train(observers)
                    self.end()
                except BaseException:
                    self._call("release")
                    raise
                for observer in observers:
                    observer.on_experience(self)
        return self.record

    def start(self, stream: Stream) -> None:
        """Meet the stream: check that it can be learned and served, and set the methods up."""
        stream.validated()
        refuse_unfit(self.method, stream, self.model)
        if stream.online and self.epochs > 1:
            raise UsageError(
                f"{stream.name!r} is online: every example comes once, so epochs must be 1; "
                f"given: {self.epochs}."
            )
        if self.augment is not None and isinstance(getattr(self.model, "backbone", None), Passed):
            raise UsageError(
                "An augmentation changes inputs, and those of this stream are features, computed "
                "once of inputs as they were: leave it out, or freeze the backbone without a cache."
            )
        self.ranks.refuse_alone(self.method)
        self._given = stream
        if stream.semi_labelled and not all(p.takes_unlabelled for p in self.method.parts()):
            stream = stream.labelled_only()
        self.stream = stream
        self.objective = self._given_objective or self._objective(stream)
        self.test_sets: Scorer = stream.scorer or TestSets(stream)
        if self.evaluate_every:
            self.probe_sets = self.test_sets.subset(self.evaluate_subset, self.seed)
        reset_peak_memory(self.device)
        with self.chance.mine():
            self._call("setup")

    def begin(self, experience: Experience) -> None:
        """Grow, renew the optimizer, let methods prepare, and lay out the batches."""
        self.meter.begin(experience.index)
        self.meter.start()
        self.expand(experience)
        self.renew_optimizer()
        if self.pretrained and not self.index:
            self.meter.counted(lambda: self._call("inherit"))
        self.meter.counted(lambda: self._call("begin", experience), "begin")
        self.step, self.enough = 0, False
        self.lay_out(experience)

    def expand(self, experience: Experience) -> None:
        """Make room for an experience's classes: in the head, and wherever methods need it."""
        self.experience, self.index = experience, experience.index
        assert self.stream is not None
        before = self.stream.seen_until(experience.index - 1) if experience.index else ()
        past, present = set(before), set(experience.classes)
        self.seen: tuple[int, ...] = before
        self.new: tuple[int, ...] = tuple(c for c in experience.classes if c not in past)
        self.absent: tuple[int, ...] = tuple(c for c in before if c not in present)
        self.known: int = max((*before, *experience.classes), default=-1) + 1
        self.old_logits, self.absent_logits = columns(self.seen), columns(self.absent)
        grow = getattr(getattr(self.model, "head", None), "grow", None)
        if grow is not None:
            grow(self.known)
        self._call("expand", experience)

    def train(self, observers: Sequence[Observer] = ()) -> None:
        """Train on the experience at hand, step by step."""
        assert self.batches is not None
        self.model.train()
        self.meter.start()
        table = self.batches.table
        if self._fit and self.meter.counted(lambda: self._fit[0](self, table), "fit"):
            return
        if not self.parameters:
            raise UsageError(
                f"{type(self.model).__name__} has no trainable parameters; train some, or use a "
                "method that needs none (ncm)."
            )
        self._go_through(observers)
        while self.phase + 1 < len(self.phases) and not self.enough:
            self.meter.counted(lambda: self._call("turn"), "turn")
            self.renew_optimizer()
            self.lay_out(self.experience, self.phase + 1)
            self._go_through(observers)

    def _go_through(self, observers: Sequence[Observer]) -> None:
        """The phase at hand, from where it stands to its end."""
        assert self.batches is not None
        every = self.evaluate_every
        for passes in self._passes(self.batches):
            self._set_learning_rate()
            loss = self.meter.step(self.step, partial(self._updates_on, passes))
            self.step += 1
            self.updates += 1
            if self.watch.add(loss):
                self.check_losses()
            if every and self.step % every == 0:
                self.meter.stop()
                self._probe()
                self.meter.start()
            if observers:
                self.meter.stop(wait=False)
                for observer in observers:
                    observer.on_step(self)
                self.meter.start()

    def _updates_on(self, passes: Sequence[Batch]) -> Tensor:
        """As many updates on the same batches as the phase asks for; the loss of the first."""
        loss = self.update(*passes)
        for again in range(1, self.phases[self.phase].repeats):
            self.again = again
            self.update(*passes)
        self.again = 0
        return loss

    def update(self, *passes: Batch) -> Tensor:
        """One step: from what the stream brought, a batch a forward pass, to changed weights.

        Returns:
            The loss, without gradient; the weighted mean of the passes' losses.
        """
        self.optimizer.zero_grad()
        if len(passes) == 1:
            loss = self.descend(passes[0])
        else:
            weights = [self.objective.weight(batch) for batch in passes]
            whole = sum(weights)
            losses = [self.descend(b, w / whole) for b, w in zip(passes, weights, strict=True)]
            loss = torch.stack(losses).sum()
        if self.ranks.count > 1:
            self.ranks.average([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        for change in self._gradients:
            change(self)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        for after in self._step:
            after(self)
        return loss

    def descend(self, incoming: Batch, share: Tensor | float | None = None) -> Tensor:
        """One forward and backward pass; the gradients of its share of the loss are added up.

        Of several processes, each passes its part of the rows.
        """
        self.incoming = incoming
        batch = incoming
        for mix in self._batch:
            batch = mix(self, batch)
        batch = self.augmented(batch)
        with self.autocast():
            if self._looks or self.ranks.count == 1:
                outputs = self._outputs(batch)
                if self.answering:
                    self.outputs = outputs.detach()
                visible = outputs
                for mask in self._logits:
                    visible = mask(self, batch, visible)
                loss = self.objective.loss(visible, batch)
            else:  # nobody needs the outputs of other processes' rows
                part = self.ranks.part(batch)
                outputs = self._pass(part)
                weights = self.objective.weight(part), self.objective.weight(batch)
                loss = self.objective.loss(outputs, part) * self.ranks.share(*weights)
            for term in self._loss:
                loss = term(self, batch, outputs, loss)
        if share is not None:
            loss = loss * share
        loss.backward()
        return loss.detach()

    def end(self) -> None:
        """Let methods consolidate, then fill one row of the matrix."""
        self.check_losses()
        self.meter.counted(lambda: self._call("end", self.experience), "end")
        self.meter.stop()
        self.ranks.settle(self.model)
        check_weights(self.model.parameters(), self.step, self.index, self.last_checkpoint)
        assert self.stream is not None
        if self.stream.evaluated(self.index):
            scores = self.test_sets.score(self)
            self.record.matrix.append(scores.plain)
            self.record.task_matrix.append(scores.task)
            if self.stream.evaluations:
                self.record.after.append(self.index)
            self._measured(scores)
        self.record.steps.append(self.step)
        self.record.cost = {
            "seconds": self.meter.seconds,
            "flops": self.meter.flops,
            "steps": self.meter.steps,
            "peak_memory_bytes": max(
                peak_memory(self.device), self.record.cost.get("peak_memory_bytes", 0)
            ),
            "method_bytes": stored_bytes(self.method),
            **memory_bytes(self).costs(),
            **self.stream.costs,
        }
        if self.meter.apart_seconds:
            self.record.cost["apart_seconds"] = self.meter.apart_seconds
            self.record.cost["apart_flops"] = self.meter.apart_flops
        self.batches = None
        self.index += 1

    # What methods use.

    def forward(self, batch: Batch) -> Tensor:
        """Outputs for training: inputs augmented, gradients kept."""
        return self._outputs(self.augmented(batch))

    def augmented(self, batch: Batch) -> Batch:
        """The batch with its inputs as training sees them."""
        if self.augment is None:
            return batch
        return {**batch, "x": self.augment(batch["x"])}

    def autocast(self) -> AbstractContextManager[None]:
        """Around forward passes: the precision asked for."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def serving(self) -> AbstractContextManager[Any]:
        """Inside it the model is as it is to be used, as its methods have it."""
        stack = ExitStack()
        for serve in self._serving:
            stack.enter_context(serve(self))
        return stack

    def predict(self, batch: Batch) -> Tensor:
        """Outputs for use: not augmented, corrected or replaced by the methods."""
        with self.autocast():
            outputs = self._outputs(batch)
        for correct in self._predict:
            outputs = correct(self, batch, outputs)
        return outputs

    def features(self, table: Table, rows: int = 1024) -> Tensor:
        """Features of all examples of a table: evaluation mode, no augmentation, no gradients."""
        with undisturbed(self.model, device=self.device):
            parts = [self.model.features(batch["x"]) for batch in table.chunks(rows)]
        return torch.cat(parts)

    def gradient(self, batch: Batch) -> list[Tensor]:
        """Gradient of the mean loss on a batch by every trainable parameter; `.grad` untouched."""
        loss = self.objective.loss(self.forward(batch), batch)
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        self.ranks.average(gradients)
        return list(gradients)

    @property
    def epoch(self) -> int:
        """The epoch within the experience at hand, from 0."""
        return self.batches.epoch if self.batches is not None else 0

    @property
    def phase_step(self) -> int:
        """The step within the phase at hand, from 0."""
        return self.step - self._phase_began

    @property
    def last(self) -> bool:
        """Whether nothing is learned after the experience at hand."""
        return self.stream is not None and self.stream.final and self.index + 1 == len(self.stream)

    @property
    def stream_rows(self) -> int:
        """How many rows of the present batch came from the stream; they are its first."""
        return size(self.incoming)

    def note(self, **values: Any) -> None:
        """Write numbers down beside the results: what a method found, by experience and step."""
        self.record.notes.append({"experience": self.index, "step": self.step, **values})

    # Nothing lost.

    def state_dict(self) -> dict[str, Any]:
        """Everything from which `restore` goes on exactly; refuses once the loss is not finite."""
        self.check_losses()
        self.ranks.settle(self.model)
        return {
            "index": self.index,
            "step": self.step,
            "phase": self.phase,
            "phase_began": self._phase_began,
            "updates": self.updates,
            "enough": self.enough,
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict() if hasattr(self, "optimizer") else None,
            "batches": self.batches.state_dict() if self.batches is not None else None,
            "generator": self.generator.get_state(),
            "chance": self.chance.state_dict(),
            "meter": self.meter.state_dict(),
            "record": self.record.to_dict(),
        }

    def restore(self, stream: Stream, state: Mapping[str, Any]) -> None:
        """Go back to the point of `state`; `learn` then continues there.

        Growth is replayed from the experiences' descriptions, then all tensors are loaded.
        """
        self.start(stream)
        assert self.stream is not None
        stream = self.stream
        inside = state["batches"] is not None
        with self.chance.mine():
            for experience in stream.experiences[: state["index"] + inside]:
                self.expand(experience)
        self.model.load_state_dict(state["model"])
        self.method.load_state_dict(state["method"])
        self.method.to(self.device)
        if state["optimizer"] is not None:
            self.renew_optimizer()
            self.optimizer.load_state_dict(state["optimizer"])
        self.record = Record.from_dict(state["record"])
        self.meter.load_state_dict(state["meter"])
        self.meter.begin(state["index"])
        self.index, self.step = state["index"], state["step"]
        self.updates = state.get("updates", self.meter.steps)
        self.enough = state.get("enough", False)
        if inside:
            self.lay_out(stream[self.index], state.get("phase", 0))
            self._phase_began = state.get("phase_began", 0)
            assert self.batches is not None
            self.batches.load_state_dict(state["batches"])
        self.generator.set_state(state["generator"])
        self.chance.load_state_dict(state["chance"])

    def check_losses(self) -> None:
        """Stop if a loss since the last look was not finite."""
        self.watch.check(self.step, self.index, self.last_checkpoint)

    # Inside.

    def _outputs(self, batch: Batch) -> Tensor:
        """Outputs of all rows, each process passing its part of them through the model."""
        part = batch if self.ranks.count == 1 else self.ranks.part(batch)
        return self.ranks.gathered(self._pass(part), size(batch))

    def _pass(self, batch: Batch) -> Tensor:
        """One forward pass: the model's, or a method's that makes it itself."""
        if self._answer:
            outputs: Tensor = self._answer[0](self, batch)
            return outputs
        return self.objective.forward(self.model, batch)

    def _call(self, hook: str, *arguments: Any) -> None:
        for part in self.method.parts():
            getattr(part, hook)(self, *arguments)

    def _collect_hooks(self) -> None:
        """Look hooks up once, leaving out those that do nothing."""

        def overriding(hook: str) -> list[Callable[..., Any]]:
            return [getattr(p, hook) for p in self.method.parts() if p.overrides(hook)]

        self._batch, self._logits = overriding("batch"), overriding("logits")
        self._loss, self._gradients = overriding("loss"), overriding("gradients")
        self._step, self._predict = overriding("step"), overriding("predict")
        self._fit, self._serving = overriding("fit"), overriding("serving")
        self._rows, self._answer = overriding("epoch_rows"), overriding("answer")
        self._looks = bool(self._logits) or any(  # at the outputs of a pass
            part.overrides("loss") and part.reads_outputs for part in self.method.parts()
        )

    def lay_out(self, experience: Experience, phase: int = 0) -> None:
        """The batches of a phase of an experience, from its first."""
        parts = list(self.method.parts())
        deciding = next((p for p in parts if p.overrides("phases")), parts[0])
        self.phases, self.phase = deciding.phases(self), phase
        self._phase_began, self._at_epoch = self.step, -1
        table = experience.train
        for part in parts:
            table = part.select(self, table)
        ordered = experience.ordered and table is experience.train
        table = table.to(self.device)
        epochs = self.epochs if experience.epochs is None else experience.epochs
        asked = self.phases[phase].epochs
        if asked is not None and experience.epochs != 0:
            epochs = asked
        rows = partial(self._rows[0], self, table) if self._rows else None
        rows_a_batch = self.phases[phase].batch_size or self.batch_size
        self.batches = Batches(table, rows_a_batch, epochs, self.generator, rows, ordered)

    def renew_optimizer(self) -> None:
        """A fresh optimizer, or the old one's state carried over to parameters that have grown."""
        old: Optimizer | None = getattr(self, "optimizer", None)
        old_named = self.named
        self.named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in self.named]
        keep = self.optimizer_state == "keep" and old is not None
        if keep and [id(p) for _, p in old_named] == [id(p) for p in self.parameters]:
            return
        if not self.parameters:
            return
        self.optimizer = self.make_optimizer(self.parameters)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        if keep and old is not None:
            carry_state(old, old_named, self.optimizer, self.named)
        if self.batches is not None:  # renewed by a method, in the midst of an experience
            self._at_epoch = -1
            self._set_learning_rate()

    def _passes(self, batches: Batches) -> Iterator[list[Batch]]:
        """The batches of each update; the last update of an epoch may have fewer."""
        passes: list[Batch] = []
        if self.enough:
            return
        for incoming in batches:
            passes.append(incoming)
            if len(passes) == self.accumulate or not batches.remaining():
                yield passes
                passes = []
                if self.enough:
                    return

    @property
    def planned(self) -> int:
        """Updates that the phase at hand takes."""
        if self.batches is None:
            return 0
        return self.batches.updates(self.accumulate)

    def _set_learning_rate(self) -> None:
        phase = self.phases[self.phase]
        schedule = phase.schedule or self.schedule
        if isinstance(schedule, StepSchedule):
            factor = schedule.factor(self.phase_step, self.planned, self.updates, self.index)
        elif self._at_epoch == self.epoch:
            return
        else:
            assert self.batches is not None
            factor = schedule(self.epoch, self.batches.epochs)
        self._at_epoch = self.epoch
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor * phase.rate

    def _objective(self, stream: Stream) -> Objective:
        if stream.scenario == "text":
            from holdfast.language.objective import objective_of

            return objective_of(self.model)
        kind = Classification if stream.tokens is None else ClassificationOfTokens
        return kind(
            [experience.classes for experience in stream],
            stream.classes,
            task_known=stream.scenario == "task",
            semi_labelled=stream.semi_labelled,
        )

    def _describe(self, stream: Stream) -> None:
        """Write down what is going to be scored, and when."""
        self.record.scenario = stream.scenario
        self.record.names = [experience.name for experience in stream]
        if stream.tests:
            self.record.tests = [test.name for test in stream.tests]
            self.record.since = [test.since for test in stream.tests]
        elif stream.evaluations:
            self.record.since = list(range(len(stream)))

    def _measured(self, scores: Scores) -> None:
        for name, row in scores.measures.items():
            self.record.measures.setdefault(name, []).append(row)

    def _probe(self) -> None:
        self.ranks.settle(self.model)
        scores = self.probe_sets.score(self)
        self.record.curve.append(
            {"experience": self.index, "step": self.step, "scores": scores.plain}
        )
