"""One verb for language models and for classifiers: which is meant, and what goes with it."""

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["unlearn", *words])
    assert result.exit_code == 2
    return " ".join(result.output.split())


def test_something_that_is_to_forget_is_asked_for() -> None:
    assert "--model FOLDER, a language model, or --run FOLDER" in said("--forget", "f.jsonl")


def test_one_thing_forgets_at_a_time() -> None:
    assert "not both; given: a and b" in said("--model", "a", "--run", "b")


@pytest.mark.parametrize("option", [("--retain", "r.jsonl"), ("--lora", "lora"), ("--dry-run",)])
def test_what_only_language_models_take_is_refused_with_a_run(option: tuple[str, ...]) -> None:
    assert f"{option[0]} goes with --model, not with --run" in said("--run", "a", *option)


@pytest.mark.parametrize("option", [("--momentum", "0.5"), ("--attackers", "9"), ("--save",)])
def test_what_only_classifiers_take_is_refused_with_a_model(option: tuple[str, ...]) -> None:
    assert f"{option[0]} goes with --run, not with --model" in said("--model", "a", *option)


def test_a_language_model_forgets_by_one_method() -> None:
    text = said("--model", "a", "--forget", "f", "--method", "npo", "--method", "ga")
    assert "forgets by one --method; given: npo, ga." in text
