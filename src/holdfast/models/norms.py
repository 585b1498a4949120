"""Normalisation layers: which there are, and statistics of the batch in place of the model's own.

A model with batch normalisation carries the mean and variance of its training data. At test time
the batch at hand tells of the present data: `use_batch_statistics` has every such layer take them
from there, in training and in evaluation mode alike. `fix_statistics` does the opposite: the
model's own serve in training too, and never change. Layer, group and RMS normalisation know no such
difference and are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from holdfast.errors import UsageError


class BatchStatistics(nn.Module):
    """A batch normalisation that takes its statistics from the batch, or mixes them with its own.

        mean = prior / (prior + n) mean_own + n / (prior + n) mean_batch,   and so the variance

    with n the examples of the batch. It holds the parameters and buffers of the layer that it
    stands for, under the same names, and changes no buffer.

    Args:
        layer: A batch normalisation of any dimension.
        prior: Examples that the layer's own statistics count for; 0: they count for nothing.
    """

    def __init__(self, layer: nn.Module, prior: float = 0.0) -> None:
        super().__init__()
        assert isinstance(layer, _BatchNorm)
        self.eps, self.prior, self.by_batch = layer.eps, prior, True
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        own = self.running_mean, self.running_var
        if not self.by_batch and own[0] is not None:
            return F.batch_norm(x, *own, self.weight, self.bias, False, 0.0, self.eps)
        if x.numel() == x.shape[1]:
            raise UsageError(
                "A single value a channel has no statistics of its own: batch normalisation at "
                "test time needs batches of more than one example."
            )
        if not self.prior:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        mean, variance = self.mixed(x)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        normal = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal

    def mixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance by channel, the layer's own mixed with the batch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        dims = [dim for dim in range(x.dim()) if dim != 1]
        variance, mean = torch.var_mean(x, dims, correction=0)
        share = len(x) / (len(x) + self.prior)
        return self.running_mean.lerp(mean, share), self.running_var.lerp(variance, share)

    def extra_repr(self) -> str:
        return f"prior={self.prior:g}"


def use_batch_statistics(model: nn.Module, prior: float = 0.0) -> int:
    """Have every batch normalisation take its statistics from the batch; in place.

    Parameters, buffers and their names stay. A model where that is so already keeps it, with the
    new prior.

    Args:
        model: Any module.
        prior: As for `BatchStatistics`.

    Returns:
        How many layers there are.

    Raises:
        UsageError: If the prior is negative, or asks for statistics that a layer does not keep.
    """
    if not prior >= 0:
        raise UsageError(f"prior must be at least 0; given: {prior}.")
    count = 0
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, BatchStatistics):
                layer.prior = prior
            elif isinstance(layer, _BatchNorm):
                layer = BatchStatistics(layer, prior)
                setattr(owner, name, layer)
            else:
                continue
            if prior and layer.running_mean is None:
                raise UsageError(f"{name} keeps no statistics of its own, so prior must be 0.")
            count += 1
    return count


class FixedStatistics(nn.Module):
    """A batch normalisation that goes by its own statistics in training too, and keeps them.

    It holds the parameters and buffers of the layer that it stands for, under the same names.

    Args:
        layer: A batch normalisation of any dimension.

    Raises:
        UsageError: If the layer keeps no statistics.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, _BatchNorm)
        if layer.running_mean is None:
            raise UsageError("A batch normalisation that keeps no statistics cannot go by its own.")
        self.eps = layer.eps
        self.weight, self.bias = layer.weight, layer.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        own = self.get_buffer("running_mean"), self.get_buffer("running_var")
        return F.batch_norm(x, *own, self.weight, self.bias, False, 0.0, self.eps)


def fix_statistics(model: nn.Module) -> int:
    """Have every batch normalisation go by its own statistics in training too; in place.

    Parameters, buffers and their names stay.

    Returns:
        How many layers there are.

    Raises:
        UsageError: If a layer keeps no statistics.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2))
        >>> fix_statistics(model)
        1
        >>> model.train()(torch.tensor([[4.0, 8.0], [4.0, 8.0]])).round().tolist()
        [[4.0, 8.0], [4.0, 8.0]]
    """
    count = 0
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            if isinstance(layer, _BatchNorm):
                setattr(owner, name, FixedStatistics(layer))
            count += isinstance(layer, _BatchNorm | FixedStatistics)
    return count


def by_batch(model: nn.Module) -> bool:
    """Whether what a model answers to an example depends on its batch."""
    return any(isinstance(part, BatchStatistics) and part.by_batch for part in model.modules())


@contextmanager
def own_statistics(model: nn.Module) -> Iterator[None]:
    """Inside it, batch normalisation goes by the model's own statistics again."""
    switched = [p for p in model.modules() if isinstance(p, BatchStatistics) and p.by_batch]
    for part in switched:
        part.by_batch = False
    try:
        yield
    finally:
        for part in switched:
            part.by_batch = True


def running(model: nn.Module) -> Iterator[Tensor]:
    """The running means and variances of all batch normalisations."""
    for layer in model.modules():
        if isinstance(layer, (_NormBase, BatchStatistics)) and layer.running_mean is not None:
            assert layer.running_var is not None
            yield layer.running_mean
            yield layer.running_var


def affine(model: nn.Module) -> dict[str, nn.Parameter]:
    """Scales and shifts of all normalisation layers by name; empty where there are none."""
    kinds = (_NormBase, BatchStatistics, FixedStatistics, nn.LayerNorm, nn.GroupNorm)
    found: dict[str, nn.Parameter] = {}
    for prefix, layer in model.named_modules():
        if isinstance(layer, kinds) or type(layer).__name__.endswith("RMSNorm"):
            for name, parameter in layer.named_parameters(prefix, recurse=False):
                found[name] = parameter
    return found
