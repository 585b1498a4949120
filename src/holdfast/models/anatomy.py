"""The anatomy of transformers: the blocks of a model, and the matrices in each.

Blocks are found by structure: the outermost list of modules of which each maps and some attend.
Within a block the shapes say which matrix leads into and which out of the feed-forward part, and
the words in a name (`q`, `query`, `key_value`) which part of the attention it is. Matrices that
hold several (q, k and v in one; all experts in one) are answered for part by part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from holdfast.errors import UsageError
from holdfast.models.units import Category, Kind, Part, Unit


class Watched(NamedTuple):
    """A linear layer: its name, itself, and the dimension of its weight that counts outputs."""

    name: str
    module: Any
    dim: int


class _Leaf(NamedTuple):
    """A linear layer on the way to becoming units: `into` and `out` are its widths."""

    path: str
    module: nn.Module
    into: int
    out: int
    dim: int


def linears(model: nn.Module) -> list[Watched]:
    """The linear layers of a model, in order: `nn.Linear`, and the `Conv1D` of transformers.

    Example:
        >>> [(w.name, w.dim) for w in linears(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        [('0', 0)]
    """
    named = ((name, module, _output_dim(module)) for name, module in model.named_modules())
    return [Watched(name, module, dim) for name, module, dim in named if dim is not None]


def blocks(model: nn.Module) -> dict[str, tuple[Unit, ...]]:
    """The transformer blocks of a model by name, in order, and the units of each.

    A parameter that several modules share belongs to the first of them. What is neither
    attention, feed-forward nor norm (routers of experts, position biases) has the category
    `"other"`.

    Raises:
        UsageError: If there are none.

    Example:
        >>> layer = nn.Module()
        >>> layer.attn, layer.norm = nn.Module(), nn.LayerNorm(4)
        >>> for name in ("q", "k", "v", "o"):
        ...     setattr(layer.attn, name, nn.Linear(4, 4))
        >>> layer.up, layer.down = nn.Linear(4, 8), nn.Linear(8, 4)
        >>> [unit.kind for unit in blocks(nn.ModuleDict({"h": nn.ModuleList([layer])}))["h.0"]]
        ['q', 'k', 'v', 'o', 'fc1', 'fc2', 'norm']
    """
    config = getattr(model, "config", None)
    found: dict[str, tuple[Unit, ...]] = {}
    stacks: list[str] = []
    taken: set[int] = set()
    for path, module in model.named_modules():
        if any(path.startswith(f"{stack}.") for stack in stacks) or not _is_stack(module):
            continue
        stacks.append(path)
        for index, block in module.named_children():
            name = f"{path}.{index}" if path else index
            found[name] = tuple(_Block(name, block, config, taken).units())
    if not found:
        classes = sorted({type(m).__name__ for m in model.modules() if next(m.children(), None)})
        raise UsageError(
            f"No transformer blocks were found in {type(model).__name__}: accepted is a model with "
            "a list of blocks, each with attention and linear layers; its modules are "
            f"{', '.join(classes) or type(model).__name__}."
        )
    return found


class _Block:
    """One block, taken apart."""

    def __init__(self, name: str, module: nn.Module, config: Any, taken: set[int]) -> None:
        self.name, self.module, self.config, self.taken = name, module, config, taken
        self.hidden: int | None = getattr(config, "hidden_size", None)

    def units(self) -> Iterator[Unit]:
        attention: list[tuple[_Leaf, Category]] = []
        feedforward: dict[str, list[_Leaf]] = {}
        rest: list[Unit] = []
        for path, module in self.module.named_modules():
            own = {
                name: parameter
                for name, parameter in module.named_parameters(recurse=False)
                if id(parameter) not in self.taken
            }
            self.taken.update(map(id, own.values()))
            if not own:
                continue
            dim = _output_dim(module)
            if dim is not None and "weight" in own:
                out, into = own["weight"].shape[dim], own["weight"].shape[1 - dim]
                leaf = _Leaf(path, module, into, out, dim)
                category = self.category(path)
                if category == "feedforward" and self.routes(path):
                    rest.append(self.unit(path, "router", "other", module))
                elif category == "feedforward":
                    feedforward.setdefault(_expert_of(path), []).append(leaf)
                else:
                    attention.append((leaf, category))
            elif any(parameter.dim() == 3 for parameter in own.values()) and "experts" in path:
                rest.extend(self.stacked(path, module))
            elif "weight" in own and all(parameter.dim() == 1 for parameter in own.values()):
                rest.append(self.unit(path, "norm", "norm", module))
            elif "weight" in own and path:
                rest.append(
                    self.unit(path, "router" if self.routes(path) else "other", "other", module)
                )
            else:
                names = [f"{self.name}.{path}.{p}" if path else f"{self.name}.{p}" for p in own]
                rest += [Unit(name, self.name, "other", "other", Part(name)) for name in names]
        for leaf, category in attention:
            yield from self.attending(leaf, category, [other.path for other, _ in attention])
        for expert, leaves in feedforward.items():
            yield from self.feeding(leaves, expert)
        yield from rest

    def unit(
        self,
        path: str,
        kind: Kind,
        category: Category,
        module: nn.Module,
        expert: str = "",
        dim: int = 0,
        share: tuple[int, int, int] | None = None,
    ) -> Unit:
        """A module as a unit; `share`: (offset, width, period) of its outputs that belong to it."""
        name = f"{self.name}.{path}"
        offset, width, period = share or (0, 0, 0)
        has_bias = getattr(module, "bias", None) is not None
        return Unit(
            name=f"{name}[{kind}]" if share else name,
            block=self.name,
            kind=kind,
            category=category,
            weight=Part(f"{name}.weight", None, dim if share else 0, offset, width, period),
            biases=(Part(f"{name}.bias", None, 0, offset, width, period),) if has_bias else (),
            expert=expert,
        )

    def category(self, path: str) -> Category:
        """Whether the module at `path` lies within an attention, and of which kind."""
        for holder, name in _holders(self.module, path):
            words = f"{name} {type(holder).__name__}".lower()
            if "attn" in words or "attention" in words:
                cross = re.search(r"cross|enc_?dec|encoder_att", words)
                return "cross_attention" if cross else "attention"
        return "feedforward"

    def routes(self, path: str) -> bool:
        """Whether the module at `path` stands beside experts, and so decides between them."""
        parent = path.rpartition(".")[0]
        return hasattr(self.module.get_submodule(parent), "experts")

    def attending(self, leaf: _Leaf, category: Category, beside: Sequence[str]) -> Iterator[Unit]:
        kind = _kind_by_words(leaf.path)
        if kind is None:
            parent = leaf.path.rpartition(".")[0]
            split = any(
                _kind_by_words(path) in ("q", "k", "v") and path.startswith(parent)
                for path in beside
            )
            kind = "qkv" if leaf.out > leaf.into and not split else "o"
        shares = self.qkv_shares(leaf) if kind == "qkv" else None
        if shares is None:
            yield self.unit(leaf.path, kind, category, leaf.module)
            return
        for part, share in shares:
            yield self.unit(leaf.path, part, category, leaf.module, dim=leaf.dim, share=share)

    def qkv_shares(self, leaf: _Leaf) -> list[tuple[Kind, tuple[int, int, int]]] | None:
        """Where q, k and v lie in a fused matrix; None where the layout is not known.

        Two layouts are in use: all of q, then k, then v; and, for matrices called
        `query_key_value` and for BigCode without multi-query, one group of query heads with its
        key and value head after another.
        """
        heads = getattr(self.config, "num_attention_heads", None)
        family = getattr(self.config, "model_type", "")
        if heads is None or family == "codegen":  # CodeGen splits over four devices, v before k
            return None
        width = getattr(self.config, "head_dim", None) or (self.hidden or leaf.into) // heads
        groups, odd = divmod(leaf.out - heads * width, 2 * width)
        if odd or groups < 1 or heads % groups:
            return None
        alternating = "query_key_value" in leaf.path or (
            family == "gpt_bigcode" and not getattr(self.config, "multi_query", True)
        )
        q, k = heads * width, groups * width
        period = leaf.out
        if alternating:
            q, k, period = q // groups, width, leaf.out // groups
        return [("q", (0, q, period)), ("k", (q, k, period)), ("v", (q + k, k, period))]

    def feeding(self, leaves: list[_Leaf], expert: str) -> Iterator[Unit]:
        hidden = self.hidden or leaves[0].into
        last = [leaf for leaf in leaves if leaf.out == hidden and leaf.into != hidden] or [
            leaf for leaf in leaves if re.search(r"down|w2$|out", leaf.path)
        ]
        down = last[-1] if last else leaves[-1]
        first = [leaf for leaf in leaves if leaf is not down]
        fused = len(first) == 1 and first[0].out == 2 * down.into
        into: tuple[Kind, ...] = ("gate", "up") if fused or len(first) == 2 else ("fc1",)
        for leaf in leaves:
            width = down.into
            where: tuple[Category, nn.Module, str, int] = (
                "feedforward",
                leaf.module,
                expert,
                leaf.dim,
            )
            if leaf is down:
                yield self.unit(leaf.path, "down" if into[0] == "gate" else "fc2", *where)
            elif fused:
                yield self.unit(leaf.path, "gate", *where, (0, width, leaf.out))
                yield self.unit(leaf.path, "up", *where, (width, width, leaf.out))
            elif len(into) == len(first):
                yield self.unit(leaf.path, into[first.index(leaf)], *where)
            else:
                yield self.unit(leaf.path, "other", *where)

    def stacked(self, path: str, module: nn.Module) -> Iterator[Unit]:
        """The units of experts that are stored in one tensor, `[experts, out, in]` or its turn."""
        own = dict(module.named_parameters(recurse=False))
        turned = bool(getattr(module, "is_transposed", False))
        for name, tensor in own.items():
            if tensor.dim() != 3:
                continue
            dim = 2 if turned else 1
            gated = any("gate" in other for other in own)
            shares: list[tuple[Kind, tuple[int, int, int]]]
            if "gate_up" in name:
                half = tensor.shape[dim] // 2
                apart = getattr(module, "is_concatenated", True)
                width, period = (half, 2 * half) if apart else (1, 2)
                shares = [("gate", (0, width, period)), ("up", (width, width, period))]
            elif "down" in name:
                shares = [("down" if gated else "fc2", (0, 0, 0))]
            elif "gate" in name:
                shares = [("gate", (0, 0, 0))]
            else:
                shares = [("up" if gated else "fc1", (0, 0, 0))]
            for expert in range(tensor.shape[0]):
                for kind, share in shares:
                    full = f"{self.name}.{path}.{name}"
                    biases = [
                        Part(f"{self.name}.{path}.{bias}", expert, 1, *share)
                        for bias in (f"{name}_bias", f"{name}.bias")
                        if bias in own
                    ]
                    yield Unit(
                        f"{full}[{expert}][{kind}]",
                        self.name,
                        kind,
                        "feedforward",
                        Part(full, expert, dim, *share),
                        tuple(biases),
                        f"{path}.{expert}",
                    )


def _is_stack(module: nn.Module) -> bool:
    """Whether a list of modules is one of blocks: all have linear layers, and some attend."""
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or not len(module):
        return False
    children = list(module)
    return all(_maps(child) for child in children) and any(_attends(child) for child in children)


def _maps(module: nn.Module) -> bool:
    return any(_output_dim(m) is not None for m in module.modules())


def _attends(block: nn.Module) -> bool:
    """Whether a module has linear layers within an attention, and others beside it."""
    taken = _Block("", block, None, set())
    categories = {
        taken.category(path)
        for path, module in block.named_modules()
        if path and (_output_dim(module) is not None or "experts" in path)
    }
    return "attention" in categories and "feedforward" in categories


def _output_dim(module: nn.Module) -> int | None:
    """Which dimension of a linear layer's weight counts its outputs; None of another module."""
    if isinstance(module, nn.Linear):
        return 0
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return 1
    return None


def _holders(block: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    """The modules on the way from a block to the parent of `path`, with their names."""
    holder = block
    for name in path.split(".")[:-1]:
        holder = holder.get_submodule(name)
        yield holder, name


def _kind_by_words(path: str) -> Kind | None:
    """What the last name of a path says of a matrix of an attention, if it says anything."""
    words = re.split(r"[_\d]+", path.rpartition(".")[2].lower())
    said = {word[0] for word in words if word in ("q", "k", "v", "query", "key", "value")}
    if {"q", "k", "v"} <= said or any(word.endswith("qkv") for word in words):
        return "qkv"
    if {"k", "v"} <= said or "kv" in words:
        return "kv"
    kinds: tuple[Kind, ...] = ("q", "k", "v")
    for kind in kinds:
        if kind in said or f"w{kind}" in words:
            return kind
    return None


def _expert_of(path: str) -> str:
    """The name of the expert that a module belongs to; empty for none."""
    found = re.search(r"^(.*experts\.\d+|.*shared_experts?|.*shared_mlp)(\.|$)", path)
    return found.group(1) if found else ""
