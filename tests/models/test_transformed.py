"""Models of transformers as backbones: their own features, our heads, every method."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from holdfast import Learner, Observer, checkpoint, streams
from holdfast.errors import CheckpointError, UsageError
from holdfast.language.checkpoints import load_tokenizer
from holdfast.methods import ER, EWC, LwF
from holdfast.models import as_classifier, build, zoo
from holdfast.models.sentences import SentenceEncoder, load_encoder
from holdfast.models.transformed import Framed
from holdfast.stream import Stream
from holdfast.testing import check_method, trials

VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TINY = "vit(width=8, depth=1, heads=2, patch=4)"


@pytest.fixture(scope="module")
def digits() -> Stream:
    return streams.build("split-digits(limit=24, test_limit=12)", experiences=3)


@pytest.fixture
def texts(tmp_path: Path) -> Stream:
    """Tokens of 24 texts of three classes, and the encoder that they belong to."""
    said = [f"{word} {i}" for i in range(8) for word in ("rain falls", "we sing", "a loan")]
    words = zoo.byte_pairs(said, 300)
    torch.manual_seed(0)
    config = BertConfig(**VIT, vocab_size=300, max_position_embeddings=16)
    model = BertForSequenceClassification(config)
    model.bert.save_pretrained(tmp_path / "encoder")
    words.save_pretrained(tmp_path / "encoder")
    given = (said, ["weather", "music", "money"] * 8)
    encoder = str(tmp_path / "encoder")
    return streams.texts(given, experiences=3, inputs="tokens", encoder=encoder, order="natural")


def saved(model: Any, folder: Path, said: dict[str, Any] | None = None) -> Path:
    model.save_pretrained(folder)
    if said is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTForImageClassification(ViTConfig(**VIT, image_size=8, patch_size=4)),
        lambda: ResNetForImageClassification(
            ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
        ),
        lambda: ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2)
        ),
    ],
)
def test_an_image_classifier_is_split_where_its_own_classifier_begins(
    make: Callable[[], Any],
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(2, 3, 8, 8)
    logits = model(pixel_values=x).logits
    split = as_classifier(model)
    assert isinstance(split.head, nn.Linear)
    assert split.features(x).shape == (2, 8)
    torch.testing.assert_close(split(x), logits)


@pytest.mark.parametrize("pad", [0, 7])
def test_so_is_a_classifier_of_sequences_whatever_it_pads_with(pad: int) -> None:
    torch.manual_seed(0)
    shared = {**VIT, "vocab_size": 30, "pad_token_id": pad, "num_labels": 3}
    for model in (
        BertForSequenceClassification(BertConfig(**shared)).eval(),
        LlamaForSequenceClassification(LlamaConfig(**shared)).eval(),
    ):
        ids = torch.tensor([[3, 4, 5], [6, 8, pad]])
        mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
        logits = model(input_ids=ids, attention_mask=mask).logits
        split = as_classifier(model)
        torch.testing.assert_close(split(torch.tensor([[3, 4, 5], [6, 8, -1]])), logits)
        assert split.head.weight.shape == (3, 8)


def test_with_a_stream_raw_images_are_standardised(digits: Stream) -> None:
    torch.manual_seed(0)
    config = ViTConfig(**VIT, image_size=8, patch_size=4, num_channels=1)
    model = ViTForImageClassification(config).eval()
    raw = digits[0].test["x"]
    (mean,), (deviation,) = digits.scale
    logits = model(pixel_values=(raw - mean) / deviation).logits
    torch.testing.assert_close(as_classifier(model, digits)(raw), logits)


def test_a_model_that_classifies_nothing_is_not_split() -> None:
    with pytest.raises(UsageError, match="No linear layer of ViTModel gives logits of its 9"):
        as_classifier(ViTModel(ViTConfig(**VIT, image_size=8, patch_size=4, num_labels=9)))


def test_specs_give_the_sizes_that_they_name(digits: Stream) -> None:
    model = build("vit(width=8, depth=3, heads=2, patch=2)", digits, seed=0)
    config = model.backbone[1].model.config
    assert (config.hidden_size, config.num_hidden_layers, config.patch_size) == (8, 3, 2)
    assert (config.num_channels, tuple(config.image_size)) == (1, (8, 8))
    patches = 16
    block = 2 * 16 + 4 * (8 * 8 + 8) + 8 * 32 + 32 + 32 * 8 + 8  # norms, attention, feed-forward
    assert sum(p.numel() for p in model.backbone.parameters()) == (
        8 + (patches + 1) * 8 + (1 * 2 * 2 * 8 + 8) + 3 * block + 16
    )
    net = build("resnet(width=4, depth=1, stages=2)", digits, head="growing", seed=0)
    assert net.features(digits[0].test["x"]).shape == (12, 8)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("vit(patch=3)", "patch of vit must divide .* patch=3 for 8x8 of 'split-digits"),
        ("vit(heads=3)", "heads of vit must divide its width; given: 3 and 64"),
        ("vit(depth=0)", "depth of vit must be at least 1"),
        ("resnet(width=none)", "width of resnet must be at least 1; given: None"),
        ("bert", "bert takes tokens of texts; 'split-digits.* inputs=tokens"),
        ("encoder", "encoder takes tokens of texts"),
        ("config('no/where')", "config needs a configuration of transformers.* given: 'no/where'"),
        ("./nowhere", "There is no folder nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, said: str, digits: Stream) -> None:
    with pytest.raises(UsageError, match=said):
        build(spec, digits)


def test_any_configuration_is_fitted_to_the_stream(digits: Stream, tmp_path: Path) -> None:
    ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, patch_size=2).save_pretrained(
        tmp_path
    )
    spec = f"config('{tmp_path}/config.json')"
    one, again = (build(spec, digits, head="growing", seed=1) for _ in range(2))
    assert one.features(digits[0].test["x"]).shape == (12, 8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    ViTConfig(**VIT, patch_size=16).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"Images of 1x8x8, as 'split-digits.* do not fit vit"):
        build(spec, digits)
    BertConfig(**VIT).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no image classifier of a bert"):
        build(spec, digits)


def test_a_checkpoint_is_fed_as_it_was_trained(digits: Stream, tmp_path: Path) -> None:
    """From 0 to 1, in three equal channels, to its size, then by its own mean and deviation."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**VIT, image_size=16, patch_size=8)).eval()
    mean, deviation = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    folder = saved(
        model, tmp_path, {"image_mean": mean, "image_std": deviation, "size": {"height": 16,
                                                                           "width": 16}}
    )  # fmt: skip
    built = build(str(folder), digits, head="growing", seed=0).eval()
    raw = digits[0].test["x"]  # white is 16
    x = nn.functional.interpolate(raw / 16, (16, 16), mode="bilinear", antialias=True)
    x = torch.cat([(x - m) / d for m, d in zip(mean, deviation, strict=True)], 1)
    wanted = model.vit(pixel_values=x).last_hidden_state[:, 0]
    torch.testing.assert_close(built.features(raw), wanted, atol=1e-5, rtol=1e-4)
    assert built.head.classes == 0


