"""State that appears, grows and is restored exactly."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

from torch import Tensor, nn


class Remembers(nn.Module):
    """A module whose memory may appear and change shape as a stream goes by.

    Tensors registered as buffers (also those registered as `None` at first) are part of the state
    dict; loading one that has appeared, or that has another shape, adopts it. Plain attributes
    named in `remembers` (numbers, strings, lists and dictionaries of them) travel along.
    """

    remembers: ClassVar[tuple[str, ...]] = ()

    def get_extra_state(self) -> dict[str, Any]:
        return {name: deepcopy(getattr(self, name)) for name in self.remembers}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, deepcopy(value))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for key, value in state_dict.items():
            name = key[len(prefix) :]
            if not key.startswith(prefix) or "." in name or not isinstance(value, Tensor):
                continue
            if name in self._parameters:
                continue
            held = self._buffers.get(name)
            if held is None or held.shape != value.shape or held.dtype != value.dtype:
                device = held.device if held is not None else value.device
                self.register_buffer(name, value.detach().clone().to(device))
        for name in [n for n, b in self._buffers.items() if b is not None]:
            if prefix + name not in state_dict:
                self.register_buffer(name, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
