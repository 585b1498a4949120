"""Training the last layers of a network alone, as EU-k and CF-k do."""

from __future__ import annotations

from torch import nn

from holdfast.errors import UsageError
from holdfast.models.layers import last_layers, norms


class LastLayers:
    """Freezes everything but the last k layers, and what was not frozen before thaws again.

    Args:
        k: Linear or convolutional layers that are trained.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.layers: list[nn.Module] = []
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    def refusal(self, model: nn.Module) -> str | None:
        """Why a model cannot be trained so, as a sentence."""
        try:
            last_layers(model, self.k)
        except UsageError as few:
            return str(few)
        return None

    def freeze_others(self, model: nn.Module) -> None:
        """Take all parameters but those of the last layers out of training."""
        self.thaw()
        self.layers = last_layers(model, self.k)
        self._norms = norms(model, self.layers)
        trained = {id(p) for layer in self.layers for p in layer.parameters(recurse=False)}
        self._frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in trained]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None

    def hold_norms(self) -> None:
        """Have frozen norms use, and keep, the statistics they have."""
        if any(norm.training for norm in self._norms):
            for norm in self._norms:
                norm.eval()

    def thaw(self) -> None:
        """Let everything be trained again that was before."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
