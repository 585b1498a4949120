"""Which method to take: what fits, in an order with reasons, and what does not and why."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from holdfast import catalogue
from holdfast.guide import evidence, taxonomy
from holdfast.guide.evidence import Table
from holdfast.guide.protocol import protocols
from holdfast.guide.rules import RULES, Rule
from holdfast.guide.situation import Situation, Unmet, check, formed
from holdfast.spec import Spec, parse


@dataclass(frozen=True)
class Choice:
    """A method that fits.

    Attributes:
        spec: As on the command line.
        summary: What it does.
        rules: Ids of the rules that prefer it.
        reasons: Sentences: of rules with whose word they are, and of what was measured.
        evidence: Tables in which it was measured, with its value there.
        gain: What it wins over the baseline, as a share of what the best method of a table wins;
            the mean over tables. None: it was not measured in such a situation.
    """

    spec: str
    summary: str
    rules: tuple[str, ...]
    reasons: tuple[str, ...]
    evidence: tuple[str, ...]
    gain: float | None


@dataclass(frozen=True)
class Answer:
    """What the guide says.

    Attributes:
        situation: What was asked.
        choices: What fits, best first.
        ruled_out: What does not, with every need that is not met.
        naive: The baseline to run beside it.
        trial: A command that runs as it stands, on data that are there.
        own: The same for one's own data, with names to be filled in.
        measures: How to tell whether it worked: names of metrics.
        note: What the guide cannot say; empty: nothing.
    """

    situation: Situation
    choices: tuple[Choice, ...]
    ruled_out: tuple[tuple[str, tuple[Unmet, ...]], ...]
    naive: str
    trial: str
    own: str
    measures: tuple[str, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "situation": asdict(self.situation),
            "choices": [asdict(choice) for choice in self.choices],
            "ruled_out": [
                {"spec": spec, "unmet": [unmet._asdict() for unmet in lacking]}
                for spec, lacking in self.ruled_out
            ],
            "naive": self.naive,
            "trial": self.trial,
            "own": self.own,
            "measures": list(self.measures),
            "note": self.note,
        }


SOURCE = "source"
"""What does not adapt at all: a baseline of test-time adaptation, and no choice."""

MERGE = (
    "Models are merged by rules, not by methods: `ties` and `dare_ties` for several tuned from one "
    "base, `wise_ft` for one with its base, and `holdfast repair` searches among them by what must "
    "not be lost (docs/merge.md). They are not ranked: no table here compares them."
)


def recommend(situation: Situation) -> Answer:
    """The methods that fit a situation, best first, and those that do not.

    Rules put methods first; among those that a rule prefers, and after them among all others that
    fit, what was measured decides: the mean of a method's gains over plain training, in the tables
    that speak for such a situation. What was not measured comes last, in its rule's order.

    Example:
        >>> answer = recommend(Situation(scenario="class", old_data="few"))
        >>> "class-few" in answer.choices[0].rules
        True
    """
    if situation.goal == "merge":
        return Answer(
            situation, (), (), "", "holdfast merge --help", _own(situation, ""), (), MERGE
        )
    speaking = tuple(
        evidence.about(
            situation.goal,
            situation.model,
            _kinds(situation),
            situation.rows,
            situation.pretrained,
        )
    )
    rules = [rule for rule in RULES if rule.applies(situation)]
    choices, out = [], []
    for spec in candidates(rules, speaking):
        lacking = check(spec, situation)
        if not lacking:
            choices.append(_choice(spec, rules, speaking))
        elif not any(unmet.need in ("stage", "scenario") for unmet in lacking):
            out.append((spec, tuple(lacking)))
    choices.sort(key=lambda choice: _place(choice, rules))
    naive = speaking[0].naive if speaking else "finetune"
    first = choices[0].spec if choices else naive
    return Answer(
        situation,
        tuple(choices),
        tuple(out),
        naive,
        _trial(situation, first),
        _own(situation, first),
        _measures(situation),
        "" if speaking else "Nothing was measured here in such a situation: rules alone decide.",
    )


def candidates(rules: list[Rule], speaking: tuple[Table, ...]) -> list[str]:
    """Every method and its variants, and the chains that a rule or a table names.

    Of specs that differ in numbers alone, the one that was measured stands for all.
    """
    named = [spec for table in speaking for spec in table.values if spec not in table.bounds]
    named += [
        spec for rule in rules for spec in rule.prefer if spec.partition("(")[0] and "+" in spec
    ]
    named += [form.spec for record in taxonomy.load().values() for form in record.forms]
    best = {s: t.gain(s) or 0.0 for t in reversed(speaking) for s in t.values}
    found: dict[str, str] = {}
    for spec in named:
        families = {taxonomy.load()[part.name].family for part in parse(spec)}
        if "bound" not in families and spec != SOURCE:
            held = found.setdefault(key(spec), spec)
            if best.get(spec, -math.inf) > best.get(held, -math.inf):
                found[key(spec)] = spec
    return list(found.values())


def key(spec: str) -> str:
    """What a spec has in common with those that differ from it in numbers alone.

    Arguments that are words, or true or false, choose another way of the method.

    Example:
        >>> key("replay(source=self, fraction=0.25)"), key("l2(strength=0.3)"), key("npo+retain")
        ('replay(source=self)', 'l2', 'npo+retain')
    """
    return "+".join(map(_key, parse(spec)))


def _key(spec: Spec) -> str:
    form = parse(formed(spec)[1].spec)[0]
    words = {name: v for name, v in spec.named.items() if isinstance(v, (str, bool)) or v is None}
    return str(Spec(spec.name, (), {**words, **form.named}))


def gain(spec: str, speaking: tuple[Table, ...]) -> float | None:
    """The mean, over the tables, of the best gain of what differs from a spec in numbers alone."""
    found = []
    for table in speaking:
        alike = [table.gain(other) for other in table.values if key(other) == key(spec)]
        told = [value for value in alike if value is not None]
        if told:
            found.append(max(told))
    return sum(found) / len(found) if found else None


def _choice(spec: str, rules: list[Rule], speaking: tuple[Table, ...]) -> Choice:
    preferring = [rule for rule in rules if key(spec) in rule.prefer or spec in rule.prefer]
    told = []
    for table in speaking:
        alike = [other for other in table.values if key(other) == key(spec)]
        if alike:
            best = max(alike, key=lambda other: table.gain(other) or 0.0)
            told.append(f"{table.name} ({table.page}), {table.measure}: {table.told(best)}")
    summaries = [catalogue.entry(part.name).summary for part in parse(spec)]
    return Choice(
        spec,
        " ".join(summaries),
        tuple(rule.id for rule in preferring),
        tuple(f"{rule.because} ({rule.basis})" for rule in preferring),
        tuple(told),
        gain(spec, speaking),
    )


def _place(choice: Choice, rules: list[Rule]) -> tuple[bool, bool, float, int]:
    """By rules, then by what was measured, then by the rules' order."""
    order = [spec for rule in rules for spec in rule.prefer]
    named = [place for place, spec in enumerate(order) if spec in (choice.spec, key(choice.spec))]
    measured = choice.gain is not None
    return not choice.rules, not measured, -(choice.gain or 0.0), min(named, default=len(order))


