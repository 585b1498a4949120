"""A record of every method: where it belongs, what it does, what it needs, what it goes with.

There is one source for each fact. What a method is, needs and keeps is said by its class
(`holdfast.method.Tags` and the hooks it overrides); what a class cannot know (its place in the
survey of continual learning of language models, its techniques, the old data that its default
arguments ask for, where it was measured) is in `taxonomy.yaml` beside this file. Records join both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from holdfast import catalogue
from holdfast.catalogue import Entry
from holdfast.errors import UsageError, unknown
from holdfast.method import Method, chain
from holdfast.ranks import alone

SCHEMA = 1
"""Of records as JSON; raised when older readers could misread newer ones."""

SHIFTS = {"class": "class", "task": "task", "domain": "content"}
"""What changes in a stream of each kind; in streams of text it may be anything."""

INTEGRATION = {
    "data": ("select", "epoch_rows", "batch", "phases"),
    "loss": ("logits", "loss"),
    "update": ("gradients", "step"),
    "model": ("answer", "expand", "serving"),
    "prediction": ("predict",),
    "own training": ("fit",),
    "between experiences": ("begin", "turn", "end", "inherit"),
}
"""Where a method comes in, by the hooks it overrides."""

_FIELDS = {
    "continuity",
    "stages",
    "subtypes",
    "techniques",
    "shifts",
    "old_data",
    "models",
    "trained_before",
    "boundaries",
    "variants",
    "combines_with",
    "evidence",
}
_NEEDED = ("continuity", "stages", "techniques", "old_data", "models")


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without, in the words of a set-up.

    Attributes:
        old_data: `none`, `few` or `all`: what its default arguments keep or ask for of the past.
        task_id: `none`, or `test`: each example's task must be known, also at test.
        boundaries: Whether it must be told where an experience ends.
        labels: Whether it learns from labels.
        new_classes: Whether it acts only where classes are added.
        retain_set: Whether what is to stay must be given beside what is to be forgotten.
        refusal_set: Whether answers that tell nothing must be given beside it.
        model: What the model must have: `features`, `linear head`, `norm layers`,
            `transformer blocks`, `adapters` (put in by the method itself).
        model_access: `weights`: no method here makes do with logits or an interface.
        trained_before: Whether it is for a model that knows something already.
        teacher_copy: Whether it keeps a copy of the model.
        memory: What it stores of the past.
        served_alone: Whether the saved model, or adapter, answers as learned without the method.
        extra_parameters: Share of the model's weights added in use; None: not known.
        inference_cost: Time of an answer against the plain model's; None: not known.
        takes_unlabelled: Whether it learns from examples without labels where there are some.
        distributed_ok: Whether several processes may share its passes.
        peft_ok: Whether it goes with adapters on a frozen model, or brings them.
        full_ft_ok: Whether it goes with training all weights.
        quantised_ok: Whether it was tried on a quantised model; None: not known.
    """

    old_data: str
    task_id: str
    boundaries: bool
    labels: bool
    new_classes: bool
    retain_set: bool
    refusal_set: bool
    model: tuple[str, ...]
    model_access: str
    trained_before: bool
    teacher_copy: bool
    memory: tuple[str, ...]
    served_alone: bool
    extra_parameters: float | None
    inference_cost: float | None
    takes_unlabelled: bool
    distributed_ok: bool
    peft_ok: bool
    full_ft_ok: bool
    quantised_ok: bool | None


