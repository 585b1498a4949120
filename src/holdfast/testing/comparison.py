"""Whether two runs ended with the same bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.evaluation import Record
from holdfast.learner import Learner


class ContractError(AssertionError):
    """A method does not keep the contract; the message says which part and how."""


def require_same(one: Learner, other: Learner, what: str) -> None:
    for name, a, b in (
        ("weights", one.model.state_dict(), other.model.state_dict()),
        ("method state", one.method.state_dict(), other.method.state_dict()),
        ("records", _without_clock(one.record), _without_clock(other.record)),
    ):
        if set(a) != set(b):
            raise ContractError(f"{what} end with different {name}: {set(a) ^ set(b)}.")
        for key in a:
            if not equal(a[key], b[key]):
                raise ContractError(f"{what} end with different {name}: {key}.")


def _without_clock(record: Record) -> dict[str, Any]:
    """The record less what may differ between equal runs."""
    state = record.to_dict()
    for measured in ("seconds", "apart_seconds", "peak_memory_bytes"):
        state["cost"].pop(measured, None)
    return state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))
    return bool(_plain(a) == _plain(b))


def _bits(tensor: Tensor) -> Tensor:
    """For comparison bit by bit: NaN equals NaN."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _plain(value: Any) -> Any:
    """Tuples as lists: JSON does not tell them apart."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def holds_tensor(value: Any) -> bool:
    if isinstance(value, Table):
        return True
    if isinstance(value, Mapping):
        return any(holds_tensor(item) for item in value.values())
    if isinstance(value, Iterable) and not isinstance(value, (str, Tensor, nn.Module)):
        return isinstance(value, Sized) and any(holds_tensor(item) for item in value)
    return isinstance(value, Tensor)
