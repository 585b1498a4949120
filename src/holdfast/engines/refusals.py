"""What methods cannot do inside a Trainer, and trainers that methods cannot act in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.errors import UsageError
from holdfast.method import Method

if TYPE_CHECKING:
    from transformers import Trainer


def refuse(trainer: Trainer, method: Method) -> None:
    """Raise `UsageError` for the first reason why the methods could not act in this trainer."""
    for part in method.parts():
        if part.tags.family == "editing":
            raise UsageError(
                f"{type(part).__name__} makes edits request by request, which a Trainer does not "
                "bring: use holdfast edit."
            )
        for hook, what in (
            ("fit", "replaces gradient training, which is what a Trainer does"),
            ("logits", "changes class logits before the loss, which a Trainer computes itself"),
            ("phases", "goes through an experience in its own way, and a Trainer in its own"),
            ("epoch_rows", "chooses the rows of every epoch, which a Trainer draws itself"),
            ("answer", "makes the forward pass, which a Trainer makes itself"),
            ("predict", "decides predictions, which a Trainer takes from the model itself"),
        ):
            # Language models have no classes: what methods do to class logits does nothing there.
            if part.overrides(hook) and not (hook == "logits" and _speaks(trainer.model)):
                raise UsageError(f"{type(part).__name__} {what}: use holdfast's own learner.")
    args = trainer.args
    changes = [type(p).__name__ for p in method.parts() if p.overrides("gradients")]
    for hindered, why in (
        (args.n_gpu > 1, "DataParallel copies the model at every step: launch with torchrun"),
        (trainer.is_deepspeed_enabled, "DeepSpeed keeps parameters in pieces: use DDP"),
        (trainer.is_fsdp_enabled, "FSDP keeps parameters in pieces: use DDP"),
        (args.auto_find_batch_size, "auto_find_batch_size trains several times: set a batch size"),
        (trainer.model_init is not None, "model_init makes a new model at every train(): give one"),
        (
            changes and args.fp16,
            f"fp16 scales the gradients that {' and '.join(changes)} works on: use bf16",
        ),
        (
            changes and ("lomo" in args.optim or "layerwise" in args.optim),
            f"{_plain(args.optim)} steps before {' and '.join(changes)} could act: use another",
        ),
    ):
        if hindered:
            raise UsageError(f"Methods cannot act in this trainer; {why}.")


def _plain(name: Any) -> str:
    return str(getattr(name, "value", name))


def _speaks(model: Any) -> bool:
    """Whether the model answers with a distribution over tokens."""
    from transformers.models.auto import modeling_auto as auto

    names = {cls.__name__ for cls in type(_without_adapters(model)).__mro__}
    known = (
        *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
    )
    return not names.isdisjoint(known)


def _without_adapters(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
