"""The study of continual pre-training: arms differ in one thing; its verdicts fall both ways."""

import io

import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import continual_pretraining as study
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("pretraining")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("continual-pretraining", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in study.CLAIMS]
    report = (out / "report.md").read_text()
    assert all(f"| {arm} |" in report for arm in study.ARMS)
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["new", "old"]


def test_the_arms_change_only_what_they_say():
    arms = study.arms("data")
    plain = arms[study.PLAIN]
    for arm, changes in study.ARMS.items():
        differing = {k for k in plain if arms[arm][k] != plain[k]} - {"stream"}
        assert differing == {k for k, v in changes.items() if plain[k] != v}


def test_the_corpora_share_no_text_and_the_shift_has_the_size_of_a_stage():
    settings = study.arms("quick")[study.PLAIN]
    halves = [{d.name for d in study._documents(half)} for half in (0, 1)]
    assert not halves[0] & halves[1]
    assert min(map(len, halves)) > 100
    for which in ("old", "weak", "strong"):
        assert len(study.corpus(which, settings, 0).train) == 24


def run_of(arm, **changes):
    return study.measure({**study.arms("quick")[arm], **changes}, 0)


def test_a_run_has_the_budget_of_its_arm_and_the_union_that_of_both_stages():
    plain, replayed, union = (run_of(arm) for arm in (study.PLAIN, study.QUARTER, "union"))
    assert plain["updates"] == replayed["updates"] == union["updates"] == 24
    assert plain["way"][0] == replayed["way"][0]  # both begin where the first stage ended
    assert replayed["replayed"] == [pytest.approx(0.25)]
    assert run_of("only the new corpus")["updates"] == 12


def results(replay_rise, union):
    """All arms alike, but for what replay forgets and where the union ends."""

    def way(rise):
        return [
            {"update": 0.0, "old": 2.0, "new": 4.0},
            {"update": 9.0, "old": 2 + rise, "new": 3.0},
        ]

    def run(arm, seed):
        rise = replay_rise if "replay" in arm else 1.0
        lowest = union if "union" in arm else 3.0
        return {
            "old": 2 + rise + 0.001 * seed,
            "new": lowest,
            "forgetting": rise + 0.001 * seed,
            "transient": rise,
            "way": way(rise),
            "updates": 18,
        }

    return Results({arm: [run(arm, seed) for seed in range(3)] for arm in study.ARMS})


def test_the_verdict_on_replay_follows_what_is_forgotten():
    (claim,) = [c for c in study.CLAIMS if c.text.startswith("A quarter of replay")]
    assert claim.judge(results(0.2, 3.0)).decision == "reproduced"
    assert claim.judge(results(0.9, 3.0)).decision == "partly"  # the new loss is as good


def test_the_verdict_on_the_union_follows_where_it_ends():
    (claim,) = [c for c in study.CLAIMS if c.text.startswith("With replay, half")]
    assert claim.judge(results(0.2, 3.0)).decision == "reproduced"
    assert claim.judge(results(0.2, 0.5)).decision == "not reproduced"
