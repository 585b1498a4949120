"""The page about models: its examples run, and its specs name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast import streams
from holdfast.config import Config
from holdfast.models.build import MODELS
from holdfast.spec import parse_one

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_run(block: str) -> None:
    found: dict[str, object] = {}
    exec(compile(block, "docs/models.md", "exec"), found)
    record = found["record"]
    stream = found["stream"]
    assert len(record.matrix) == len(stream)  # type: ignore[attr-defined, arg-type]


def test_every_model_is_named_on_it() -> None:
    missing = [name for name in MODELS if not re.search(rf"[`'\"]{name}\b", PAGE)]
    assert missing == []


@pytest.mark.parametrize(
    "line", re.findall(r"^(?:HOLDFAST_DATA=... )?holdfast run .*$", PAGE, re.M)
)
def test_commands_name_streams_and_models_that_exist(line: str) -> None:
    import shlex

    words = [word for word in shlex.split(line) if not word.startswith("HOLDFAST_DATA")]
    stream, options = words[2], dict(zip(words[4::2], words[5::2], strict=True))
    if ":" not in stream:
        assert streams.entry(parse_one(stream).name).name == parse_one(stream).name
    model = options.get("--model")
    config = Config(stream, words[3], model=model)
    if config.model is not None and "/" not in config.model:
        assert parse_one(config.model).name in MODELS
