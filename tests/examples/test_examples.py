"""Every example runs as it stands, and leaves a model that transformers loads."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(p.name for p in EXAMPLES.glob("*.py") if p.name != "tiny.py")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("script", [*SCRIPTS, "trl_sft.py --packing"])
def test_the_example_runs(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    name, *options = script.split()
    if name.startswith("trl"):
        pytest.importorskip("trl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CI", "1")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path / "out"), *options])
    names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert names["trainer"].state.global_step > 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, weight in names["model"].state_dict().items():
        assert (loaded.state_dict()[name] == weight).all()


def test_the_table_of_examples_names_them_all() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in table for name in SCRIPTS)
