"""A configuration is one value: it survives JSON, and refuses what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.settings import FORMAT

CONFIG = Config("split-digits", "er(capacity=50)+wa", model="mlp(width=32)", lr=0.03, epochs=2)


@given(
    seed=st.integers(0, 2**63 - 1),
    lr=st.floats(1e-12, 1e6),
    epochs=st.integers(1, 10**6),
    every=st.none() | st.integers(1, 10**6),
)
def test_a_configuration_survives_json_exactly(
    seed: int, lr: float, epochs: int, every: int | None
) -> None:
    config = replace(CONFIG, seed=seed, lr=lr, epochs=epochs, checkpoint_every=every)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_configuration_survives_a_file(tmp_path: Path) -> None:
    CONFIG.write(tmp_path / "config.json")
    assert Config.read(tmp_path / "config.json") == CONFIG


def test_spellings_of_one_method_are_one_configuration() -> None:
    spaced = replace(CONFIG, method=" er( capacity = 50 ) + wa ", model=" mlp( width = 32 )")
    assert spaced == CONFIG


def test_whole_numbers_stand_for_fractions() -> None:
    assert Config("split-digits", "er", lr=1) == Config("split-digits", "er", lr=1.0)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lr": 0.0}, "lr must be above 0; given: 0.0."),
        ({"lr": float("nan")}, "lr must be above 0; given: nan."),
        ({"lr": float("inf")}, "lr must be above 0; given: inf."),
        ({"lr": "fast"}, "lr must be a number; given: 'fast'."),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; given: 1.0."),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0; given: -0.1."),
        ({"epochs": 0}, "epochs must be at least 1; given: 0."),
        ({"epochs": 2.5}, "epochs must be an integer; given: 2.5."),
        ({"epochs": True}, "epochs must be an integer; given: True."),
        ({"accumulate": None}, "accumulate must be an integer; given: None."),
        ({"experiences": 0}, "experiences must be at least 1; given: 0."),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1; given: 0."),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1; given: 0."),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'?"),
        ({"optimizer_state": "rset"}, "Did you mean 'reset'?"),
        ({"device": "gpu"}, "Accepted: auto, cpu, cuda."),
        ({"method": "er(capacity=50"}, "is not closed"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum belongs to sgd"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    changed: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UsageError) as refused:
        replace(CONFIG, **changed)  # type: ignore[arg-type]
    assert sentence in str(refused.value)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(UsageError, match="newer holdfast"):
        Config.from_dict({**CONFIG.to_dict(), "format": FORMAT + 1})


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="Did you mean 'epochs'"):
        Config.from_dict({**CONFIG.to_dict(), "epcohs": 3})


def test_a_missing_method_is_named() -> None:
    with pytest.raises(UsageError, match="names no method"):
        Config.from_dict({"stream": "split-digits"})


def test_differences_are_named_setting_by_setting() -> None:
    other = replace(CONFIG, lr=0.1, experiences=4)
    assert other.differences(CONFIG) == [
        "experiences is the default there and 4 here",
        "lr is 0.03 there and 0.1 here",
    ]
    assert CONFIG.differences(CONFIG) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="a configuration"):
        Config.read(path)
