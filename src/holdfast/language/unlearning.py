"""An unlearning made ready: everything that can be wrong is found before work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from holdfast import catalogue
from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.language import checkpoints
from holdfast.language.audit import Logs
from holdfast.language.encode import encode
from holdfast.language.facts import Fact, distinct, read_facts
from holdfast.language.files import listed, rows
from holdfast.language.unlearned import FactSet
from holdfast.memory.requests import REFUSAL, RETAIN
from holdfast.method import Method, refuse_unfit
from holdfast.request import Request
from holdfast.stream import Experience, Stream

WATCHED = 256
"""Rows of the retain set that a `guard` looks at."""


@dataclass
class Plan:
    """What a request comes to.

    Attributes:
        request: As given.
        loaded: Model and tokenizer.
        stream: One experience: what is to be forgotten, with the retain and the refusal set.
        sets: What is measured: the forget set first, then those to be kept.
        strangers: What no model has seen; None: not given.
        logs: Of a model that never knew; None: not given, or made of `reference` later.
        reference: Folder of such a model; None: not given.
        warnings: What is odd but no reason to stop, a sentence each.
    """

    request: Request
    loaded: checkpoints.Loaded
    stream: Stream
    sets: list[FactSet]
    strangers: FactSet | None = None
    logs: Logs | None = None
    reference: Path | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def per_epoch(self) -> int:
        """Updates of an epoch: through the forget set, or the retain set where that anchors it."""
        first = self.stream[0]
        anchors = [getattr(part, "anchor", "forget") for part in method_of(self.request).parts()]
        table = first.sets[RETAIN] if RETAIN in anchors else first.train
        passes = -(-len(table) // self.request.batch_size)
        return -(-passes // self.request.accumulate)


def method_of(request: Request) -> Method:
    """The method that a request asks for, after the adapter that it asks for.

    Raises:
        UsageError: If a name or argument does not exist, the methods cannot be chained, none of
            them forgets, or one needs a set that was not given.
    """
    method = catalogue.build("+".join(spec for spec in (request.lora, request.method) if spec))
    parts = [part for part in method.parts() if part.tags.family == "unlearning"]
    if not any(type(part).__name__ not in ("Retain", "RetainKL") for part in parts):
        forgetting = [
            entry.name
            for entry in catalogue.entries()
            if entry.tags.family == "unlearning" and not entry.name.startswith("retain")
        ]
        raise UsageError(
            f"{request.method!r} learns what is to be forgotten; accepted are methods that "
            f"unlearn: {', '.join(forgetting)}."
        )
    for part in parts:
        name = type(part).__name__
        if "refusal set" in part.tags.needs and request.refusals is None:
            raise UsageError(
                f"{name} teaches refusals, and no file of them was given: --refusals FILE, with "
                "one answer a line."
            )
        wants = "retain set" in part.tags.needs or getattr(part, "retain", False) is True
        if wants and not request.retain:
            raise UsageError(
                f"{name} trains on what is to be kept, and none was given: --retain FILE."
            )
    return method


def prepare(request: Request, device: torch.device) -> Plan:
    """Read, check and encode everything that a request names.

    Raises:
        DataError: If a file is missing or lacks what is asked for, or if something is to be
            forgotten and kept.
        UsageError: If the model cannot be loaded, or something asked for does not fit it.
        StreamRefused: If the method cannot serve the model.
    """
    method_of(request)  # a wrong name is told before a large model is read
    forget = read_facts(request.forget, request.fields)
    retain = read_facts(request.retain, request.fields) if request.retain else []
    _refuse_overlap(forget, retain, "the retain set")
    sets = [FactSet("forget", forget, forgotten=True)]
    if retain:
        sets.append(FactSet("retain", retain))
    for path in request.utility:
        facts = read_facts([path], request.fields)
        _refuse_overlap(forget, facts, path)
        sets.append(FactSet(_named(path, sets), facts, contrasted=True))
    strangers = None
    if request.strangers is not None:
        facts = read_facts([request.strangers], request.fields)
        _refuse_overlap(forget, facts, request.strangers)
        strangers = FactSet("strangers", facts).part(request.look)
    refusing = read_refusals(request.refusals) if request.refusals is not None else []
    reference, logs = _reference(request)
    loaded = checkpoints.load(
        request.model, device=device, trust_remote_code=request.trust_remote_code
    )
    if request.checkpointing:
        loaded.model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    warnings: list[str] = []
    tables, sets = _tables(request, loaded, sets, retain, refusing, warnings)
    train = tables.pop("forget")
    stream = Stream(
        name=Path(request.forget[0]).name.split(".")[0],
        experiences=[Experience(0, train, train, (), "forget", tables)],
        scenario="text",
        classes=0,
        shape=(train["input_ids"].shape[1],),
        past=tables.get(RETAIN),
    )
    plan = Plan(
        request,
        loaded,
        stream,
        [one.part(request.look) for one in sets],
        strangers,
        logs,
        reference,
        warnings,
    )
    refuse_unfit(method_of(request), stream, loaded.model)
    if logs is not None:
        logs.check(plan.sets[0], str(request.reference))
    plan.warnings += _warnings(plan)
    return plan


def read_refusals(path: str) -> list[str]:
    """Answers that tell nothing: the `answer` (or `text`) of every record, or the lines of a text.

    Raises:
        DataError: If there is none.
    """
    found: list[str] = []
    for file in listed(Path(path)):
        for row in rows(file):
            if row.fault is not None:
                raise DataError(row.fault)
            if isinstance(row.record, str):
                found.append(row.record)
                continue
            record: Any = row.record if isinstance(row.record, dict) else {}
            given = record.get("answer", record.get("text"))
            if not isinstance(given, str):
                raise DataError(f"{row.where} has no answer; a refusal is a record's 'answer'.")
            found += given.splitlines()
    found = [answer.strip() for answer in found if answer.strip()]
    if not found:
        raise DataError(f"There is no refusal in {path}; accepted: one answer a line.")
    return found


def _tables(
    request: Request,
    loaded: checkpoints.Loaded,
    sets: list[FactSet],
    retain: Sequence[Fact],
    refusing: Sequence[str],
    warnings: list[str],
) -> tuple[dict[str, Table], list[FactSet]]:
    """Everything as tokens, and the sets without what was left out for being too long."""
    context = loaded.context
    if request.length and context and request.length > context:
        raise DataError(
            f"Rows of {request.length} tokens do not fit the model's context of {context}."
        )
    length = request.length or context or 1024
    seq2seq = loaded.kind == "seq2seq"

    def encoded(facts: Sequence[Fact], overlong: str) -> tuple[Table, list[int]]:
        made = encode(
            [fact.sample for fact in facts],
            loaded.tokenizer,
            length=length,
            overlong=overlong,
            seq2seq=seq2seq,
        )
        assert made.kept is not None
        return made.table.to(loaded.model.device), made.kept.tolist()

    fitting = []
    for one in sets:
        _, kept = encoded(_longest(one.facts), "skip" if request.overlong != "error" else "error")
        if len(kept) < len(one.facts):
            gone = len(one.facts) - len(kept)
            warnings.append(
                f"{gone} questions of {one.name} are too long with one of their answers, and are "
                "not measured."
            )
            if not kept:
                raise DataError(f"No question of {one.name} fits a row of {length} tokens.")
        facts = [one.facts[i] for i in kept]
        fitting.append(FactSet(one.name, facts, one.forgotten, one.contrasted))
    train, kept = encoded(sets[0].facts, request.overlong)
    tables = {"forget": train}
    if retain:
        tables[RETAIN], _ = encoded(retain, request.overlong)
        tables["guard:retain"] = tables[RETAIN].take(slice(0, WATCHED))
    if refusing:
        draw = torch.Generator().manual_seed(request.seed)
        chosen = torch.randint(len(refusing), (len(kept),), generator=draw).tolist()
        refused = [
            Fact(sets[0].facts[i].question, refusing[which])
            for i, which in zip(kept, chosen, strict=True)
        ]
        tables[REFUSAL], _ = encoded(refused, "cut")
    return tables, fitting


def _longest(facts: Sequence[Fact]) -> list[Fact]:
    """Every fact with the longest of its answers, which must fit a row too."""
    return [
        Fact(f.question, max((f.answer, f.paraphrase or "", *f.perturbed), key=len), where=f.where)
        for f in facts
    ]


def _refuse_overlap(forget: Sequence[Fact], other: Sequence[Fact], where: str) -> None:
    shared = distinct(forget) & distinct(other)
    if shared:
        count = sum(bool(distinct([fact]) & shared) for fact in forget)
        first = next(fact for fact in forget if distinct([fact]) & shared)
        raise DataError(
            f"{count} of the {len(forget)} questions to be forgotten are also in {where} (first: "
            f"{first.where}); what is to be forgotten cannot be kept, nor unseen."
        )


def _reference(request: Request) -> tuple[Path | None, Logs | None]:
    if request.reference is None:
        return None, None
    path = Path(request.reference)
    if path.is_dir():
        checkpoints.describe(path)
        return path, None
    return None, Logs.read(path)


def _named(path: str, sets: Sequence[FactSet]) -> str:
    name = Path(path).name.split(".")[0]
    return name if all(one.name != name for one in sets) else f"{name} {len(sets)}"


def _warnings(plan: Plan) -> list[str]:
    found = []
    forget = plan.sets[0].facts
    lacking = sum(not fact.perturbed for fact in forget)
    if lacking:
        found.append(
            f"{lacking} of the {len(forget)} questions to be forgotten have no 'perturbed_answer': "
            "there is no truth ratio, and so no forget quality."
        )
    elif plan.reference is None and plan.logs is None:
        found.append(
            "Forget quality is not computed: it compares with a model that was trained without "
            "what is to be forgotten (--reference FOLDER, or the logs of one)."
        )
    if len(plan.sets) == 1:
        found.append("No retain set was given, so nothing is known of what is lost.")
    if plan.strangers is None:
        found.append(
            "Membership attacks are not made: they need questions that the model has never seen "
            "(--strangers FILE)."
        )
    return found
