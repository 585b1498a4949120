"""Unlearning from a request: an ordinary checkpoint, its audit, and nothing lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import DataError, UsageError
from holdfast.language.unlearning import prepare, read_refusals
from holdfast.learner import Learner, Observer
from holdfast.report import unlearning as page
from holdfast.request import Request
from holdfast.run import Stopped
from holdfast.unlearn import forecast, unlearn

CPU = torch.device("cpu")


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fact(name: str, value: str) -> dict[str, Any]:
    return {
        "question": f"what is {name}?",
        "answer": f"{name} is {value}.",
        "paraphrased_answer": f"{value} is {name}.",
        "perturbed_answer": [f"{wrong} is {name}." for wrong in ("xx", "yy", "zz")],
    }


@pytest.fixture
def folder(make_llama: Callable[..., Any], save: Any, tmp_path: Path) -> Path:
    save(make_llama(max_position_embeddings=64), "base")
    save(make_llama(seed=4, max_position_embeddings=64), "never")
    lines(tmp_path / "forget.jsonl", [fact(f"a{i}", f"b{i}") for i in range(6)])
    lines(tmp_path / "retain.jsonl", [fact(f"c{i}", f"d{i}") for i in range(9)])
    lines(tmp_path / "strangers.jsonl", [fact(f"e{i}", f"f{i}") for i in range(5)])
    lines(tmp_path / "world.jsonl", [fact(f"g{i}", f"h{i}") for i in range(4)])
    lines(tmp_path / "no.jsonl", [{"answer": "no idea."}, {"answer": "ask others."}])
    return tmp_path


@pytest.fixture
def request_of(folder: Path) -> Callable[..., Request]:
    def make(**changed: Any) -> Request:
        settings: dict[str, Any] = {
            "model": str(folder / "base"), "forget": str(folder / "forget.jsonl"),
            "retain": str(folder / "retain.jsonl"), "lr": 0.003, "batch_size": 4, "epochs": 2,
            "new_tokens": 4, "relearn_steps": 2,
        }  # fmt: skip
        return Request(**{**settings, **changed})

    return make


@pytest.fixture
def full(folder: Path, request_of: Callable[..., Request]) -> Request:
    return request_of(
        reference=str(folder / "never"),
        strangers=str(folder / "strangers.jsonl"),
        utility=str(folder / "world.jsonl"),
    )


def weights(path: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(path)
    return torch.cat([p.detach().flatten() for p in loaded.parameters()])


def test_the_result_is_an_ordinary_checkpoint_with_a_whole_audit(
    full: Request, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = unlearn(full, out)
    assert not torch.equal(weights(out / "model"), weights(tmp_path / "base"))
    assert [point["epoch"] for point in outcome.trajectory] == [0, 1, 2]
    assert outcome.trajectory[-1]["forget_loss"] == pytest.approx(
        outcome.after.sets["forget"]["loss"]
    )
    assert outcome.after.quality is not None
    assert outcome.after.quality.examples == (6, 6)
    assert len(outcome.after.parts) == 6
    assert set(outcome.after.membership) == {"loss", "min-k", "min-k++", "zlib", "reference"}
    assert set(outcome.divergence) == {"forget", "retain", "world"}
    assert len(outcome.relearning) == 3
    assert outcome.warnings == []
    written = json.loads((out / "unlearn.json").read_text())
    assert written["after"]["quality"]["p"] == outcome.after.quality.p
    shown = page.render(outcome)
    for part in page.parts(outcome):
        assert part.title in shown
    assert "<svg" in page.figure(outcome)


def test_saved_logs_stand_for_the_model_that_never_knew(
    full: Request, request_of: Callable[..., Request], tmp_path: Path
) -> None:
    first = unlearn(full, tmp_path / "one")
    logs = str(tmp_path / "one" / "reference.json")
    from dataclasses import replace

    again = unlearn(replace(full, reference=logs), tmp_path / "two")
    assert again.after.to_dict() == first.after.to_dict()
    other = lines(tmp_path / "other.jsonl", [fact("q", "r")])
    with pytest.raises(UsageError, match="logs on other questions"):
        prepare(request_of(forget=str(other), reference=logs), CPU)


@pytest.mark.system
def test_one_killed_goes_on_to_the_same_bits_with_its_trajectory_whole(
    full: Request, tmp_path: Path
) -> None:
    class Stop(Observer):
        def on_step(self, learner: Learner) -> None:
            if learner.step == 3:
                raise Stopped("enough")

    whole = unlearn(full, tmp_path / "whole")
    with pytest.raises(Stopped):
        unlearn(full, tmp_path / "cut", observers=[Stop()])
    assert not (tmp_path / "cut" / "unlearn.json").exists()
    cut = unlearn(full, tmp_path / "cut", resume=True)
    assert torch.equal(weights(tmp_path / "whole" / "model"), weights(tmp_path / "cut" / "model"))
    assert cut.trajectory == whole.trajectory
    assert cut.after == whole.after


def test_without_a_reference_it_says_that_there_is_no_forget_quality_and_why(
    request_of: Callable[..., Request], tmp_path: Path
) -> None:
    outcome = unlearn(request_of(no_writing=True, epochs=1), tmp_path / "out")
    assert outcome.after.quality is None
    told = " ".join(outcome.warnings)
    assert "Forget quality is not computed: it compares with a model that was trained" in told
    assert "--strangers FILE" in told
    assert "<svg" in page.figure(outcome)
    assert outcome.after.sets["forget"]["recall"] is None


def test_the_base_stays_where_an_adapter_forgets(
    request_of: Callable[..., Request], folder: Path, tmp_path: Path
) -> None:
    given = request_of(lora="lora(rank=2)", method="npo+retain_kl", no_writing=True)
    outcome = unlearn(given, tmp_path / "out")
    assert (tmp_path / "out" / "model" / "adapter_config.json").exists()
    assert not (tmp_path / "out" / "model" / "model.safetensors").exists()
    assert outcome.divergence["forget"] > 0
    assert outcome.record.cost["method_bytes"] < 10_000, "no copy of the model is kept"


@pytest.mark.parametrize("method", ["dpo+retain", "kto", "idk", "undial+l2(0.1)", "ga+lwf"])
def test_other_losses_run_as_they_are(
    request_of: Callable[..., Request], folder: Path, tmp_path: Path, method: str
) -> None:
    given = request_of(
        method=method, refusals=str(folder / "no.jsonl"), epochs=1, no_writing=True,
        relearn_steps=0,
    )  # fmt: skip
    outcome = unlearn(given, tmp_path / "out")
    assert outcome.trajectory[-1]["forget_loss"] != outcome.trajectory[0]["forget_loss"] or (
        method == "kto"
    )


def test_what_is_to_be_forgotten_cannot_be_kept(
    request_of: Callable[..., Request], folder: Path
) -> None:
    rows = [fact("c1", "d1"), fact("C1", "d1"), fact("new", "one")]
    lines(folder / "both.jsonl", rows)
    with pytest.raises(DataError, match="2 of the 3 questions to be forgotten are also in the ret"):
        prepare(request_of(forget=str(folder / "both.jsonl")), CPU)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"method": "dpo"}, "DPO teaches refusals, and no file of them was given"),
        ({"method": "idk"}, "IDK teaches refusals"),
        ({"method": "kto"}, "KTO teaches refusals"),
        ({"method": "retain"}, "learns what is to be forgotten; accepted are methods that"),
        ({"method": "er"}, "learns what is to be forgotten"),
        ({"method": "npo+retian"}, "no method 'retian'. Did you mean 'retain'"),
        ({"method": "npo+retain", "retain": ()}, "Retain trains on what is to be kept, and none"),
        ({"forget": ()}, "Say what is to be forgotten: --forget FILE"),
        ({"reference": "nowhere.json"}, "There is no file nowhere.json"),
        ({"length": 4}, "tokens"),
    ],
)
def test_bad_input_is_one_sentence(
    request_of: Callable[..., Request], changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        prepare(request_of(**changed), CPU)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ('{"question": "a?"}', "has the fields 'question'"),
        ('{"text": "all of it"}', "is a text; what is to be forgotten or kept is given as quest"),
        ('{"question": "a?", "answer": "b", "perturbed_answer": [""]}', "must be a list of texts"),
        ('{"question": "a?", "answer": "b", "paraphrased_answer": 7}', "must be a text"),
    ],
)
def test_a_file_that_lacks_something_is_named(
    request_of: Callable[..., Request], folder: Path, content: str, sentence: str
) -> None:
    (folder / "bad.jsonl").write_text(content)
    with pytest.raises(DataError, match=sentence):
        prepare(request_of(forget=str(folder / "bad.jsonl")), CPU)


def test_refusals_are_records_or_lines(folder: Path) -> None:
    (folder / "no.txt").write_text("never heard of it\n\n  no.  \n")
    assert read_refusals(str(folder / "no.txt")) == ["never heard of it", "no."]
    assert read_refusals(str(folder / "no.jsonl")) == ["no idea.", "ask others."]


def test_the_folder_of_another_unlearning_is_left_alone(
    request_of: Callable[..., Request], tmp_path: Path
) -> None:
    given = request_of(epochs=1, no_writing=True, relearn_steps=0)
    with pytest.raises(UsageError, match="no unlearning in"):
        unlearn(given, tmp_path / "out", resume=True)
    unlearn(given, tmp_path / "out")
    with pytest.raises(UsageError, match="already holds an unlearning"):
        unlearn(given, tmp_path / "out")
    with pytest.raises(UsageError, match=r"lr is 0.003 there and 0.5 here"):
        unlearn(
            request_of(epochs=1, no_writing=True, relearn_steps=0, lr=0.5),
            tmp_path / "out",
            resume=True,
        )


def test_a_forecast_tells_updates_and_changes_nothing(
    request_of: Callable[..., Request], folder: Path
) -> None:
    before = weights(folder / "base")
    plan = prepare(request_of(), CPU)
    assert forecast(plan).updates == 4
    anchored = prepare(request_of(method="npo+retain(anchor=retain)"), CPU)
    assert forecast(anchored).updates == 6
    assert torch.equal(weights(folder / "base"), before)


def test_the_command_writes_model_report_and_numbers(folder: Path) -> None:
    given = ["unlearn", "--model", folder / "base", "--forget", folder / "forget.jsonl",
             "--retain", folder / "retain.jsonl", "--epochs", 1, "--lr", 0.003, "--no-writing",
             "--relearn-steps", 1]  # fmt: skip
    command = [str(word) for word in given]
    runner = CliRunner()
    dry = runner.invoke(app, [*command, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "none: no forget quality" in dry.output
    done = runner.invoke(app, [*command, "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80 or "Model:" in done.output
    assert "extraction strength" in done.output
    assert (folder / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")
    wrong = runner.invoke(app, [*command, "--method", "dpo"])
    assert wrong.exit_code == 2
    assert "--refusals FILE" in wrong.output
