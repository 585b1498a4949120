"""What a situation does not give is named, need by need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.errors import UsageError
from holdfast.guide import evidence
from holdfast.guide.situation import Situation, check
from holdfast.guide.taxonomy import load

BARE = Situation(compute=0)


def unmet(spec: str, situation: Situation) -> list[str]:
    return [need for need, _ in check(spec, situation)]


def test_every_need_that_is_not_met_is_named_with_a_sentence() -> None:
    nothing = replace(BARE, scenario="task", boundaries=False, labels="none", access="api")
    assert unmet("gem", nothing) == ["old_data", "boundaries", "labels", "model_access"]
    (first, *_) = check("gem", nothing)
    assert first.why == "gem needs some examples of the past; there are none."


def test_privacy_takes_old_data_away() -> None:
    assert unmet("er", replace(BARE, old_data="few")) == []
    (one,) = check("er", replace(BARE, old_data="few", privacy=True))
    assert one == ("old_data", "er needs some examples of the past; there are none (privacy).")


def test_a_form_of_a_method_is_judged_by_its_own_needs() -> None:
    text = Situation(model="language", stage="cft", pretrained=True)
    assert unmet("replay(fraction=0.25)", text) == ["old_data"]
    assert unmet("replay(fraction=0.25, source=self)", text) == []
    assert unmet("er_ace", replace(BARE, old_data="few", boundaries=False)) == ["boundaries"]
    assert unmet("er_ace(task_free=true)", replace(BARE, old_data="few", boundaries=False)) == []
    assert unmet("wa(exemplars=50)", BARE) == ["old_data"]
    assert unmet("wa", BARE) == []


def test_a_chain_needs_what_its_parts_need() -> None:
    text = Situation(goal="unlearn", model="language", pretrained=True)
    assert unmet("npo", text) == []
    assert unmet("npo+retain", text) == ["old_data"]


@pytest.mark.parametrize(
    ("spec", "situation", "need"),
    [
        ("packnet", BARE, "scenario"),
        ("packnet", replace(BARE, scenario="task", serving="plain"), "served_alone"),
        ("er", Situation(goal="edit", model="language"), "stage"),
        ("tent", Situation(goal="adapt", labels="none"), "trained_before"),
        ("hft", Situation(model="language", trained="adapter", compute=0), "peft_ok"),
        ("lora", Situation(model="language", access="logits", pretrained=True), "model_access"),
    ],
)
def test_a_need_of_every_kind(spec: str, situation: Situation, need: str) -> None:
    assert unmet(spec, situation) == [need]


def test_cost_is_ruled_out_by_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "cost", lambda *_: evidence.Cost(6.5, "a table"))
    (one,) = check("ewc", replace(BARE, compute=6))
    assert one.need == "compute"
    assert "6.5 times plain training's operations on a table; allowed are 6" in one.why
    assert check("ewc", replace(BARE, compute=7)) == []
    assert check("ewc", replace(BARE, compute=0)) == []  # any


def test_copies_of_a_large_model_are_ruled_out_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "copies", lambda *_: evidence.Cost(2.0, "a table"))
    tight = replace(BARE, memory=150, model_bytes=100)
    assert unmet("ewc", tight) == ["memory"]
    assert unmet("ewc", replace(tight, memory=200)) == []
    assert unmet("ewc", replace(tight, model_bytes=0)) == []  # not known: not ruled out


def test_words_and_numbers_are_checked() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'unlearn'"):
        Situation(goal="unlern")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"compute must not be negative; given: -1"):
        Situation(compute=-1)
    with pytest.raises(UsageError, match=r"Did you mean 'er'"):
        check("erx", BARE)


def test_no_method_asks_for_a_scenario_that_it_serves() -> None:
    for name, record in load().items():
        if "none" in record.stages:
            for scenario in {"class", "task", "domain"} & set(record.scenarios):
                assert "scenario" not in unmet(name, replace(BARE, scenario=scenario))
