"""One model, one drift, several methods of adaptation, measured alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import catalogue, checkpoint
from holdfast.adapt import TestTimeAdapter
from holdfast.config import Config
from holdfast.data import Table
from holdfast.errors import CheckpointError, DataError, UsageError
from holdfast.pace import Pace
from holdfast.settings import read_json
from holdfast.stream import white_in
from holdfast.streams.drift import Domain, Drift


@dataclass(frozen=True)
class SourceModel:
    """A trained classifier, and what is known of its source.

    Attributes:
        name: Where it comes from.
        model: From images to logits.
        class_names: By label; empty where they are not known.
        shape: Of one image; a 0 stands for any size.
        white: The value of white that it takes; None: whatever arrives.
        test: Labelled images of the source to test on, where there are any.
        past: Images that it was trained on, where there are any.
    """

    name: str
    model: nn.Module
    class_names: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    white: float | None = None
    test: Table | None = None
    past: Table | None = None


@dataclass(frozen=True)
class Passage:
    """One domain as it was met.

    Attributes:
        name: Of the domain.
        round: How often it has come, from 1.
        images: How many came.
        error: Share answered wrongly while learning; None without labels.
    """

    name: str
    round: int
    images: int
    error: float | None


@dataclass(frozen=True)
class Adapted:
    """What one method made of a drift.

    Attributes:
        method: Its spec.
        passages: In order of arrival.
        clean_before: Share of the source's test images answered wrongly by the source model, in
            evaluation mode; None where there are none.
        clean_after: Likewise by the adapted model, which learns nothing from them.
        distance: Norm of the change of the weights by their norm.
        seconds: Of answering and learning.
        report: What the method counts: the share of averaged batches, of kept samples.
    """

    method: str
    passages: tuple[Passage, ...]
    clean_before: float | None
    clean_after: float | None
    distance: float
    seconds: float
    report: dict[str, float] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return sum(passage.images for passage in self.passages)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def error(self) -> float | None:
        """Over all images; None without labels."""
        wrong = [p.error * p.images for p in self.passages if p.error is not None]
        return sum(wrong) / self.images if len(wrong) == len(self.passages) else None

    def rounds(self) -> list[float | None]:
        """The mean error of the domains in each round."""
        last = max(passage.round for passage in self.passages)
        found: list[float | None] = []
        for turn in range(1, last + 1):
            errors = [p.error for p in self.passages if p.round == turn]
            known = [error for error in errors if error is not None]
            found.append(sum(known) / len(known) if len(known) == len(errors) else None)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "error": self.error,
            "rounds": self.rounds(),
            "images_per_second": self.images_per_second,
        }


def compare_adaptations(
    source: SourceModel,
    drift: Drift,
    methods: Sequence[str],
    pace: Pace | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int], None] = lambda method, done, total: None,
) -> list[Adapted]:
    """Let every method adapt a copy of a model to the same images in the same order.

    Args:
        source: The model; it is left as it is.
        drift: What arrives.
        methods: Specs of the family test-time.
        pace: Batch size, resets and so forth; None: as by default.
        device: Where to compute.
        progress: Told the method, the domains done and their number.

    Raises:
        UsageError: If a method does not exist or cannot adapt the model, before any is run.
        DataError: If the images do not fit the model.
        Diverged: If a loss becomes NaN or infinite.
    """
    pace = pace or Pace()
    drift = fitted(drift, source)
    past = source.past if source.past is not None else drift.past
    test = source.test if source.test is not None else drift.clean
    adapters = [
        TestTimeAdapter(
            deepcopy(source.model),
            method,
            steps=pace.steps,
            episodic=pace.reset == "batch",
            past=past,
            white=source.white or drift.white,
            seed=pace.seed,
            device=device,
        )
        for method in methods
    ]
    for adapter in adapters:  # what cannot be done is said before anything is
        with torch.no_grad():
            adapter.answer(drift.domains[0].x[: max(2, pace.batch_size)])
    plain = TestTimeAdapter(deepcopy(source.model), "source", device=device)
    before = None if test is None else _wrong(plain, test, pace)
    found = []
    for method, adapter in zip(methods, adapters, strict=True):
        passages, seconds = [], 0.0
        orders = torch.Generator().manual_seed(pace.seed)
        for done, domain in enumerate(drift.domains):
            progress(method, done, len(drift.domains))
            if pace.reset == "domain":
                adapter.reset()
            passage, took = _passage(adapter, domain, pace, orders)
            passages.append(passage)
            seconds += took
        report = getattr(next(adapter.method.parts()), "report", None)
        found.append(
            Adapted(
                catalogue.canonical(method),
                tuple(passages),
                before,
                None if test is None else _wrong(adapter, test, pace),
                adapter.distance(),
                seconds,
                report() if report is not None else {},
            )
        )
    return found


def fitted(drift: Drift, source: SourceModel) -> Drift:
    """The drift with labels and units as the model has them.

    Raises:
        DataError: If images or classes do not fit, saying which.
    """
    wanted, given = source.shape, drift.shape
    if wanted and (
        len(wanted) != len(given)
        or any(a not in (0, b) for a, b in zip(wanted, given, strict=True))
    ):
        shown = " x ".join(str(size or "any") for size in wanted)
        raise DataError(
            f"{source.name} takes images of {shown} (channels, height, width); those of "
            f"{drift.name} are {' x '.join(map(str, given))}."
        )
    order = _order(drift, source)
    classes = len(source.class_names)
    factor = 1.0 if source.white is None else source.white / drift.white

    def images(x: Tensor) -> Tensor:
        return x if factor == 1 and source.white != 1 else x.float() * factor

    def labels(y: Tensor, where: str) -> Tensor:
        if order is not None:
            return order[y]
        if classes and len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise DataError(
                f"The labels of {where} lie in {int(y.min())}..{int(y.max())}; {source.name} knows "
                f"{classes} classes."
            )
        return y

    def table(given: Table | None) -> Table | None:
        if given is None:
            return None
        return Table({"x": images(given["x"]), "y": labels(given["y"], drift.name)})

    domains = tuple(
        Domain(d.name, d.round, images(d.x), None if d.y is None else labels(d.y, d.name))
        for d in drift.domains
    )
    return Drift(
        drift.name,
        domains,
        source.class_names,
        source.white or drift.white,
        table(drift.clean),
        table(drift.past),
    )


def of_folder(path: Path) -> SourceModel:
    """A classifier from the folder of a run, or from a local Hugging Face folder.

    Raises:
        UsageError: If the folder holds neither.
        CheckpointError: If its weights are damaged.
    """
    if path.is_dir() and (path / "config.json").is_file():
        if "stream" in read_json(path / "config.json", "a configuration"):
            return _of_run(path)
        from holdfast.models.pictures import load_pictures

        model, channels, names = load_pictures(path)
        known = () if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names
        sizes = (0, 0) if model.size is not None else _size(model, channels)
        names = known or tuple(str(label) for label in range(len(names)))
        return SourceModel(str(path), model, names, (channels, *sizes), 1.0)
    where = "there is no such folder" if not path.is_dir() else "it has no config.json"
    raise UsageError(
        f"{path} is not a model: {where}. Accepted: the folder of a run (holdfast run ... --out "
        "FOLDER) or of a Hugging Face model for image classification."
    )


def _size(model: Any, channels: int) -> tuple[int, int]:
    size = getattr(model.model.config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (0, 0) if size is None else (int(size[0]), int(size[1]))


def _of_run(folder: Path) -> SourceModel:
    """The classifier of a run, as its newest checkpoint has it."""
    from dataclasses import replace

    from holdfast import streams
    from holdfast.run import Checkpoints, build

    config = Config.read(folder / "config.json")
    if streams.is_language(config.stream):
        raise UsageError(f"{folder} is a run of language; adapt takes classifiers of images.")
    newest = Checkpoints(folder / "checkpoints", config).newest()
    if newest is None:
        raise UsageError(f"{folder} holds no checkpoint: its run ended before its first one.")
    state = checkpoint.load(newest)
    cached = config.backbone == "cached"  # the run learned a head; the model is the whole of it
    backbone = "frozen" if cached else config.backbone
    learner, stream = build(replace(config, device="cpu", backbone=backbone))
    method = learner.method
    deciding = [p for p in method.parts() if p.overrides("predict") or p.overrides("answer")]
    routed = [type(part).__name__ for part in deciding]
    if routed or stream.scenario == "task":
        why = f"{routed[0]} decides its answers" if routed else "it is told the task of each image"
        raise UsageError(
            f"The model of {folder} does not answer by itself: {why}. Accepted: runs of methods "
            "that leave a plain classifier, such as finetune, er or joint."
        )
    try:
        learner.start(stream)
        saved = state["learner"]
        for experience in stream.experiences[: saved["index"] + (saved["batches"] is not None)]:
            learner.expand(experience)
        held = learner.model.state_dict() if cached else {}
        learner.model.load_state_dict({**held, **saved["model"]})
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{newest} does not fit this version of holdfast: {str(error).splitlines()[0]}"
        ) from error
    model: nn.Module = learner.model
    model.requires_grad_(True)
    raw = stream[0].train["x"]
    return SourceModel(
        str(folder),
        model,
        stream.class_names or tuple(str(label) for label in range(stream.classes)),
        stream.shape,
        white_in(raw, stream.white),
        Table.concat([experience.test for experience in stream]),
        Table.concat([experience.train for experience in stream]),
    )


def _order(drift: Drift, source: SourceModel) -> Tensor | None:
    """From the drift's labels to the model's, by the classes' names; None where they agree."""
    theirs, ours = drift.class_names, source.class_names
    if not theirs or not ours or theirs == ours:
        return None
    if set(theirs) == set(ours):
        place = {name: label for label, name in enumerate(ours)}
        return torch.tensor([place[name] for name in theirs])
    numbers = {tuple(str(label) for label in range(len(theirs)))}
    if len(theirs) == len(ours) and (theirs in numbers or ours in numbers):
        return None  # one of the two has no names for its classes
    raise DataError(
        f"The classes of {drift.name} are {_listed(theirs)}; {source.name} knows "
        f"{_listed(ours)}. Accepted: the same classes in both."
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _passage(
    adapter: TestTimeAdapter, domain: Domain, pace: Pace, orders: torch.Generator
) -> tuple[Passage, float]:
    """Answers to one domain's images, learned from as they come, and the seconds they took."""
    order = torch.randperm(len(domain.x), generator=orders)
    if pace.in_order:
        order = torch.arange(len(domain.x))
    order = order[: pace.limit]
    wrong, seconds = 0, 0.0
    for rows in order.split(pace.batch_size):
        x = domain.x[rows].to(adapter.learner.device)
        since = time.perf_counter()
        answers = adapter.predict(x).argmax(1).cpu()  # waits for the device
        seconds += time.perf_counter() - since
        if domain.y is not None:
            wrong += int((answers != domain.y[rows]).sum())
    error = None if domain.y is None else wrong / len(order)
    return Passage(domain.name, domain.round, len(order), error), seconds


def _wrong(adapter: TestTimeAdapter, table: Table, pace: Pace) -> float:
    """Share of wrong answers in batches of the same size, with nothing learned."""
    orders = torch.Generator().manual_seed(pace.seed)
    wrong = 0
    for rows in torch.randperm(len(table), generator=orders).split(pace.batch_size):
        answers = adapter.answer(table["x"][rows]).argmax(1).cpu()
        wrong += int((answers != table["y"][rows]).sum())
    return wrong / len(table)
