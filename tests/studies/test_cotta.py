"""The study of CoTTA: a trial of all of it, its arms, and its verdicts both ways."""

import io

import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import cotta
from holdfast.studies.study import Results


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("cotta", 2, tmp_path, quick=True, jobs=1, console=console)
    assert [v.claim for v in verdicts] == [c.text for c in cotta.CLAIMS]
    report = (tmp_path / "report.md").read_text()
    assert all(f"| {arm} |" in report for arm in cotta.ARMS)
    assert sorted(p.stem for p in (tmp_path / "figures").iterdir()) == ["clean", "rounds"]


def test_arms_of_cotta_differ_in_one_part():
    arms = cotta.arms("data")
    whole = arms["CoTTA"]["arguments"]
    for arm, part in (
        ("CoTTA, nothing put back", "restore"),
        ("CoTTA, no views", "views"),
        ("CoTTA, student answers", "answers"),
    ):
        other = arms[arm]["arguments"]
        assert {k for k in {*whole, *other} if whole.get(k) != other.get(k)} == {part}
        assert {k for k in arms[arm] if arms[arm][k] != arms["CoTTA"][k]} == {"arguments"}


def test_a_measurement_has_errors_by_round_and_by_domain():
    settings = cotta.arms("quick")["TENT, reset with each domain"]
    found = cotta.measure({**settings, "epochs": 1}, 0)
    assert len(found["rounds"]) == 2
    assert set(found["domains"]) == {"fog 5", "contrast 5", "defocus_blur 5"}
    assert found["drift"] == pytest.approx(found["rounds"][1] - found["rounds"][0])
    assert found["forgotten"] == pytest.approx(found["clean_after"] - found["clean_before"])


def made(good):
    """Results by hand in which every claim holds, or none."""
    side = 1 if good else -1

    def one(arm, place):
        worst = ("CoTTA, no views", "CoTTA, student answers")
        rank = {"source": -4, "TENT": 1, "BN-adapt": 2, "CoTTA": 5}.get(arm.split(",")[0], 1)
        rank = 4 if arm in worst else rank
        drift = {"CoTTA": -0.03 * side}.get(arm, 0.05 * side)
        away = 0.0 if arm in ("CoTTA", "CoTTA, gradual") else 0.1
        return {
            "error": 0.4 - 0.03 * side * rank + 0.001 * place,
            "drift": drift + 0.001 * place,
            "clean_after": 0.2 + side * away + 0.001 * place,
            "distance": 0.1 + side * away,
            "clean_before": 0.19,
            "averaged": 1.0 if arm.startswith("CoTTA") else None,
            "images_per_second": 100.0,
            "rounds": [0.4] if "gradual" in arm else [0.4, 0.39, 0.38 + 0.001 * place],
            "domains": {"fog 5": 0.3, "snow 5": 0.5},
        }

    return Results({arm: [one(arm, place) for place in range(3)] for arm in cotta.ARMS})


@pytest.mark.parametrize(("good", "decision"), [(True, "reproduced"), (False, "not reproduced")])
def test_every_claim_can_be_reproduced_and_can_fail(good, decision):
    results = made(good)
    assert {c.text: c.judge(results).decision for c in cotta.CLAIMS} == {
        c.text: decision for c in cotta.CLAIMS
    }


def test_tables_and_figures_show_arms_rounds_and_domains():
    results = made(good=True)
    by_arm, by_domain = cotta.grids(results)
    assert [row[0] for row in by_arm.rows] == list(cotta.ARMS)
    assert all(len(row) == len(by_arm.header) for row in by_arm.rows)
    shown = dict(zip(by_arm.header, by_arm.rows[-1], strict=True))
    assert shown["arm"] == "CoTTA, gradual"
    assert (shown["round 1"], shown["round 3"]) == ("40.0 ± 0.0", "-")
    assert [row[0] for row in by_domain.rows] == ["fog 5", "snow 5"]
    assert len(by_domain.header) == len(by_domain.rows[0]) == 1 + len(cotta.ROUNDED)
    rounds, clean = cotta.figures(results)
    followed = ["BN-adapt", "TENT", "TENT, ten times the rate", "EATA", "CoTTA"]
    assert all(f">{arm}<" in rounds.svg for arm in followed)
    assert clean.svg.count("<rect") >= 5
