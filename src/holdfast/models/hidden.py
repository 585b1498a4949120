"""What the hidden units of a backbone answer, kept while a batch passes through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from holdfast.models.gates import plan


class Hidden:
    """Looks at the outputs of every activation of a backbone, where `models.gates` finds places.

    It sees nothing but what passes within `watching`, or between `open` and `close`; of
    several passes, the latest.

    Args:
        backbone: Of a kind that `models.gates.plan` takes.

    Attributes:
        units: Hidden units, or channels, of each place, in the order of the pass.

    Raises:
        UsageError: If `plan` does not take the backbone.

    Example:
        >>> import torch
        >>> backbone = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU())
        >>> hidden = Hidden(backbone)
        >>> with hidden.watching():
        ...     _ = backbone(torch.zeros(5, 2))
        ...     [tuple(found.shape) for found in hidden.take()]
        [(5, 3), (5, 4)]
        >>> hidden.remove()
    """

    def __init__(self, backbone: nn.Module) -> None:
        places = plan(backbone).places
        self.units = [units for _, _, units in places]
        layers = {id(layer): layer for owner, name, _ in places for layer in [getattr(owner, name)]}
        self._seen: list[Tensor] = []
        self._open = False

        # Functions, not methods: a copy of the model keeps them as they are, and copies no tensor.
        def start(module: nn.Module, inputs: Any) -> None:
            if self._open and module is backbone:
                self._seen = []

        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._open and layers.get(id(module)) is module:
                self._seen.append(output)

        self._handles: list[Any] = [backbone.register_forward_pre_hook(start)]
        self._handles += [layer.register_forward_hook(note) for layer in layers.values()]

    def open(self) -> None:
        """Look from now on."""
        self._open = True

    def close(self) -> None:
        """Look no more; what was seen stays until it is taken."""
        self._open = False

    def take(self) -> list[Tensor]:
        """What every place answered in the latest pass that was looked at; looking ends."""
        seen, self._seen, self._open = self._seen, [], False
        return seen

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it passes are looked at."""
        self.open()
        try:
            yield
        finally:
            self.take()

    def remove(self) -> None:
        """Take all hooks off the backbone."""
        self.take()
        for handle in self._handles:
            handle.remove()
        self._handles = []
