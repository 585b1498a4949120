"""Frozen backbones, and streams of their features.

What a frozen backbone makes of an example never changes, so that it has to be computed once and not
in every epoch, of every method, in every evaluation: `featurised` turns a stream of images into one
of feature vectors, and a classifier into one that begins with them. Every method learns these as
it would any other stream.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from holdfast import cache, checkpoint
from holdfast.cost import stored_bytes
from holdfast.data import Table, View
from holdfast.errors import CheckpointError, UsageError
from holdfast.models.classifier import Classifier
from holdfast.models.norms import by_batch
from holdfast.stream import Experience, Experiences, Stream

ROWS = 256
"""Examples passed through the backbone at a time."""
LOOKED_AT = 8
"""Rows of kept features that are computed again, to see that they are this backbone's."""


class Frozen(nn.Module):
    """A backbone that is looked through and never changed: no gradients, evaluation mode always.

    Args:
        backbone: From inputs to feature vectors; its parameters are told to need no gradient.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.training = False

    def train(self, mode: bool = True) -> Frozen:
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone(x)
        return features


class Passed(nn.Identity):
    """Stands for a frozen backbone that the inputs have been passed through already.

    Attributes:
        bytes: Of that backbone, without its statistics of normalisation.
        statistics: Bytes of these.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        norms = (part for part in backbone.modules() if isinstance(part, _NormBase))
        self.statistics = sum(buffer.nbytes for norm in norms for buffer in norm.buffers())
        self.bytes = stored_bytes(backbone) - self.statistics


def frozen(model: Classifier) -> Classifier:
    """The classifier with its backbone frozen; weights and head are shared."""
    held = model.backbone
    return Classifier(held if isinstance(held, Frozen) else Frozen(held), model.head)


def featurised(
    model: Classifier,
    stream: Stream,
    device: torch.device | str | None = None,
    keep: bool = True,
) -> tuple[Classifier, Stream]:
    """A stream of a frozen backbone's features, and the classifier that begins with them.

    Every row that the stream trains on or tests with is passed once, as it is: in evaluation mode
    and 32 bits, not augmented. The head is shared, so that `model` itself answers to inputs after
    the head has learned.

    Args:
        model: Its backbone is frozen by this.
        stream: Of classification.
        device: Where the backbone computes; None: where it is.
        keep: Whether features are kept on disk too, under `HOLDFAST_CACHE` (or
            `~/.cache/holdfast`) in `features`, for other processes and later runs. They are found
            again by a digest of the backbone's weights and of the inputs.

    Returns:
        The classifier without its backbone; the stream, which says what its features took
        (`Stream.costs`: `feature_seconds`, those of the first time where they were kept, and
        `feature_bytes`).

    Raises:
        UsageError: If the stream is not of classification or has a scorer of its own, or if the
            backbone's answer to an example depends on its batch.
        RunError: If the features cannot be kept.

    Example:
        >>> from holdfast import Learner, models, streams
        >>> from holdfast.methods import SLDA
        >>> stream = streams.build("split-digits", seed=0)
        >>> model = models.build("mlp(width=64)", stream, head="discriminant", seed=0)
        >>> light, features = featurised(model, stream, keep=False)
        >>> features.shape
        (64,)
        >>> record = Learner(light, SLDA()).learn(features)
        >>> answers = model(stream[0].test["x"]).argmax(1)
        >>> float((answers == stream[0].test["y"]).float().mean()) > 0.8
        True
    """
    if stream.scenario == "text":
        raise UsageError(f"Features are cached for classifiers; {stream.name!r} is language.")
    if stream.scorer is not None:
        raise UsageError(
            f"{stream.name!r} is scored in a way of its own, on inputs and not on features: let "
            "the backbone be frozen without a cache."
        )
    if by_batch(model.backbone):
        raise UsageError(
            "The backbone's batch normalisation goes by the batch at hand, so that an example has "
            "no features of its own to be kept."
        )
    passes = _Passes(frozen(model).backbone, stream, device, keep)
    made: Sequence[Experience]
    if isinstance(stream.experiences, Experiences):  # go on being made when they are asked for
        made = Experiences(len(stream), lambda index: passes.experience(stream[index]))
    else:
        made = [passes.experience(experience) for experience in stream]
    rest = replace(
        stream,
        experiences=made,
        shape=(passes.width,),
        scale=((0.0,), (1.0,)),
        white=None,
        tokens=None,
        past=None if stream.past is None else passes.table(stream.past, "past"),
        tests=tuple(
            replace(test, table=passes.table(test.table, f"test {place}"))
            for place, test in enumerate(stream.tests)
        ),
        costs={
            **stream.costs,
            "feature_seconds": passes.seconds,
            "feature_bytes": passes.bytes,
        },
    )
    return Classifier(Passed(passes.backbone), model.head), rest


