"""Output magnitudes: how large each unit of each linear layer answers to given inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError
from holdfast.models.anatomy import Watched, linears

Profile = dict[str, Float[Tensor, " outputs"]]


class Source(NamedTuple):
    """A layer whose outputs are measured: under which name, and at which module."""

    name: str
    module: nn.Module


class Magnitudes:
    """Sums of absolute outputs of layers, gathered by forward hooks until they are cleared.

    Sums are in float32, detached, and on the layer's device. Passes that a backward pass repeats
    (gradient checkpointing) are not counted again, nor passes in evaluation mode unless asked for.

    Args:
        model: What is called; its `attention_mask` says which positions are padding.
        sources: The layers.
        ignore_padding: Whether positions that the mask leaves out count nothing.
        evaluating: Whether to count passes in evaluation mode too.
    """

    def __init__(
        self,
        model: nn.Module,
        sources: Iterable[Source],
        *,
        ignore_padding: bool = True,
        evaluating: bool = False,
    ) -> None:
        self.sums: dict[str, Tensor] = {}
        self.evaluating = evaluating
        self._masks: dict[str, Tensor | None] = {}
        self._handles = [
            source.module.register_forward_hook(self._counting(source.name)) for source in sources
        ]
        if ignore_padding:
            self._handles.append(model.register_forward_pre_hook(self._see_masks, with_kwargs=True))

    def clear(self) -> None:
        """Begin anew."""
        self.sums = {}

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._masks = [], {}
        self.clear()

    def _see_masks(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Which positions are real: of the inputs and, with encoder and decoder, of the answers."""
        inputs = kwargs.get("attention_mask")
        answers = inputs
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            answers, labels = kwargs.get("decoder_attention_mask"), kwargs.get("labels")
            if answers is None and labels is not None:
                answers = labels != -100
        self._masks = {"inputs": inputs, "answers": answers}

    def _counting(self, name: str) -> Any:
        reads = "inputs" if _reads_inputs(name) else "answers"

        def count(module: nn.Module, args: Any, output: Tensor) -> None:
            if not (module.training or self.evaluating) or _in_backward():
                return
            with torch.no_grad():
                summed = _summed(output.detach(), self._masks.get(reads))
                before = self.sums.get(name)
                self.sums[name] = summed if before is None else before.add_(summed)

        return count


def _summed(output: Tensor, mask: Tensor | None) -> Tensor:
    """Absolute outputs summed over all positions but those that the mask leaves out."""
    if mask is not None and mask.shape == output.shape[:-1]:
        output = output * mask.to(output.dtype).unsqueeze(-1)
    summed: Tensor = output.abs().flatten(0, -2).sum(0, dtype=torch.float32)
    return summed


def _reads_inputs(name: str) -> bool:
    """Whether a layer of an encoder-decoder sees the encoder's positions, not the decoder's."""
    crosses = re.search(
        r"(cross|enc_?dec|encoder_att).*\.(k|v|key|value)(_proj)?(\.|$)", name.lower()
    )
    return bool(crosses) or ("encoder." in name and "decoder." not in name)


def normalised(sums: Tensor) -> Tensor:
    """Sums as shares of their total; zeros stay zeros."""
    return F.normalize(sums, p=1, dim=-1)


@contextmanager
def _watching(model: nn.Module, sources: Iterable[Source], ignore_padding: bool) -> Iterator[Any]:
    watch = Magnitudes(model, sources, ignore_padding=ignore_padding, evaluating=True)
    mode = model.training
    try:
        yield watch
    finally:
        watch.remove()
        model.train(mode)


def magnitude_profile(
    model: nn.Module, batches: Iterable[Batch], *, ignore_padding: bool = True
) -> Profile:
    """The share of each output unit in the absolute outputs of its layer, by layer.

    In evaluation mode and without gradients; the model is left as it was.

    Args:
        model: Called with each batch's `input_ids` and `attention_mask` (and, if it decodes, its
            `decoder_input_ids` or `labels`).
        batches: What it reads; one at least.
        ignore_padding: Whether positions that `attention_mask` leaves out count nothing.

    Returns:
        By layer, shares that sum to 1 (float32).

    Raises:
        UsageError: If there are no batches.

    Source: Du et al., "Unlocking continual learning abilities in language models" (2024).
    """
    sources = [Source(watched.name, watched.module) for watched in linears(model)]
    device = next(model.parameters()).device
    read = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels")
    with _watching(model, sources, ignore_padding) as watch, torch.no_grad():
        model.eval()
        for batch in batches:
            model(**{name: batch[name].to(device) for name in read if name in batch})
        sums = dict(watch.sums)
    if not sums:
        raise UsageError("A magnitude profile needs at least one batch; none was given.")
    return {name: normalised(total) for name, total in sums.items()}


def profile_cosine(one: Profile, other: Profile) -> dict[str, float]:
    """Cosine of the angle between two profiles, layer by layer."""
    return {
        name: F.cosine_similarity(one[name], other[name], dim=0).item()
        for name in one
        if name in other
    }


def profile_overlap(one: Profile, other: Profile, quantile: float = 0.7) -> dict[str, float]:
    """How many of the units above a quantile in one profile are above it in the other, by layer.

    1: the same units; `1 - quantile` is what chance gives.

    Example:
        >>> a = {"layer": torch.tensor([0.1, 0.2, 0.3, 0.4])}
        >>> b = {"layer": torch.tensor([0.4, 0.1, 0.2, 0.3])}
        >>> profile_overlap(a, b, quantile=0.5)
        {'layer': 0.5}
    """
    found = {}
    for name in one:
        if name in other:
            top = above(one[name][None], quantile)[0]
            found[name] = (
                top & above(other[name][None], quantile)[0]
            ).sum().item() / top.sum().item()
    return found


def above(shares: Float[Tensor, "layers outputs"], quantile: float, clusters: int = 0) -> Tensor:
    """Which outputs lie at or above a quantile of their layer, as bool.

    Args:
        shares: Magnitudes of layers of equal width.
        quantile: In [0, 1): what share lies below.
        clusters: Into how many groups of neighbours the outputs are put, whose sums are then
            compared; 0: each output by itself.
    """
    if clusters:
        width = shares.shape[1]
        members = torch.arange(width, device=shares.device) * min(clusters, width) // width
        sums = shares.new_zeros(len(shares), min(clusters, width)).index_add_(1, members, shares)
        return above(sums, quantile)[:, members]
    return shares >= torch.quantile(shares, quantile, dim=1, keepdim=True)


def sources_of(watched: Sequence[Watched], combined: bool, model: nn.Module) -> list[Source]:
    """Where each layer's outputs are measured: at itself; a LoRA's B, if asked, at its host.

    The host of B adds what B gives to what the frozen layer gives: W x + s B A x.
    """
    modules = dict(model.named_modules())
    found = []
    for layer in watched:
        host, inside, _ = layer.name.partition(".lora_B.")
        at = modules[host] if inside and combined else layer.module
        found.append(Source(layer.name, at))
    return found


def _in_backward() -> bool:
    """Whether a backward pass is at work, and so a forward pass is a repetition."""
    return bool(torch._C._current_graph_task_id() != -1)
