"""Methods inside `transformers.Trainer` and its subclasses (TRL's among them).

`attach` puts the methods' hooks around the trainer's own: nothing of the trainer is replaced, and
a hook that no method uses is not wrapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.engines import saved
from holdfast.engines.bridge import Bridge
from holdfast.engines.passes import loss_of
from holdfast.engines.refusals import refuse
from holdfast.errors import UsageError
from holdfast.method import Method, chain

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

HOOKS = (
    "setup",
    "inherit",
    "expand",
    "begin",
    "select",
    "batch",
    "loss",
    "gradients",
    "step",
    "end",
    "release",
    "serving",
)
"""The hooks that act inside a Trainer."""


def attach(
    trainer: Trainer,
    methods: Method | Sequence[Method] | str,
    *,
    past: Any = None,
    seed: int | None = None,
) -> Bridge:
    """Let methods act in a Trainer: call it before `trainer.train()`.

    Every call of `trainer.train()` is the next experience: methods remember what they need at its
    end, and protect it in the next. What the trainer already does (accumulation, clipping, mixed
    precision, gradient checkpointing, several processes, logging) stays as it is. Its checkpoints
    hold the methods' state too, and `resume_from_checkpoint` restores it.

    Args:
        trainer: A `transformers.Trainer`, or a subclass such as TRL's `SFTTrainer`.
        methods: A method, several (a chain, in that order), or a spec such as `"er+l2(0.01)"`.
        past: Examples of what the model knows already, where there are any, in the form of the
            trainer's training data: a data set, or a `Table`.
        seed: Of the methods' random choices; None: the trainer's `args.seed`.

    Returns:
        What the methods are given in place of a `Learner`; its `record.notes` hold what they wrote
        down.

    Raises:
        UsageError: If this is no Trainer, if methods are attached already or training has begun, or
            if a method cannot act there.

    Example:
        >>> attach(object(), "l2")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        holdfast.errors.UsageError: attach() takes a transformers.Trainer ... given: object.
    """
    from transformers import Trainer

    if not isinstance(trainer, Trainer):
        raise UsageError(
            "attach() takes a transformers.Trainer or a subclass of it; given: "
            f"{type(trainer).__name__}."
        )
    if hasattr(trainer, "holdfast"):
        raise UsageError(
            "This trainer has methods attached already; give them all at once, as a list."
        )
    if trainer.is_in_train or trainer.state.global_step:
        raise UsageError(
            f"This trainer has made {trainer.state.global_step} updates; attach methods before "
            "trainer.train()."
        )
    method = _one(methods)
    bridge = Bridge(trainer, method, trainer.args.seed if seed is None else seed, past)
    if any(part.overrides(hook) for part in method.parts() for hook in HOOKS):
        refuse(trainer, method)
        _wrap(trainer, bridge)
    trainer.holdfast = bridge  # type: ignore[attr-defined]
    return bridge


def _one(methods: Method | Sequence[Method] | str) -> Method:
    if isinstance(methods, Method):
        return methods
    if isinstance(methods, str):
        from holdfast.catalogue import build

        return build(methods)
    given = list(methods)
    for one in given:
        if not isinstance(one, Method):
            raise UsageError(
                "attach() takes a method, a list of methods or a spec; the list holds a "
                f"{type(one).__name__}."
            )
    return chain(*given) if given else Method()


def _wrap(trainer: Any, bridge: Bridge) -> None:
    """Put the bridge's moments around the trainer's own methods, and nothing else."""
    call = _Call()
    train, create_optimizer = trainer.train, trainer.create_optimizer

    def train_(resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        resume = _folder(trainer, resume_from_checkpoint)
        bridge.meet(resume)
        # What a stage begins with, a resumed one has behind it.
        call.resumed = call.begun = resume is not None
        try:
            return train(resume, *args, **kwargs)
        except BaseException:
            bridge.call("release")
            raise

    def create_optimizer_(*args: Any, **kwargs: Any) -> Any:
        if call.resumed:
            bridge.settle()
        _renew(trainer, bridge)
        return create_optimizer(*args, **kwargs)

    trainer.train, trainer.create_optimizer = train_, create_optimizer_
    if any(map(bridge.overriding, ("batch", "loss", "gradients"))):
        _wrap_step(trainer, bridge)
    if bridge.overriding("select"):
        _wrap_data(trainer, bridge, call)
    if bridge.overriding("serving"):
        _wrap_serving(trainer, bridge)
    trainer.add_callback(_callback(trainer, bridge, call))


@dataclass
class _Call:
    """How far one call of `trainer.train()` has come."""

    resumed: bool = False
    begun: bool = False

    def begin(self, bridge: Bridge) -> None:
        if not self.begun:
            self.begun = True
            bridge.begin()


def _wrap_step(trainer: Any, bridge: Bridge) -> None:
    training_step, compute_loss = trainer.training_step, trainer.compute_loss
    within = [False]

    def training_step_(*args: Any, **kwargs: Any) -> Any:
        within[0] = True
        try:
            loss = training_step(*args, **kwargs)
        finally:
            within[0] = False
        if trainer.accelerator.sync_gradients:
            bridge.gradients()
        return loss

    def compute_loss_(
        model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if within[0]:
            return loss_of(bridge, compute_loss, model, inputs, num_items_in_batch)
        # An evaluation: what the trainer measures stays its own.
        return compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )

    trainer.training_step = training_step_
    if any(map(bridge.overriding, ("batch", "loss"))):
        trainer.compute_loss = compute_loss_


def _wrap_data(trainer: Any, bridge: Bridge, call: _Call) -> None:
    """Let methods choose from the training data, which a Trainer lays out before its optimizer."""
    get_train_dataloader, train = trainer.get_train_dataloader, trainer.train
    laying_out = [False]

    def train_(*args: Any, **kwargs: Any) -> Any:
        laying_out[0] = True
        try:
            return train(*args, **kwargs)
        finally:
            laying_out[0] = False

    def get_train_dataloader_() -> Any:
        if not laying_out[0]:
            return get_train_dataloader()
        call.begin(bridge)
        whole = trainer.train_dataset
        trainer.train_dataset = bridge.selected()
        try:
            return get_train_dataloader()
        finally:
            trainer.train_dataset = whole

    trainer.train, trainer.get_train_dataloader = train_, get_train_dataloader_


def _wrap_serving(trainer: Any, bridge: Bridge) -> None:
    evaluate, predict, save_model = trainer.evaluate, trainer.predict, trainer.save_model

    def evaluate_(*args: Any, **kwargs: Any) -> Any:
        with bridge.serving():
            return evaluate(*args, **kwargs)

    def predict_(*args: Any, **kwargs: Any) -> Any:
        with bridge.serving():
            return predict(*args, **kwargs)

    def save_model_(output_dir: Any = None, _internal_call: bool = False) -> None:
        if _internal_call:  # a checkpoint: training goes on from what is trained
            save_model(output_dir, _internal_call=True)
            return
        with bridge.serving():
            save_model(output_dir)

    trainer.evaluate, trainer.predict, trainer.save_model = evaluate_, predict_, save_model_


def _callback(trainer: Any, bridge: Bridge, call: _Call) -> TrainerCallback:
    from transformers import TrainerCallback

    class Moments(TrainerCallback):
        """The moments of training that a Trainer tells of."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            bridge.enough, bridge.training = False, True
            call.begin(bridge)

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            if not trainer.accelerator.optimizer_step_was_skipped:
                bridge.stepped()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if bridge.enough:
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = f"{trainer._get_output_dir(trial=None)}/checkpoint-{state.global_step}"
            saved.write(bridge, folder)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            bridge.end()

    return Moments()


def _folder(trainer: Any, resume: Any) -> str | None:
    """The checkpoint to go on from, as `Trainer.train` finds it."""
    from transformers.trainer_utils import get_last_checkpoint

    if not resume:
        return None
    if resume is not True:
        return str(resume)
    last: str | None = get_last_checkpoint(trainer.args.output_dir)
    if last is None:
        raise UsageError(f"There is no checkpoint in {trainer.args.output_dir} to resume from.")
    return last


def _renew(trainer: Any, bridge: Bridge) -> None:
    """Let go of an earlier experience's optimizer if other parameters are trained now."""
    if trainer.optimizer is None:
        return
    held = {id(p) for group in bridge.optimizer.param_groups for p in group["params"]}
    trained = {id(p) for p in bridge.parameters}
    if held == trained or (
        bridge.given_optimizer and trained <= held
    ):  # what is frozen has no gradient
        return
    if bridge.given_optimizer:
        raise UsageError(
            "The methods train parameters that the optimizer given to this trainer does not hold: "
            "let the trainer make its optimizer."
        )
    trainer.optimizer = None
    trainer.model_wrapped = trainer.model  # DDP counts on the parameters it was built with
