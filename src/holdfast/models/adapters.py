"""Adapters: few trained weights beside frozen ones, put into a transformer by PEFT.

A method that works on adapters asks `adapted` for a model that has one, whoever brought it. The
base model's weights are frozen, so nothing that trains, decays or is saved touches them. Two tools
stand in for what PEFT offers by switching adapters, which also switches what is trained:

- `standing_in` lends parameters other values for a while: a slow copy, a point on a path;
- `fold` and `whole` keep what was learned before in one frozen adapter beside the trained one, and
  show the two as one, which is then an ordinary adapter to whoever saves it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import UsageError, above_zero, unknown
from holdfast.language.quiet import quietly

PAST = "past"
"""Name of the frozen adapter in which `fold` keeps what was learned before."""

KINDS = ("q", "k", "v", "o", "gate", "up", "down", "fc1", "fc2")
"""Matrices of a block by what they do; a target names some of them."""


def refusal(method: str, model: nn.Module) -> str | None:
    """Why `model` cannot be given adapters, as a sentence; None if it can."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import PreTrainedModel

    if not isinstance(model, (PreTrainedModel, PeftModel)):
        return (
            f"{method} puts adapters into transformers of Hugging Face; {type(model).__name__} is "
            "none."
        )
    if not isinstance(model, PeftModel):
        if any(isinstance(part, BaseTunerLayer) for part in model.modules()):
            return (
                f"{method} was given the inside of a model that has adapters already: give the "
                "PeftModel itself, to train its adapter, or a model loaded anew."
            )
    else:
        active = list(model.active_adapters)
        if len(active) != 1:
            return (
                f"{method} trains one adapter, and {len(active)} are active in the model given: "
                f"{', '.join(active)}."
            )
        if model.peft_config[active[0]].is_prompt_learning:
            return f"{method} trains adapters within layers; the model given has a learned prompt."
    return None


def fold_refusal(method: str, model: nn.Module) -> str | None:
    """Why adapters in `model` cannot be added up as `fold` does, as a sentence; None if they can.

    Only a model that brings its own adapter can be unfit: one with more than A and B.
    """
    from peft import LoraConfig, PeftModel

    if not isinstance(model, PeftModel):
        return None
    config: Any = model.peft_config[model.active_adapters[0]]
    beyond = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
    found = [name for name in beyond if getattr(config, name, None)]
    if isinstance(config, LoraConfig) and config.bias != "none":
        found.append("bias")
    if not isinstance(config, LoraConfig):
        found = [f"of the kind {config.peft_type.value}"]
    if not found:
        return None
    return (
        f"{method} adds up plain LoRA adapters; the one that the model brings is not: "
        f"{', '.join(found)}."
    )


def targets(model: nn.Module, wanted: str) -> str | list[str]:
    """The linear layers that `wanted` names, as PEFT's `target_modules`.

    Args:
        model: A transformer.
        wanted: `"all-linear"`: all but the output layer; `"attention"`: the matrices of
            attention; or some of q, k, v, o, gate, up, down, fc1 and fc2, joined by commas. A layer
            that holds several (q, k and v in one) is taken whole.

    Raises:
        UsageError: If a name is none of these, or if the model has no such layer.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16))
        >>> targets(model, "q,v")
        ['attn.c_attn']
    """
    if wanted == "all-linear":
        return wanted
    from holdfast.models.anatomy import blocks, linears

    kinds = [kind.strip() for kind in wanted.split(",")]
    for kind in kinds:
        if kind not in KINDS and wanted != "attention":
            raise unknown("target", kind, ("all-linear", "attention", *KINDS))
    layers = {layer.name for layer in linears(model)}
    names = set()
    for units in blocks(model).values():
        for unit in units:
            attends = unit.category in ("attention", "cross_attention")
            holder = unit.weight.parameter.removesuffix(".weight")
            chosen = attends if wanted == "attention" else unit.kind in kinds
            if chosen and holder in layers:
                names.add(holder.removeprefix(f"{unit.block}."))
    if not names:
        raise UsageError(
            f"{type(model).__name__} has no linear layer that is {wanted!r}; accepted for any "
            "transformer: all-linear, attention."
        )
    return sorted(names)


