"""Models, heads and the parts around them."""

from holdfast.models.backbones import CNN, MLP, LeNet, ResNet18
from holdfast.models.build import build
from holdfast.models.classifier import Classifier, Standardise, as_classifier
from holdfast.models.frozen import Frozen, featurised, frozen
from holdfast.models.heads import (
    CosineHead,
    GrowingHead,
    LinearHead,
    MultiHead,
    build_head,
)
from holdfast.models.snapshot import Snapshot

__all__ = [
    "CNN",
    "MLP",
    "Classifier",
    "CosineHead",
    "Frozen",
    "GrowingHead",
    "LeNet",
    "LinearHead",
    "MultiHead",
    "ResNet18",
    "Snapshot",
    "Standardise",
    "as_classifier",
    "build",
    "build_head",
    "featurised",
    "frozen",
]
