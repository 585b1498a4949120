"""Residual networks for CIFAR, with weights that others have trained."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import DataError, UsageError
from holdfast.models.backbones import MapMeans, channels_last
from holdfast.models.classifier import Classifier, Standardise

Depth = Literal[20, 32, 56]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""With which the kept weights were trained, of images from 0 to 1."""


class CifarResNet(nn.Module):
    """The residual network of the CIFAR experiments: three stages of 16, 32 and 64 maps.

    Shortcuts that change shape take every second pixel and fill up with zeros (option A), so that
    they have no weights.

    Args:
        depth: Layers with weights: 6 n + 2 for n blocks a stage.

    Source: He et al., "Deep residual learning for image recognition" (2016), section 4.2.
    """

    width = 64

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"depth must be 6 n + 2 for a whole n from 1; given: {depth}.")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, (depth - 2) // 6)
        self.layer2 = _stage(16, 32, (depth - 2) // 6)
        self.layer3 = _stage(32, 64, (depth - 2) // 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(channels_last(x))))
        features: Tensor = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
        return features

    def staged(self) -> list[nn.Module]:
        """The three stages; what comes before belongs to the first, the mean to the last."""
        stem = nn.Sequential(self.conv1, self.bn1, nn.ReLU())
        first = nn.Sequential(stem, self.layer1)
        return [first, self.layer2, nn.Sequential(self.layer3, MapMeans())]


def pretrained(depth: Depth = 20, white: float = 255.0) -> Classifier:
    """A classifier of CIFAR-10 trained by others, from the folder that HOLDFAST_DATA names.

    Args:
        depth: 20, 32 or 56.
        white: The value of white in its inputs.

    Raises:
        UsageError: If there is none of this depth.
        DataError: If HOLDFAST_DATA does not hold it.
    """
    backbone, named = CifarResNet(depth), _kept_weights(depth)
    head = nn.Linear(64, 10)
    with torch.no_grad():
        head.weight.copy_(named.pop("linear.weight"))
        head.bias.copy_(named.pop("linear.bias"))
    backbone.load_state_dict(named, strict=False)
    scale = Standardise([white * m for m in MEAN], [white * d for d in DEVIATION])
    return Classifier(nn.Sequential(scale, backbone), head)


class Pictures(nn.Module):
    """The network for images of any size, grey or in colour, from 0 (black) to 1 (white).

    They are brought to 32x32, grey ones to three equal channels, and standardised as in the
    training of the kept weights.

    Args:
        depth: 20, 32 or 56; 6 n + 2 without weights.
        weights: `"cifar10"`: trained by others on CIFAR-10, from the folder that HOLDFAST_DATA
            names; None: as drawn.

    Raises:
        UsageError: If there are no such weights.
        DataError: If HOLDFAST_DATA does not hold them.
    """

    width = CifarResNet.width
    takes = "unit"

    def __init__(self, depth: int = 20, weights: str | None = "cifar10") -> None:
        super().__init__()
        if weights not in ("cifar10", None):
            raise UsageError(f"weights must be cifar10 or none; given: {weights}.")
        self.scale, self.network = Standardise(MEAN, DEVIATION), CifarResNet(depth)
        if weights is not None:
            named = _kept_weights(depth)
            self.network.load_state_dict(
                {name: held for name, held in named.items() if not name.startswith("linear.")},
                strict=False,  # they count no batches
            )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (32, 32):
            x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True, align_corners=False)
        features: Tensor = self.network(self.scale(x.expand(-1, 3, -1, -1)))
        return features


def _kept_weights(depth: int) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from holdfast.streams.sources import data_file

    if depth not in get_args(Depth):
        raise UsageError(f"depth must be 20, 32 or 56; given: {depth}.")
    file = data_file(f"weights/resnet{depth}_cifar10.safetensors")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise DataError(f"{file} is damaged or no file of weights.") from error
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _stage(before: int, maps: int, blocks: int) -> nn.Sequential:
    first = _Block(before, maps, 1 if before == maps else 2)
    return nn.Sequential(first, *(_Block(maps, maps, 1) for _ in range(blocks - 1)))


class _Block(nn.Module):
    def __init__(self, before: int, maps: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, maps, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(maps)
        self.conv2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(maps)
        self.stride, self.missing = stride, maps - before

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(out + x)
