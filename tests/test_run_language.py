"""Runs of language: a folder or a zoo model, the defaults of language, and nothing lost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import run
from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.language import checkpoints
from holdfast.learner import Learner, Observer
from holdfast.models import zoo
from holdfast.run import Stopped
from holdfast.streams.language import python


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained Llama with a tokenizer, as a folder."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    words = zoo.byte_pairs([d.text for d in python.documentation()[:12]], 300)
    recipe = zoo.Recipe(width=16, depth=1, heads=2, context=64, vocabulary=300)
    torch.manual_seed(0)
    checkpoints.save(zoo.untrained(recipe, words), words, path)
    return path


@pytest.fixture
def config(folder: Path) -> Config:
    return Config(
        "docs-code(length=32, limit=24, test_limit=8)", "finetune", model=str(folder), lr=1e-2
    )


class StopAt(Observer):
    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_step(self, learner: Learner) -> None:
        if learner.updates == self.updates:
            raise Stopped("Stopped.")


def test_what_is_known_is_scored_and_only_the_new_is_learned(config: Config) -> None:
    record = run.run(config).record
    assert record.scenario == "text"
    assert record.names == ["docs", "code"]
    assert record.steps == [0, 3]
    before, known, after = record.measures["loss"]
    assert before == known
    assert after[1] < before[1]
    assert record.matrix[0] == record.initial


def test_language_has_its_own_defaults_and_they_are_recorded(config: Config) -> None:
    settings = run.run(Config(config.stream, "finetune", model=config.model)).config
    expected = {"optimizer": "adamw", "lr": 5e-4, "batch_size": 8, "clip": 1.0, "epochs": 1}
    assert {name: settings[name] for name in expected} == expected


def test_classifiers_keep_theirs() -> None:
    settings = run.run(Config("split-digits(limit=20)", "finetune", model="mlp(width=4)")).config
    expected = {"optimizer": "sgd", "lr": 0.01, "batch_size": 32, "clip": None, "momentum": 0.9}
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize("method", ["finetune", "er(capacity=8)", "lwf"])
def test_a_stopped_run_goes_on_to_the_same_end(config: Config, tmp_path: Path, method: str) -> None:
    config = Config(**{**asdict(config), "method": method, "accumulate": 2, "batch_size": 4})
    whole = run.run(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        run.run(config, tmp_path / "stopped", observers=[StopAt(2)])
    resumed = run.run(config, tmp_path / "stopped", resume=True)
    assert resumed.record.matrix == whole.record.matrix
    assert resumed.record.measures == whole.record.measures
    assert resumed.record.steps == [0, 3]


def test_accumulated_passes_are_one_update_of_all_of_them(config: Config) -> None:
    given = {**asdict(config), "lr": 1e-3}
    one = run.run(Config(**{**given, "batch_size": 8})).record.measures["loss"]
    two = run.run(Config(**{**given, "batch_size": 4, "accumulate": 2})).record.measures["loss"]
    assert two[-1] == pytest.approx(one[-1], rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"head": "cosine"}, "head is for classifiers"),
        ({"augment": "flip"}, "augment is for classifiers"),
        ({"model": "mlp"}, "no model 'mlp'"),
        ({"model": "./nowhere"}, "nowhere"),
        ({"stream": "docs-code(length=65)"}, "rows of .* have 65 tokens; the context of .* is 64"),
    ],
)
def test_what_does_not_fit_language_is_refused(
    config: Config, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        run.build(Config(**{**asdict(config), **changed}))


def test_a_path_is_kept_as_it_is_and_a_spec_in_one_spelling(tmp_path: Path) -> None:
    assert Config("docs-code", "finetune", model="./a folder").model == "./a folder"
    assert Config("docs-code", "finetune", model="llama( width=96 )").model == "llama(width=96)"
    text = json.dumps(Config("docs-code", "finetune", model="~/m").to_dict())
    assert Config.from_dict(json.loads(text)).model == "~/m"