def _kinds(situation: Situation) -> tuple[str, ...]:
    if situation.goal == "learn" and situation.model == "language":
        return (situation.stage,)
    return ("domain",) if situation.goal == "adapt" else (situation.kind,)


def _measures(situation: Situation) -> tuple[str, ...]:
    """The metrics that fit; those of general ability first, where that must be kept."""
    fits = list(protocols(situation.stages[0]))
    if situation.keep_general:
        fits.sort(key=lambda protocol: protocol.axis != "vertical")
    return tuple(protocol.name for protocol in fits)


def _trial(situation: Situation, spec: str) -> str:
    """A command that runs as it stands."""
    if situation.goal == "edit":
        return "holdfast study wise --quick"
    if situation.goal == "unlearn":
        language = situation.model == "language"
        return f"holdfast study {'npo' if language else 'worst-case-forget-sets'} --quick"
    if situation.goal == "adapt":
        stream = "corrupted-digits(limit=64, test_limit=64)"
        return shlex.join(["holdfast", "run", stream, spec, "--model", "cnn"])
    if situation.model == "language":
        return shlex.join(["holdfast", "run", "docs-code", spec])
    streams = {
        "class": "split-digits",
        "task": "split-digits(scenario=task)",
        "domain": "permuted-digits",
    }
    command = ["holdfast", "run", streams[situation.scenario], spec]
    if _on_features(spec):
        command += ["--model", "pretrained(cnn, on=digits)", "--backbone", "cached"]
    return shlex.join(command)


def _on_features(spec: str) -> bool:
    """Whether a method makes its classifier of features that something learned before."""
    record = taxonomy.load()[parse(spec)[0].name]
    return record.needs.trained_before and "prototypes" in record.techniques


def _own(situation: Situation, spec: str) -> str:
    """The command for one's own data."""
    method = shlex.quote(spec)
    if situation.goal == "merge":
        return "holdfast merge MODEL MODEL --base BASE --method ties --out MERGED"
    if situation.goal == "edit":
        return f"holdfast edit --model MODEL --edits EDITS.jsonl --method {method}"
    if situation.goal == "unlearn":
        if situation.model == "classifier":
            return f"holdfast unlearn --run RUN --forget 'random(100)' --method {method}"
        retain = "" if situation.rows == "none" else " --retain RETAIN.jsonl"
        return f"holdfast unlearn --model MODEL --forget FORGET.jsonl{retain} --method {method}"
    if situation.goal == "adapt":
        return f"holdfast adapt MODEL 'corrupted:DATA' {method}"
    if situation.model == "language":
        past = " --past OLD.jsonl" if situation.rows != "none" else ""
        guard = " --guard KEEP.jsonl" if situation.keep_general else ""
        return f"holdfast finetune --model MODEL --data NEW.jsonl{past}{guard} --method {method}"
    task = "?scenario=task" if situation.scenario == "task" else ""
    recipe = "permuted" if situation.scenario == "domain" else "split"
    frozen = " --model MODEL --backbone cached" if _on_features(spec) else ""
    return f"holdfast run '{recipe}:DATA{task}' {method}{frozen}"


def ruled_out_by(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """The needs that ruled methods out, each with those methods."""
    by_need: dict[str, list[str]] = {}
    for spec, lacking in answer.ruled_out:
        by_need.setdefault(lacking[0].need, []).append(spec)
    yield from by_need.items()
