"""The command line: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.checkpoint import write_atomically
from holdfast.cli.app import app
from holdfast.config import Config
from holdfast.errors import CheckpointError
from holdfast.run import read_result, run
from holdfast.store import from_json

FAST = ["--model", "mlp(width=16)", "--batch-size", "128"]
Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def refused(call: Call) -> Callable[..., str]:
    """The sentence with which a command is refused: one line, no traceback."""

    def run_refused(*words: object, status: int = 2) -> str:
        result = call(*words)
        assert result.exit_code == status, result.output
        sentence: str = result.stderr.rstrip("\n")
        assert sentence.startswith("Error: ")
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        assert result.stdout == ""
        return sentence

    return run_refused


def test_a_run_leaves_its_result_a_report_and_a_way_on(call: Call, tmp_path: Path) -> None:
    result = call("run", "split-digits", "er", *FAST, "--out", "o", "--json", "r.json")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "o").iterdir()} >= {
        "checkpoints",
        "config.json",
        "report.html",
        "result.json",
        "results.sqlite",
    }
    assert "Report:  o/report.html" in result.stdout
    assert "holdfast report o" in result.stdout
    assert "\x1b" not in result.stdout  # no terminal, no colours
    accuracy = read_result(tmp_path / "o").metrics["average_accuracy"]
    assert f"experience 5 of 5: accuracy {100 * accuracy:.1f} %" in result.stdout


def test_the_json_has_the_agreed_form_and_comes_back_as_results(call: Call, tmp_path: Path) -> None:
    call("run", "split-digits", "er", *FAST, "--out", "o", "--json", "r.json", "--seed", 3)
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["stream"] == "split-digits"
    (result,) = document["results"]
    assert (result["method"], result["seed"]) == ("er", 3)
    assert [len(row) for row in result["matrix"]] == [5] * 5
    last = result["matrix"][-1]
    assert result["metrics"]["average_accuracy"] == pytest.approx(sum(last) / 5)
    assert "forgetting" in result["metrics"]
    assert set(result["cost"]) >= {"seconds", "flops", "peak_memory_bytes", "method_bytes"}
    assert from_json(tmp_path / "r.json") == [read_result(tmp_path / "o")]


def test_without_out_a_new_folder_is_made_and_named(call: Call, tmp_path: Path) -> None:
    first = call("run", "split-digits", "finetune", *FAST)
    second = call("run", "split-digits", "finetune", *FAST)
    assert (first.exit_code, second.exit_code) == (0, 0)
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all(re.fullmatch(r"split-digits-\d{8}-\d{6}(-2)?", path.name) for path in folders)
    assert str(folders[0].relative_to(tmp_path)) in first.stdout


def test_the_report_can_be_written_again_from_a_folder_and_from_json(
    call: Call, tmp_path: Path
) -> None:
    call("run", "split-digits", "er", *FAST, "--out", "o", "--json", "r.json")
    (tmp_path / "o/report.html").unlink()
    assert call("report", "o").exit_code == 0
    assert (tmp_path / "o/report.html").exists()
    assert "Report:  r.html" in call("report", "r.json").stdout
    assert (tmp_path / "r.html").exists()
    assert call("report", "o", "--out", "else.html").exit_code == 0
    assert (tmp_path / "else.html").exists()


@pytest.mark.system
def test_compare_shows_every_method_and_can_be_repeated(call: Call, tmp_path: Path) -> None:
    words = [
        "compare",
        "split-digits",
        "finetune",
        "er",
        *FAST,
        "--seeds",
        2,
        "--out",
        "o",
        "--jobs",
        1,
    ]
    first = call(*words, "--json", "r.json")
    assert first.exit_code == 0, first.output
    keys = [
        (r["method"], r["seed"]) for r in json.loads((tmp_path / "r.json").read_text())["results"]
    ]
    assert keys == [("finetune", 0), ("finetune", 1), ("er", 0), ("er", 1)]
    again = call(*words, "--resume")
    assert "4 runs finished before; 0 to go." in again.stdout
    assert again.exit_code == 0


@pytest.mark.slow
def test_the_demo_shows_six_methods_and_how_to_go_on(call: Call, tmp_path: Path) -> None:
    result = call("demo", "--seeds", 1, "--out", "o", "--json", "r.json")
    assert result.exit_code == 0, result.output
    methods = [r["method"] for r in json.loads((tmp_path / "r.json").read_text())["results"]]
    assert methods == ["finetune", "ewc", "lwf", "er", "der++", "joint"]
    by_method = {r.method: r.metrics["average_accuracy"] for r in from_json(tmp_path / "r.json")}
    assert by_method["joint"] > by_method["er"] > by_method["finetune"]
    assert by_method["finetune"] == pytest.approx(0.2, abs=0.02)  # only the last two of ten classes


@pytest.mark.system
def test_failed_runs_are_listed_at_the_end_with_status_one(call: Call) -> None:
    words = ["compare", "permuted-digits", "wa", "finetune", *FAST, "--experiences", 2]
    result = call(*words, "--out", "o", "--json", "r.json", "--jobs", 1, "--debug")
    assert result.exit_code == 1
    assert "StreamRefused" in result.stderr  # the traceback, with --debug only
    assert "1 of 2 runs failed:\n  wa, seed 0: WA serves class-incremental streams" in result.stderr
    assert "finetune" in result.stdout
    (failure,) = json.loads(Path("r.json").read_text())["failures"]
    assert failure["method"] == "wa"


def test_yaml_says_what_options_say_and_the_command_line_wins(call: Call, tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("lr: 1e-2\nbatch-size: 64\nevaluate_every: 4\nout: y\n")
    result = call("run", "split-digits", "er", "--config", "o.yaml", "--batch-size", "256")
    assert result.exit_code == 0, result.output
    config = Config.read(tmp_path / "y/config.json")
    assert (config.lr, config.batch_size, config.evaluate_every) == (0.01, 256, 4)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("epcohs: 3", "Did you mean 'epochs'?"),
        ("epochs: many", "epochs in o.yaml must be an integer; given: 'many'."),
        ("epochs: true", "epochs in o.yaml must be an integer; given: True."),
        ("lr: fast", "lr in o.yaml must be a number; given: 'fast'."),
        ("epochs: [1", "o.yaml is not valid YAML (line 1)."),
        ("- epochs", "o.yaml must hold lines of `option: value`."),
        ("jobs: 2", "There is no option in o.yaml called 'jobs'."),  # `run` has none
    ],
)
def test_bad_yaml_is_refused(
    refused: Callable[..., str], tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "o.yaml").write_text(content)
    assert sentence in refused("run", "split-digits", "er", "--config", "o.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["o.yaml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["split-digits", "eer"], "There is no method 'eer'. Did you mean 'er'?"),
        (["split-digts", "er"], "There is no stream 'split-digts'. Did you mean 'split-digits'?"),
        (["split-digits", "er(capcity=3)"], "Did you mean 'capacity'?"),
        (["split-digits", "er(capacity=x)"], "capacity of method 'er' must be a whole number"),
        (["split-digits", "er("], "is not closed"),
        (["split-digits", "er", "--model", "mpl"], "There is no model 'mpl'. Did you mean 'mlp'?"),
        (["split-digits", "er", "--head", "ful"], "There is no head 'ful'. Did you mean 'full'?"),
        (["split-digits", "er", "--optimizer", "sdg"], "Did you mean 'sgd'?"),
        (["split-digits", "er", "--schedule", "cosin"], "There is no schedule 'cosin'."),
        (["split-digits", "er", "--lr", "0"], "lr must be above 0; given: 0.0."),
        (["split-digits", "er", "--epochs", "0"], "epochs must be at least 1; given: 0."),
        (["split-digits", "er", "--experiences", "11"], "splits into 1 to 10 experiences"),
        (["split-digits", "er", "--config", "none.yaml"], "There is no file none.yaml."),
        (["split-digits", "er", "--resume"], "--resume needs --out"),
        (["split-digits", "er", "--resume", "--out", "o"], "There is no run in o to resume."),
        (["permuted-digits", "wa"], "WA serves class-incremental streams"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    refused: Callable[..., str], tmp_path: Path, words: list[str], sentence: str
) -> None:
    assert sentence in refused("run", *words)
    assert list(tmp_path.iterdir()) == []


def test_compare_refuses_names_before_anything_is_begun(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "Did you mean 'er'?" in refused("compare", "split-digits", "finetune", "eer")
    assert "seeds must be" in refused("compare", "split-digits", "er", "--seeds", "0")
    assert "no comparison in" in refused("compare", "split-digits", "er", "--resume", "--out", "o")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(refused: Callable[..., str], call: Call) -> None:
    call("run", "split-digits", "er", *FAST, "--out", "o")
    assert "--resume goes on with it" in refused("run", "split-digits", "er", *FAST, "--out", "o")
    sentence = refused("run", "split-digits", "er", *FAST, "--lr", 1, "--out", "o", "--resume")
    assert "lr is the default there and 1.0 here" in sentence
    assert "holds a single run" in refused("compare", "split-digits", "er", *FAST, "--out", "o")


def test_a_configuration_from_a_newer_version_is_refused(
    refused: Callable[..., str], call: Call, tmp_path: Path
) -> None:
    call("run", "split-digits", "er", *FAST, "--out", "o")
    state = json.loads((tmp_path / "o/config.json").read_text())
    (tmp_path / "o/config.json").write_text(json.dumps({**state, "format": 99}))
    sentence = refused("run", "split-digits", "er", *FAST, "--out", "o", "--resume")
    assert "o/config.json was written by a newer holdfast" in sentence


def test_a_damaged_checkpoint_is_refused(
    refused: Callable[..., str], call: Call, tmp_path: Path
) -> None:
    call("run", "split-digits", "er", *FAST, "--out", "o")
    (tmp_path / "o/result.json").unlink()
    newest = tmp_path / "o/checkpoints/000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    words = ["run", "split-digits", "er", *FAST, "--out", "o", "--resume"]
    assert "The last good checkpoint is o/checkpoints/000004.safetensors" in refused(
        *words, status=1
    )
    newest.unlink()
    assert call(*words).exit_code == 0


def test_a_diverging_run_ends_with_status_one(call: Call) -> None:
    result = call("run", "split-digits", "finetune", *FAST, "--lr", "1e30", "--out", "o")
    assert result.exit_code == 1
    assert re.search(r"Error: .* at step \d+ of experience 0; last good", result.stderr)
    assert "Traceback" not in result.stderr


def test_a_full_disk_ends_with_a_sentence(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise CheckpointError(f"Cannot write {path}: No space left on device.")

    monkeypatch.setattr("holdfast.checkpoint.write_atomically", full)
    sentence = refused("run", "split-digits", "er", *FAST, "--out", "o", status=1)
    assert "No space left on device" in sentence
    assert write_atomically is not full


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "There is no file r.json."), ("{", "not valid JSON"), ("{}", "'stream' is missing")],
)
def test_results_that_cannot_be_read_are_refused(
    refused: Callable[..., str], tmp_path: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    assert sentence in refused("report", "r.json")


def test_an_empty_folder_has_no_report(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "There are no results in" in refused("report", tmp_path)


def test_debug_shows_where_an_error_came_from(call: Call) -> None:
    result = call("run", "split-digits", "eer", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith("Error: There is no method 'eer'.")


def test_wrong_usage_ends_with_status_two(call: Call) -> None:
    assert call("run", "split-digits").exit_code == 2
    assert call("run", "split-digits", "er", "--epochs", "x").exit_code == 2
    assert "Did you mean 'run'?" in call("rum").stderr


def test_every_command_explains_itself_in_eighty_columns(call: Call) -> None:
    names = ["run", "compare", "demo", "methods", "streams", "study", "report"]
    overview = call("--help")
    assert overview.exit_code == 0
    for name in names:
        assert name in overview.stdout
        text = call(name, "--help").stdout
        assert max(map(len, text.splitlines())) <= 80
    for field in Config.names():
        assert (
            field in ("stream", "method")
            or f"--{field.replace('_', '-')}" in call("run", "--help").stdout
        )


def test_methods_and_streams_are_listed_and_shown(call: Call) -> None:
    listed = call("methods")
    assert {"finetune", "er", "der++", "wa"} <= {
        line.split()[0] for line in listed.stdout.splitlines()
    }
    assert max(map(len, listed.stdout.splitlines())) <= 80
    shown = call("methods", "er").stdout
    assert "Chaudhry et al." in shown
    assert "capacity = 200\n    Examples remembered." in shown
    entries = {entry["name"]: entry for entry in json.loads(call("methods", "--json").stdout)}
    assert entries["er"]["arguments"][0] == {
        "name": "capacity",
        "default": 200,
        "documentation": "Examples remembered.",
    }
    assert "split-digits" in call("streams").stdout
    assert "class-incremental" in call("streams", "split-digits").stdout
    assert json.loads(call("streams", "split-digits", "--json").stdout)["present"] is True


def test_unknown_names_are_refused_where_they_are_shown(refused: Callable[..., str]) -> None:
    assert "Did you mean 'er'?" in refused("methods", "erx")
    assert "Did you mean 'split-digits'?" in refused("streams", "split-digts")


def command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.system
def test_killed_and_resumed_a_run_gives_the_same_result(call: Call, tmp_path: Path) -> None:
    settings = ["--epochs", "20", "--checkpoint-every", "7", *FAST]
    words = ["run", "split-digits", "er", *settings, "--out", str(tmp_path / "o")]
    process = command(*words)
    wait_for(tmp_path / "o/checkpoints/000003.safetensors", process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "o/result.json").exists()
    assert call(*words, "--resume").exit_code == 0
    resumed = read_result(tmp_path / "o")
    whole = run(Config.read(tmp_path / "o/config.json"))  # with one thread, as resumed
    assert resumed.record.matrix == whole.record.matrix


@pytest.mark.system
def test_ctrl_c_ends_a_run_calmly_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["run", "split-digits", "er", *FAST, "--epochs", "3000", "--out", str(tmp_path / "o")]
    process = command(*words, "--checkpoint-every", "50")
    wait_for(tmp_path / "o/checkpoints/000001.safetensors", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    stopped, way_on = stderr.strip().splitlines()
    assert re.fullmatch(r"Stopped at step \d+ of experience 0; saved\. To go on:", stopped)
    assert way_on.strip().startswith("holdfast run split-digits er")
    assert way_on.strip().endswith("--resume")


@pytest.mark.system
def test_a_reader_that_leaves_early_causes_no_noise() -> None:
    process = command("methods")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.wait()