def adapted(model: Any, rank: int, alpha: float, dropout: float, wanted: str, seed: int = 0) -> Any:
    """The model with a LoRA adapter, its other weights frozen; one that has an adapter as it is.

        W x  becomes  W x + alpha / rank B A x,    A (rank, inputs), B (outputs, rank) = 0

    Args:
        model: A transformer of Hugging Face, which is changed, or a `PeftModel`, whose own adapter
            and configuration stay.
        rank: Of B A.
        alpha: Scale of B A, times the rank.
        dropout: Chance that an input of A is left out in training.
        wanted: Where; see `targets`.
        seed: Of A: drawn alike by every process and in every resumed run.

    Source: Hu et al., "LoRA: low-rank adaptation of large language models" (2021).
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        if not any(parameter.requires_grad for parameter in model.parameters()):
            train_only(model, trained(model))  # as PEFT loads adapters, unless told otherwise
        return model
    encodes = getattr(model.config, "is_encoder_decoder", False)
    config = LoraConfig(
        r=rank,
        lora_alpha=_plain(alpha),
        lora_dropout=dropout,
        target_modules=targets(model, wanted),
        fan_in_fan_out=any(type(part).__name__ == "Conv1D" for part in model.modules()),
        task_type="SEQ_2_SEQ_LM" if encodes else "CAUSAL_LM",
    )
    with quietly(), _drawing(model, seed):
        return get_peft_model(model, config)


def check(rank: int, alpha: float, dropout: float) -> None:
    """Refuse a LoRA adapter that cannot be.

    Raises:
        UsageError: If a number is out of range.
    """
    if rank < 1:
        raise UsageError(f"rank must be at least 1; given: {rank}.")
    above_zero(alpha=alpha)
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout must be at least 0 and below 1; given: {dropout}.")


def trained(model: Any) -> str:
    """The name of the adapter that is trained: the active one that is not the past."""
    (name,) = (name for name in model.active_adapters if name != PAST)
    return str(name)


def train_only(model: Any, name: str) -> None:
    """Let gradients through to one adapter's weights and to nothing else."""
    own = _parameters(model, name)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)


def activate(model: Any, names: Sequence[str]) -> None:
    """Make adapters active, without touching what is trained, as PEFT's own switch would."""
    switches = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.base_model.set_adapter(list(names))
    for parameter, on in switches:
        parameter.requires_grad_(on)


def weights(model: Any, name: str | None = None) -> dict[str, Tensor]:
    """Copies of an adapter's weights, by parameter; None: of the one that is trained."""
    own = _parameters(model, name or trained(model))
    return {
        path: parameter.detach().clone()
        for path, parameter in model.named_parameters()
        if id(parameter) in own
    }


def lora_layers(model: Any, name: str) -> list[Any]:
    """The layers in which a LoRA adapter sits, in order."""
    from peft.tuners.lora import LoraLayer

    return [m for m in model.modules() if isinstance(m, LoraLayer) and name in m.lora_A]


