"""Backbones of the field's usual experiments, from inputs to feature vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.errors import UsageError, unknown

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class MLP(nn.Sequential):
    """Fully connected layers.

    Args:
        inputs: Number of values in one input, whatever its shape.
        width: Units a hidden layer.
        depth: Hidden layers.
        activation: After each: `relu`, `tanh` or `gelu`.
        dropout: Share of each hidden layer's units that is dropped in training.

    Raises:
        UsageError: If there is no such activation, or if the share is not in 0..1 (exclusive).
    """

    def __init__(
        self,
        inputs: int,
        width: int = 256,
        depth: int = 2,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1; given: {dropout}.")
        layers: list[nn.Module] = [nn.Flatten()]
        for layer in range(depth):
            layers += [nn.Linear(inputs if layer == 0 else width, width), ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.width = width if depth else inputs


def channels_last(
    x: Float[Tensor, "examples channels height width"],
) -> Float[Tensor, "examples channels height width"]:
    """The same images, a pixel's channels side by side in memory.

    Convolutions keep this order and are faster in it: on a CPU by a third in training and by half
    in evaluation. `Tensor.contiguous` is no way there: it leaves images of one channel as they are,
    and `torch.func.vmap` refuses it.
    """
    return x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


class MapMeans(nn.Module):
    """The mean of every map."""

    def forward(
        self, maps: Float[Tensor, "examples width height across"]
    ) -> Float[Tensor, "examples width"]:
        return maps.mean((2, 3))


class CNN(nn.Module):
    """Two or more 3x3 convolutions with batch normalisation, ReLU and pooling, then the mean.

    Args:
        channels: Of the input.
        width: Maps of the first convolution; doubled at each further one.
        depth: Convolutions; each but the last halves the image.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for layer in range(depth):
            maps = width * 2**layer
            blocks += [
                nn.Conv2d(channels, maps, 3, padding=1, bias=False),
                nn.BatchNorm2d(maps),
                nn.ReLU(),
            ]
            if layer < depth - 1:
                blocks.append(nn.MaxPool2d(2))
            channels = maps
        self.blocks = nn.Sequential(*blocks)
        self.width = channels

    def forward(
        self, x: Float[Tensor, "examples channels height width"]
    ) -> Float[Tensor, "examples width"]:
        features: Tensor = self.blocks(channels_last(x)).mean((2, 3))
        return features

    def staged(self) -> list[nn.Module]:
        """One stage a convolution; the last one answers with the mean of its maps."""
        starts = [at for at, part in enumerate(self.blocks) if isinstance(part, nn.Conv2d)]
        ends = [*starts[1:], len(self.blocks)]
        found = [self.blocks[start:end] for start, end in zip(starts, ends, strict=True)]
        return [*found[:-1], nn.Sequential(found[-1], MapMeans())]


class LeNet(nn.Sequential):
    """Two 5x5 convolutions with ReLU and pooling, then one fully connected layer.

    Args:
        shape: Of the input: channels, height and width, these at least 16.
        width: Maps of the first convolution; the second has 2.5 and the last layer 25 times as
            many: 20, 50 and 500.

    Raises:
        UsageError: If the images are too small.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), with
    the maps, ReLU and hidden layer that are usual for it today.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 20) -> None:
        channels, *size = shape
        if min(size) < 16:
            raise UsageError(
                f"lenet takes images of at least 16 by 16; given: {size[0]} by {size[1]}. "
                "Accepted for them: mlp, cnn, resnet18."
            )
        second, hidden = 5 * width // 2, 25 * width
        height, across = (((side - 4) // 2 - 4) // 2 for side in size)
        super().__init__(
            *(nn.Conv2d(channels, width, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, second, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(second * height * across, hidden), nn.ReLU()),
        )
        self.width = hidden

    def forward(
        self, x: Float[Tensor, "examples channels height width"]
    ) -> Float[Tensor, "examples width"]:
        features: Tensor = super().forward(channels_last(x))
        return features


class ResNet18(nn.Module):
    """ResNet-18 for small images: a 3x3 stem without pooling, four stages of two blocks.

    With `width=20` it is the field's "reduced" or "slim" ResNet-18; with `width=64` the full one.

    Args:
        channels: Of the input.
        width: Maps of the first stage; doubled at each further one.
        blocks: Of each stage; with one it is the field's ResNet-10.

    Source: He et al., "Deep residual learning" (2016); reduced by Lopez-Paz and Ranzato, "Gradient
    episodic memory" (2017).
    """

    def __init__(self, channels: int, width: int = 20, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        before = width
        for stage in range(4):
            maps = width * 2**stage
            stages.append(_Residual(before, maps, 1 if stage == 0 else 2))
            stages += [_Residual(maps, maps, 1) for _ in range(blocks - 1)]
            before = maps
        self.stages = nn.Sequential(*stages)
        self.width = before

    def forward(
        self, x: Float[Tensor, "examples channels height width"]
    ) -> Float[Tensor, "examples width"]:
        features: Tensor = self.stages(self.stem(channels_last(x))).mean((2, 3))
        return features

    def staged(self) -> list[nn.Module]:
        """Four stages of two blocks; the stem belongs to the first, the mean to the last."""
        first, *between, last = (self.stages[at : at + 2] for at in range(0, 8, 2))
        return [nn.Sequential(self.stem, first), *between, nn.Sequential(last, MapMeans())]


class _Residual(nn.Module):
    def __init__(self, before: int, maps: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(before, maps, 3, stride, 1, bias=False), nn.BatchNorm2d(maps), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(maps, maps, 3, 1, 1, bias=False), nn.BatchNorm2d(maps)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != maps:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, maps, 1, stride, bias=False), nn.BatchNorm2d(maps)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))
