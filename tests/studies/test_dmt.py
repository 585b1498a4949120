"""The study of DMT: a trial of all of it, its measures, and its verdicts both ways."""

import io

import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import dmt
from holdfast.studies.study import Results


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("dmt", 2, tmp_path, quick=True, jobs=1, console=console)
    assert [v.claim for v in verdicts] == [c.text for c in dmt.CLAIMS]
    assert sorted(p.stem for p in (tmp_path / "figures").iterdir()) == ["amounts", "strategies"]


@pytest.mark.study
def test_strategies_take_the_updates_of_their_stages():
    arms = dmt.arms("quick")
    runs = {arm: dmt.measure(arms[arm], 0)["runs"]["1"] for arm in ("sequential", "DMT 1/4")}
    assert [s["updates"] for s in runs["sequential"]["stages"]] == [6, 4, 4]
    first, second = runs["DMT 1/4"]["stages"]
    assert second["examples"] == {"code": 12, "questions": 8, "general": 32}
    assert (first["updates"], second["updates"]) == (10, 7)
    assert runs["DMT 1/4"]["updates"] == 17


def test_individual_models_are_each_scored_in_their_own_ability():
    run = dmt.measure(dmt.arms("quick")["individual"], 0)["runs"]["1"]
    own = [stage["scores"][name] for stage, name in zip(run["stages"], dmt.NAMES, strict=True)]
    assert [run["final"][name] for name in dmt.NAMES] == own


def results(kept):
    """Three seeds of every arm with the special abilities that `kept` says, by arm."""

    def run(arm, seed, fraction):
        special = kept.get(arm.removesuffix(", fractions"), 0.5) + 0.001 * seed
        amount = {"1": 1.0, "1/4": 0.8, "1/16": 0.5, "1/64": 0.2}[fraction]
        general = 0.6 * min(1.0, 1.2 * amount) if arm != "reverse 1/16" else 0.4
        final = {"code": special * amount, "questions": special * amount, "general": general}
        mean = sum(final.values()) / 3
        if arm.startswith("multi-task"):
            mean += 0.1 if fraction == "1/16" else -0.1
        return {"final": final, "special": special * amount, "mean": mean}

    def arm(name):
        fractions = ("1/4", "1/16", "1/64") if name.endswith("fractions") else ("1",)
        return [{"runs": {f: run(name, seed, f) for f in fractions}} for seed in range(3)]

    return Results({name: arm(name) for name in dmt.ARMS})


AS_CLAIMED = {
    "individual": 0.8,
    "multi-task": 0.8,
    "sequential": 0.2,
    "sequential, half rate": 0.3,
    "mixed sequential": 0.3,
    "DMT 1/16": 0.6,
    "DMT 1/4": 0.7,
}


def test_all_claims_are_reproduced_where_it_is_as_claimed():
    verdicts = [claim.judge(results(AS_CLAIMED)) for claim in dmt.CLAIMS]
    assert {v.decision for v in verdicts} == {"reproduced"}


def test_claims_of_forgetting_fail_where_nothing_is_forgotten():
    verdicts = [claim.judge(results(dict.fromkeys(dmt.ARMS, 0.8))) for claim in dmt.CLAIMS]
    assert [v.decision for v in verdicts[:5]] == [
        "not reproduced",
        "not reproduced",
        "partly",
        "not reproduced",
        "not reproduced",
    ]
