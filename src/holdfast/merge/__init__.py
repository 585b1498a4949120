"""Arithmetic on weights: rules of merging, merged checkpoints, paths between them.

Example:
    >>> from holdfast.merge import merge_states
    >>> import torch
    >>> merge_states("average", [{"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}])["w"]
    tensor([2.])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.merge.catalogue import RULES, Rule, build
    from holdfast.merge.checkpoints import Merged, merge, soup
    from holdfast.merge.states import merge_states

__all__ = ["RULES", "Merged", "Rule", "build", "merge", "merge_states", "soup"]

_HOME = {
    "RULES": "catalogue",
    "Rule": "catalogue",
    "build": "catalogue",
    "merge_states": "states",
    "Merged": "checkpoints",
    "merge": "checkpoints",
    "soup": "checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"holdfast.merge.{_HOME[name]}"), name)
    raise AttributeError(f"module 'holdfast.merge' has no attribute {name!r}")