@dataclass(frozen=True)
class Variant:
    """A method with arguments that change what it needs.

    Attributes:
        spec: As on the command line.
        old_data: As in `Needs`.
        boundaries: Likewise.
        stages: In which it is put to use.
    """

    spec: str
    old_data: str
    boundaries: bool
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """What is known of a method.

    Attributes:
        name: In the catalogue.
        kind: `method`.
        family: How it works.
        title: Of the publication.
        source: Authors and year.
        summary: In a sentence.
        module: Where its class is.
        scenarios: Kinds of streams that it serves: `class`, `task`, `domain`, `text`.
        task_free: Whether its default arguments make do without boundaries and task labels.
        continuity: `vertical`, `horizontal` or `both`; None: the survey does not place it.
        stages: In which it is put to use.
        subtypes: Of continual fine-tuning.
        techniques: What it does.
        shifts: The changes that it is for.
        models: Which ones.
        integration: Where it comes in.
        needs: What it cannot do without.
        variants: With arguments that change what it needs.
        combines_with: Methods that it is chained with to advantage.
        conflicts_with: Methods that it cannot be chained with, in either order.
        evidence: Pages on which it was measured.
    """

    name: str
    kind: str
    family: str
    title: str
    source: str
    summary: str
    module: str
    scenarios: tuple[str, ...]
    task_free: bool
    continuity: str | None
    stages: tuple[str, ...]
    subtypes: tuple[str, ...]
    techniques: tuple[str, ...]
    shifts: tuple[str, ...]
    models: tuple[str, ...]
    integration: tuple[str, ...]
    needs: Needs
    variants: tuple[Variant, ...]
    combines_with: tuple[str, ...]
    conflicts_with: tuple[str, ...]
    evidence: tuple[str, ...]

    @property
    def forms(self) -> tuple[Variant, ...]:
        """It with its default arguments, and its variants."""
        needs = self.needs
        return (Variant(self.name, needs.old_data, needs.boundaries, self.stages), *self.variants)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = _lists(asdict(self))
        return values


