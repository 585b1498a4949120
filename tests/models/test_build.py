"""Models are built by name, with the sizes the field knows them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from holdfast import streams
from holdfast.errors import UsageError
from holdfast.models import CNN, MLP, Classifier, LeNet, ResNet18, Standardise, as_classifier, build
from holdfast.stream import Stream


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_mlp_has_the_parameters_of_784_256_256() -> None:
    model = Classifier(MLP(784), nn.Linear(256, 10))
    assert parameters(model) == (784 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 10 == 269_322


def test_the_full_resnet_18_has_its_published_size() -> None:
    """11,173,962 parameters with ten classes, the usual count for 32x32 images."""
    backbone = ResNet18(3, width=64)
    assert parameters(backbone) + 512 * 10 + 10 == 11_173_962


def test_the_reduced_resnet_18_has_the_fields_size() -> None:
    """The slim network of GEM: about 1.1 million weights, 160 features, counted by its layers."""
    backbone = ResNet18(3, width=20)
    convolutions = 3 * 20 * 9 + sum(
        before * maps * 9 + 3 * maps * maps * 9 + (before * maps if before != maps else 0)
        for before, maps in [(20, 20), (20, 40), (40, 80), (80, 160)]
    )
    norms = 2 * (20 + 4 * (20 + 40 + 80 + 160) + 40 + 80 + 160)
    assert parameters(backbone) == convolutions + norms
    assert round(parameters(backbone) / 1e6, 1) == 1.1
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 160)
    assert int(backbone.width) == 160


def test_lenet_has_its_usual_size() -> None:
    """431,080 parameters with ten classes: 20 and 50 maps, 500 hidden units."""
    backbone = LeNet((1, 28, 28))
    assert parameters(backbone) + 500 * 10 + 10 == 431_080
    assert backbone(torch.zeros(2, 1, 28, 28)).shape == (2, 500) == (2, backbone.width)
    assert LeNet((3, 17, 40), width=4)(torch.zeros(2, 3, 17, 40)).shape == (2, 100)
    with pytest.raises(UsageError, match=r"at least 16 by 16; given: 8 by 8"):
        LeNet((1, 8, 8))


def test_a_residual_block_adds_its_input() -> None:
    block = ResNet18(1, width=4).eval().stages[0]
    for norm in (block.first[1], block.second[1]):
        nn.init.zeros_(norm.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("size", [8, 28, 33])
def test_the_cnn_takes_images_of_any_size(size: int) -> None:
    model = CNN(1, width=4, depth=3)
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 16) == (2, model.width)


def test_inputs_are_standardised_as_the_stream_describes(
    make_stream: Callable[..., Stream],
) -> None:
    stream = replace(make_stream(), scale=((2.0,), (4.0,)))
    model = build("mlp(width=8)", stream, seed=0)
    x = torch.randn(3, 5)
    by_hand = model.backbone[1]((x - 2) / 4)
    assert torch.allclose(model.features(x), by_hand, atol=1e-6)


def test_channels_are_standardised_each_by_its_own() -> None:
    x = torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, deviation = [10.0, 20.0, 30.0], [1.0, 2.0, 4.0]
    out = Standardise(mean, deviation)(x)
    for c in range(3):
        assert torch.allclose(out[:, c], (x[:, c].float() - mean[c]) / deviation[c])


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone(
    make_stream: Callable[..., Stream],
) -> None:
    stream = make_stream()
    state = torch.get_rng_state()
    one, same, other = (build("mlp", stream, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_heads_are_chosen_by_policy(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream()
    x = torch.randn(2, 5)
    assert build("mlp", stream)(x).shape == (2, 6)
    assert build("mlp", stream, head="growing")(x).shape == (2, 0)
    assert build("mlp", stream, head="multi").head.owner.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("spec", "head", "sentence"),
    [
        ("mpl", "full", "no model 'mpl'. Did you mean 'mlp'"),
        ("mlp(widht=3)", "full", "no argument 'widht' of model 'mlp'. Did you mean 'width'"),
        ("mlp(width=wide)", "full", "width of model 'mlp' must be a whole number"),
        ("cnn", "full", r"cnn takes images .* have shape \(5,\). Accepted for them: mlp"),
        ("mlp+cnn", "full", "names 2 things"),
        ("mlp", "ful", "no head 'ful'. Did you mean 'full'"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    make_stream: Callable[..., Stream], spec: str, head: str, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        build(spec, make_stream(), head=head)


@pytest.mark.parametrize("spec", ["mlp(width=0)", "mlp(depth=-1)", "mlp(width=none)"])
def test_sizes_that_make_no_model_are_refused(
    make_stream: Callable[..., Stream], spec: str
) -> None:
    with pytest.raises(UsageError, match=r"of mlp must be at least [01]; given"):
        build(spec, make_stream())


def test_an_mlp_without_hidden_layers_is_a_linear_model(
    make_stream: Callable[..., Stream],
) -> None:
    assert parameters(build("mlp(depth=0)", make_stream())) == (5 + 1) * 6


def test_any_module_that_ends_in_a_linear_layer_becomes_a_classifier() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 3)))
    x = torch.randn(5, 4)
    logits, hidden, last = model(x), model[1](model[0](x)), model[2][0]
    split = as_classifier(model)
    assert torch.equal(split(x), logits)
    assert torch.equal(split.features(x), hidden)
    assert split.head is last
    assert as_classifier(split) is split


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)])
def test_other_modules_do_not_become_classifiers(model: nn.Module) -> None:
    with pytest.raises(UsageError, match="does not end in a linear layer"):
        as_classifier(model)


def test_an_mlp_may_have_another_activation_and_drop_units_in_training(
    make_stream: Callable[..., Stream],
) -> None:
    model = build("mlp(width=8, depth=2, activation=tanh, dropout=0.5)", make_stream(), seed=0)
    kinds = [type(layer).__name__ for layer in model.backbone[1]]
    assert kinds == ["Flatten", *["Linear", "Tanh", "Dropout"] * 2]
    x = torch.ones(64, 5)
    assert (model.train().features(x) == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not (model.eval().features(x) == 0).any()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mlp(activation=relo)", "no activation 'relo'. Did you mean 'relu'"),
        ("mlp(dropout=1.0)", "dropout must be at least 0 and below 1; given: 1.0"),
        ("mlp(dropout=none)", "dropout of mlp cannot be none"),
    ],
)
def test_an_mlps_activation_and_dropout_are_checked(
    spec: str, said: str, make_stream: Callable[..., Stream]
) -> None:
    with pytest.raises(UsageError, match=said):
        build(spec, make_stream())


def test_images_may_be_scaled_to_unit_range_instead_of_standardised(
    make_stream: Callable[..., Stream],
) -> None:
    images = streams.build("split-digits(limit=20)")  # white is 16
    model = build("mlp(width=8)", images, inputs="unit")
    scaled = model.backbone[0](images[0].train["x"])
    torch.testing.assert_close(scaled, images[0].train["x"] / 16)
    with pytest.raises(UsageError, match=r"inputs='unit' is for images .* have shape"):
        build("mlp", make_stream(), inputs="unit")
    with pytest.raises(UsageError, match=r"no scale of inputs 'unity'\. Did you mean 'unit'"):
        build("mlp", images, inputs="unity")
