"""Backbones from transformers: any model that classifies images or texts, without its classifier.

The features are what the model's own classifier would see, pooled as its architecture pools: so
that a head of ours takes its place, and every method works on it. Models come from a configuration,
with weights as they are drawn, or from a local checkpoint; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.errors import CheckpointError, UsageError
from holdfast.language.checkpoints import load_tokenizer
from holdfast.language.folders import configuration, existing
from holdfast.language.quiet import quietly
from holdfast.language.weights import first_line, weight_files
from holdfast.models.pictures import preprocessing
from holdfast.models.sentences import SentenceEncoder, folder_of, load_encoder

if TYPE_CHECKING:
    from holdfast.stream import Stream

ATTENTION = "eager"
"""Of models as they are drawn: it maps over single examples, which fused ones do not."""


class Headless(nn.Module):
    """A classifier of transformers without its last linear layer.

    Args:
        model: From `pixel_values`, or from `input_ids` and `attention_mask`, to an output with
            `.logits`. Its last linear layer is taken out of it.

    Attributes:
        width: Of the features.
        taken: The layer taken out.

    Raises:
        UsageError: If no linear layer gives its logits.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
        >>> model = Headless(ResNetForImageClassification(config))
        >>> model(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 8])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        said: Any = getattr(model, "config", None)
        labels = getattr(said, "num_labels", None)
        last = [
            name
            for name, part in model.named_modules()
            if isinstance(part, nn.Linear) and part.out_features == labels
        ]
        if not last:
            raise UsageError(
                f"No linear layer of {type(model).__name__} gives logits of its {labels} labels; "
                "accepted: models of transformers for the classification of images or sequences."
            )
        owner, _, attribute = last[-1].rpartition(".")
        self.taken: list[nn.Linear] = [getattr(model.get_submodule(owner), attribute)]  # unowned
        setattr(model.get_submodule(owner), attribute, nn.Identity())
        self.model, self.width = model, self.taken[0].in_features
        self.reads = getattr(model, "main_input_name", "") == "input_ids"
        self.pad = int(getattr(said, "pad_token_id", None) or 0)

    def forward(self, x: Tensor) -> Float[Tensor, "examples width"]:
        """Features of images, or of rows of tokens filled up with -1."""
        if self.reads:
            real = x >= 0
            ids = x.masked_fill(~real, self.pad)
            out = self.model(input_ids=ids, attention_mask=real.long())
        else:
            out = self.model(pixel_values=x)
        features: Tensor = out.logits
        return features


