"""Rows kept column by column, as part of a module's state."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from holdfast.data import Batch
from holdfast.memory.remembers import Remembers

_PREFIX = "column_"


class Columns(Remembers):
    """A memory of rows: tensors by the names of columns, saved and restored with the module.

    Example:
        >>> import torch
        >>> memory = Columns()
        >>> memory.keep("x", torch.zeros(3, 2))
        >>> list(memory.held), list(memory.state_dict())
        (['x'], ['column_x', '_extra_state'])
    """

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}  # of buffers, by column

    def keep(self, name: str, rows: Tensor | None) -> None:
        """Have this tensor as a column, in place of what the column was; None: have it no more."""
        self.register_buffer(_PREFIX + name, rows)

    @property
    def held(self) -> Batch:
        """The tensors themselves, by column."""
        tensors: Any = self._buffers
        return {name: tensors[known] for name, known in self._names.items()}

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Every way by which a column comes or goes, restoring included."""
        super().register_buffer(name, tensor, persistent)
        self._names = {
            known.removeprefix(_PREFIX): known
            for known, held in self._buffers.items()
            if known.startswith(_PREFIX) and held is not None
        }
