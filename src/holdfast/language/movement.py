"""Movement: how far the weights of a model went, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.language.folders import configuration, kind_of
from holdfast.language.tensors import Tensors
from holdfast.models.anatomy import blocks

_COLUMNS = 8192


@dataclass(frozen=True)
class Moved:
    """One tensor and its change.

    Attributes:
        name: As in the model.
        block: The transformer block that it is in; empty outside.
        part: `"attention"`, `"cross_attention"`, `"feedforward"`, `"norm"`, `"embedding"`, `"head"`
            or `"other"`.
        shape: Of the tensor.
        norm: Frobenius norm in the base.
        change: Frobenius norm of the difference.
        effective_rank: Of the difference; None where it is zero or no matrix, or was not asked for.
        stable_rank: Likewise.
    """

    name: str
    block: str
    part: str
    shape: tuple[int, ...]
    norm: float
    change: float
    effective_rank: float | None = None
    stable_rank: float | None = None

    @property
    def relative(self) -> float | None:
        """Change by norm; None where the base is zero."""
        return self.change / self.norm if self.norm else None


@dataclass(frozen=True)
class Movement:
    """All tensors, and what could not be compared.

    Attributes:
        tensors: In the order of the files.
        unmatched: Names that one side lacks or has in another shape, with what is the matter.
    """

    tensors: list[Moved]
    unmatched: list[str] = field(default_factory=list)

    def by(self, what: Literal["block", "part"]) -> dict[str, Moved]:
        """The tensors of each block, or of each part, taken together as one; without ranks."""
        groups: dict[str, list[Moved]] = {}
        for tensor in self.tensors:
            groups.setdefault(getattr(tensor, what), []).append(tensor)
        return {
            name: Moved(
                name,
                name if what == "block" else "",
                name if what == "part" else "",
                (sum(torch.Size(t.shape).numel() for t in members),),
                sum(t.norm**2 for t in members) ** 0.5,
                sum(t.change**2 for t in members) ** 0.5,
            )
            for name, members in groups.items()
            if name
        }


def movement(
    base: Path, tuned: Path, *, ranks: bool = True, trust_remote_code: bool = False
) -> Movement:
    """Compare the weights of two model folders, reading one pair of tensors at a time.

    Args:
        base: Folder of safetensors.
        tuned: Likewise, of the same architecture.
        ranks: Whether the ranks of differences are computed, which takes most of the time: an
            eigenvalue problem of the smaller side of each matrix.
        trust_remote_code: Whether code that came with the checkpoint may run, to learn which
            tensor belongs where.
    """
    places = anatomy(base, trust_remote_code)
    before, after = Tensors(base), Tensors(tuned)
    unmatched = [f"{name} is only in {base}" for name in before if name not in after]
    unmatched += [f"{name} is only in {tuned}" for name in after if name not in before]
    tensors = []
    for name in before:
        if name not in after:
            continue
        one, other = before[name], after[name]
        if one.shape != other.shape:
            unmatched.append(
                f"{name} is {list(one.shape)} in {base} and {list(other.shape)} in {tuned}"
            )
        elif one.is_floating_point():
            norm = _norm(one)
            tensors.append(_moved(name, places, norm, other.float() - one, ranks))
    return Movement(tensors, unmatched)


def adapter_movement(model: Any, *, ranks: bool = True) -> Movement:
    """What a LoRA adapter adds to the weights of its base.

    Args:
        model: A `PeftModel`; its active adapter counts.
        ranks: As in `movement`.

    Raises:
        UsageError: If the adapter is of a kind that adds no matrices to weights.
    """
    adapter = model.active_adapter
    inner = model.get_base_model()
    places = _places(inner)
    tensors, others = [], []
    for path, module in inner.named_modules():
        kept = getattr(module, "original_module", None)
        if kept is not None and adapter in getattr(module, "modules_to_save", {}):
            new = dict(module.modules_to_save[adapter].named_parameters())
            for name, old in kept.named_parameters():
                change = new[name].detach().float() - old.detach()
                full = f"{path}.{name}"
                tensors.append(_moved(full, places, _norm(old.detach()), change, ranks))
        elif adapter in getattr(module, "lora_A", {}) or adapter in getattr(
            module, "lora_embedding_A", {}
        ):
            if getattr(module, "use_dora", {}).get(adapter):
                others.append(path)
                continue
            weight = module.get_base_layer().weight.detach()
            change = module.get_delta_weight(adapter).detach().float()
            tensors.append(_moved(f"{path}.weight", places, _norm(weight), change, ranks))
    if others or not tensors:
        kind = "DoRA" if others else str(model.peft_config[adapter].peft_type).split(".")[-1]
        raise UsageError(
            f"The adapter's kind ({kind}) adds no matrices to weights; movement is measured for "
            "LoRA and for whole models."
        )
    return Movement(tensors)


def spectrum(change: Tensor) -> tuple[float, float] | None:
    """Effective and stable rank of a matrix; None for zero.

    The effective rank is the exponential of the entropy of the singular values as shares of their
    sum; the stable rank is the squared Frobenius norm by the squared largest singular value.
    Singular values come from the Gram matrix of the smaller side, in double precision.

    Source: Roy and Vetterli, "The effective rank" (2007); Rudelson and Vershynin, "Sampling from
    large matrices" (2007).

    Example:
        >>> [round(rank, 6) for rank in spectrum(torch.diag(torch.tensor([2.0, 2.0, 0.0])))]
        [2.0, 2.0]
    """
    matrix = change.flatten(0, -2)
    narrow = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = torch.zeros(len(narrow), len(narrow), dtype=torch.float64, device=matrix.device)
    for part in narrow.split(_COLUMNS, dim=1):  # double precision of a part at a time
        gram.addmm_(part.double(), part.double().T)
    squares = torch.linalg.eigvalsh(gram).clamp_(min=0)
    if not squares.any():
        return None
    # What the Gram matrix cannot tell from 0 counts as 0.
    squares[squares < squares.max() * len(squares) * torch.finfo(torch.float64).eps] = 0
    shares = squares.sqrt() / squares.sqrt().sum()
    return float(torch.special.entr(shares).sum().exp()), float(squares.sum() / squares.max())


def anatomy(folder: Path, trust_remote_code: bool = False) -> dict[str, tuple[str, str]]:
    """Parameter name to its block and part, for the model in a folder; no weights are read."""
    return _places(skeleton(folder, trust_remote_code))


def skeleton(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model of a folder without its weights, on the device `meta`."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = configuration(folder, trust_remote_code)
    kind, _ = kind_of(config, folder, trust_remote_code)
    cls: Any = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    with torch.device("meta"):
        return cls.from_config(config, trust_remote_code=trust_remote_code)


def _places(model: Any) -> dict[str, tuple[str, str]]:
    # An adapter wraps layers: "q_proj.base_layer.weight" is what was "q_proj.weight".
    def plain(name: str) -> str:
        return name.replace(".base_layer", "").replace(".original_module", "")

    embeddings = [
        (model.get_input_embeddings(), "embedding"), (model.get_output_embeddings(), "head"),
    ]  # fmt: skip
    found: dict[str, tuple[str, str]] = {}
    for name, module in model.named_modules():
        for table, part in embeddings:
            if module is table:
                found.update(
                    {plain(f"{name}.{p}"): ("", part) for p, _ in module.named_parameters()}
                )
    for block, units in blocks(model).items():
        for unit in units:
            for entry in (unit.weight, *unit.biases):
                found.setdefault(plain(entry.parameter), (block, unit.category))
    return found


def _moved(
    name: str, places: dict[str, tuple[str, str]], norm: float, change: Tensor, ranks: bool
) -> Moved:
    block, part = places.get(
        name, ("", "norm" if change.dim() == 1 and "norm" in name else "other")
    )
    moved = _norm(change)
    found = spectrum(change) if ranks and change.dim() > 1 and moved else None
    return Moved(name, block, part, tuple(change.shape), norm, moved, *(found or (None, None)))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.flatten(), dtype=torch.float64))