@contextmanager
def standing_in(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Within it parameters have other values; after it, their own, bit by bit.

    Nothing is copied, and nothing is switched: which parameters are trained stays as it is.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> with standing_in([layer.weight], [torch.ones(1, 2)]):
        ...     layer(torch.tensor([[2.0, 3.0]])).item()
        5.0
    """
    own = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value.detach()
        yield
    finally:
        for parameter, value in zip(parameters, own, strict=True):
            parameter.data = value


def idle(model: Any) -> bool:
    """Whether the model is a `PeftModel` whose adapters do not change it (yet): every B is zero.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16))
        >>> idle(model), idle(adapted(model, 2, 4.0, 0.0, "all-linear"))
        (False, True)
    """
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer

    if not isinstance(model, PeftModel):
        return False
    names = list(model.active_adapters)
    if not all(isinstance(model.peft_config[name], LoraConfig) for name in names):
        return False
    if any(getattr(model.peft_config[name], "modules_to_save", None) for name in names):
        return False
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    held: list[Tensor] = []
    for layer in layers:
        held += [p for n in names if n in layer.lora_B for p in layer.lora_B[n].parameters()]
        held += [layer.lora_embedding_B[name] for name in names if name in layer.lora_embedding_B]
    return not any(bool(tensor.any()) for tensor in held)


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Within it the model is its base; what is trained stays as it is, unlike by PEFT's switch."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off


def fold(model: Any, seed: int = 0) -> None:
    """Freeze what the trained LoRA adapter has learned, beside all before it, and begin it anew.

    Adapters add up: B_1 A_1 + B_2 A_2 = [B_1 B_2] [A_1; A_2]. So all that was learned before lies
    in one frozen adapter, `past`, whose rank grows by that of the trained one at every call. It
    stays active, which is merging without touching the base model's weights: what was learned can
    still be saved as an adapter. The new A is drawn, the new B is zero.

    Args:
        model: With a plain LoRA adapter (see `fold_refusal`).
        seed: Of the new A.
    """
    name = trained(model)
    layers = lora_layers(model, name)
    factors = [_joined(layer, name) for layer in layers]
    grown = _of_rank(model.peft_config[name], len(factors[0][0]))
    if PAST in model.peft_config:
        model.delete_adapter(PAST)
    with _drawing(model, seed):
        model.add_adapter(PAST, replace(grown, lora_dropout=0.0))
        for layer in layers:
            layer.reset_lora_parameters(name, True)
    with torch.no_grad():
        for layer, (a, b) in zip(layers, factors, strict=True):
            layer.lora_A[PAST].weight.copy_(a)
            layer.lora_B[PAST].weight.copy_(b)
    activate(model, [PAST, name])
    train_only(model, name)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Within it the trained adapter holds the past too, as one adapter of the summed rank.

    Whoever saves the model's adapter meanwhile saves everything that was learned.
    """
    name = trained(model)
    if PAST not in model.peft_config:
        yield
        return
    config = model.peft_config[name]
    layers = lora_layers(model, name)
    own = [(layer.lora_A[name], layer.lora_B[name], layer.r[name]) for layer in layers]
    try:
        for layer in layers:
            a, b = _joined(layer, name)
            layer.lora_A[name], layer.lora_B[name] = _linear(a), _linear(b)
            layer.r[name] = len(a)
        model.peft_config[name] = _of_rank(config, layers[0].r[name])
        activate(model, [name])
        yield
    finally:
        for layer, (a_, b_, rank) in zip(layers, own, strict=True):
            layer.lora_A[name], layer.lora_B[name], layer.r[name] = a_, b_, rank
        model.peft_config[name] = config
        activate(model, [PAST, name])


def save(model: Any, folder: Path) -> None:
    """Write the adapter in use as one ordinary folder of PEFT.

    Call it within `learner.serving()`, where the adapter is as its method wants it used.
    """
    name = trained(model)
    base = Path(str(getattr(model.get_base_model(), "name_or_path", "") or ""))
    # "auto" compares vocabularies with the base model's, which it would look for elsewhere.
    embeddings: Any = "auto" if base.parts and base.is_dir() else False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        model.save_pretrained(temporary, selected_adapters=[name], save_embedding_layers=embeddings)
        place = Path(temporary) if name == "default" else Path(temporary) / name
        for file in sorted(place.iterdir()):
            shutil.move(str(file), folder / file.name)


def _joined(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A and B of the past and of the trained adapter, side by side."""
    names = [n for n in (PAST, name) if n in layer.lora_A]
    a = torch.cat([layer.lora_A[n].weight.detach() for n in names])
    b = torch.cat([layer.lora_B[n].weight.detach() for n in names], 1)
    return a, b


def _of_rank(config: Any, rank: int) -> Any:
    """The configuration at another rank and the same scale."""
    return replace(config, r=rank, lora_alpha=_plain(config.lora_alpha * rank / config.r))


def _plain(alpha: float) -> Any:
    """A whole number as one, as others write it into their files."""
    return int(alpha) if float(alpha).is_integer() else alpha


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _parameters(model: nn.Module, name: str) -> set[int]:
    """The identities of an adapter's parameters."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    found: set[int] = set()
    for module in model.modules():
        held: list[Any] = []
        if isinstance(module, BaseTunerLayer):
            held = [getattr(module, kind) for kind in module.adapter_layer_names]
        elif isinstance(module, ModulesToSaveWrapper):
            held = [module.modules_to_save]
        for part in (by_name[name] for by_name in held if name in by_name):
            found |= (
                {id(part)} if isinstance(part, nn.Parameter) else set(map(id, part.parameters()))
            )
    return found


@contextmanager
def _drawing(model: Any, seed: int) -> Iterator[None]:
    """Global chance from a seed, and afterwards as it was."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
