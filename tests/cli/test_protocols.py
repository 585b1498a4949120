"""`compare --protocol` and `search` on the command line, their runs in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.compare import Crew
from holdfast.run import run

Call = Callable[..., Any]
FAST = ("--model", "mlp(width=8)", "--epochs", 1, "--batch-size", 64, "--head", "growing")
STREAM = "split-digits(limit=40, test_limit=20, experiences=3)"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)

    def work(crew: Crew, jobs: int) -> None:
        for cell in crew.waiting:
            folder = crew._folder(cell)
            resume = (folder / "config.json").exists()
            result = run(cell, folder, resume, starts=crew.starts)
            report = {"kind": "finished", "stream": cell.stream, "result": result.to_dict()}
            crew._take(cell, report)

    monkeypatch.setattr(Crew, "work", work)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def protocol(path: Path) -> Any:
    return json.loads((path / "protocol.json").read_text())


def test_an_aligned_comparison_gives_equal_bytes_and_places(call: Call, tmp_path: Path) -> None:
    words = ["compare", STREAM, "er(storage=herding)", "expandable_der", "ewc", *FAST]
    words += ["--protocol", "aligned", "--exemplars", 6, "--seeds", 2, "--out", "o"]
    shown = call(*words)
    assert shown.exit_code == 0, shown.output
    assert "shared" in shown.stdout
    (point,) = protocol(tmp_path / "o")["points"]
    er, der, ewc = point["methods"]
    assert der["exemplars"] == 6
    assert er["exemplars"] > 6
    assert ewc["exemplars"] is None
    assert 0 <= der["planned"] - er["planned"] < 64
    assert {run["deployed_bytes"] for run in der["runs"]} == {der["planned"]}
    assert [len(run["matrix"]) for run in er["runs"]] == [3, 3]
    starts = {tuple(r["curve"][0] for r in one["runs"]) for one in point["methods"]}
    assert len(starts) == 1
    assert set(point["ranks"]["last"]) == {"er(storage=herding)", "expandable_der", "ewc"}
    before = (tmp_path / "o/protocol.json").read_bytes()
    assert call(*words).exit_code == 0  # nothing is left to be done
    assert (tmp_path / "o/protocol.json").read_bytes() == before


def test_it_is_said_where_there_is_room_for_more_examples_than_come(
    call: Call, tmp_path: Path
) -> None:
    words = ["compare", STREAM, "er", "expandable_der", *FAST, "--protocol", "aligned"]
    shown = call(*words, "--exemplars", 1000, "--seeds", 1, "--out", "o")
    assert shown.exit_code == 0, shown.output
    (point,) = protocol(tmp_path / "o")["points"]
    er = next(one for one in point["methods"] if one["method"] == "er")
    assert f"{int(er['runs'][0]['examples'])} of {er['exemplars']}" in shown.stdout


def test_an_agnostic_comparison_gives_curves_and_areas(call: Call, tmp_path: Path) -> None:
    words = ["compare", STREAM, "er(storage=herding)", "expandable_der", *FAST]
    words += ["--protocol", "agnostic", "--exemplars", 3, "--budget", "0.003,0.006"]
    words += ["--budget", "0.009", "--smaller", "mlp(width=1)", "--out", "o"]
    shown = call(*words)
    assert shown.exit_code == 0, shown.output
    assert "AUC-L" in shown.stdout
    document = protocol(tmp_path / "o")
    budgets = [point["budget_mb"] for point in document["points"]]
    assert budgets == pytest.approx([0.003, 0.006, 0.009], abs=1e-5)
    for place, method in enumerate(("er(storage=herding)", "expandable_der")):
        last = [point["methods"][place]["runs"][0]["last"] for point in document["points"]]
        by_hand = sum(
            (b - a) * (x + y) / 2
            for a, b, x, y in zip(budgets, budgets[1:], last, last[1:], strict=False)
        )
        assert document["areas"]["last"][method] == pytest.approx([by_hand])
    assert (tmp_path / "o/curves.svg").read_text().startswith("<svg")
    small = document["points"][0]["methods"][1]
    assert small["model"] == "mlp(width=1)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--exemplars", 5], "name one of benchmark, aligned, agnostic"),
        (["--protocol", "fair"], "no protocol 'fair'"),
        (["--protocol", "benchmark", "--budget", 1], "takes no --budget"),
        (["--protocol", "aligned", "--budget", "1,2"], "has one --budget"),
        (["--protocol", "aligned", "--smaller", "cnn"], "--smaller models are for agnostic"),
        (["--protocol", "aligned", "--budget", "much"], "budget must be a number of MB"),
        (["--protocol", "aligned", "--exemplars", 0], "exemplars must be at least 1"),
        (["--protocol", "aligned", "--budget", 0.001], "takes at least"),
    ],
)
def test_what_a_protocol_cannot_do_is_refused(
    call: Call, tmp_path: Path, options: list[Any], sentence: str
) -> None:
    refused = call("compare", STREAM, "er", *FAST, *options)
    assert refused.exit_code == 2
    assert sentence in " ".join(refused.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_search_says_how_it_chose_and_tests_its_choice(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = ["search", STREAM, "er(capacity=10)", *FAST, "--space", "lr=log(0.001, 0.1)"]
    words += ["--space", "er.capacity=range(5, 20)", "--until", 2, "--out", "o"]
    shown = call(*words, "--trials", 2, "--seeds", 2)
    assert shown.exit_code == 0, shown.output
    assert "no test set was looked at" in " ".join(shown.stdout.split())
    document = json.loads((tmp_path / "o/search.json").read_text())
    assert (document["protocol"], document["first"], document["share"]) == ("first", 2, 0.1)
    assert len(document["trials"]) == 2
    assert [result["seed"] for result in document["results"]] == [0, 1]
    assert document["config"]["lr"] == document["best"]["values"]["lr"]
    assert document["results"][0]["config"]["validation"] == 0
    assert [len(row) for row in document["results"][0]["matrix"]] == [3, 3, 3]
    more = call(*words, "--trials", 3, "--resume")
    assert more.exit_code == 0, more.output
    again = json.loads((tmp_path / "o/search.json").read_text())
    assert again["trials"][:2] == document["trials"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "needs a space"),
        (["--space", "lr=log(0.1, 1.0)", "--validate", "test"], "no protocol of validation"),
        (
            ["--space", "lr=log(0.1, 1.0)", "--validate", "end", "--until", 1],
            "for --validate first",
        ),
        (["--space", "lr=log(0.1, 1.0)", "--until", 9], "given: 9"),
    ],
)
def test_a_search_of_nothing_is_refused(
    call: Call, tmp_path: Path, options: list[Any], sentence: str
) -> None:
    refused = call("search", STREAM, "er", *FAST, *options)
    assert refused.exit_code == 2
    assert sentence in " ".join(refused.stderr.split())
    assert not list(tmp_path.iterdir())
