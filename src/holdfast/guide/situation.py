"""What a situation is like, and what a method lacks in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from holdfast.errors import UsageError, unknown
from holdfast.guide import evidence, taxonomy
from holdfast.guide.taxonomy import Record, Variant
from holdfast.spec import Spec, parse

Goal = Literal["learn", "unlearn", "edit", "adapt", "merge"]
Model = Literal["classifier", "language"]
Stage = Literal["cpt", "dap", "cft"]
Scenario = Literal["class", "task", "domain"]
OldData = Literal["none", "few", "all"]
Labels = Literal["all", "some", "none"]
Access = Literal["weights", "logits", "api"]
Trained = Literal["all", "adapter"]
Serving = Literal["any", "plain"]


@dataclass(frozen=True)
class Situation:
    """What somebody has and wants.

    Attributes:
        goal: `learn` what comes, `unlearn` what was learned, `edit` facts, `adapt` to drift without
            labels, or `merge` models.
        model: `classifier` (or anything that is not language) or `language`.
        stage: Of a language model that learns: continual pre-training (`cpt`), pre-training on a
            domain (`dap`) or fine-tuning on tasks or instructions (`cft`).
        scenario: Of a classifier: new classes and the task unknown in use (`class`), new classes
            and the task known (`task`), or the same classes in other conditions (`domain`).
        old_data: What there is of the past: `none`, `few` examples, or `all`.
        privacy: Whether nothing may be kept from which an example could be read: no old data.
        boundaries: Whether it is known where one experience ends and the next begins.
        labels: Whether all, some or no new examples have labels.
        access: To the model: its `weights`, its `logits`, or an `api`.
        trained: What may be trained: `all` weights, or an `adapter` beside them.
        pretrained: Whether the model knows something already.
        keep_general: Whether what it knows in general must be kept.
        serving: `plain`: what is saved must answer without the method; `any`.
        compute: How many times plain training's operations are allowed; 0: any number.
        memory: Bytes that may be kept beside the model; 0: any number.
        model_bytes: Bytes of the model's weights, by which copies of it are counted; 0: not known.

    Raises:
        UsageError: If a word is not accepted or a number is negative.

    Example:
        >>> Situation(scenario="class", old_data="few").goal
        'learn'
    """

    goal: Goal = "learn"
    model: Model = "classifier"
    stage: Stage = "cft"
    scenario: Scenario = "class"
    old_data: OldData = "none"
    privacy: bool = False
    boundaries: bool = True
    labels: Labels = "all"
    access: Access = "weights"
    trained: Trained = "all"
    pretrained: bool = False
    keep_general: bool = False
    serving: Serving = "any"
    compute: float = 5.0
    memory: int = 0
    model_bytes: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(Situation)
        for field in fields(self):
            given, accepted = getattr(self, field.name), get_args(hints[field.name])
            if accepted and given not in accepted:
                raise unknown(field.name.replace("_", " "), str(given), accepted)
            number = isinstance(given, (int, float)) and not isinstance(given, bool)
            if number and given < 0:
                raise UsageError(f"{field.name} must not be negative; given: {given}.")

    @property
    def rows(self) -> str:
        """The old data that may be used."""
        return "none" if self.privacy else self.old_data

    @property
    def kind(self) -> str:
        """The kind of stream; inputs that drift are of the same classes in other conditions."""
        if self.model == "language":
            return "text"
        return "domain" if self.goal == "adapt" else self.scenario

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of which a method must serve one."""
        by_goal = {"unlearn": "unlearning", "edit": "editing", "adapt": "test-time"}
        if self.goal in by_goal:
            return (by_goal[self.goal],)
        return (self.stage,) if self.model == "language" else ("none",)


class Unmet(NamedTuple):
    """A need that a situation does not meet.

    Attributes:
        need: As in the taxonomy.
        why: A sentence.
    """

    need: str
    why: str


