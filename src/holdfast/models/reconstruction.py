"""A bank of small autoencoders, one an experience, that tell by how well they reconstruct."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from holdfast.memory.remembers import Remembers

BATCH = 100
"""Examples a step."""


class Autoencoders(Remembers):
    """Undercomplete autoencoders of one hidden layer, trained one after another.

        z_hat = sigmoid(V relu(W z + b) + c),  trained by the cross-entropy between z and z_hat

    for z from 0 to 1. All lie in one tensor, so that an example is shown to all at once.

    Args:
        epochs: Passes over the examples of each.
        rate: Learning rate of Adagrad.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> bank = Autoencoders(epochs=40, rate=0.1)
        >>> low, high = torch.full((100, 6), 0.2), torch.full((100, 6), 0.9)
        >>> bank.learn(low, 2, generator), bank.learn(high, 2, generator)
        (None, None)
        >>> bank.errors(torch.full((1, 6), 0.8)).argmin(1).tolist()
        [1]
    """

    inward: Tensor | None
    outward: Tensor | None

    def __init__(self, epochs: int, rate: float) -> None:
        super().__init__()
        self.epochs, self.rate = epochs, rate
        self.register_buffer("inward", None)  # [autoencoders, numbers + 1, code]: W, b
        self.register_buffer("outward", None)  # [autoencoders, code + 1, numbers]: V, c

    def __len__(self) -> int:
        return 0 if self.inward is None else len(self.inward)

    def learn(
        self, z: Float[Tensor, "examples numbers"], code: int, generator: torch.Generator
    ) -> None:
        """Train one more autoencoder.

        Args:
            z: What it is to reconstruct.
            code: Hidden units, fewer than numbers in z, and as many as the others have.
            generator: Draws its first weights and the order of the examples.
        """
        numbers = z.shape[1]
        weights = [
            _drawn(numbers, code, generator).requires_grad_(),
            _drawn(code, numbers, generator).requires_grad_(),
        ]
        optimizer = torch.optim.Adagrad(weights, lr=self.rate)
        for _ in range(self.epochs):
            order = torch.randperm(len(z), generator=generator, device=generator.device)
            for rows in order.split(BATCH):
                optimizer.zero_grad()
                with torch.enable_grad():
                    logits = _through(z[rows], *weights)
                    F.binary_cross_entropy_with_logits(logits, z[rows]).backward()
                optimizer.step()
        inward, outward = (weight.detach()[None] for weight in weights)
        if self.inward is not None and self.outward is not None:
            inward = torch.cat([self.inward, inward])
            outward = torch.cat([self.outward, outward])
        self.inward, self.outward = inward, outward

    def errors(
        self, z: Float[Tensor, "examples numbers"]
    ) -> Float[Tensor, "examples autoencoders"]:
        """Squared distance between every example and what each autoencoder makes of it."""
        assert self.inward is not None
        assert self.outward is not None
        made = _through(z, self.inward, self.outward).sigmoid()
        return (made - z).square().sum(-1).T


def _through(z: Tensor, inward: Tensor, outward: Tensor) -> Tensor:
    """Logits of the reconstruction, by one autoencoder or by each of several."""
    code = torch.relu(z @ inward[..., :-1, :] + inward[..., -1:, :])
    return code @ outward[..., :-1, :] + outward[..., -1:, :]


def _drawn(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    """Weights at random, and a last row of biases, which are 0."""
    device = generator.device
    weight = torch.randn(inputs, outputs, generator=generator, device=device) / math.sqrt(inputs)
    return torch.cat([weight, weight.new_zeros(1, outputs)])
