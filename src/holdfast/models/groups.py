"""Modules of a network by kind and depth: which weights belong together.

A group has a name such as `convolution-1`, `norm-3` or `head`: what its layers do, and how deep in
the network they lie. Depth counts residual or transformer blocks, and layers outside of them; what
belongs to a layer (its normalisation) has the layer's depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast.errors import UsageError, unknown
from holdfast.models.norms import affine

ATTENTION = ("attn", "attention")
SHORTCUT = ("shortcut", "downsample")


@dataclass
class Group:
    """Weights that are trained or frozen together.

    Attributes:
        parameters: By name, as in `named_parameters`.
        layers: The batch normalisations among them, whose running statistics belong to the group.
    """

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    layers: list[nn.Module] = field(default_factory=list)

    @property
    def weights(self) -> int:
        """How many numbers are trained in it."""
        return sum(p.numel() for p in self.parameters.values() if p.requires_grad)


Grouping = Callable[[nn.Module], dict[str, Group]]
"""From a model to its groups by name, in the order of its layers."""


def by_kind_and_depth(model: nn.Module) -> dict[str, Group]:
    """Groups of all weights: convolutions, shortcuts, linear layers, attention, normalisations,
    embeddings, by depth; and the head.

    Args:
        model: Whose layers are defined in the order of their use.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)
        ... )
        >>> {name: group.weights for name, group in by_kind_and_depth(net).items()}
        {'convolution-1': 20, 'norm-1': 4, 'head': 18}
    """
    head, normal = _head(model), affine(model)
    blocks = _blocks(model)
    groups: dict[str, Group] = {}
    seen: set[int] = set()
    depth, block = 0, ""
    for prefix, layer in model.named_modules():
        own = dict(layer.named_parameters(prefix, recurse=False))
        own = {name: p for name, p in own.items() if id(p) not in seen}
        if not own:
            continue
        seen |= {id(p) for p in own.values()}
        kind = _kind(prefix, layer, any(name in normal for name in own))
        around = next((b for b in blocks if prefix == b or prefix.startswith(f"{b}.")), "")
        if head and (prefix == head or prefix.startswith(f"{head}.")):
            name = "head"
        elif kind in ("embedding", "other"):
            name = kind
        else:
            if around != block or (not around and kind != "norm"):
                depth += 1
            block = around
            name = f"{kind}-{depth}"
        group = groups.setdefault(name, Group())
        group.parameters.update(own)
        if isinstance(layer, _BatchNorm):
            group.layers.append(layer)
    return groups


def chosen(groups: dict[str, Group], wanted: Sequence[str]) -> list[str]:
    """Names of the groups that are meant: by their own name, or all of a kind.

    Raises:
        UsageError: If a name means none, or if there is no name.

    Example:
        >>> chosen({"norm-1": Group(), "norm-2": Group(), "head": Group()}, ["head", "norm"])
        ['norm-1', 'norm-2', 'head']
    """
    if not wanted:
        raise UsageError(f"No module is named; there are: {', '.join(groups)}.")
    for name in wanted:
        if not any(_means(name, group) for group in groups):
            raise unknown("module", name, groups)
    return [group for group in groups if any(_means(name, group) for name in wanted)]


def _means(name: str, group: str) -> bool:
    return name in (group, group.rpartition("-")[0])


def _kind(path: str, layer: nn.Module, normal: bool) -> str:
    words = path.lower()
    weight = getattr(layer, "weight", None)
    if normal:
        return "norm"
    if any(word in words for word in SHORTCUT):
        return "shortcut"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    if isinstance(weight, nn.Parameter) and weight.dim() > 2:
        return "convolution"
    if any(word in words for word in ATTENTION):
        return "attention"
    if isinstance(weight, nn.Parameter) and weight.dim() == 2:
        return "linear"
    return "other"


def _blocks(model: nn.Module) -> list[str]:
    """Paths of what is repeated: children of a list or sequence that have parts and a like."""
    found: list[str] = []
    for path, stack in model.named_modules():
        if not isinstance(stack, (nn.Sequential, nn.ModuleList)):
            continue
        if any(path == b or path.startswith(f"{b}.") for b in found):
            continue
        kinds = [type(child) for child in stack]
        for name, child in stack.named_children():
            if kinds.count(type(child)) > 1 and any(True for _ in child.children()):
                found.append(f"{path}.{name}" if path else name)
    return found


def _head(model: nn.Module) -> str:
    """The path of what makes outputs of features; empty where nothing is seen to."""
    if isinstance(getattr(model, "head", None), nn.Module):
        return "head"
    output = getattr(model, "get_output_embeddings", lambda: None)()
    layers = [(name, part) for name, part in model.named_modules()]
    if output is not None:
        return next((name for name, part in layers if part is output), "")
    linear = [name for name, part in layers if isinstance(part, nn.Linear)]
    return linear[-1] if linear else ""