@cache
def content() -> Mapping[str, Any]:
    """What `taxonomy.yaml` holds: the vocabulary and what classes do not say of themselves."""
    import yaml

    text = files("holdfast.guide").joinpath("taxonomy.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = yaml.load(text, Loader=loader)
    return found


def vocabulary(field: str) -> dict[str, str]:
    """The words that a field may hold, each with its definition.

    Example:
        >>> list(vocabulary("old_data"))
        ['none', 'few', 'all']
    """
    words: dict[str, str] = content()["vocabulary"][field]
    return words


@cache
def load() -> dict[str, Record]:
    """A record of every method in the catalogue, by name, in the catalogue's order.

    Raises:
        UsageError: If a method has no record in `taxonomy.yaml`, or a word is not in the
            vocabulary.

    Example:
        >>> load()["er"].needs.old_data
        'few'
    """
    conflicts = _conflicts()
    return {entry.name: _record(entry, conflicts[entry.name]) for entry in catalogue.entries()}


def query(
    family: str | None = None,
    stage: str | None = None,
    scenario: str | None = None,
    technique: str | None = None,
    old_data: str | None = None,
    task_free: bool = False,
    unlabelled: bool = False,
    peft_ok: bool = False,
) -> Iterator[tuple[Record, str]]:
    """The records that have what is asked for, each with the spec that has it.

    Args:
        family: As in tags.
        stage: In which it is put to use, as in the vocabulary.
        scenario: `class`, `task`, `domain` or `text`.
        technique: As in the vocabulary.
        old_data: The most that there is: `none`, `few` or `all`.
        task_free: Only what needs neither boundaries nor task labels.
        unlabelled: Only what makes something of examples without labels.
        peft_ok: Only what goes with adapters.

    Raises:
        UsageError: If a word is in no record's vocabulary.

    Example:
        >>> [spec for _, spec in query(technique="generated-rehearsal", old_data="none")]
        ['replay(source=self)']
    """
    records = load().values()
    families = dict.fromkeys(record.family for record in records)
    for field, word, accepted in (
        ("family", family, families),
        ("stage", stage, vocabulary("stages")),
        ("scenario", scenario, {s: s for r in records for s in r.scenarios}),
        ("technique", technique, vocabulary("techniques")),
        ("amount of old data", old_data, vocabulary("old_data")),
    ):
        if word is not None and word not in accepted:
            raise unknown(field, word, accepted)
    amounts = list(vocabulary("old_data"))
    for record in records:
        if family not in (None, record.family):
            continue
        if scenario is not None and scenario not in record.scenarios:
            continue
        if technique is not None and technique not in record.techniques:
            continue
        if (unlabelled and not learns_unlabelled(record)) or (peft_ok and not record.needs.peft_ok):
            continue
        for variant in record.forms:
            within = old_data is None or amounts.index(variant.old_data) <= amounts.index(old_data)
            free = not variant.boundaries and record.needs.task_id == "none"
            if within and (stage is None or stage in variant.stages) and (free or not task_free):
                yield record, variant.spec
                break


def learns_unlabelled(record: Record) -> bool:
    """Whether a method makes something of examples without labels."""
    return record.needs.takes_unlabelled or record.family == "test-time"


def schema() -> dict[str, Any]:
    """The JSON schema of a record: of `taxonomy` in what `holdfast methods --json` prints."""
    words: dict[str, Any] = {field: {"enum": list(vocabulary(field))} for field in _vocabularies()}
    text, flag, number = {"type": "string"}, {"type": "boolean"}, {"type": ["number", "null"]}

    def many(item: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": item, "uniqueItems": True}

    def told(properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    needs = {
        "old_data": words["old_data"],
        "task_id": {"enum": ["none", "test"]},
        **dict.fromkeys(("boundaries", "labels", "new_classes", "retain_set", "refusal_set"), flag),
        "model": many(text),
        "model_access": {"enum": ["weights", "logits", "api"]},
        "trained_before": flag,
        "teacher_copy": flag,
        "memory": many(text),
        "served_alone": flag,
        "extra_parameters": number,
        "inference_cost": number,
        **dict.fromkeys(("takes_unlabelled", "distributed_ok", "peft_ok", "full_ft_ok"), flag),
        "quantised_ok": {"type": ["boolean", "null"]},
    }
    variant = {
        "spec": text,
        "old_data": words["old_data"],
        "boundaries": flag,
        "stages": many(words["stages"]),
    }
    record = {
        **dict.fromkeys(("name", "kind", "family", "title", "source", "summary", "module"), text),
        "scenarios": many({"enum": ["class", "task", "domain", "text"]}),
        "task_free": flag,
        "continuity": {"enum": [*vocabulary("continuity"), None]},
        **{field: many(words[field]) for field in ("stages", "subtypes", "techniques", "shifts")},
        "models": many(words["models"]),
        "integration": many({"enum": list(INTEGRATION)}),
        "needs": told(needs),
        "variants": {"type": "array", "items": told(variant)},
        **{field: many(text) for field in ("combines_with", "conflicts_with", "evidence")},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"holdfast's methods, schema {SCHEMA}",
        **told(record),
    }


def _vocabularies() -> tuple[str, ...]:
    return tuple(content()["vocabulary"])


def _record(entry: Entry, conflicts: tuple[str, ...]) -> Record:
    said, tags, cls = _said(entry.name), entry.tags, catalogue.method_class(entry.name)
    hooks = {hook for hooks in INTEGRATION.values() for hook in hooks if _overrides(cls, hook)}
    untouched = not hooks & {"answer", "predict", "serving", "expand", "fit"}
    brings = "adapters" in tags.needs
    beside = tags.family == "test-time" or (tags.family == "editing" and "parameters" in tags.keeps)
    needs = Needs(
        old_data=said["old_data"],
        task_id="test" if tags.scenarios == {"task"} else "none",
        boundaries="boundaries" in tags.needs or bool(said.get("boundaries", False)),
        labels="labels" in tags.needs,
        new_classes="new classes" in tags.needs,
        retain_set="retain set" in tags.needs,
        refusal_set="refusal set" in tags.needs,
        model=tuple(sorted(tags.needs & set(MODEL))),
        model_access="weights",
        trained_before=bool(said.get("trained_before", False)),
        teacher_copy="model" in tags.keeps,
        memory=tuple(sorted(tags.keeps)),
        served_alone=not hooks & {"answer", "predict"} and not beside,
        extra_parameters=0.0 if untouched else None,
        inference_cost=1.0 if untouched else None,
        takes_unlabelled=cls.takes_unlabelled,
        distributed_ok=not alone(cls),
        peft_ok=brings or ("text" in tags.scenarios and not cls.chooses_weights),
        full_ft_ok=not brings,
        quantised_ok=None,
    )
    shifts = [SHIFTS[s] for s in SHIFTS if s in tags.scenarios] + list(said.get("shifts", ()))
    return Record(
        name=entry.name,
        kind="method",
        family=tags.family,
        title=tags.title,
        source=tags.source,
        summary=entry.summary,
        module=cls.__module__,
        scenarios=tuple(s for s in ("class", "task", "domain", "text") if s in tags.scenarios),
        task_free=not needs.boundaries and needs.task_id == "none",
        continuity=said["continuity"],
        stages=tuple(said["stages"]),
        subtypes=tuple(said.get("subtypes", ())),
        techniques=tuple(said["techniques"]),
        shifts=tuple(dict.fromkeys(shifts)),
        models=tuple(said["models"]),
        integration=tuple(w for w, of in INTEGRATION.items() if hooks & set(of)),
        needs=needs,
        variants=tuple(
            Variant(
                v["spec"],
                v.get("old_data", needs.old_data),
                v.get("boundaries", needs.boundaries),
                tuple(v.get("stages", said["stages"])),
            )
            for v in said.get("variants", ())
        ),
        combines_with=tuple(said.get("combines_with", ())),
        conflicts_with=conflicts,
        evidence=tuple(said.get("evidence", ())),
    )


MODEL = ("adapters", "features", "linear head", "norm layers", "transformer blocks")
"""Needs that a model has or has not."""


def _said(name: str) -> Mapping[str, Any]:
    """What `taxonomy.yaml` says of a method, checked."""
    records = content()["methods"]
    if name not in records:
        raise UsageError(
            f"{name} has no record in src/holdfast/guide/taxonomy.yaml: add one under `methods`, "
            f"with {', '.join(_NEEDED)}; the head of that file shows what each holds."
        )
    said: dict[str, Any] = records[name]
    lacking = [field for field in _NEEDED if field not in said]
    foreign = sorted(set(said) - _FIELDS)
    if lacking or foreign:
        raise UsageError(
            f"The record of {name} in taxonomy.yaml "
            + (f"lacks {', '.join(lacking)}." if lacking else f"holds {', '.join(foreign)}, which ")
            + ("" if lacking else f"no record does; accepted: {', '.join(sorted(_FIELDS))}.")
        )
    for field in _vocabularies():
        given = said.get(field, [])
        for word in given if isinstance(given, list) else [given]:
            if word is not None and word not in vocabulary(field):
                raise UsageError(
                    f"{name}: {word!r} is no word of {field} in taxonomy.yaml; accepted: "
                    f"{', '.join(vocabulary(field))}. A new word needs a definition there."
                )
    return said


def _overrides(cls: type[Method], hook: str) -> bool:
    return getattr(cls, hook) is not getattr(Method, hook)


def _conflicts() -> dict[str, tuple[str, ...]]:
    """For every method those that `chain` refuses to put with it, in either order."""
    built = {name: (catalogue.build(name), catalogue.build(name)) for name in catalogue.METHODS}

    def refused(first: str, second: str) -> bool:
        try:
            chain(built[first][0], built[second][1])
        except UsageError:
            return True
        return False

    return {a: tuple(b for b in built if b != a and refused(a, b) and refused(b, a)) for a in built}


def _lists(value: Any) -> Any:
    """With lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
