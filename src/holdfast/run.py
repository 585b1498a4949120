"""A run: from a configuration to a result, and nothing lost on the way.

A run's folder holds `config.json`, the newest checkpoints under `checkpoints/` and, once it has
finished, `result.json`. Each is written wholly or not at all, so a run that was killed at any
moment goes on from its newest checkpoint and ends with the same result.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from holdfast import augment, catalogue, checkpoint, models, start, streams
from holdfast.analysis import Analysis
from holdfast.config import Config, is_folder
from holdfast.errors import CheckpointError, RunError, UsageError
from holdfast.learner import Learner, Observer
from holdfast.method import refuse_unfit
from holdfast.models.frozen import featurised, frozen
from holdfast.optim import schedules
from holdfast.ranks import Ranks
from holdfast.settings import read_json
from holdfast.store import Result
from holdfast.stream import Stream
from holdfast.streams.validation import held_out, until

if TYPE_CHECKING:
    from holdfast.language.checkpoints import Loaded

LANGUAGE_MODEL = "llama"
"""Of the zoo: learns streams of language when none is named."""

_OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Stopped(RunError):
    """A run was asked to stop before its end. An observer may raise it at any step."""

    exit_status = 130


def run(
    config: Config,
    folder: Path | None = None,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    starts: Path | None = None,
) -> Result:
    """Learn a stream as `config` says.

    Args:
        config: Everything that the result depends on.
        folder: Where to keep checkpoints and the result; None: nowhere.
        resume: Go on with the run that `folder` holds, or return its result if it has finished.
            The result is that of an uninterrupted run, bit by bit, costs of time and memory apart.
        observers: Look on at every step. One that raises `Stopped` ends the run there; what has
            been learned is saved first.
        starts: Folder in which runs with `shared_start` find, or leave, the models that they start
            from; None: such a run makes its own, which is the same.

    Raises:
        UsageError: If a name does not exist, if `folder` holds another run, or none to go on with.
        StreamRefused: If the method cannot serve the stream.
        CheckpointError: If the newest checkpoint is damaged, or cannot be written.
        Diverged: If the loss becomes NaN or infinite.

    Example:
        >>> result = run(Config("split-digits", "finetune", model="mlp(width=16)"))
        >>> len(result.record.matrix)
        5
    """
    if folder is None:
        if resume:
            raise UsageError("To resume a run, name the folder that holds it.")
        learner, stream = build(config)
        start.begin(learner, stream, config, starts, observers)
        learner.learn(stream, [*_analyses(config), *observers])
        return _result(config, learner, stream)

    ranks = Ranks.here(device(config.device))  # of several processes, the first alone writes
    held = ranks.agree(ranks.first and _check_folder(folder, config, resume))
    if ranks.agree((folder / "result.json").exists()):
        return read_result(folder)
    learner, stream = build(config)
    checkpoints = Checkpoints(folder / "checkpoints", config)
    if checkpoints.newest() is None:
        start.begin(learner, stream, config, starts, observers)
    if not held:
        learner.start(stream)  # may refuse, and nothing has been written yet
    with locked(folder) if ranks.first else nullcontext():
        if ranks.first:
            _check_folder(folder, config, resume)
        if ranks.first and not held:
            config.write(folder / "config.json")
        ranks.agree(None)  # from here on the folder is as it is to be found
        checkpoints.learn(learner, stream, observers, before=_analyses(config))
        result = _result(config, learner, stream)
        if ranks.first:
            _write_result(folder, result)
        ranks.agree(None)
        return result


def _analyses(config: Config) -> list[Observer]:
    return [Analysis()] if config.analyse else []


def build(config: Config) -> tuple[Learner, Stream]:
    """The learner and the stream that `config` describes; equal configurations give equal ones.

    Where `shared_start` asks for a model that has been through the first experience, the model is
    as it was before (`holdfast.start.begin` brings it there).

    Raises:
        UsageError: If a name or an argument does not exist or does not fit.
    """
    method = catalogue.build(config.method)
    schedule = schedules.build(config.schedule)
    altered = augment.build(config.augment) if config.augment is not None else None
    speaks = streams.is_language(config.stream)
    learned: nn.Module
    if speaks:
        learned, stream = _language(config)
        stream = _part(stream, config)
        config = resolved(config, stream)
    else:
        stream = streams.build(config.stream, seed=config.seed, experiences=config.experiences)
        stream = _part(stream, config)
        config = resolved(config, stream)
        model = models.build(
            str(config.model),
            stream,
            head=config.head,
            seed=config.seed,
            inputs="unit" if config.inputs == "unit" else "standard",
        )
        if config.backbone == "frozen":
            model = frozen(model)
        elif config.backbone == "cached":
            refuse_unfit(method, stream, frozen(model))  # before all is passed through it
            model, stream = featurised(model, stream, device(config.device))
        learned = model
    if config.shared_start and start.shares(method):
        stream = start.begun(stream)
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        options["momentum"] = config.momentum
    learner = Learner(
        learned,
        method,
        optimizer=partial(_OPTIMIZERS[str(config.optimizer)], **options),
        epochs=config.epochs or 1,
        batch_size=config.batch_size or 1,
        accumulate=config.accumulate,
        clip=config.clip,
        precision="bfloat16" if config.precision == "bfloat16" else "float32",
        pretrained=speaks,
        optimizer_state="keep" if config.optimizer_state == "keep" else "reset",
        schedule=schedule,
        augment=altered,
        evaluate_every=config.evaluate_every,
        evaluate_subset=config.evaluate_subset,
        seed=config.seed,
        device=device(config.device),
    )
    return learner, stream


def _part(stream: Stream, config: Config) -> Stream:
    """What of the stream is learned, and by what it is scored."""
    if config.analyse:
        Analysis.refuse(stream)
    if config.until is not None:
        stream = until(stream, config.until)
    return held_out(stream, config.validation, config.seed) if config.validation else stream


def resolved(config: Config, stream: Stream) -> Config:
    """The configuration with what it leaves open settled as the stream suggests."""
    speaks = stream.scenario == "text"
    optimizer = config.optimizer or (
        "sgd" if config.momentum is not None or not speaks else "adamw"
    )
    return replace(
        config,
        model=config.model or default_model(stream),
        epochs=config.epochs or (1 if stream.online or speaks else 5),
        batch_size=config.batch_size or (8 if speaks else 32),
        clip=1.0 if config.clip is None and speaks else config.clip,
        lr=config.lr or (5e-4 if speaks else 0.01),
        optimizer=optimizer,
        momentum=0.9 if config.momentum is None and optimizer == "sgd" else config.momentum,
    )


def _language(config: Config) -> tuple[nn.Module, Stream]:
    """The language model of a configuration, and the stream in its tokens."""
    for name, value, usual in (
        ("head", config.head, "full"),
        ("backbone", config.backbone, "trained"),
        ("inputs", config.inputs, "standard"),
        ("augment", config.augment, None),
    ):
        if value != usual:
            raise UsageError(f"{name} is for classifiers; {config.stream} is language.")
    loaded = pretrained(config.model or LANGUAGE_MODEL)
    stream = streams.build(
        config.stream, config.seed, config.experiences, tokenizer=loaded.tokenizer
    )
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    if stream.shape and context is not None and stream.shape[0] > context:
        raise UsageError(
            f"The rows of {stream.name} have {stream.shape[0]} tokens; the context of "
            f"{config.model or LANGUAGE_MODEL} is {context}. Give the stream a smaller length."
        )
    return loaded.model, stream


def pretrained(model: str) -> Loaded:
    """A language model by its folder, or of the zoo by its spec.

    Raises:
        UsageError: If there is none.
    """
    from holdfast.language import checkpoints
    from holdfast.models import zoo

    if is_folder(model):
        return checkpoints.load(model)
    return checkpoints.load(zoo.folder(zoo.recipe(model)))


def default_model(stream: Stream) -> str:
    """The model for a stream when none is named.

    `llama` of the zoo for language, the encoder of a stream of tokens, `resnet18` for colour
    images, `cnn` for images of one channel larger than 32x32, and `mlp` for smaller ones and for
    everything that is no image.
    """
    if stream.scenario == "text":
        return LANGUAGE_MODEL
    if stream.tokens is not None:
        return "encoder"
    if len(stream.shape) != 3:
        return "mlp"
    channels, height, width = stream.shape
    if channels > 1:
        return "resnet18"
    return "mlp" if max(height, width) <= 32 else "cnn"


def device(name: str) -> torch.device:
    """The device behind `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: If CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here; accepted on this machine: cpu, auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one of several processes
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


class Keeping(Protocol):
    """What a run is given, as far as its checkpoints must know it."""

    @property
    def checkpoint_every(self) -> int | None: ...

    @property
    def keep_checkpoints(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


class Checkpoints(Observer):
    """Saves the learner after every experience and every so many steps.

    Args:
        folder: Holds `000001.safetensors` and so on; the newest has the highest number.
        config: Of the run; says how often to save and how many to keep, and marks whose they are.
    """

    def __init__(self, folder: Path, config: Keeping) -> None:
        self.folder, self.config = folder, config

    def on_step(self, learner: Learner) -> None:
        every = self.config.checkpoint_every
        if every and learner.meter.steps % every == 0:
            self.save(learner)

    def on_experience(self, learner: Learner) -> None:
        self.save(learner)

    def learn(
        self,
        learner: Learner,
        stream: Stream,
        observers: Sequence[Observer] = (),
        before: Sequence[Observer] = (),
    ) -> None:
        """Learn a stream, from the newest checkpoint on if there is one.

        If an observer raises `Stopped`, what has been learned until then is saved first.

        Args:
            learner: Fresh.
            stream: All of it.
            observers: Look on, after a checkpoint is saved.
            before: Look on before, so that a checkpoint holds what they note.
        """
        newest = self.newest()
        if newest is not None:
            self.restore(newest, learner, stream)
        try:
            learner.learn(stream, [*before, self, *observers])
        except Stopped:
            self.stopped(learner)
            raise

    def stopped(self, learner: Learner) -> None:
        """Save what was learned until the work was stopped."""
        self.save(learner)

    def files(self) -> list[Path]:
        """All checkpoints, the newest last."""
        return sorted(self.folder.glob("[0-9]*.safetensors"), key=lambda path: int(path.stem))

    def newest(self) -> Path | None:
        """The newest checkpoint, if there is any."""
        return self.files()[-1] if self.files() else None

    def save(self, learner: Learner) -> None:
        """Write one more checkpoint, then remove those that are too many."""
        files = self.files()
        path = self.folder / f"{int(files[-1].stem) + 1 if files else 1:06d}.safetensors"
        state = {
            "config": self.config.to_dict(),
            "device": learner.device.type,
            "threads": torch.get_num_threads(),
            "processes": learner.ranks.count,
            "learner": learner.state_dict(),
        }
        learner.last_checkpoint = str(path)
        if not learner.ranks.first:
            return
        checkpoint.save(path, state)
        for old in [*files, path][: -self.config.keep_checkpoints]:
            old.unlink(missing_ok=True)

    def restore(self, path: Path, learner: Learner, stream: Stream) -> None:
        """Bring a fresh learner to where `path` was saved, with as many threads as then.

        The number of threads decides the order of sums, and so the last bits.

        Raises:
            CheckpointError: If the file is damaged or of another run; says how to go on.
        """
        try:
            state = checkpoint.load(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error} {self._way_on(path)}") from error
        if not isinstance(state, dict) or state.get("config") != self.config.to_dict():
            raise CheckpointError(f"{path} belongs to another run. {self._way_on(path)}")
        if state["device"] != learner.device.type:
            raise CheckpointError(
                f"{path} was saved on {state['device']} and cannot go on exactly on "
                f"{learner.device.type}. Resume where there is a {state['device']} device."
            )
        if state.get("processes", 1) != learner.ranks.count:
            raise CheckpointError(
                f"{path} was saved by {state.get('processes', 1)} processes that learned together "
                f"and cannot go on exactly with {learner.ranks.count}: launch as many."
            )
        torch.set_num_threads(state["threads"])
        try:
            learner.restore(stream, state["learner"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not fit this version of holdfast: {str(error).splitlines()[0]} "
                f"{self._way_on(path)}"
            ) from error
        learner.last_checkpoint = str(path)
        if not learner.ranks.first:
            return
        for leftover in self.folder.glob(".*.safetensors.*"):  # of a write that was killed
            leftover.unlink(missing_ok=True)

    def _way_on(self, damaged: Path) -> str:
        for path in reversed(self.files()[: self.files().index(damaged)]):
            try:
                checkpoint.load(path)
            except CheckpointError:
                continue
            return (
                f"The last good checkpoint is {path}: remove every later one and resume again to "
                "go on from there."
            )
        return "There is no earlier one: remove it and resume again to begin anew."


def environment(where: torch.device) -> dict[str, Any]:
    """Versions and machine, as recorded with every result."""
    import holdfast

    cuda = where.type == "cuda"
    return {
        "holdfast": holdfast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(where) if cuda else _processor(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_result(folder: Path) -> Result:
    """The result of a finished run."""
    path = folder / "result.json"
    state = read_json(path, "a result")
    try:
        return Result.from_dict(state["stream"], state)
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a result: {error} is missing or misplaced.") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder`, created if need be, against other processes.

    Raises:
        RunError: If another process holds it, or if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"Cannot use {folder}: {error.strerror or error}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"Another process is at work in {folder}; wait for it to end."
            ) from error
        yield
    finally:
        os.close(descriptor)


def _check_folder(folder: Path, config: Config, resume: bool) -> bool:
    """Whether `folder` holds this run; refuses if it holds another, or what was not asked for."""
    path = folder / "config.json"
    if not path.exists():
        if resume:
            raise UsageError(f"There is no run in {folder} to resume.")
        if (folder / "compare.json").exists():
            raise UsageError(f"{folder} holds a comparison; choose another --out.")
        return False
    held = Config.read(path)
    if not resume:
        raise UsageError(
            f"{folder} already holds a run ({held.method} on {held.stream}, seed {held.seed}): "
            "--resume goes on with it, another --out begins anew."
        )
    config.refuse_other(held, f"{folder} holds a run")
    return True


def _result(config: Config, learner: Learner, stream: Stream) -> Result:
    return Result(
        stream=config.stream,
        method=config.method,
        seed=config.seed,
        record=learner.record,
        config=asdict(resolved(config, stream)),
        environment=environment(learner.device),
    )


def _write_result(folder: Path, result: Result) -> None:
    content = json.dumps({"stream": result.stream, **result.to_dict()}, indent=1) + "\n"
    checkpoint.write_atomically(folder / "result.json", content.encode())


def _processor() -> str:
    """The processor's name, where the system tells it."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
