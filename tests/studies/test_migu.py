"""The study of MIGU: a trial of all of it, its measures, and its verdicts both ways."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from holdfast import studies
from holdfast.methods import MIGU
from holdfast.studies import migu
from holdfast.studies.grads import base_model
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("migu")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("migu", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


def test_a_trial_gives_a_verdict_for_every_claim_and_a_row_for_every_arm(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in migu.CLAIMS]
    report = (out / "report.md").read_text()
    assert all(report.count(f"\n| {arm} |") == 2 for arm in migu.ARMS)
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["scores", "way"]


def test_arms_are_one_thing_apart():
    arms = migu.arms("data")

    def differing(arm, other):
        changed = {key for key in arms[arm] if arms[arm][key] != arms[other][key]}
        return changed - {"profiles"}

    assert differing("MIGU", "full") == differing("MIGU", "random rows") == {"mask"}
    assert differing("MIGU, held still", "MIGU") == {"held"}
    assert differing("LoRA + MIGU", "LoRA") == differing("LoRA + random rows", "LoRA") == {"mask"}
    assert differing("full, half rate", "full") == {"rate"}


def test_masks_come_with_the_second_task_so_that_all_arms_begin_it_alike():
    ways = []
    for arm in ("full", "MIGU", "random rows"):
        settings = {**migu.arms("quick")[arm], "profiles": False}
        ways.append(migu.measure(settings, 0)["way"])
    full, loud, random = ways
    assert full[0] == loud[0] == random[0]
    assert len({way[-1]["old"] for way in ways}) == 3


def test_the_control_masks_as_many_rows_as_migu():
    settings = migu.arms("quick")
    loud, random = (migu.method_of(settings[arm]) for arm in ("MIGU", "random rows"))
    assert isinstance(loud, MIGU)
    assert isinstance(random, MIGU)
    assert (loud.quantile, loud.random_update) == (0.7, False)
    assert (random.quantile, random.random_update) == (0.7, True)


def test_halves_of_equal_rows_have_all_their_loudest_units_alike():
    model, _ = base_model("random")
    stream = migu.tasks(migu.arms("quick")["full"], 0)
    equal = [
        replace(e, test=e.test.take(torch.zeros(len(e.test), dtype=torch.long))) for e in stream
    ]
    found = migu.overlaps(model, replace(stream, experiences=equal), 0.7)
    assert [found[k][k] for k in range(3)] == [1.0, 1.0, 1.0]
    assert all(found[0][k] < 1 for k in (1, 2))


def test_a_way_holds_the_task_in_training_against_the_mean_of_those_before():
    points = [{"update": float(u), "a": u, "b": 2.0 * u, "c": 5.0 - u} for u in range(5)]
    found = migu._way(points, ["a", "b", "c"], [0, 1, 2, 4], 2)
    assert found == [{"update": float(u), "old": 1.5 * u, "new": 5.0 - u} for u in (2, 3, 4)]


def test_what_is_forgotten_is_counted_from_when_a_task_was_just_learned():
    points = [{"update": float(u), "a": 1.0 + u, "b": abs(u - 2.0), "c": 4.0 - u} for u in range(4)]
    found = migu._losses(points, ["a", "b", "c"], [0, 1, 2, 3])
    assert found["learned_loss"] == (0.0 + 1.0) / 2
    assert found["forgotten"] == ((4.0 - 2.0) + (1.0 - 0.0)) / 2


def made(good):
    """Results by hand in which MIGU is better in every way, or worse."""
    order = ["full", "full, half rate", "random rows", "MIGU", "MIGU, held still"]
    order += ["LoRA", "LoRA, half rate", "LoRA + random rows", "LoRA + MIGU"]

    def one(arm):
        gain = (0.05 if good else -0.05) * order.index(arm)
        return {
            "accuracy": 0.5 + gain,
            "chosen_accuracy": 0.5 + gain,
            "bwt": -0.5 + gain,
            "forgotten": 3.0 - gain,
            "learned": 0.9 if good or arm != "MIGU" else 0.8,
            "way": [
                {"update": 0.0, "old": 1.0, "new": 3.0},
                {"update": 10.0, "old": 2.0 - gain, "new": 1.0},
            ],
            "overlap": {when: [[0.6, 0.5], [0.5, 0.6]] for when in ("before", "after")}
            if good
            else {when: [[0.5, 0.6], [0.6, 0.5]] for when in ("before", "after")},
        }

    return Results({arm: [one(arm) for _ in range(3)] for arm in migu.ARMS})


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in migu.CLAIMS} == {
        c.text: decision for c in migu.CLAIMS
    }
