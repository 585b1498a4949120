"""One tensor for every parameter of a model: anchors, importances, initial values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.memory.remembers import Remembers
from holdfast.optim.carry import grown


@dataclass
class _Asked:
    """What was asked for last, and the answer: a shortcut, forgotten when tensors move."""

    named: Sequence[tuple[str, Tensor]]
    answer: list[Tensor]


class ParameterStore(Remembers):
    """Tensors kept beside a model's parameters, by name.

    A parameter that has grown since (a head with new rows) finds its tensor padded with zeros, so
    that new rows have no importance and no anchor.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> store = ParameterStore()
        >>> store.put(layer.named_parameters())
        >>> [tuple(t.shape) for t in store.get(list(layer.named_parameters()))]
        [(1, 2), (1,)]
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked: _Asked | None = None

    def put(
        self, named: Iterable[tuple[str, Tensor]], tensors: Sequence[Tensor] | None = None
    ) -> None:
        """Keep copies of parameters, or of one tensor for each of them.

        They take the place of what was kept under their names.

        Args:
            named: Parameters by name.
            tensors: To be kept for them, in order; None: the parameters themselves.
        """
        for place, (name, parameter) in enumerate(named):
            tensor = parameter if tensors is None else tensors[place]
            self.register_buffer(_key(name), tensor.detach().clone())
        self._asked = None

    def holds(self, name: str) -> bool:
        """Whether a tensor has been kept under a parameter's name."""
        return self._buffers.get(_key(name)) is not None

    def get(self, named: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
        """The tensors kept for these parameters, in order, in the parameters' present shapes.

        Asking again with the same list (`learner.named`) costs nothing.
        """
        if self._asked is None or self._asked.named is not named:
            answer = [self._fitting(name, parameter) for name, parameter in named]
            self._asked = _Asked(named, answer)
        return self._asked.answer

    def _fitting(self, name: str, parameter: Tensor) -> Tensor:
        kept = self._buffers.get(_key(name))
        if kept is None:
            kept = torch.zeros_like(parameter)
        self.register_buffer(_key(name), grown(kept, parameter.shape).detach())
        return self.get_buffer(_key(name))

    def __bool__(self) -> bool:
        return any(tensor is not None for tensor in self._buffers.values())

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._asked = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._asked = None
        super()._load_from_state_dict(*args, **kwargs)


def _key(name: str) -> str:
    """Buffer names may not hold dots."""
    return name.replace(".", "/")
