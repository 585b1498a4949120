"""Convolutional backbones keep their maps in the order that convolutions are fast in."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from holdfast.models.backbones import CNN, LeNet, ResNet18, channels_last
from holdfast.models.cifar_resnet import CifarResNet

BACKBONES = {
    "cnn": (lambda: CNN(1, width=4), 1),
    "lenet": (lambda: LeNet((1, 16, 16), width=4), 1),
    "resnet18": (lambda: ResNet18(3, width=4, blocks=1), 3),
    "cifar": (lambda: CifarResNet(8), 3),
}


def images(channels):
    return torch.randn(4, channels, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_the_same_in_another_order(channels):
    x = images(channels)
    last = channels_last(x)
    assert torch.equal(last, x)
    assert last.stride() == (256 * channels, 1, 16 * channels, channels)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_map_is_in_that_order(name):
    make, channels = BACKBONES[name]
    model = make().eval()
    seen = []
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, __, maps: seen.append(maps))
    model(images(channels))
    assert seen
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in seen)


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_of_single_examples_are_those_of_one_at_a_time(name):
    make, channels = BACKBONES[name]
    torch.manual_seed(0)
    model, x = make().eval(), images(channels)
    weights = {key: p.detach() for key, p in model.named_parameters()}

    def loss(weights, row):
        return functional_call(model, weights, (row[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for at, row in enumerate(x):
        plain = torch.autograd.grad(model(row[None]).square().sum(), list(model.parameters()))
        for one, whole in zip(plain, found.values(), strict=True):
            torch.testing.assert_close(whole[at], one, rtol=1e-3, atol=1e-5)
