"""The residual network of the CIFAR experiments."""

import pytest
import torch

from holdfast import models, streams
from holdfast.errors import DataError, UsageError
from holdfast.models.cifar_resnet import CifarResNet, Pictures, pretrained
from holdfast.testing import small_stream


def test_it_has_as_many_weights_as_published():
    # 0.27 M, 0.46 M and 0.85 M in the paper, with the classifier's 650.
    counts = [sum(p.numel() for p in CifarResNet(d).parameters()) + 650 for d in (20, 32, 56)]
    assert [round(count / 1e6, 2) for count in counts] == [0.27, 0.46, 0.85]
    assert CifarResNet(20)(torch.rand(2, 3, 32, 32)).shape == (2, 64)


def test_other_depths_are_refused():
    with pytest.raises(UsageError, match="depth must be 6 n \\+ 2"):
        CifarResNet(18)


@pytest.mark.data
def test_the_kept_weights_classify_as_their_readme_says(data_folder):
    stream = streams.build("corrupted-cifar10(experiences=1, test_limit=500)")
    model = pretrained(20).eval()
    test = stream[0].test
    with torch.no_grad():
        right = float((model(test["x"]).argmax(1) == test["y"]).float().mean())
    assert right == pytest.approx(0.81, abs=0.05)  # on images that were compressed


def test_pictures_of_any_size_and_grey_ones_are_brought_to_what_the_network_was_trained_on():
    net = Pictures(8, weights=None).eval()
    grey = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(grey), net(grey.repeat(1, 3, 1, 1)))
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).expand(1, 3, 16, 16)
        assert torch.allclose(net(mean), net.network(torch.zeros(1, 3, 32, 32)), atol=1e-5)


def test_it_is_built_by_name_for_images_with_black_at_0_and_white_at_1():
    stream = small_stream()
    model = models.build("cifar_resnet(depth=8, weights=none)", stream, seed=0).eval()
    white = torch.full((1, 1, 8, 8), 16, dtype=torch.uint8)  # of the digits
    with torch.no_grad():
        seen = model.backbone[0](white)
        assert torch.equal(seen, torch.ones(1, 1, 8, 8))
        torch.testing.assert_close(model.features(white), model.backbone[1](seen))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cifar_resnet(weights=imagenet)", "weights must be cifar10 or none; given: imagenet"),
        ("cifar_resnet(depth=44)", "depth must be 20, 32 or 56"),
        ("cifar_resnet(depth=18, weights=none)", "depth must be 6 n"),
    ],
)
def test_what_there_is_not_is_refused(spec, told):
    with pytest.raises(UsageError, match=told):
        models.build(spec, small_stream())


def test_without_its_data_it_says_what_to_set(monkeypatch):
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    with pytest.raises(DataError, match="set HOLDFAST_DATA to a folder that holds weights/resnet"):
        models.build("cifar_resnet", small_stream())


@pytest.mark.data
def test_the_backbone_built_by_name_is_the_kept_one(data_folder):
    stream = streams.build("split-cifar10(limit=10, test_limit=10)", seed=0)
    x = stream[0].test["x"]
    built, kept = models.build("cifar_resnet(depth=32)", stream).eval(), pretrained(32).eval()
    with torch.no_grad():
        torch.testing.assert_close(built.features(x), kept.features(x), rtol=1e-3, atol=1e-4)