class Framed(nn.Module):
    """A backbone behind the preprocessing with which it was trained: images from 0 to 1 in.

    Args:
        backbone: From images to features.
        channels: That it takes; grey images become as many equal ones.
        size: Height and width to which images are brought; None: they are taken as they come.
        mean: By channel, of images from 0 to 1; empty: they are not standardised here.
        deviation: Likewise.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        size: tuple[int, int] | None = None,
        mean: Sequence[float] = (),
        deviation: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.backbone, self.channels, self.size = backbone, channels, size
        self.width = int(backbone.width)  # type: ignore[arg-type]
        self.takes = "unit" if mean else "standard"
        self.mean: Tensor
        self.deviation: Tensor
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(mean or (0.0,)).view(shape), persistent=False)
        spread = torch.tensor(deviation or (1.0,)).view(shape)
        self.register_buffer("deviation", spread, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        x = x.expand(-1, self.channels, -1, -1)
        features: Tensor = self.backbone((x - self.mean) / self.deviation)
        return features


def vit(
    stream: Stream, width: int = 64, depth: int = 4, heads: int = 4, patch: int = 4
) -> nn.Module:
    """A vision transformer for a stream's images, with weights as they are drawn.

    Args:
        stream: What it is for.
        width: Of the states; `heads` divides it.
        depth: Blocks.
        heads: Of attention.
        patch: Height and width of a patch; divides those of the images.

    Raises:
        UsageError: If the stream has no images, or if these numbers do not divide.
    """
    from transformers import ViTConfig

    channels, height, side = _images(stream, "vit")
    if height % patch or side % patch:
        raise UsageError(
            f"The patch of vit must divide the height and width of the images; given: "
            f"patch={patch} for {height}x{side} of {stream.name!r}."
        )
    if width % heads:
        raise UsageError(f"The heads of vit must divide its width; given: {heads} and {width}.")
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        intermediate_size=4 * width, image_size=(height, side), patch_size=patch,
        num_channels=channels,
    )  # fmt: skip
    return _drawn(config, stream)


def resnet(stream: Stream, width: int = 16, depth: int = 2, stages: int = 3) -> nn.Module:
    """A residual network as transformers has it, with weights as they are drawn.

    Its stem halves the image twice; `resnet18` keeps it as it is, and suits small images better.

    Args:
        stream: What it is for.
        width: Maps of the first stage; doubled at each further one.
        depth: Blocks of two convolutions a stage.
        stages: Of which each but the first halves the image.

    Raises:
        UsageError: If the stream has no images.
    """
    from transformers import ResNetConfig

    channels, _, _ = _images(stream, "resnet")
    config = ResNetConfig(
        num_channels=channels, embedding_size=width, layer_type="basic",
        hidden_sizes=[width * 2**stage for stage in range(stages)], depths=[depth] * stages,
    )  # fmt: skip
    return _drawn(config, stream)


def bert(stream: Stream, width: int = 64, depth: int = 2, heads: int = 2) -> nn.Module:
    """A small encoder of tokens, with weights as they are drawn; the mean of its states.

    Args:
        stream: What it is for: of tokens.
        width: Of the states; `heads` divides it.
        depth: Blocks.
        heads: Of attention.

    Raises:
        UsageError: If the stream has no tokens, or if the heads do not divide the width.
    """
    from transformers import BertConfig

    if width % heads:
        raise UsageError(f"The heads of bert must divide its width; given: {heads} and {width}.")
    config = BertConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        intermediate_size=4 * width,
    )  # fmt: skip
    return _reading(config, stream, "bert")


def of_config(stream: Stream, path: str = "") -> nn.Module:
    """A model of any architecture of transformers, by its configuration, with weights as drawn.

    Args:
        stream: What it is for; its shape, or its vocabulary, takes the place of the file's.
        path: A `config.json`, or a folder that holds one.

    Raises:
        UsageError: If there is none, or if it does not fit.
    """
    place = Path(path).expanduser()
    folder = place.parent if place.name == "config.json" else place
    if not path or not (folder / "config.json").is_file():
        raise UsageError(
            f"config needs a configuration of transformers, as in config('FOLDER/config.json'); "
            f"given: {path!r}."
        )
    config = configuration(folder, trust_remote_code=False)
    if stream.tokens is not None:
        return _reading(config, stream, f"config({path!r})")
    channels, height, side = _images(stream, f"config({path!r})")
    config.num_channels = channels
    if getattr(config, "image_size", None) is not None:
        config.image_size = height if height == side else (height, side)
    return _drawn(config, stream)


def encoder(stream: Stream) -> nn.Module:
    """The encoder whose tokens a stream has, to be trained along.

    Raises:
        UsageError: If the stream has no tokens.
    """
    return load_encoder(_tokens(stream, "encoder"))


def of_folder(stream: Stream, path: str) -> nn.Module:
    """A local checkpoint of any image classifier or image backbone, or of any encoder of texts.

    Images are brought to the size and scale that its `preprocessor_config.json` says; without that
    file, to its `image_size`, from 0 to 1.

    Args:
        stream: What it is for.
        path: The folder.

    Raises:
        UsageError: If it is none, or does not fit the stream.
        CheckpointError: If weights are missing or damaged.
    """
    folder = existing(Path(path).expanduser())
    if stream.tokens is None:
        return _pictured(stream, folder)
    wanted = load_tokenizer(folder_of(stream.tokens)).get_vocab()
    if load_tokenizer(folder).get_vocab() != wanted:
        raise UsageError(
            f"The inputs of {stream.name!r} are tokens of {stream.tokens}, and the tokenizer of "
            f"{folder} is another: say encoder={folder} in the stream."
        )
    return load_encoder(str(folder))


def _pictured(stream: Stream, folder: Path) -> nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    channels, _, _ = _images(stream, str(folder))
    config = configuration(folder, trust_remote_code=False)
    weight_files(folder, "model")
    try:
        with quietly():
            model, info = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"The model in {folder} cannot be loaded: {first_line(error)}"
        ) from error
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"{folder} holds a {config.model_type}, which is no image model: {first_line(error)}"
        ) from error
    backbone = Headless(model.float())
    kept = {name for name, _ in model.named_parameters()}
    missing = sorted(set(info["missing_keys"]) & kept)  # its classifier is not wanted
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the weights that config.json asks for "
            f"({missing[0]}); they would be random."
        )
    takes = int(getattr(config, "num_channels", None) or 3)
    if channels not in (1, takes):
        raise UsageError(
            f"The model in {folder} takes {takes} channels; the images of {stream.name!r} have "
            f"{channels}. Accepted: as many, or one, which is repeated."
        )
    mean, deviation, size = preprocessing(folder, takes)
    given = getattr(config, "image_size", None)
    if size is None and given is not None:
        size = (given, given) if isinstance(given, int) else (int(given[0]), int(given[1]))
    return _tried(Framed(backbone, takes, size, mean, deviation), stream, str(folder))


def _drawn(config: Any, stream: Stream) -> nn.Module:
    """An image model of a configuration that has been fitted to the stream."""
    from transformers import AutoModelForImageClassification

    config.num_labels = 2  # of the classifier that is taken out
    try:
        model = Headless(
            AutoModelForImageClassification.from_config(config, attn_implementation=ATTENTION)
        )
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"transformers makes no image classifier of a {config.model_type} like this: "
            f"{first_line(error)}"
        ) from error
    return _tried(model, stream, config.model_type)


def _reading(config: Any, stream: Stream, name: str) -> nn.Module:
    """An encoder of a configuration, for the tokens of a stream."""
    from transformers import AutoModel

    words = load_tokenizer(folder_of(_tokens(stream, name)))
    config = deepcopy(config)
    config.vocab_size = len(words)
    config.pad_token_id = words.pad_token_id
    try:
        return SentenceEncoder(AutoModel.from_config(config, attn_implementation=ATTENTION))
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"transformers makes no encoder of a {config.model_type} like this: {first_line(error)}"
        ) from error


@torch.no_grad()
def _tried(backbone: nn.Module, stream: Stream, name: str) -> nn.Module:
    """The backbone, if images of the stream's shape go through it."""
    mode = backbone.training
    try:
        backbone.eval()(torch.zeros(1, *stream.shape))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"Images of {'x'.join(map(str, stream.shape))}, as {stream.name!r} has them, do not "
            f"fit {name}: {first_line(error)}"
        ) from error
    return backbone.train(mode)


def _images(stream: Stream, name: str) -> tuple[int, int, int]:
    if len(stream.shape) != 3:
        raise UsageError(
            f"{name} takes images (channels, height, width); the inputs of {stream.name!r} have "
            f"shape {stream.shape}."
        )
    channels, height, side = stream.shape
    return channels, height, side


def _tokens(stream: Stream, name: str) -> str:
    if stream.tokens is None:
        raise UsageError(
            f"{name} takes tokens of texts; {stream.name!r} has none. Streams of texts have them "
            "with inputs=tokens, as in banking77(inputs=tokens)."
        )
    return stream.tokens
