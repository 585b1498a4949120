"""Image classifiers from a local Hugging Face folder, taking plain images from 0 to 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.language.folders import configuration, existing
from holdfast.language.weights import first_line, read_json, weight_files


class PictureClassifier(nn.Module):
    """A Hugging Face image classifier with its preprocessing: images in, logits out.

    Args:
        model: From `pixel_values` to an output with `.logits`.
        mean: By channel, of images from 0 to 1.
        deviation: Likewise.
        size: Height and width to which images are brought; None: they are taken as they come.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: list[float],
        deviation: list[float],
        size: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.mean: Tensor
        self.deviation: Tensor
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        logits: Tensor = self.model(pixel_values=(x - self.mean) / self.deviation).logits
        return logits


def load_pictures(path: str | Path) -> tuple[PictureClassifier, int, tuple[str, ...]]:
    """An image classifier from a folder as `save_pretrained` writes it; nothing is downloaded.

    What `preprocessor_config.json` says of size, mean and deviation is followed; without that
    file, images are taken as they come, from 0 to 1.

    Returns:
        The model; the channels that it takes; the names of its classes.

    Raises:
        UsageError: If the folder holds no image classifier, pickled weights or code of its own.
        CheckpointError: If weights are missing.
    """
    from transformers import AutoModelForImageClassification
    from transformers.models.auto import modeling_auto as auto

    folder = existing(path)
    config = configuration(folder, trust_remote_code=False)
    known = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type, ())
    names = (known,) if isinstance(known, str) else tuple(known)
    said = tuple(config.architectures or names)
    if not set(said) & set(names):
        raise UsageError(
            f"{folder} holds {', '.join(said) or repr(config.model_type)}, which does not classify "
            "images; accepted: the folder of a run of a classifier, or of a Hugging Face model for "
            "image classification, with its head."
        )
    weight_files(folder, "model")
    try:
        model: Any = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise UsageError(f"{folder} cannot be loaded: {first_line(error)}") from error
    channels = int(getattr(config, "num_channels", None) or 3)
    labels = tuple(str(config.id2label[label]) for label in range(config.num_labels))
    return PictureClassifier(model.float(), *preprocessing(folder, channels)), channels, labels


def preprocessing(
    folder: Path, channels: int
) -> tuple[list[float], list[float], tuple[int, int] | None]:
    """Mean and deviation by channel, and the size, as the folder says."""
    file = folder / "preprocessor_config.json"
    said: dict[str, Any] = read_json(file) if file.is_file() else {"do_normalize": False}
    mean, deviation = said.get("image_mean"), said.get("image_std")
    if not said.get("do_normalize", True) or mean is None or deviation is None:
        mean, deviation = [0.0] * channels, [1.0] * channels
    if len(mean) not in (1, channels):
        raise UsageError(f"{file} has a mean of {len(mean)} channels; the model takes {channels}.")
    size = said.get("size")
    if not said.get("do_resize", size is not None) or size is None:
        return list(mean), list(deviation), None
    if isinstance(size, int):
        size = {"height": size, "width": size}
    height, width = (size.get(name, size.get("shortest_edge")) for name in ("height", "width"))
    if height is None or width is None:
        raise UsageError(f"{file} asks for the size {size}; accepted: a height and a width.")
    return list(mean), list(deviation), (int(height), int(width))
