"""Layers of a network in their order: made anew, or the last ones trained alone."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.errors import UsageError
from holdfast.models.frozen import Frozen


def leaves(model: nn.Module) -> list[nn.Module]:
    """The modules that hold parameters of their own, in the order in which they were defined.

    Those of a frozen backbone are left out.
    """
    still = {id(m) for held in model.modules() if isinstance(held, Frozen) for m in held.modules()}
    return [
        m
        for m in model.modules()
        if id(m) not in still and any(True for _ in m.parameters(recurse=False))
    ]


def reinitialise(*modules: nn.Module, xavier: bool = False) -> None:
    """Draw parameters anew, as PyTorch draws them at first, from its global random state.

    Args:
        modules: In all their parts.
        xavier: Whether weights of linear and convolutional layers are drawn uniformly as Glorot and
            Bengio (2010) do, their biases zero.

    Raises:
        UsageError: If a part cannot draw its parameters; see `stubborn`.
    """
    parts = [part for module in modules for part in leaves(module)]
    for part in parts:
        if not hasattr(part, "reset_parameters"):
            raise UsageError(stubborn(part) or "")
    for part in parts:
        part.reset_parameters()  # type: ignore[operator]
        if xavier and isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def stubborn(model: nn.Module) -> str | None:
    """Why a model cannot be drawn anew, as a sentence; None if it can."""
    for part in leaves(model):
        if not hasattr(part, "reset_parameters"):
            return (
                f"{type(part).__name__} has weights and no reset_parameters(), by which they could "
                "be drawn anew: give it one."
            )
    return None


def last_layers(model: nn.Module, k: int) -> list[nn.Module]:
    """The last k linear or convolutional layers, and what holds parameters between and after them.

    Args:
        model: Whose modules are defined in the order of their use.
        k: At least 1.

    Raises:
        UsageError: If there are fewer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(8, 2))
        >>> [type(layer).__name__ for layer in last_layers(net, 2)]
        ['Conv2d', 'BatchNorm2d', 'Linear']
    """
    parts = leaves(model)
    counted = [at for at, part in enumerate(parts) if _counts(part)]
    if k > len(counted):
        raise UsageError(
            f"k must be at most the {len(counted)} linear or convolutional layers of the model; "
            f"given: {k}."
        )
    return parts[counted[-k] :]


def norms(model: nn.Module, but: list[nn.Module]) -> list[nn.Module]:
    """The batch normalisations outside some layers: frozen layers' statistics must stay, too."""
    inside = {id(part) for part in but}
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and id(m) not in inside]


def _counts(part: nn.Module) -> bool:
    """Whether it is a layer: has a weight matrix or kernels, which norms and scales have not."""
    weight = getattr(part, "weight", None)
    return weight is not None and weight.dim() >= 2 and not isinstance(part, nn.Embedding)
