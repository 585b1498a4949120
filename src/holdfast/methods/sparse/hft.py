"""Half fine-tuning: in every stage, a random half of the weights stays as it is."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import nn

from holdfast.data import Batch
from holdfast.errors import CheckpointError, UsageError
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.models.anatomy import blocks
from holdfast.models.halves import Half, Level, check_ratio, draw, draw_names, open_masks, shapes
from holdfast.optim.masked import MaskedUpdates

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Redraw = Literal["stage", "epoch", "never"]
Embeddings = Literal["train", "freeze", "draw"]


class HFT(Method):
    """Half fine-tuning: train a random half of every transformer block, anew in each stage.

        theta <- theta - lr M * grad,   M in {0, 1}, half of M zero

    In every block 2 of the 4 attention matrices are trained, 2 or 1 of the 3 feed-forward ones (or
    1 of 2), and half of the norms; in every expert likewise. A bias goes with its weight. Frozen
    parameters are out of the optimizer: no gradient, no moments, no decay. Where one tensor holds
    several matrices (q, k and v; all experts) and only some are trained, the rest is kept in place
    by a mask.

    Args:
        ratio: Share of the blocks' weights that is trained.
        level: What is drawn: `"category"`: matrices, balanced in every block and category;
            `"layer"`: whole blocks; `"model"`: matrices, wherever they are.
        redraw: When another half is drawn: `"stage"`: for every experience; `"epoch"`: for every
            pass over it, with a new optimizer; `"never"`.
        complement: Train exactly the other half in every second stage (or epoch), instead of
            drawing anew.
        embeddings: What lies outside the blocks (embeddings, output layer, last norm): `"train"`,
            `"freeze"` or `"draw"` from them too.
        seed: Of the draws, which depend on nothing else but the stage and epoch: every process of
            a distributed training, and every resumed one, draws alike.

    Raises:
        UsageError: If an argument is out of range.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        ...                      num_attention_heads=2, vocab_size=32)
        >>> model = LlamaForCausalLM(config)
        >>> HFT().freeze(model)["ratio"]
        0.5
        >>> sum(p.requires_grad for p in model.model.layers[0].self_attn.parameters())
        2
    """

    tags = Tags(
        family="sparse",
        title="HFT: Half Fine-Tuning for Large Language Models",
        source="Hui et al., 2024",
        scenarios=ALL_KINDS,
        needs=frozenset({"transformer blocks"}),
    )
    remembers = ("log",)
    chooses_weights = True

    def __init__(
        self,
        ratio: float = 0.5,
        level: Level = "category",
        redraw: Redraw = "stage",
        complement: bool = False,
        embeddings: Embeddings = "train",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_ratio(ratio)
        for name, given, accepted in (
            ("level", level, get_args(Level)),
            ("redraw", redraw, get_args(Redraw)),
            ("embeddings", embeddings, get_args(Embeddings)),
        ):
            if given not in accepted:
                raise UsageError(f"{name} must be one of {', '.join(accepted)}; given: {given!r}.")
        if complement and ratio != 0.5:
            raise UsageError(
                f"complement trains the other half: ratio must be 0.5; given: {ratio}."
            )
        if complement and redraw == "never":
            raise UsageError("complement changes the half that is trained; redraw is 'never'.")
        self.ratio, self.level, self.redraw = ratio, level, redraw
        self.complement, self.embeddings, self.seed = complement, embeddings, seed
        self.log: list[list[Any]] = []
        self.drawn = Half((), (), 0.0)
        self.updates: MaskedUpdates | None = None
        self._flowing = False
        self._of: weakref.ref[nn.Module] | None = None
        self._given: frozenset[str] = frozenset()
        self._report: dict[str, Any] = {}

    def expand(self, learner: Learner, experience: Experience) -> None:
        self.freeze(learner.model, 0 if self.redraw == "never" else experience.index)

    def begin(self, learner: Learner, experience: Experience) -> None:
        learner.note(hft=self.report())

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        if self.redraw == "epoch" and self.log[-1][:2] != [learner.index, learner.epoch]:
            self.freeze(learner.model, learner.index, learner.epoch)
            learner.renew_optimizer()
            learner.note(hft=self.report())
        return batch

    def gradients(self, learner: Learner) -> None:
        if self.updates is not None:
            self.updates.before(learner.optimizer)

    def step(self, learner: Learner) -> None:
        if self.updates is not None:
            self.updates.after(learner.optimizer)

    def end(self, learner: Learner, experience: Experience) -> None:
        self._stop_flow(learner.model)

    def release(self, learner: Learner) -> None:
        self._stop_flow(learner.model)

    def freeze(self, model: nn.Module, stage: int = 0, epoch: int = 0) -> dict[str, Any]:
        """Draw a half of a model, and leave gradients on for it alone.

        For a loop of your own: call it before the optimizer is built and, if `masked_tensors` in
        the report is not zero (q, k and v in one matrix), `updates.guard(optimizer)` after.

        Args:
            model: Any transformer; what was frozen at the first call stays frozen.
            stage: Which half is drawn: another one for every stage,
            epoch: and for every epoch in it.

        Returns:
            As `report`.

        Raises:
            UsageError: If the model has no transformer blocks or is a PEFT model.
        """
        self._set(model, stage, epoch)
        self.log.append([stage, epoch, self.drawn.ratio, self._digest()])
        return self.report()

    def report(self) -> dict[str, Any]:
        """What is trained at present.

        Returns:
            `stage` and `epoch`; `ratio`: share of the blocks' weights; `trained` and `parameters`:
            numbers over the whole model; `categories`: share by category; `masked_tensors`: how
            many tensors are trained in part.
        """
        return dict(self._report)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        try:
            _refuse_adapters(model)
            blocks(model)
        except UsageError as unfit:
            return str(unfit)
        if self.redraw == "stage" and not stream.boundaries:
            return (
                f"HFT draws another half in every experience, and {stream.name!r} does not tell "
                "where they end: give redraw='epoch' or 'never'."
            )
        return super().refusal(stream, model)

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go back to the half of a checkpoint, which is drawn again and compared."""
        super().set_extra_state(state)
        model = self._of() if self._of is not None else None
        if model is None or not self.log:
            return
        stage, epoch, _, digest = self.log[-1]
        self._set(model, stage, epoch)
        if self._digest() != digest:
            raise CheckpointError(
                "The half that HFT draws from this model is not the one in the checkpoint: the "
                "model has other blocks, or ratio, level, embeddings or seed differ."
            )

    # Inside.

    def _set(self, model: nn.Module, stage: int, epoch: int) -> None:
        """Draw, and set what is trained."""
        if self._of is None or self._of() is not model:
            _refuse_adapters(model)
            self._of = weakref.ref(model)
            self._given = frozenset(n for n, p in model.named_parameters() if p.requires_grad)
        named = dict(model.named_parameters())
        anatomy = {
            block: [u for u in units if u.weight.parameter in self._given]
            for block, units in blocks(model).items()
        }
        turn = epoch if self.redraw == "epoch" else stage
        other = self.complement and turn % 2 == 1
        drawn_at = (stage, epoch - other) if self.redraw == "epoch" else (stage - other, epoch)
        seed = f"hft {self.seed} {drawn_at}"
        half = draw(anatomy, shapes(model), ratio=self.ratio, level=self.level, seed=seed)
        self.drawn = Half(half.left, half.chosen, 1 - half.ratio) if other else half
        trained = open_masks(named, [part for unit in self.drawn.chosen for part in unit.parts])
        inside = {part.parameter for units in anatomy.values() for u in units for part in u.parts}
        outside = [name for name in named if name in self._given and name not in inside]
        drawn = set(outside) if self.embeddings == "train" else set()
        if self.embeddings == "draw":
            drawn = draw_names(outside, self.ratio, f"{seed} outside")
            drawn = set(outside) - drawn if other else drawn
        for name, parameter in named.items():
            parameter.requires_grad_(name in trained or name in drawn)
            if not parameter.requires_grad:
                parameter.grad = None
        masks = [(named[name], mask) for name, mask in trained.items() if mask is not True]
        # Masked gradients are zero from the start, so moments need no copy: they stay zero.
        self.updates = MaskedUpdates(masks, freeze_state=False) if masks else None
        self._let_gradients_flow(model)
        self._report = {
            "stage": stage,
            "epoch": epoch,
            "ratio": self.drawn.ratio,
            "trained": _entries(named, self.drawn.chosen) + sum(named[n].numel() for n in drawn),
            "parameters": sum(parameter.numel() for parameter in named.values()),
            "categories": self._categories(named),
            "masked_tensors": len(masks),
        }

    def _let_gradients_flow(self, model: Any) -> None:
        """Where embeddings are frozen, have the first block's inputs want gradients none the less.

        Checkpointed blocks whose inputs want none get none themselves.
        """
        if not _inputs_frozen(model):
            self._stop_flow(model)
        elif not getattr(model, "_require_grads_hooks", None):
            model.enable_input_require_grads()
            self._flowing = True

    def _stop_flow(self, model: Any) -> None:
        if self._flowing:
            model.disable_input_require_grads()
        self._flowing = False

    def _categories(self, named: Mapping[str, nn.Parameter]) -> dict[str, float]:
        units = (*self.drawn.chosen, *self.drawn.left)
        share: dict[str, float] = {}
        for category in dict.fromkeys(unit.category for unit in units):
            chosen = [u for u in self.drawn.chosen if u.category == category]
            whole = [u for u in units if u.category == category]
            share[category] = _entries(named, chosen) / _entries(named, whole)
        return share

    def _digest(self) -> str:
        names = "\n".join(sorted(unit.name for unit in self.drawn.chosen))
        return hashlib.blake2b(names.encode(), digest_size=8).hexdigest()


def _entries(named: Mapping[str, nn.Parameter], units: Any) -> int:
    parts = [part for unit in units for part in unit.parts]
    return sum(part.count(named[part.parameter].shape) for part in parts)


def _refuse_adapters(model: nn.Module) -> None:
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(
            "HFT trains half of a model's own weights, and a PEFT model's are all frozen: give the "
            "base model, or use a method for adapters."
        )


def _inputs_frozen(model: Any) -> bool:
    """Whether a Hugging Face model's input embeddings are not trained."""
    try:
        inputs = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return False
    return inputs is not None and not any(p.requires_grad for p in inputs.parameters())