def test_without_its_classifier_a_checkpoint_will_do_and_without_a_weight_not(
    digits: Stream, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = ViTConfig(**VIT, image_size=8, patch_size=4, num_channels=1)
    folder = saved(ViTModel(config, add_pooling_layer=False), tmp_path)
    assert build(str(folder), digits).features(digits[0].test["x"]).shape == (12, 8)
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.cls_token"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the weights .*cls_token"):
        build(str(folder), digits)


def test_checkpoints_that_do_not_fit_are_refused(
    digits: Stream, texts: Stream, tmp_path: Path, make_stream: Callable[..., Stream]
) -> None:
    config = ViTConfig(**VIT, image_size=8, patch_size=4, num_channels=4)
    folder = saved(ViTForImageClassification(config), tmp_path / "four")
    x = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8)
    colour = streams.split((x, torch.arange(12) % 2), experiences=2)
    with pytest.raises(UsageError, match="takes 4 channels; the images of 'split' have 3"):
        build(str(folder), colour)
    with pytest.raises(UsageError, match=r"takes images .* have shape"):
        build(str(folder), make_stream())
    with pytest.raises(UsageError, match="holds a bert, which is no image model"):
        build(str(texts.tokens), digits)


class TestTokens:
    """Streams of tokens, and the encoders that learn on them."""

    def test_the_encoder_is_the_one_whose_tokens_they_are(self, texts: Stream) -> None:
        model = build("encoder", texts, head="growing", seed=0).eval()
        own = load_encoder(str(texts.tokens))
        x = texts[0].train["x"]
        assert x.dtype == torch.int64
        torch.testing.assert_close(model.features(x), own(x))
        same = build(str(texts.tokens), texts, seed=0).eval()
        torch.testing.assert_close(same.features(x), own(x))

    def test_a_fresh_one_has_its_vocabulary(self, texts: Stream) -> None:
        model = build("bert(width=8, depth=1)", texts, seed=0)
        assert isinstance(model.backbone, SentenceEncoder)
        assert model.backbone.model.config.vocab_size == len(
            load_tokenizer(Path(str(texts.tokens)))
        )

    @pytest.mark.parametrize("spec", ["mlp", "mlp(depth=0)"])
    def test_other_models_do_not_take_tokens(self, spec: str, texts: Stream) -> None:
        with pytest.raises(
            UsageError, match=r"'texts' are tokens of texts, and mlp.* takes numbers"
        ):
            build(spec, texts)

    def test_an_encoder_with_other_words_is_refused(self, texts: Stream, tmp_path: Path) -> None:
        config = BertConfig(**VIT, vocab_size=280)
        other = saved(BertForSequenceClassification(config).bert, tmp_path / "other")
        zoo.byte_pairs(["a"], 280).save_pretrained(other)
        with pytest.raises(
            UsageError, match=r"tokens of .*encoder, and the tokenizer of .* another"
        ):
            build(str(other), texts)

    @pytest.mark.parametrize("head", ["full", "growing"])
    def test_an_encoder_is_trained_end_to_end_over_growing_classes(
        self, texts: Stream, head: str
    ) -> None:
        model = build("encoder", texts, head=head, seed=0)
        before = {name: p.clone() for name, p in model.backbone.named_parameters()}
        adam = partial(torch.optim.Adam, lr=0.01)
        record = Learner(model, ER(capacity=12), optimizer=adam, epochs=20, batch_size=6).learn(
            texts
        )
        assert record.seen_so_far() > 0.75  # of three classes; without memory a third
        moved = [name for name, p in model.backbone.named_parameters() if not p.equal(before[name])]
        assert any("embeddings.word" in name for name in moved)

    def test_methods_that_ask_about_single_examples_take_tokens_too(self, texts: Stream) -> None:
        model = build("bert(width=8, depth=1)", texts, seed=0)
        record = Learner(model, EWC(), epochs=1, batch_size=6).learn(texts)
        assert len(record.matrix) == 3


