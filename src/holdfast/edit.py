"""Editing facts of a language model: from requests to a model that tells them.

A folder holds `config.json`, `edits.jsonl` (the requests as they were given to the editor), the
newest checkpoints, the model under `model/` and `edit.json`, what the edits came to. Each is
written wholly or not at all. The list in `model/edits.json` goes with the model: it says what is in
it, whatever was going on when a process was killed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from holdfast import catalogue, checkpoint
from holdfast.checkpoint import write_atomically
from holdfast.cost import stored_bytes
from holdfast.edit_config import EditConfig
from holdfast.errors import UsageError, unknown
from holdfast.evaluation import Record, Scores
from holdfast.language import checkpoints, edited
from holdfast.language.editing import DEFINITIONS, Edited, Measure
from holdfast.language.records import Bad, read
from holdfast.language.requests import Request
from holdfast.language.verdict import finite
from holdfast.learner import Learner, Observer
from holdfast.method import Method, refuse_unfit
from holdfast.models.beside import Beside, beside, seat
from holdfast.run import Checkpoints, device, environment, locked
from holdfast.spec import parse_one
from holdfast.stream import Stream
from holdfast.streams.language.edits import edits as stream_of
from holdfast.streams.language.edits import read_edits

PAST_ROWS = 160
"""Rows of text, of 128 tokens, on which statistics are taken."""


@dataclass(frozen=True)
class Outcome:
    """What an editing came to.

    Attributes:
        config: What was asked for.
        requests: The edits that are in the model.
        before: Measured before any of them.
        points: After numbers of edits, of all edits so far: `Edited`, with `seconds` and `bytes`.
        record: Of the learner: cost, what the editor wrote down.
        environment: Versions and machine.
    """

    config: EditConfig
    requests: list[Request]
    before: Edited
    points: list[dict[str, Any]]
    record: Record
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of editing alone, for one edit."""
        return float(self.points[-1]["seconds"]) / len(self.requests)

    @property
    def growth(self) -> float:
        """Bytes that are kept beside the model for each further edit."""
        first, last = self.points[0], self.points[-1]
        more = last["edits"] - first["edits"]
        return float((last["bytes"] - first["bytes"]) / more) if more else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is no finite number is None."""
        found: dict[str, Any] = finite(
            {
                "config": self.config.to_dict(),
                "measures": DEFINITIONS,
                "requests": [request.to_dict() for request in self.requests],
                "before": self.before.to_dict(),
                "points": self.points,
                "edits_per_second": 1 / self.seconds if self.seconds else None,
                "bytes_per_edit": self.growth,
                "notes": [note for note in self.record.notes if "edited" not in note],
                "cost": {n: v for n, v in self.record.cost.items() if n != "flops"},
                "environment": self.environment,
            }
        )
        return found


def edit(
    config: EditConfig,
    out: Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
) -> Outcome:
    """Make edits as a configuration says, write the edited model, and measure it.

    With `resume`, edits that were added at the end of the file are made on top of those before.

    Args:
        config: Everything that the result depends on.
        out: The folder; it must be new, or hold this very editing.
        resume: Go on with what is there.
        observers: Look on. One that raises `Stopped` ends the work after the edit at hand.

    Raises:
        UsageError: If the configuration names what does not exist or does not fit, or if `out`
            holds something else.
        RunError: If the loss becomes NaN or infinite.
    """
    requests, _ = asked_for(config)
    _check_folder(out, config, resume, requests)
    before = _read_requests(out)  # with the unrelated prompts that they were made with
    work = _prepared(config, [*before, *requests[len(before) :]])
    with locked(out):
        config.write(out / "config.json")
        _write_requests(out, work.requests)
        return _made(work, out, observers)


def asked_for(config: EditConfig) -> tuple[list[Request], list[Bad]]:
    """The requests of a configuration, and the records that are passed over."""
    bad: list[Bad] = []
    return read_edits(config.edits, config.limit, bad if config.skip_bad else None), bad


def undo(out: Path, number: int, observers: Sequence[Observer] = ()) -> Outcome:
    """Take one edit out of an edited model: the others are made in their order without it.

    What came before it is taken from a checkpoint where one is kept; the result is the same as if
    the edit had never been asked for.

    Args:
        out: Folder of an editing.
        number: Of the edit, from 1, as `edits_in` lists them.
        observers: Look on.

    Raises:
        UsageError: If the folder holds no editing, or if there is no such edit.
    """
    if not (out / "config.json").is_file():
        raise UsageError(f"There is no editing in {out}: an edit is undone where it was made.")
    config = EditConfig.read(out / "config.json")
    requests = edits_in(out)
    if not 1 <= number <= len(requests):
        raise UsageError(
            f"There is no edit {number} in {out}; its edits are 1 to {len(requests)} "
            f"(holdfast edit --list {out})."
        )
    if len(requests) == 1:
        raise UsageError(f"The only edit in {out} is undone by using {config.model} itself.")
    work = _prepared(config, [request for at, request in enumerate(requests, 1) if at != number])
    with locked(out):
        kept = Keeper(out / "checkpoints", config)
        for path in kept.files():
            if int(path.stem) >= number:  # the edit is in it
                path.unlink()
        _write_requests(out, work.requests)
        return _made(work, out, observers)


def edits_in(folder: Path) -> list[Request]:
    """The edits of an edited model, by its folder or by that of the editing."""
    home = folder / "model" if (folder / "model" / edited.LIST).is_file() else folder
    return [Request(**entry) for entry in edited.listed(home)["edits"]]


class Keeper(Checkpoints):
    """Saves the learner every so many edits and after the last, named by how many it has made.

    Args:
        folder: Of the checkpoints.
        config: Of the editing.
        edits: How many are to be made.
        batch: How many an experience has; the last may have fewer.
    """

    def __init__(self, folder: Path, config: EditConfig, edits: int = 0, batch: int = 1) -> None:
        super().__init__(folder, replace(config, edits="edits.jsonl", limit=None))
        self.edits, self.batch, self.every = edits, batch, config.checkpoint_every

    def on_step(self, learner: Learner) -> None: ...

    def on_experience(self, learner: Learner) -> None:
        made = self.made(learner)
        if made // self.every > (made - self.batch) // self.every or made == self.edits:
            self.save(learner)

    def stopped(self, learner: Learner) -> None:
        if learner.batches is None:  # not within an edit
            self.save(learner)

    def made(self, learner: Learner) -> int:
        """The number of edits that a learner has made."""
        return min(self.edits, learner.index * self.batch)

    def newest(self) -> Path | None:
        """The newest checkpoint of whole batches: one that was cut short may have become longer."""
        whole = [
            path
            for path in self.files()
            if int(path.stem) == self.edits or not int(path.stem) % self.batch
        ]
        return whole[-1] if whole else None

    def save(self, learner: Learner) -> None:
        path = self.folder / f"{self.made(learner):06d}.safetensors"
        checkpoint.save(
            path,
            {
                "config": self.config.to_dict(),
                "device": learner.device.type,
                "threads": torch.get_num_threads(),
                "learner": learner.state_dict(),
            },
        )
        learner.last_checkpoint = str(path)
        for old in self.files()[: -self.config.keep_checkpoints]:
            old.unlink(missing_ok=True)


class _Points:
    """Scores a learner after chosen numbers of edits, and writes down what it found."""

    def __init__(self, measure: Measure, points: Sequence[int], batch: int) -> None:
        self.measure, self.batch = measure, batch
        self.all = len(measure.requests)
        self.points = {*points, self.all}

    def score(self, learner: Learner) -> Scores:
        if not learner.record.steps and not learner.record.initial:
            return Scores([0.0], [0.0])  # measured before, on the same model
        count = min(self.all, (learner.index + 1) * self.batch)
        if not any(count - self.batch < point <= count for point in self.points):
            return Scores([], [])
        found = self.measure.after(learner.model, count)
        point = point_of(found, learner.meter.seconds, stored_bytes(learner.method))
        learner.note(edited=finite(point))
        return Scores([found.score], [found.score])

    def subset(self, examples: int, seed: int) -> _Points:
        return self


def point_of(found: Edited, seconds: float, kept: int) -> dict[str, Any]:
    """A measurement with what it took until then."""
    return {**found.to_dict(), "seconds": seconds, "bytes": kept}


def editor(spec: str) -> Method:
    """The method that edits.

    Raises:
        UsageError: If it is none.
    """
    editors = [e.name for e in catalogue.entries() if e.tags.family == "editing"]
    name = parse_one(spec).name
    if name not in editors:
        if name in {e.name for e in catalogue.entries()}:
            raise UsageError(f"{spec} does not edit; accepted: {', '.join(editors)}.")
        raise unknown("editor", name, editors)
    return catalogue.build(spec)


def learner_of(model: Any, method: Method, config: EditConfig, rows: int = 1) -> Learner:
    """The learner that makes edits; equal ones give equal models."""
    learner = Learner(
        model,
        method,
        batch_size=rows,
        pretrained=True,
        seed=config.seed,
        device=model.device,
    )
    learner.meter.counting = False  # an edit is so short that counting would be most of it
    return learner


@dataclass(frozen=True)
class _Work:
    """What is to be done, checked before anything is written."""

    config: EditConfig
    requests: list[Request]
    loaded: checkpoints.Loaded
    method: Method
    stream: Stream
    batch: int
    further: list[str]


def _prepared(config: EditConfig, requests: list[Request]) -> _Work:
    method = editor(config.method)
    loaded = checkpoints.load(
        config.model, device=device(config.device), trust_remote_code=config.trust_remote_code
    )
    _refuse_model(loaded)
    further = [str(s.prompt or s.text) for s in read(config.locality)] if config.locality else []
    batch = {"sequential": 1, "single": 1, "batch": config.batch or len(requests)}[config.protocol]
    stream = stream_of(
        requests,
        loaded.tokenizer,
        name=Path(config.edits).name,
        batch=batch,
        past=_past(config, loaded),
        length=min(config.length, loaded.context or config.length),
    )
    refuse_unfit(method, stream, loaded.model)
    return _Work(config, requests, loaded, method, stream, batch, further)


def _made(work: _Work, out: Path, observers: Sequence[Observer]) -> Outcome:
    config, requests, loaded = work.config, work.requests, work.loaded
    method, stream, batch = work.method, work.stream, work.batch
    measure = Measure(
        loaded.model,
        loaded.tokenizer,
        requests,
        further=work.further,
        length=config.length,
        fluency=not config.no_fluency,
    )
    before = measure.after(loaded.model)
    if config.protocol == "single":
        points, record = _singly(config, loaded.model, stream, measure, observers)
    else:
        stream = replace(stream, scorer=_Points(measure, config.points, batch))
        learner = learner_of(loaded.model, method, config, batch)
        keeper = Keeper(out / "checkpoints", config, len(requests), batch)
        keeper.learn(learner, stream, observers)
        record = learner.record
        points = [note["edited"] for note in record.notes if "edited" in note]
        _save(config, out, requests, learner, loaded.tokenizer)
    outcome = Outcome(config, requests, before, points, record, environment(loaded.model.device))
    content = json.dumps(outcome.to_dict(), indent=1) + "\n"
    write_atomically(out / "edit.json", content.encode())
    return outcome


def _singly(
    config: EditConfig, base: Any, stream: Stream, measure: Measure, observers: Sequence[Observer]
) -> tuple[list[dict[str, Any]], Record]:
    """Every edit on a copy of the model, measured on its own; the mean over all of them."""
    found: list[Edited] = []
    seconds, kept, record = 0.0, 0, Record()
    for experience in stream:
        one = replace(stream, experiences=[replace(experience, index=0)], scorer=_Nothing())
        learner = learner_of(deepcopy(base), editor(config.method), config)
        learner.learn(one, observers)
        found.append(measure.of(learner.model, [experience.index]))
        seconds += learner.meter.seconds
        kept = stored_bytes(learner.method)
        record = learner.record
    return [finite(point_of(mean_of(found), seconds, kept))], record


def mean_of(found: Sequence[Edited]) -> Edited:
    """The mean of measurements of one edit each, of those in which a number was measured."""
    names = [name for name in Edited.__dataclass_fields__ if name not in ("edits", "each")]
    means = {}
    for name in names:
        values = [value for one in found if (value := getattr(one, name)) == value]
        means[name] = sum(values) / len(values) if values else float("nan")
    return Edited(len(found), **means, each=[entry for one in found for entry in one.each])


class _Nothing:
    """Scores nothing."""

    def score(self, learner: Learner) -> Scores:
        return Scores([0.0], [0.0])

    def subset(self, examples: int, seed: int) -> _Nothing:
        return self


def _save(
    config: EditConfig, out: Path, requests: list[Request], learner: Learner, tokenizer: Any
) -> None:
    """The edited model as a folder, with its memory, if it has one, and its list of edits."""
    model, method = learner.model, learner.method
    record = {
        "method": config.method,
        "protocol": config.protocol,
        "edits": [request.to_dict() for request in requests],
    }
    finish = getattr(method, "finish", None)
    further: dict[str, bytes] = {}
    if finish is not None:
        memory: Beside = finish(model)
        memory.record = {**record, "layer": memory.layer, "memory": memory.kind}
        memory.attach(model, seat(model, memory.layer))
    else:
        further[edited.LIST] = edited.content({**record, "memory": None})
    model.requires_grad_(True)
    checkpoints.save(model, tokenizer, out / "model", replace=True, further=further)


def _past(config: EditConfig, loaded: checkpoints.Loaded) -> Any:
    """Text that the model knows, as full rows; None if none was given."""
    if not config.past:
        return None
    from holdfast.language.encode import encode

    length = min(128, loaded.context or 128)
    table = encode(read(config.past), loaded.tokenizer, length=length, pack=True).table
    return table.take(slice(0, PAST_ROWS))


def _refuse_model(loaded: checkpoints.Loaded) -> None:
    if loaded.adapter:
        raise UsageError(
            f"{loaded.path} is an adapter: edits are made in a whole model. Merge it into its base "
            "first."
        )
    if beside(loaded.model) is not None:
        raise UsageError(
            f"{loaded.path} has edits beside it already: go on with them by --resume and a longer "
            "file of edits where they were made."
        )
    if loaded.kind != "causal":
        raise UsageError(f"{loaded.path} has an encoder; accepted: causal language models.")


def _check_folder(out: Path, config: EditConfig, resume: bool, requests: list[Request]) -> None:
    held = config.held_in(out, "config.json", resume, "an editing")
    if held is None:
        return
    same = replace(config, edits=held.edits, limit=held.limit)
    same.refuse_other(held, f"{out} holds an editing")
    before = _read_requests(out)
    made = [replace(request, where="", unrelated="") for request in requests[: len(before)]]
    if made != [replace(request, where="", unrelated="") for request in before]:
        raise UsageError(
            f"{out} holds other edits than {config.edits} begins with: --resume makes those that "
            "were added at the end."
        )


def _write_requests(out: Path, requests: Sequence[Request]) -> None:
    lines = "".join(json.dumps(request.to_dict()) + "\n" for request in requests)
    write_atomically(out / "edits.jsonl", lines.encode())


def _read_requests(out: Path) -> list[Request]:
    path = out / "edits.jsonl"
    if not path.is_file():
        return []
    return [Request(**json.loads(line)) for line in path.read_text().splitlines()]
