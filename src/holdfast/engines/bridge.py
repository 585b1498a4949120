"""What methods are given in place of a `Learner` when a Trainer drives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from holdfast.data import Batch, Table, size
from holdfast.engines import saved
from holdfast.engines.stage import Stage, choose, compares, read
from holdfast.errors import RunError, UsageError
from holdfast.evaluation import Record
from holdfast.method import Method, refuse_unfit
from holdfast.models import adapters
from holdfast.objective import Objective
from holdfast.stream import Experience, Stream


class Bridge:
    """A Trainer as methods see it: the attributes of a `Learner`, and the moments of a step.

    Every call of `trainer.train()` is one experience. Built by `attach`.

    Args:
        trainer: A `transformers.Trainer` or a subclass.
        method: What acts; a chain for several.
        seed: Of the methods' random choices. Each process draws from its own generator.
        past: Examples of what the model knows already: a data set or a table.
    """

    pretrained = True
    augment = None
    seen: tuple[int, ...] = ()
    new: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()
    known = 0
    old_logits = absent_logits = slice(0)

    def __init__(self, trainer: Any, method: Method, seed: int, past: Any = None) -> None:
        self.trainer, self.seed = trainer, seed
        self.device: torch.device = trainer.args.device
        self.method = method.to(self.device)
        own = seed + trainer.accelerator.process_index
        self.generator = torch.Generator(self.device).manual_seed(own)
        self.record = Record(scenario="text")
        self._past = past
        self.incoming: Batch = {}
        self.index = 0
        self.enough = False
        self.named: list[tuple[str, nn.Parameter]] = []
        self.parameters: list[nn.Parameter] = []
        self._stages: list[Stage] = []
        self.before = 0  # updates made in earlier experiences
        self._set_up = self.training = False
        self._objective: Objective | None = None
        self.given_optimizer = trainer.optimizer is not None
        self.make_optimizer: Callable[[], Any] = trainer.create_optimizer
        self._serving_depth = 0
        self.terms, self.mixes = self.overriding("loss"), self.overriding("batch")
        self._changes, self._after = self.overriding("gradients"), self.overriding("step")
        acting = [p for p in method.parts() if p.overrides("loss")]
        self.reads_outputs = any(part.reads_outputs for part in acting)

    # What methods use.

    @property
    def model(self) -> Any:
        return self.trainer.model

    @model.setter
    def model(self, model: Any) -> None:
        """A method has wrapped the model (in an adapter, say): the wrapped one is trained."""
        self.trainer.model = self.trainer.model_wrapped = model
        self.trainer.callback_handler.model = model

    @property
    def optimizer(self) -> Any:
        """The optimizer itself, out of what Accelerate wraps around it."""
        return getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)

    @property
    def objective(self) -> Objective:
        """What the model is asked, for methods that ask it themselves."""
        if self._objective is None:
            from holdfast.engines.pairs import Pairs
            from holdfast.language.objective import objective_of

            pairs = compares(self.trainer)
            self._objective = Pairs() if pairs else objective_of(self.trainer.model)
        return self._objective

    @property
    def stream(self) -> Stream:
        """The calls of `trainer.train()` so far."""
        if self._past is not None and not isinstance(self._past, Table):
            self._past = read(self.trainer, self._past)
        experiences = cast(list[Experience], self._stages)
        name = type(self.trainer).__name__
        return Stream(name, experiences, "text", 0, (), past=self._past)

    @property
    def experience(self) -> Experience:
        return cast(Experience, self._stages[self.index])

    @property
    def batch_size(self) -> int:
        """Rows of one pass, on this process; packed examples are counted as they come."""
        if getattr(self.trainer, "padding_free", False):
            return self.stream_rows
        return int(self.trainer._train_batch_size)

    @property
    def last(self) -> bool:
        """A trainer does not tell whether it will train again."""
        return False

    @property
    def stream_rows(self) -> int:
        """How many rows of the present batch came from the trainer's data; they are its first."""
        return size(self.incoming) if self.incoming else 0

    @property
    def step(self) -> int:
        """Updates within the experience."""
        return int(self.trainer.state.global_step) if self.training else 0

    @property
    def updates(self) -> int:
        """Updates over all experiences."""
        return self.before + self.step

    @property
    def batches(self) -> range:
        """As long as the updates planned for this experience."""
        return range(self.trainer.state.max_steps)

    @property
    def planned(self) -> int:
        """Updates that the experience at hand takes."""
        return int(self.trainer.state.max_steps)

    @property
    def accumulate(self) -> int:
        return int(self.trainer.args.gradient_accumulation_steps)

    @property
    def epoch(self) -> int:
        return int(self.trainer.state.epoch or 0)

    @property
    def epochs(self) -> int:
        return int(self.trainer.state.num_train_epochs)

    def forward(self, batch: Batch) -> Tensor:
        """Outputs for training, gradients kept; gradients of several processes are still averaged
        by the trainer, which watches the parameters."""
        return self.objective.forward(self.model, batch)

    def augmented(self, batch: Batch) -> Batch:
        """The batch itself: a trainer's collator has done what there is to do."""
        return batch

    def predict(self, batch: Batch) -> Tensor:
        return self.objective.forward(self.model, batch)

    def gradient(self, batch: Batch) -> list[Tensor]:
        """Gradient of the mean loss on a batch by every trainable parameter; `.grad` untouched.

        Where several processes train together, each brings its own batch, and the mean over all is
        answered.
        """
        with self.trainer.compute_loss_context_manager():
            loss = self.objective.loss(self.forward(batch), batch)
        found = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        if self.trainer.accelerator.num_processes > 1:
            return [self.trainer.accelerator.reduce(g, reduction="mean") for g in found]
        return list(found)

    def renew_optimizer(self) -> None:
        """Let the optimizer forget what it holds, and step the parameters that are trained now.

        Raises:
            UsageError: If the user made the optimizer, or if several processes train together,
                whose gradients are averaged over the parameters of the start.
        """
        self.name_parameters()
        wrapped = self.trainer.optimizer
        if wrapped is None:
            return
        if self.given_optimizer or self.trainer.accelerator.num_processes > 1:
            raise UsageError(
                "Which parameters are trained cannot change within an experience where several "
                "processes train together, or where the trainer was given an optimizer."
            )
        held, self.trainer.optimizer = self.optimizer, None
        try:
            fresh = self.make_optimizer()
        finally:
            self.trainer.optimizer = wrapped
        for group, anew in zip(held.param_groups, fresh.param_groups, strict=True):
            group["params"] = anew["params"]  # the schedule goes on, which holds these groups
        held.state.clear()

    def note(self, **values: Any) -> None:
        """Write numbers down: what a method found, by experience and step."""
        self.record.notes.append({"experience": self.index, "step": self.step, **values})

    # The moments of training.

    def overriding(self, hook: str) -> list[Callable[..., Any]]:
        """The methods' own implementations of a hook, in order."""
        return [getattr(p, hook) for p in self.method.parts() if p.overrides(hook)]

    def call(self, hook: str, *arguments: Any) -> None:
        for act in self.overriding(hook):
            act(self, *arguments)

    def meet(self, resume: str | None) -> None:
        """Before anything of the trainer's: set methods up, let them choose what is trained.

        Args:
            resume: The trainer's checkpoint to go on from, from which it will load the model.
        """
        state = saved.read(self, resume) if resume else None
        if state is not None:
            self.index, self.before = state["index"], state["before"]
        self._stages += [Stage(self.trainer, i) for i in range(len(self._stages), self.index + 1)]
        for later in self._stages[self.index :]:
            later.forget_tables()
        replayed = self.index if self._set_up else 0
        if not self._set_up:
            refuse_unfit(self.method, self.stream, self.model)
            self.name_parameters()
            self.call("setup")
            self.name_parameters()
            self._set_up = True
        for stage in self._stages[replayed : self.index + 1]:
            self.call("expand", stage)
        self.name_parameters()
        if state is not None:
            saved.restore(self, state)
            self.name_parameters()

        self._laid_out = (
            {name: p.requires_grad for name, p in self.model.named_parameters()},
            _active(self.model),
        )

    def settle(self) -> None:
        """The trainer has loaded a checkpoint: put back what is trained, and what is active.

        Of several adapters a Trainer activates one.
        """
        trained, active = self._laid_out
        if _active(self.model) != active:
            adapters.activate(self.model, active)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(trained[name])
        self.name_parameters()

    def begin(self) -> None:
        """Before the first update of an experience that was not resumed."""
        if not self.index:
            self.call("inherit")
        self.call("begin", self.experience)

    def gradients(self) -> None:
        """An update's gradients are complete, on all processes, and not yet clipped."""
        for change in self._changes:
            change(self)

    def stepped(self) -> None:
        """The optimizer has made its step."""
        for after in self._after:
            after(self)

    def end(self) -> None:
        """Training has ended: let methods consolidate, and get ready for the next call.

        Raises:
            RunError: If several processes trained together and their weights are not the same.
        """
        self._agree()
        self.call("end", self.experience)
        self._stages[self.index].forget_tables()
        self.before += self.step
        self.index += 1
        self.training = False

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Within it the model is as it is to be used."""
        self._serving_depth += 1
        try:
            with ExitStack() as stack:
                if self._serving_depth == 1 and self._set_up:
                    for act in self.overriding("serving"):
                        stack.enter_context(act(self))
                yield
        finally:
            self._serving_depth -= 1

    def selected(self) -> Any:
        """The training data as methods choose from them; the data as they are if none does."""
        dataset = self.trainer.train_dataset
        chosen = self.overriding("select")
        if not chosen:
            return dataset
        if self.trainer.accelerator.num_processes > 1:
            raise UsageError("Training examples can be chosen where one process trains alone.")
        table = self._stages[self.index].train
        table = table.with_columns(row=torch.arange(len(table)))
        for act in chosen:
            table = act(self, table)
        if "row" not in table:
            raise UsageError(
                "In a trainer, methods may choose from its training data, and one of them brought "
                "in rows from elsewhere: give it a place in `batch`, or use holdfast's own learner."
            )
        return choose(dataset, table["row"])

    def _agree(self) -> None:
        """Processes must have drawn alike what changes gradients: see that they did."""
        if self.trainer.accelerator.num_processes == 1 or not self.parameters:
            return
        norms = torch.stack([p.detach().float().norm() for p in self.parameters])
        every = self.trainer.accelerator.gather(norms).view(-1, len(norms))
        if not torch.allclose(every, every[:1].expand_as(every), rtol=1e-4, equal_nan=True):
            raise RunError(
                "The processes' weights have drifted apart: a method changed gradients or weights "
                "differently in each. What all must draw alike is drawn from `learner.seed`, not "
                "from `learner.generator`, which each process has its own of."
            )

    def name_parameters(self) -> None:
        """Note which parameters are trained."""
        self.named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in self.named]


def _active(model: Any) -> list[str]:
    """The active adapters of a PEFT model; none of another."""
    return list(model.active_adapters) if hasattr(model, "get_base_model") else []
