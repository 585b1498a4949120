"""The I-LoRA study: a trial of all of it, its parts, and its verdicts both ways."""

import io

import pytest
import torch
from rich.console import Console

from holdfast import studies
from holdfast.learner import Learner
from holdfast.models import adapters
from holdfast.studies import i_lora
from holdfast.studies.grads import base_model
from holdfast.studies.study import Results


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("i-lora")
    console = Console(file=io.StringIO(), width=80)
    return out, studies.run("i-lora", 2, out, quick=True, jobs=1, console=console)


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim_and_a_row_for_every_arm(trial):
    out, verdicts = trial
    assert [v.claim for v in verdicts] == [c.text for c in i_lora.CLAIMS]
    report = (out / "report.md").read_text()
    assert all(f"| {arm} |" in report for arm in i_lora.ARMS)
    assert [p.stem for p in (out / "figures").iterdir()] == ["path"]


def test_the_arms_are_one_thing_apart_and_share_memory_and_updates():
    arms = i_lora.arms("data")
    for arm, changes in i_lora.ARMS.items():
        differing = {k for k in arms[arm] if arms[arm][k] != arms["I-LoRA"][k]}
        assert differing - {"walk"} == {k for k in changes}
    assert arms["LoRA, half rate"]["rate"] == 0.5
    assert arms["ER"]["capacity"] == arms["I-LoRA"]["capacity"]


def test_the_tasks_of_a_stream_have_answers_of_their_own():
    _, words = base_model("random")
    stream = i_lora.text_stream(i_lora.arms("quick")["LoRA"], 0, words)
    assert [e.name for e in stream] == ["modules 1-2", "topics 1-2", "topics 3-4"]

    def answers(table):
        rows = (row[row != -100].tolist() for row in table["labels"])
        return {words.decode(row, skip_special_tokens=True) for row in rows}

    second, third = answers(stream[1].train), answers(stream[2].train)
    assert len(second) == len(third) == 2
    assert not second & third


def test_one_run_reads_both_adapters_and_walks_from_the_first_to_the_last():
    settings = {**i_lora.arms("quick")["I-LoRA"], "decay": 0.99}
    found = i_lora.measure(settings, 0)
    assert len(found["matrix"]) == 3
    assert [line["new"] for line in found["paths"]] == ["topics 1-2", "topics 3-4"]
    first = found["paths"][0]
    assert first["lambdas"] == [0.0, 0.5, 1.0]
    assert set(first["losses"]) == {"modules 1-2", "topics 1-2"}
    assert first["distance"] > 0
    updates = [point["update"] for point in found["way"]]
    assert updates[0] == 6
    assert updates[-1] == 9
    again = i_lora.measure(settings, 0)
    assert again == found


def test_paths_leave_the_learner_s_adapter_as_it_was():
    settings = i_lora.arms("quick")["LoRA"]
    model, words = base_model("random")
    import copy

    stream = i_lora.text_stream(settings, 0, words)
    learner = Learner(copy.deepcopy(model), i_lora.method(settings), pretrained=True)
    learner.start(stream)
    own = adapters.weights(learner.model)
    other = {name: torch.randn_like(w) for name, w in own.items()}
    i_lora.walked(learner, {e.name: e.test for e in stream}, [own, other], 3)
    assert all(torch.equal(w, own[name]) for name, w in adapters.weights(learner.model).items())


def run(accuracy, bwt, first=0.5, fast_bwt=-0.5, highest=0.0, kept=0.95, gain=0.1, rise=1.0):
    line = {"highest": highest, "kept_inside": kept, "gain_inside": gain}
    way = [
        {"update": 0.0, "old": 1.0, "new": 3.0},
        {"update": 9.0, "old": 1.0 + rise, "new": 1.0},
    ]
    return {
        "accuracy": accuracy,
        "bwt": bwt,
        "fast_bwt": fast_bwt,
        "first": first,
        "paths": [line, line],
        "way": way,
    }


def verdicts(better):
    """Verdicts where I-LoRA is better than everything, or worse."""
    sign = 1 if better else -1
    runs = {}
    for arm in i_lora.ARMS:
        good = arm.startswith("I-LoRA") and "no consistency" not in arm and "dropout" not in arm
        edge = 0.2 * sign * good + 0.1 * sign * (arm == "I-LoRA")
        if arm == "I-LoRA, target slow":
            edge += 0.1 if better else -0.2
        rise = 1 - 0.5 * sign * good
        runs[arm] = [
            run(
                0.5 + edge + jitter,
                -0.5 + edge + jitter,
                first=0.3 + sign * 0.3 * (good or arm == "ER") + jitter,
                highest=0.0 if better else 0.5 + jitter,
                kept=(0.95 if better else 0.5) + jitter,
                gain=0.1 * sign + jitter,
                rise=rise,
            )
            for jitter in (0.0, 0.001, 0.002)
        ]
    return [claim.judge(Results(runs)).decision for claim in i_lora.CLAIMS]


def test_verdicts_go_both_ways():
    assert set(verdicts(better=True)) == {"reproduced"}
    assert set(verdicts(better=False)) == {"not reproduced"}
