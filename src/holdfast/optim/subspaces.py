"""Where the inputs of a model's layers have been: an orthonormal basis a layer, which grows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.memory.remembers import Remembers


def extended(
    basis: Float[Tensor, "features rank"] | None,
    columns: Float[Tensor, "features columns"],
    energy: float,
) -> Float[Tensor, "features larger"]:
    """The basis with the fewest directions added that let it hold enough of the columns.

    With R the columns and M the basis, U and s the left singular vectors and values of R - MM'R:
    the first k of U are added, with k the smallest for which

        |MM'R|^2 + s_1^2 + ... + s_k^2 >= energy |R|^2.

    Args:
        basis: Orthonormal columns, which stay as they are; None: none yet.
        columns: R; what entered a layer, a column each, or any matrix S with SS' = RR'.
        energy: Share of |R|^2, from 0 to 1. Directions that single precision does not tell from
            none are not added even at 1.

    Source: Saha et al., "Gradient projection memory for continual learning" (2021), eq. 5 and 9.

    Example:
        >>> inputs = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> [extended(None, inputs, energy).shape[1] for energy in (0.9, 0.91, 1.0)]
        [1, 2, 2]
    """
    r = columns.double()
    held = r.new_zeros(len(r), 0) if basis is None else torch.linalg.qr(basis.double())[0]
    rest = r - held @ (held.T @ r)
    total = r.square().sum()
    directions, values, _ = torch.linalg.svd(rest, full_matrices=False)
    share = total - rest.square().sum() + values.square().cumsum(0)
    before = torch.cat([(total - rest.square().sum()).view(1), share])[:-1]
    told = values > torch.finfo(torch.float32).eps * total.sqrt()
    added = directions[:, (before < energy * total) & told].to(columns)
    return added if basis is None else torch.cat([basis, added], 1)


class Subspaces(Remembers):
    """A basis for each of some layers, by the layer's name.

    Example:
        >>> spaces = Subspaces()
        >>> spaces.extend("layer", torch.tensor([[1.0], [0.0]]), energy=0.95)
        >>> spaces.extend("layer", torch.tensor([[1.0], [0.1]]), energy=0.95)
        >>> spaces.ranks
        {'layer': (1, 2)}
    """

    def basis(self, name: str) -> Float[Tensor, "features rank"] | None:
        """Orthonormal columns; None where nothing is kept."""
        return self._buffers.get(_key(name))

    def put(self, name: str, basis: Float[Tensor, "features rank"]) -> None:
        """Keep a basis in place of the layer's own."""
        self.register_buffer(_key(name), basis)

    def extend(self, name: str, columns: Float[Tensor, "features columns"], energy: float) -> None:
        """Let a layer's basis hold this share of the columns, as `extended` does."""
        self.put(name, extended(self.basis(name), columns, energy))

    @property
    def ranks(self) -> Mapping[str, tuple[int, int]]:
        """Directions held of those that there are, by layer."""
        held = {name: b for name, b in self._buffers.items() if b is not None}
        return {name.replace("/", "."): (b.shape[1], len(b)) for name, b in held.items()}

    def __bool__(self) -> bool:
        return any(basis is not None for basis in self._buffers.values())


def _key(name: str) -> str:
    """Buffer names may not hold dots."""
    return name.replace(".", "/")
