"""Memory by experience: an equal share each, side by side."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.data import Batch, size
from holdfast.memory.columns import Columns


class Shares(Columns):
    """A few examples of every experience, in columns `[experiences, share, ...]`.

    Each part is a uniform sample of its experience, however often the shares shrink. Where one
    experience has fewer rows than another, its part is filled up with copies that weigh nothing.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> shares = Shares()
        >>> shares.add({"x": torch.arange(10.0)}, 4, generator)
        >>> shares.add({"x": torch.arange(10.0, 20.0)}, 2, generator)
        >>> shares.held["x"].shape, bool((shares.held["x"][1] >= 10).all())
        (torch.Size([2, 2]), True)
    """

    remembers = ("counts",)

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __len__(self) -> int:
        """Experiences remembered."""
        return len(self.counts)

    @property
    def weights(self) -> Float[Tensor, "experiences share"]:
        """Of every row in the mean of its experience; 0 for copies."""
        return self.get_buffer("share")

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Draw rows of all experiences without replacement: `count`, or all if fewer are stored."""
        rows = self.weights.flatten().nonzero().flatten()
        drawn = torch.randperm(len(rows), generator=generator, device=generator.device)[:count]
        return {name: part.flatten(0, 1)[rows[drawn]] for name, part in self.held.items()}

    def add(self, batch: Batch, share: int, generator: torch.Generator) -> None:
        """Store another experience, and let every experience have at most `share` rows.

        Args:
            batch: Columns of the experience's rows, all of them.
            share: Rows, at least 1.
            generator: Draws which; on the batch's device.
        """
        drawn = torch.randperm(size(batch), generator=generator, device=generator.device)[:share]
        held = self.held
        self.counts = [min(count, share) for count in self.counts] + [len(drawn)]
        width = max(self.counts)
        for name in held or batch:
            part = _filled(batch[name].index_select(0, drawn)[None], width)
            if held:
                part = torch.cat([_filled(held[name], width), part])
            self.keep(name, part)
        counts = torch.tensor(self.counts, device=drawn.device)[:, None]
        real = torch.arange(width, device=drawn.device) < counts
        self.register_buffer("share", real / counts)


def _filled(part: Tensor, width: int) -> Tensor:
    """The first `width` rows of every part, with copies of the first one where there are fewer."""
    missing = width - part.shape[1]
    if missing <= 0:
        return part[:, :width]
    return torch.cat([part, part[:, :1].expand(-1, missing, *part.shape[2:])], 1)