@pytest.mark.contract
@pytest.mark.parametrize("make", [ER, LwF])
def test_methods_keep_their_contract_on_a_vision_transformer(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trials.small_model

    def small(stream: Stream, head: str = "full", normed: bool = False) -> nn.Module:
        if stream.scenario == "text" or len(stream.shape) != 3:
            return plain(stream, head, normed)
        return build(TINY, stream, head=head, seed=3)

    monkeypatch.setattr(trials, "small_model", small)
    check_method(make, only=["determinism", "exact_resume", "state_dict"])


def test_a_run_on_a_checkpoint_is_saved_and_restored(digits: Stream, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_channels=1)
    folder = saved(ResNetForImageClassification(config), tmp_path / "resnet")

    def learner() -> Learner:
        return Learner(build(str(folder), digits, head="growing", seed=0), ER(capacity=20), seed=1)

    whole = learner()
    whole.learn(digits)
    first = learner()
    state: dict[str, Any] = {}

    class Keep(Observer):
        def on_experience(self, learner: Learner) -> None:
            if not state:
                checkpoint.save(tmp_path / "state.safetensors", learner.state_dict())
                state["at"] = learner.index

    first.learn(digits, [Keep()])
    again = learner()
    again.restore(digits, checkpoint.load(tmp_path / "state.safetensors"))
    again.learn(digits)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_a_backbone_may_be_framed_without_a_scale_of_its_own() -> None:
    class Mean(nn.Module):
        width = 3

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    framed = Framed(Mean(), channels=3, size=(4, 4))
    assert framed.takes == "standard"
    assert framed(torch.full((2, 1, 6, 6), 5.0)).tolist() == [[5.0] * 3] * 2
