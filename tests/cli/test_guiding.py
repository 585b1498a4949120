"""Methods by what they need, and the guide, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from holdfast.cli import guiding
from holdfast.cli.app import app

Call = Callable[..., Any]


@pytest.fixture
def call() -> Call:
    return lambda *words, **options: CliRunner().invoke(app, list(words), **options)


def names(result: Any) -> list[str]:
    """The first column of a list of methods."""
    lines = result.stdout.splitlines()[1:]
    return [line.split()[0] for line in lines if line and not line.startswith(" ")]


def test_methods_are_filtered_and_filters_compose(call: Call) -> None:
    assert names(call("methods", "--family", "correction")) == ["wa", "bic", "group_masking"]
    free = names(call("methods", "--family", "replay", "--task-free"))
    assert "er" in free
    assert "replay" not in free
    assert names(call("methods", "--stage", "cpt", "--no-old-data", "--family", "replay")) == [
        "replay(source=self)"
    ]
    both = names(call("methods", "--unlabelled", "--scenario", "domain"))
    assert set(both) == {"lwf", "source", "bn_adapt", "tent", "eata", "cotta"}
    told = call("methods", "--technique", "projection", "--json").stdout
    assert {entry["name"] for entry in json.loads(told)} == {"agem", "gem", "gpm", "o_lora"}


def test_a_filtered_list_is_eighty_columns_wide(call: Call) -> None:
    result = call("methods", "--no-old-data", env={"COLUMNS": "80"})
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80


def test_nothing_that_fits_is_said_and_a_foreign_word_refused(call: Call) -> None:
    nothing = call("methods", "--technique", "prompt")
    assert nothing.stdout == "No method fits all of that.\n"
    wrong = call("methods", "--stage", "dapp")
    assert wrong.exit_code == 2
    assert "Did you mean 'dap'?" in wrong.stderr


def test_the_schema_is_that_of_what_is_printed(call: Call) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(call("methods", "--schema").stdout)
    for entry in json.loads(call("methods", "--json").stdout):
        jsonschema.validate(entry["taxonomy"], schema)


def test_the_guide_answers_options_with_reasons_and_what_is_ruled_out(call: Call) -> None:
    result = call("recommend", "--scenario", "task", "--privacy", "--old-data", "few")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "[task-none]" in text
    assert "not, for old data: " in text
    assert "(privacy)" in text
    assert "try holdfast run 'split-digits(scenario=task)'" in text
    told = [line for line in result.stdout.splitlines() if not line.startswith(("try", "yours"))]
    assert max(map(len, told)) <= 80


def test_the_guide_answers_programs_in_json(call: Call) -> None:
    told = json.loads(call("recommend", "--goal", "edit", "--json").stdout)
    assert told["situation"]["model"] == "language"
    assert told["choices"][0]["rules"] == ["facts"]
    plain = json.loads(call("recommend", "--json").stdout)
    assert plain["situation"]["goal"] == "learn"


def test_without_options_and_without_a_terminal_one_sentence_says_what_to_do(call: Call) -> None:
    result = call("recommend")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: Tell what there is by options")
    assert result.stderr.count("\n") == 1


def test_at_a_terminal_only_what_matters_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"What is to be done": "learn", "What kind": "classifier", "What is new": "task"}
    asked = []

    def answer(question: str, **options: Any) -> Any:
        asked.append(question)
        given = (value for start, value in answers.items() if question.startswith(start))
        return next(given, options["default"])

    for prompt in ("Prompt", "Confirm", "FloatPrompt"):
        monkeypatch.setattr(f"rich.prompt.{prompt}.ask", answer)
    monkeypatch.setattr(guiding.sys.stdin, "isatty", lambda: True)
    guiding.run_recommend(guiding_given())
    assert asked[0] == "What is to be done with the model?"
    assert not [question for question in asked if "stage" in question or "kept" in question]
    assert "[task-none]" in capsys.readouterr().out


def guiding_given() -> Any:
    from holdfast.cli.options import Given

    return Given({})


def test_a_wrong_word_is_answered_with_the_nearest(call: Call) -> None:
    result = call("recommend", "--goal", "unlern")
    assert result.exit_code == 2
    assert "Did you mean 'unlearn'?" in result.stderr


def test_one_method_is_shown_with_what_the_taxonomy_knows(call: Call) -> None:
    shown = call("methods", "lwf").stdout
    for line in ("old data      none", "techniques    functional", "goes with     er"):
        assert line in shown
