"""The zoo: small models, pre-trained once by a recipe, the same for everyone who asks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast.errors import RunError, UsageError
from holdfast.models import zoo
from holdfast.streams.language import python

TINY = zoo.Recipe(
    width=16, depth=1, heads=2, context=32, vocabulary=300, rows=24, warmup=2, threads=1
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The cache is a folder of the test, and the documentation a few topics."""
    topics = [d for d in python.documentation() if d.name.startswith(("topic a", "topic c"))]
    monkeypatch.setenv("HOLDFAST_CACHE", str(cache))
    monkeypatch.setattr(python, "documentation", lambda: topics)


def test_a_model_is_an_ordinary_folder_that_is_made_once(cache: Path) -> None:
    first = zoo.folder(TINY)
    stamp = first.stat().st_mtime_ns
    assert zoo.folder(TINY) == first
    assert first.stat().st_mtime_ns == stamp
    model = AutoModelForCausalLM.from_pretrained(first)
    tokenizer = AutoTokenizer.from_pretrained(first)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.vocab_size == len(tokenizer) == 300
    assert tokenizer("a b")["input_ids"][0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert not [p for p in first.parent.iterdir() if p.is_dir() and p.name.startswith(".")]


def test_the_recipe_and_what_it_gave_are_recorded(cache: Path) -> None:
    told = json.loads((zoo.folder(TINY) / "recipe.json").read_text())
    assert zoo.Recipe(**told["recipe"]) == TINY
    before, after = told["loss"]
    assert before > after


def test_equal_recipes_give_equal_weights_and_other_seeds_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def weights(recipe: zoo.Recipe, where: Path) -> dict[str, torch.Tensor]:
        monkeypatch.setenv("HOLDFAST_CACHE", str(where))
        found: dict[str, torch.Tensor] = zoo.load(zoo.folder(recipe)).model.state_dict()
        return found

    one, again = weights(TINY, tmp_path / "a"), weights(TINY, tmp_path / "b")
    other = weights(replace(TINY, seed=1), tmp_path / "a")
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_building_disturbs_neither_chance_nor_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    torch.manual_seed(3)
    expected, threads = torch.rand(2), torch.get_num_threads()
    torch.manual_seed(3)
    zoo.folder(replace(TINY, rows=8))
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == threads


def test_a_build_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo.language, "pretrain", broken)
    with pytest.raises(KeyboardInterrupt):
        zoo.folder(TINY)
    left = [p.name for p in (tmp_path / "zoo").iterdir() if "llama" in p.name and p.is_dir()]
    assert left == []


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(blocked))
    with pytest.raises(RunError, match=r"Set HOLDFAST_CACHE to a folder that can be written"):
        zoo.folder(TINY)


@pytest.mark.system
def test_processes_that_ask_at_once_get_one_model(tmp_path: Path) -> None:
    code = (
        "from holdfast.models import zoo\n"
        "from holdfast.streams.language import python\n"
        "topics = [d for d in python.documentation() if d.name.startswith('topic a')]\n"
        "python.documentation = lambda: topics\n"
        "path = zoo.folder(zoo.Recipe(width=16, depth=1, heads=2, context=32, vocabulary=300,"
        " rows=8, warmup=2, threads=1))\n"
        "print(path, path.stat().st_ino)\n"
    )
    source = str(Path(zoo.__file__).parents[3])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={"HOLDFAST_CACHE": str(tmp_path), "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    said = [child.communicate(timeout=240)[0].split()[-2:] for child in children]
    assert said[0] == said[1]


@pytest.mark.parametrize(("family", "size"), [("llama", "0.5M"), ("gpt2", "1.5M")])
def test_sizes_are_what_they_are_called(family: str, size: str) -> None:
    recipe = zoo.Recipe(family, zoo.SIZES[size], vocabulary=300)
    model = zoo.untrained(recipe, zoo.byte_pairs(["a text"], 300))
    count = sum(parameter.numel() for parameter in model.parameters())
    rest = (1024 - 300) * recipe.width  # of the real vocabulary
    assert (count + rest) / 1e6 == pytest.approx(float(size[:-1]), rel=0.12)


def test_specs_name_recipes() -> None:
    assert zoo.recipe("llama") == zoo.Recipe()
    assert zoo.recipe("gpt2(width=96, seed=2)") == zoo.Recipe("gpt2", 96, seed=2)
    with pytest.raises(UsageError, match=r"no model 'lama'\. Did you mean 'llama'"):
        zoo.recipe("lama")
    with pytest.raises(UsageError, match="a width that 8 divides"):
        zoo.recipe("llama(width=7)")
    with pytest.raises(UsageError, match="no size '2M'"):
        zoo.small_llama("2M")


def test_the_warm_up_rises_in_a_line_and_the_cosine_ends_at_the_floor() -> None:
    schedule = zoo.WarmCosine(4, floor=0.1)
    factors = [schedule.factor(update, 104, update, 0) for update in (0, 3, 4, 54, 104)]
    assert factors == pytest.approx([0.25, 1.0, 1.0, 0.55, 0.1])
