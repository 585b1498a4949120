"""The guide's answers are what the measured tables support."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import catalogue, streams, studies
from holdfast.cli.guiding import OPTIONS, _situation
from holdfast.guide import evidence
from holdfast.guide.evidence import Table
from holdfast.guide.examples import EXAMPLES, Example
from holdfast.guide.recommend import Answer, candidates, gain, key, recommend
from holdfast.guide.rules import RULES
from holdfast.guide.situation import Situation, check

MEASURED = [example for example in EXAMPLES if not recommend(example.situation).note]


def speaking(situation: Situation) -> tuple[Table, ...]:
    """The tables for a situation, chosen here by hand."""
    kinds = {
        ("learn", "classifier"): (situation.scenario,),
        ("learn", "language"): (situation.stage,),
        ("adapt", "classifier"): ("domain",),
        ("unlearn", "language"): ("text",),
        ("edit", "language"): ("text",),
    }[situation.goal, situation.model]
    return tuple(
        table
        for table in evidence.tables()
        if (table.goal, table.model) == (situation.goal, situation.model)
        and set(kinds) & set(table.kinds)
        and (not table.old_data or situation.rows in table.old_data)
    )


def test_at_least_five_situations_have_tables_that_speak() -> None:
    assert len(MEASURED) >= 5
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("example", MEASURED, ids=lambda e: e.title)
def test_the_first_choice_beats_the_naive_baseline_wherever_it_was_measured(
    example: Example,
) -> None:
    first = recommend(example.situation).choices[0]
    beaten = []
    for table in speaking(example.situation):
        found = [value for spec, value in table.values.items() if key(spec) == key(first.spec)]
        naive = table.values[table.naive]
        beaten += [v > naive if table.better == "up" else v < naive for v in found]
    assert beaten, "the first choice was measured"
    assert all(beaten)


@pytest.mark.parametrize("example", MEASURED, ids=lambda e: e.title)
def test_the_first_choice_is_among_the_best_two_that_fit_and_were_measured(
    example: Example,
) -> None:
    situation, tables = example.situation, speaking(example.situation)
    fitting = {
        key(spec)
        for table in tables
        for spec in table.values
        if spec not in table.bounds and not check(spec, situation)
    }
    assert len(fitting) >= 3
    gains = {spec: gain(spec, tables) for spec in fitting}
    best = sorted(fitting, key=lambda spec: -(gains[spec] or -math.inf))[:2]
    first = recommend(situation).choices[0].spec
    second_best = gains[best[1]]
    assert key(first) in best or gains[key(first)] == second_best, (first, gains)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.title)
def test_what_is_ruled_out_and_what_is_chosen_are_all_that_could_be(example: Example) -> None:
    answer = recommend(example.situation)
    chosen = {choice.spec for choice in answer.choices}
    assert chosen
    assert not chosen & {spec for spec, _ in answer.ruled_out}
    assert all(not check(spec, example.situation) for spec in chosen)
    assert all(lacking and lacking[0].why.endswith(".") for _, lacking in answer.ruled_out)
    assert answer.choices[0].rules, "a rule speaks for the first choice"
    assert answer.measures


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.title)
def test_the_command_of_a_situation_describes_it(example: Example) -> None:
    words = shlex.split(example.command)
    assert words[:2] == ["holdfast", "recommend"]
    flags = {"--" + option.name.replace("_", "-"): option for option in OPTIONS}
    given, rest = {}, words[2:]
    while rest:
        option = flags[rest.pop(0)]
        given[option.name] = True if option.type is bool else rest.pop(0)
    assert _situation(given) == example.situation


def trials() -> list[str]:
    situations = [example.situation for example in EXAMPLES]
    situations += [Situation(scenario="domain"), Situation(goal="unlearn", pretrained=True)]
    return sorted({recommend(situation).trial for situation in situations})


@pytest.mark.parametrize("command", trials())
def test_a_first_try_names_what_there_is(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "holdfast"
    if words[1] == "study":
        assert studies.find(words[2]).claims
    else:
        assert words[1] == "run"
        assert streams.entry(words[2].partition("(")[0]).present
        catalogue.build(words[3])


@pytest.mark.slow
@pytest.mark.parametrize("command", trials())
def test_a_first_try_runs_as_printed(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "holdfast", *shlex.split(command)[1:]]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == 0


def test_what_was_measured_orders_what_a_rule_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    def table(values: dict[str, float]) -> Table:
        named = ("t", "p", "score", "up", "finetune", "learn", "classifier", ("class",), ())
        return Table(*named, {"finetune": 0.0, **values}, {})

    def first(values: dict[str, float]) -> str:
        monkeypatch.setattr(evidence, "tables", lambda: (table(values),))
        return recommend(Situation(old_data="few", compute=0)).choices[0].spec

    assert first({"er": 2.0, "der++": 1.0, "ewc": 3.0}) == "er"  # a rule prefers it to ewc
    assert first({"er": 1.0, "der++": 2.0}) == "der++"


def test_a_gain_is_a_share_of_the_best_gain_and_bounds_do_not_count() -> None:
    named = ("t", "p", "loss", "down", "finetune", "learn", "language", ("cft",), ())
    values = {"finetune": 3.0, "lwf": 2.0, "l2(strength=0.3)": 2.5, "joint": 1.0, "hft": 3.5}
    table = Table(*named, values, {}, ("joint",))
    assert table.gain("lwf") == 1.0
    assert table.gain("l2(strength=0.3)") == 0.5
    assert table.gain("hft") == -0.5
    assert table.gain("ewc") is None
    assert gain("l2", (table,)) == 0.5  # differs in a number alone
    hopeless = Table(*named, {"finetune": 1.0, "lwf": 2.0}, {})
    assert hopeless.gain("lwf") is None


def test_words_tell_forms_apart_and_numbers_do_not() -> None:
    assert key("er(storage=herding, capacity=9)") == "er(storage=herding)"
    assert key("wise(mode=retrieve)") != key("wise")
    assert key("wa(exemplars=163)") == "wa(exemplars=200)"
    assert key("replay(fraction=0.1)") == "replay"


def test_rules_prefer_methods_that_exist_and_have_ids_of_their_own() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        for spec in rule.prefer:
            catalogue.build(spec)
        assert rule.because.endswith(".")
        assert rule.basis


def test_a_situation_without_tables_says_so() -> None:
    answer = recommend(Situation(scenario="domain"))
    assert answer.choices[0].spec == "lwf"
    assert "Nothing was measured here" in answer.note
    assert all(choice.gain is None for choice in answer.choices)


def test_an_interface_leaves_nothing_and_says_why() -> None:
    answer = recommend(Situation(model="language", access="api", pretrained=True))
    assert answer.choices == ()
    assert {lacking[-1].need for _, lacking in answer.ruled_out} >= {"model_access"}


def test_merging_is_left_to_rules_of_merging() -> None:
    answer = recommend(Situation(goal="merge"))
    assert (answer.choices, answer.ruled_out) == ((), ())
    assert "ties" in answer.note


def test_general_ability_brings_a_guard_and_its_measures_first() -> None:
    kept = Situation(model="language", pretrained=True, keep_general=True)
    answer = recommend(kept)
    assert "--guard" in answer.own
    assert answer.measures[0] == "general ability delta"
    assert "--guard" not in recommend(Situation(model="language", pretrained=True)).own


def test_an_answer_is_json() -> None:
    answer: Answer = recommend(EXAMPLES[0].situation)
    told = json.loads(json.dumps(answer.to_dict()))
    assert told["choices"][0]["spec"] == answer.choices[0].spec
    assert told["situation"]["old_data"] == "few"


def test_bounds_and_baselines_are_no_candidates() -> None:
    named = candidates(list(RULES), evidence.tables())
    assert not {"finetune", "joint", "cumulative", "guard", "source"} & set(named)
    assert len(named) == len({key(spec) for spec in named})
