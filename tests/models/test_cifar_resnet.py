"""The residual network of the CIFAR experiments."""

import pytest
import torch

from holdfast import streams
from holdfast.errors import UsageError
from holdfast.models.cifar_resnet import CifarResNet, pretrained


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
