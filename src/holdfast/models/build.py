"""Models by name, fitted to a stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import nn

from holdfast.config import is_folder
from holdfast.errors import UsageError, unknown
from holdfast.models import transformed
from holdfast.models.backbones import CNN, MLP, LeNet, ResNet18
from holdfast.models.cifar_resnet import Pictures
from holdfast.models.classifier import Classifier, Standardise
from holdfast.models.heads import HEADS, build_head
from holdfast.spec import Spec, bind, parse_one
from holdfast.stream import Stream, white_in

Inputs = Literal["standard", "unit"]


def _mlp(
    stream: Stream,
    width: int = 256,
    depth: int = 2,
    activation: str = "relu",
    dropout: float = 0.0,
) -> MLP:
    return MLP(math.prod(stream.shape), width, depth, activation, dropout)


def _cnn(stream: Stream, width: int = 32, depth: int = 3) -> CNN:
    return CNN(_channels(stream, "cnn"), width, depth)


def _lenet(stream: Stream, width: int = 20) -> LeNet:
    channels = _channels(stream, "lenet")
    return LeNet((channels, *stream.shape[1:]), width)


def _resnet18(stream: Stream, width: int = 20, blocks: int = 2) -> ResNet18:
    return ResNet18(_channels(stream, "resnet18"), width, blocks)


def _cifar_resnet(stream: Stream, depth: int = 20, weights: str | None = "cifar10") -> Pictures:
    if _channels(stream, "cifar_resnet") not in (1, 3):
        raise UsageError(
            f"cifar_resnet takes grey or colour images; those of {stream.name!r} have "
            f"{stream.shape[0]} channels."
        )
    return Pictures(depth, weights)


def _pretrained(
    stream: Stream,
    model: str = "cnn",
    on: str = "fashion-mnist",
    epochs: int = 5,
    limit: int | None = 10_000,
    seed: int = 0,
) -> nn.Module:
    from holdfast.models.zoo import pictures

    recipe = pictures.picture_recipe(model, on, epochs, limit, seed)
    channels, framed = _channels(stream, "pretrained"), pictures.backbone(recipe)
    if channels not in (1, framed.channels):
        raise UsageError(
            f"{model}, pre-trained on {on}, takes {framed.channels} channels; the images of "
            f"{stream.name!r} have {channels}. Accepted: as many, or one, which is repeated."
        )
    return framed


def _channels(stream: Stream, name: str) -> int:
    if len(stream.shape) != 3:
        raise UsageError(
            f"{name} takes images (channels, height, width); the inputs of {stream.name!r} have "
            f"shape {stream.shape}. Accepted for them: mlp."
        )
    return stream.shape[0]


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "lenet": _lenet,
    "resnet18": _resnet18,
    "cifar_resnet": _cifar_resnet,
    "vit": transformed.vit,
    "resnet": transformed.resnet,
    "bert": transformed.bert,
    "encoder": transformed.encoder,
    "config": transformed.of_config,
    "pretrained": _pretrained,
}
READERS = ("encoder", "bert", "config")
"""Of these, models of texts."""


def build(
    spec: str,
    stream: Stream,
    head: str = "full",
    seed: int | None = None,
    inputs: Inputs = "standard",
) -> Classifier:
    """A classifier by spec, with inputs scaled as the stream describes.

    Args:
        spec: `mlp(width=256, depth=2, activation=relu, dropout=0)`, `cnn(width=32, depth=3)`,
            `lenet(width=20)`, `resnet18(width=20, blocks=2)` or, trained by others,
            `cifar_resnet(depth=20, weights=cifar10)`; of transformers,
            `vit(width=64, depth=4, heads=4, patch=4)`, `resnet(width=16, depth=2, stages=3)`,
            `config('FOLDER/config.json')`, or the folder of a checkpoint; for streams of tokens,
            `encoder`, `bert(width=64, depth=2, heads=2)`, `config`, or the folder of an encoder; of
            the zoo, `pretrained(cnn, on=omniglot)`.
        stream: What it is for: shape of the inputs, number of classes.
        head: `"full"`: a linear row for every class from the start; `"growing"`: rows appear with
            their classes; `"cosine"`: the same, by cosine similarity; `"multi"`: one linear layer
            a task; `"prototype"`, `"discriminant"`, `"ridge"`: what `ncm`, `slda` and `ranpac` fill
            in, each its own.
        seed: Of the initial weights; None: PyTorch's global state.
        inputs: `"standard"`: to mean 0 and deviation 1; `"unit"`: images to 0 (black) .. 1 (white).
            A model trained by others scales them as it was trained, whatever is said here.

    Raises:
        UsageError: If the model, an argument or the head does not exist or does not fit.
    """
    wanted = Spec("folder", (spec,)) if is_folder(spec) else parse_one(spec)
    make = transformed.of_folder if is_folder(spec) else MODELS.get(wanted.name)
    if make is None:
        raise unknown("model", wanted.name, MODELS)
    if inputs not in get_args(Inputs):
        raise unknown("scale of inputs", inputs, get_args(Inputs))
    if inputs == "unit" and len(stream.shape) != 3:
        raise UsageError(
            f"inputs='unit' is for images (channels, height, width); the inputs of {stream.name!r} "
            f"have shape {stream.shape}."
        )
    kind = "linear" if head == "full" else head
    if kind not in HEADS:
        raise unknown("head", head, {"full", *HEADS})
    arguments = bind(wanted, partial(make, stream), "model")
    for name, value in arguments.items():
        least = 0 if (wanted.name, name) == ("mlp", "depth") else 1
        if name in ("path", "weights") or wanted.name == "pretrained":  # checked where used
            continue
        if name in ("activation", "dropout"):  # of these the network says what it accepts
            if value is None:
                raise UsageError(f"{name} of {wanted.name} cannot be none; leave it out.")
            continue
        if value is None or value < least:
            raise UsageError(f"{name} of {wanted.name} must be at least {least}; given: {value}.")
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        backbone = make(stream, **arguments)
        width = int(backbone.width)  # type: ignore[arg-type]
        task_classes = [len(experience.classes) for experience in stream]
        top = build_head(kind, width, stream.classes, task_classes)
    takes = getattr(backbone, "takes", None)
    if (takes == "tokens") != (stream.tokens is not None):
        raise UsageError(
            f"The inputs of {stream.name!r} are {'' if stream.tokens else 'not '}tokens of texts, "
            f"and {spec} takes {'tokens' if takes == 'tokens' else 'numbers'}. Accepted: "
            f"{', '.join(READERS)} or an encoder's folder."
        )
    if takes == "tokens":
        return Classifier(backbone, top)
    scale = stream.scale
    if inputs == "unit" or takes == "unit":
        scale = ((0.0,), (white_in(stream[0].train["x"], stream.white),))
    return Classifier(nn.Sequential(Standardise(*scale, dims=len(stream.shape)), backbone), top)
