"""MIGU: only the outputs that answer loudest to the batch at hand are updated."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from holdfast.data import Batch
from holdfast.errors import UsageError, at_least
from holdfast.method import ALL_KINDS, Method, Tags
from holdfast.models.anatomy import Watched, linears
from holdfast.models.magnitudes import Magnitudes, above, normalised, sources_of
from holdfast.optim.masked import MaskedUpdates

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.stream import Experience, Stream

Lora = Literal["combined", "own"]


class MIGU(Method):
    """MIGU: update the rows of linear layers whose outputs are largest on this update's batch.

        n = sum |h| / || sum |h| ||_1          over the positions of all passes of the update
        grad W_i <- 1[n_i >= quantile(n, q)] grad W_i

    Tasks have differently shaped profiles n, so they come to train different rows. Nothing is kept
    of earlier tasks, and none of their data is needed.

    Args:
        quantile: q, the share of each layer's rows that is not updated, in [0, 1).
        target: `"all-linear"`, or the last names of the layers to watch, with commas
            (`"q_proj,v_proj"`).
        lora: Which output decides over the rows of a LoRA's B: `"combined"`: that of its host,
            W x + s B A x; `"own"`: B A x. Rows of A go by A x.
        start_at: Place of the first experience at which it acts; None: 0 if the model came
            pre-trained, else 1.
        freeze_update: Whether a masked row does not move at all; otherwise old momentum and weight
            decay still move it, as in the official code.
        clusters: Into how many groups of neighbouring rows each layer's are put, to be chosen
            together; 0: each row by itself.
        ignore_padding: Whether padding counts nothing.
        biases: Whether biases are masked with their rows.
        random_update: Control: as many rows, at random.

    Raises:
        UsageError: If an argument is out of range.
    """

    tags = Tags(
        family="sparse",
        title="Unlocking Continual Learning Abilities in Language Models",
        source="Du et al., 2024",
        scenarios=ALL_KINDS,
    )
    works_inside = True
    shares_passes = False
    remembers = ("drawn",)

    def __init__(
        self,
        quantile: float = 0.7,
        target: str = "all-linear",
        lora: Lora = "combined",
        start_at: int | None = None,
        freeze_update: bool = False,
        clusters: int = 0,
        ignore_padding: bool = True,
        biases: bool = False,
        random_update: bool = False,
    ) -> None:
        super().__init__()
        at_least(0, start_at=start_at, clusters=clusters)
        if not 0 <= quantile < 1:
            raise UsageError(f"quantile must lie in [0, 1); given: {quantile}.")
        if lora not in get_args(Lora):
            raise UsageError(f"lora must be one of {', '.join(get_args(Lora))}; given: {lora!r}.")
        self.quantile, self.target, self.lora = quantile, target, lora
        self.start_at, self.freeze_update, self.clusters = start_at, freeze_update, clusters
        self.ignore_padding, self.biases = ignore_padding, biases
        self.random_update = random_update
        self.drawn = 0  # updates masked at random so far
        self._watched: list[Watched] = []
        self._magnitudes: Magnitudes | None = None
        self._updates: MaskedUpdates | None = None

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        # Not in `begin`, which a resumed experience has behind it.
        if self._magnitudes is None and self.acts(learner):
            self._watch(learner.model)
        return batch

    def gradients(self, learner: Learner) -> None:
        if self._magnitudes is None:
            return
        updates = MaskedUpdates(self.masks(learner))
        self._magnitudes.clear()
        if self.freeze_update:
            updates.before(learner.optimizer)
            self._updates = updates
        else:
            updates.mask_gradients()

    def step(self, learner: Learner) -> None:
        if self._updates is not None:
            self._updates.after(learner.optimizer)
            self._updates = None

    def end(self, learner: Learner, experience: Experience) -> None:
        self.release(learner)

    def release(self, learner: Learner) -> None:
        if self._magnitudes is not None:
            self._magnitudes.remove()
        self._magnitudes, self._updates, self._watched = None, None, []

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        if not stream.boundaries and self.start_at != 0:
            return (
                f"MIGU acts from the second experience on, and {stream.name!r} does not tell where "
                "the first ends: give start_at=0."
            )
        return super().refusal(stream, model)

    def acts(self, learner: Learner) -> bool:
        """Whether rows are masked in the experience at hand."""
        first = (0 if learner.pretrained else 1) if self.start_at is None else self.start_at
        return learner.index >= first

    def masks(self, learner: Learner) -> list[tuple[nn.Parameter, Tensor]]:
        """For every watched layer, which rows may move; all rows of those not reached."""
        shares = self._drawn_shares(learner) if self.random_update else self._measured()
        # Layers of one width are compared in one go.
        by_width: dict[int, list[int]] = defaultdict(list)
        for at, share in enumerate(shares):
            by_width[len(share)].append(at)
        found: list[tuple[nn.Parameter, Tensor]] = []
        for places in by_width.values():
            rows = normalised(torch.stack([shares[at] for at in places]))
            for at, open_ in zip(places, above(rows, self.quantile, self.clusters), strict=True):
                layer = self._watched[at].module
                found.append((layer.weight, open_.unsqueeze(1 - self._watched[at].dim)))
                if self.biases and layer.bias is not None:
                    found.append((layer.bias, open_))
        return found

    # Inside.

    def _watch(self, model: nn.Module) -> None:
        named = [name.strip() for name in self.target.split(",")]
        trained = [layer for layer in linears(model) if layer.module.weight.requires_grad]
        chosen = [
            layer
            for layer in trained
            if self.target == "all-linear" or _called(layer.name) in named
        ]
        if not chosen:
            names = sorted({_called(layer.name) for layer in trained})
            raise UsageError(
                f"MIGU finds no trainable linear layer called {self.target!r} in "
                f"{type(model).__name__}; accepted: all-linear, {', '.join(names) or '(none)'}."
            )
        self._watched = chosen
        self._magnitudes = Magnitudes(
            model,
            sources_of(chosen, self.lora == "combined", model),
            ignore_padding=self.ignore_padding,
        )

    def _measured(self) -> list[Tensor]:
        """Each layer's magnitudes, averaged over the processes of a distributed training."""
        assert self._magnitudes is not None
        sums = [
            self._magnitudes.sums.get(
                layer.name, _zeros(layer)
            )  # another process may have reached it
            for layer in self._watched
        ]
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return sums
        flat = torch.cat(sums)
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        return list(flat.split([len(summed) for summed in sums]))

    def _drawn_shares(self, learner: Learner) -> list[Tensor]:
        """Numbers at random in place of magnitudes, the same in every process."""
        draw = torch.Generator().manual_seed(learner.seed * 1_000_003 + self.drawn)
        self.drawn += 1
        empty = [_zeros(layer) for layer in self._watched]
        return [torch.rand(len(e), generator=draw).to(e.device) for e in empty]


def _called(name: str) -> str:
    """The last name of a layer; of a LoRA's A or B, its host's."""
    return name.partition(".lora_")[0].rpartition(".")[2]


def _zeros(layer: Watched) -> Tensor:
    weight: Tensor = layer.module.weight
    return torch.zeros(weight.shape[layer.dim], device=weight.device)
