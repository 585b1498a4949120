"""The study of forgetting across models and prompts: a trial of all of it, and its measures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import cf_glue


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("cf-glue", 2, tmp_path, quick=True, jobs=1, console=console)
    assert [v.claim for v in verdicts] == [c.text for c in cf_glue.CLAIMS]
    assert "majority" in (tmp_path / "report.md").read_text()


def test_models_have_one_recipe_and_the_same_examples() -> None:
    arms = cf_glue.arms("data")
    for model in cf_glue.MODELS:
        apart = {k for k in arms[model] if arms[model][k] != arms[cf_glue.BASE][k]}
        assert apart <= {"model", "asked"}
    assert len({settings["prompt"] for settings in arms.values()}) >= 3
    assert arms["GLUE"]["tasks"] == ["sst2", "mrpc", "cola", "mnli"]


def test_forgetting_and_retention_by_hand() -> None:
    # Row 0 is before any training and counts for neither.
    rows = [[0.9, 0.9, 0.9], [0.8, 0.1, 0.0], [0.6, 0.5, 0.0], [0.4, 0.7, 1.0]]
    assert cf_glue.forgetting(rows) == pytest.approx(((0.8 - 0.4) + (0.5 - 0.7)) / 2)
    assert cf_glue.retention(rows) == pytest.approx((0.4 / 0.8 + 0.7 / 0.5) / 2)
    assert cf_glue.forgetting([[0.1], [0.9]]) == 0.0
