"""Language from the command line: runs, the demonstration, lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.cli.demo import run_demo
from holdfast.cli.options import Given
from holdfast.language import checkpoints
from holdfast.models import zoo
from holdfast.streams.language import python

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained Llama with a tokenizer, as a folder."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    words = zoo.byte_pairs([d.text for d in python.documentation()[:12]], 300)
    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=128, vocabulary=300)
    torch.manual_seed(0)
    checkpoints.save(zoo.untrained(recipe, words), words, path)
    return path


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_of_language_shows_the_losses_before_and_after(call: Call, folder: Path) -> None:
    spec = "docs-code(length=32, limit=16, test_limit=4)"
    result = call("run", spec, "finetune", "--model", folder, "--out", "o")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    header = next(line for line in lines if line.startswith("Loss on"))
    assert header.split() == ["Loss", "on", "docs", "code"]
    assert any(line.startswith("before any training") for line in lines)
    assert all(len(line) <= 80 for line in lines if "o/report" not in line)
    assert "Loss before and after" in Path("o/report.html").read_text()


@pytest.mark.system
def test_the_demonstration_of_language_compares_four_methods(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    given = {"model": str(folder), "batch_size": 64, "jobs": 2, "out": tmp_path / "o"}
    run_demo("lm", Given(given))
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line)
    table = said[said.index("Loss on") :]
    for name in ("before any training", "finetune", "l2", "lwf", "replay"):
        assert name in table


def test_a_demonstration_that_does_not_exist_is_refused(call: Call) -> None:
    result = call("demo", "llm")
    assert result.exit_code == 2
    assert "There is no demonstration 'llm'. Did you mean 'lm'?" in result.stderr


def test_streams_of_language_are_listed_and_shown(call: Call) -> None:
    listed = call("streams").output
    assert "docs-code" in listed
    assert "corpora:PATH" in listed
    shown = call("streams", "docs-code").output
    assert "language" in shown
    assert "known" in shown