def check(spec: str, situation: Situation) -> list[Unmet]:
    """Everything that a method, or a chain of them, needs and a situation does not give.

    Args:
        spec: As on the command line.
        situation: What there is.

    Raises:
        UsageError: If there is no such method.

    Example:
        >>> [unmet.need for unmet in check("gem", Situation(boundaries=False, compute=0))]
        ['old_data', 'boundaries']
    """
    found: dict[tuple[str, str], Unmet] = {}
    for part in parse(spec):
        record, form = formed(part)
        for unmet in _lacking(record, form, situation):
            found.setdefault((record.name, unmet.need), unmet)
    for unmet in _too_costly(spec, situation):
        found.setdefault((spec, unmet.need), unmet)
    return list(found.values())


def formed(spec: Spec) -> tuple[Record, Variant]:
    """The record of a method, and the form that its arguments give it."""
    records = taxonomy.load()
    if spec.name not in records:
        raise unknown("method", spec.name, records)
    record = records[spec.name]
    fits = [form for form in record.forms if _covers(parse(form.spec)[0], spec)]
    return record, max(fits, key=lambda form: len(parse(form.spec)[0].named))


def _covers(form: Spec, spec: Spec) -> bool:
    """Whether a spec has a form's arguments; a number above 0 stands for any other."""
    return all(
        name in spec.named and (spec.named[name] == value or _positive(value, spec.named[name]))
        for name, value in form.named.items()
    )


def _positive(value: Any, given: Any) -> bool:
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (value, given)]
    return all(numbers) and value > 0 and given > 0


def _lacking(record: Record, form: Variant, situation: Situation) -> Iterator[Unmet]:
    needs, name = record.needs, record.name
    amounts = list(taxonomy.vocabulary("old_data"))
    if not set(form.stages) & set(situation.stages):
        told = ", ".join(taxonomy.vocabulary("stages")[s].rstrip(".") for s in form.stages)
        yield Unmet("stage", f"{name} is for another stage ({told}).")
        return
    if situation.goal == "unlearn" and situation.model == "classifier":
        serves = bool({"class", "domain"} & set(record.scenarios))  # by class or by example
    else:
        serves = situation.kind in record.scenarios
    if not serves:
        yield Unmet("scenario", f"{name} serves {' and '.join(record.scenarios)} streams only.")
        return
    if amounts.index(form.old_data) > amounts.index(situation.rows):
        private = " (privacy)" if situation.privacy and situation.old_data != "none" else ""
        wants = "all data of the past" if form.old_data == "all" else "some examples of the past"
        yield Unmet("old_data", f"{name} needs {wants}; there are {situation.rows}{private}.")
    if needs.task_id == "test" and situation.scenario != "task":
        yield Unmet("task_id", f"{name} must be told each example's task, also in use.")
    if form.boundaries and not situation.boundaries and situation.goal == "learn":
        yield Unmet("boundaries", f"{name} must be told where an experience ends.")
    if needs.labels and situation.labels == "none":
        yield Unmet("labels", f"{name} learns from labels, and there are none.")
    if situation.access != needs.model_access:
        yield Unmet(
            "model_access", f"{name} needs the model's weights, not its {situation.access}."
        )
    if situation.trained == "adapter" and not needs.peft_ok:
        yield Unmet("peft_ok", f"{name} does not go with adapters on a frozen model.")
    if needs.trained_before and not situation.pretrained:
        yield Unmet("trained_before", f"{name} is for a model that knows something already.")
    if situation.serving == "plain" and not needs.served_alone:
        yield Unmet("served_alone", f"{name} is also needed where the model is used.")


def _too_costly(spec: str, situation: Situation) -> Iterator[Unmet]:
    """What was measured to cost more than is allowed."""
    if situation.compute:
        cost = evidence.cost(spec, situation.goal, situation.kind)
        if cost is not None and cost.times > situation.compute:
            yield Unmet(
                "compute",
                f"{spec} took {cost.times:.1f} times plain training's operations on "
                f"{cost.table}; allowed are {situation.compute:g}.",
            )
    if situation.memory and situation.model_bytes:
        copies = evidence.copies(spec, situation.goal, situation.kind)
        if copies is not None and copies.times * situation.model_bytes > situation.memory:
            yield Unmet(
                "memory",
                f"{spec} keeps {copies.times:.1f} copies of the model's weights ({copies.table}): "
                f"{copies.times * situation.model_bytes:,.0f} bytes; allowed are "
                f"{situation.memory:,}.",
            )
