"""Image classifiers from folders: preprocessing by hand, and what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import UsageError
from holdfast.models.pictures import load_pictures


@pytest.fixture
def folder(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, id2label={0: "cat", 1: "dog"},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_images_are_resized_and_normalised_as_the_folder_says(folder):
    said = {"size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3]}
    said |= {"image_std": [0.5, 0.6, 0.7], "do_normalize": True, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    model, channels, names = load_pictures(folder)
    assert (channels, names) == (3, ("cat", "dog"))
    x = torch.rand(2, 3, 20, 20)
    mean, deviation = (torch.tensor(said[k]).view(1, 3, 1, 1) for k in ("image_mean", "image_std"))
    larger = F.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = model.model(pixel_values=(larger - mean) / deviation).logits
        torch.testing.assert_close(model(x), expected)


def test_without_a_word_on_preprocessing_images_are_taken_as_they_come(folder):
    model, _, _ = load_pictures(folder)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.model(pixel_values=x).logits)
    assert model.size is None


def test_what_classifies_no_images_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    with pytest.raises(UsageError, match="LlamaForCausalLM, which does not classify images"):
        load_pictures(tmp_path / "llama")