class _Passes:
    """The tables of a stream with features in place of inputs.

    Rows of one table that experiences share (views) stay shared; rows that no experience has are
    not computed.
    """

    def __init__(
        self, backbone: nn.Module, stream: Stream, device: torch.device | str | None, keep: bool
    ) -> None:
        first = next(backbone.parameters(), None)
        self.device = torch.device(device or ("cpu" if first is None else first.device))
        self.backbone, self.keep = backbone.to(self.device), keep
        self.weights = _digest_of(backbone)
        self.seconds, self.known = 0.0, dict[str, Tensor]()  # features by digest of the inputs
        self.whole: dict[int, Table] = {}  # by id, and held so that no other comes to have it
        self.wanted: dict[int, Tensor] = {}  # rows of it
        self.made: dict[int | str, Table] = {}
        for name, table in _tables(stream):
            if _shared(table):
                whole = table.whole
                none = torch.zeros(len(whole), dtype=torch.bool, device=whole.device)
                self.whole.setdefault(id(whole), whole)
                self.wanted.setdefault(id(whole), none)[table.rows] = True
            else:
                self.made[name] = self._with_features(table)
        for key, whole in self.whole.items():
            used = whole if bool(self.wanted[key].all()) else whole.where(self.wanted[key])
            self.made[key] = self._with_features(used)
        self.known.clear()
        held = [table["x"] for table in self.made.values()]
        self.width = int(held[0].shape[1])
        self.bytes = float(sum(x.nbytes for x in held))

    def experience(self, raw: Experience) -> Experience:
        return replace(
            raw,
            train=self.table(raw.train, f"train {raw.index}"),
            test=self.table(raw.test, f"test of {raw.index}"),
            sets={r: self.table(t, f"{r} of {raw.index}") for r, t in raw.sets.items()},
        )

    def table(self, table: Table, name: str) -> Table:
        if not _shared(table):
            return self.made[name]
        key = id(table.whole)
        wanted, rows = self.wanted[key], table.rows
        if not bool(wanted.all()):
            rows = (wanted.cumsum(0) - 1)[rows]
        return View(self.made[key], rows, own=table.own)

    def _with_features(self, table: Table) -> Table:
        """The table with features in place of inputs.

        Large classes are passed one by one: another order of classes, another number of
        experiences, and what is kept of them still serves.
        """
        x = table["x"]
        counts = table["y"].unique(return_counts=True)[1] if "y" in table else x.new_empty(0)
        if len(counts) < 2 or len(x) < ROWS * len(counts):
            return table.with_columns(x=self._of(x))
        order = table["y"].argsort(stable=True)
        parts = [self._of(x[rows]) for rows in order.split(counts.tolist())]
        features = torch.empty(len(x), parts[0].shape[1], device=x.device)
        features[order] = torch.cat(parts)
        return table.with_columns(x=features)

    def _of(self, x: Tensor) -> Tensor:
        """The features of some inputs, from memory, from disk, or computed."""
        digest = hashlib.blake2b(f"{self.weights} {self.device.type}".encode(), digest_size=16)
        _add(digest, x)
        key = digest.hexdigest()
        if key not in self.known:
            found, seconds = self._kept(x, key) if self.keep else self._computed(x)
            self.known[key], self.seconds = found, self.seconds + seconds
        return self.known[key].to(x.device)

    def _kept(self, x: Tensor, key: str) -> tuple[Tensor, float]:
        path = cache.root() / "features" / f"{key}.safetensors"
        with cache.alone(path, "features"):  # of several processes one computes, the others wait
            with suppress(CheckpointError):  # what has been damaged is made again
                state: dict[str, Any] = checkpoint.load(path)
                kept: Tensor = state["features"]
                few, _ = self._computed(x[:LOOKED_AT])
                first = kept[:LOOKED_AT]
                if first.shape == few.shape and torch.allclose(first, few, rtol=1e-2, atol=1e-3):
                    return kept, state["seconds"]
            found, seconds = self._computed(x)
            checkpoint.save(path, {"features": found, "seconds": seconds})
        return found, seconds

    def _computed(self, x: Tensor) -> tuple[Tensor, float]:
        begun = time.perf_counter()
        parts = [self.backbone(some.to(self.device)).float().cpu() for some in x.split(ROWS)]
        return torch.cat(parts), time.perf_counter() - begun


def _tables(stream: Stream) -> Iterator[tuple[str, Any]]:
    """All tables of a stream, by names that `_Passes` uses for them."""
    for e in stream:
        yield f"train {e.index}", e.train
        yield f"test of {e.index}", e.test
        yield from ((f"{role} of {e.index}", table) for role, table in e.sets.items())
    yield from ((f"test {place}", test.table) for place, test in enumerate(stream.tests))
    if stream.past is not None:
        yield "past", stream.past


def _shared(table: Table) -> TypeGuard[View]:
    """Whether the inputs of a table are those of some rows of another."""
    return isinstance(table, View) and "x" not in table.own


def _digest_of(backbone: nn.Module) -> str:
    """Of everything that a backbone's features depend on, as far as its state and form tell."""
    digest = hashlib.blake2b(f"{torch.__version__} {backbone!r}".encode(), digest_size=16)
    for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]:
        digest.update(name.encode())
        _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
