"""The study of TRACE in small: a trial of all of it, and its measures."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from holdfast import studies
from holdfast.studies import trace


@pytest.mark.slow
def test_a_trial_gives_a_verdict_for_every_claim(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("trace", 2, tmp_path, quick=True, jobs=1, console=console)
    assert [v.claim for v in verdicts] == [c.text for c in trace.CLAIMS]
    report = (tmp_path / "report.md").read_text()
    assert "| multi-task |" in report
    assert "| sums, with steps |" in report


def test_arms_differ_from_plain_training_in_what_they_are_named_after() -> None:
    arms = trace.arms("data")
    plain = arms["full"]
    for arm, given in trace.SEQUENCE.items():
        assert {k for k in plain if arms[arm][k] != plain[k]} == set(given)
    assert arms["full, half the rate"]["rate"] == 0.5


@pytest.mark.parametrize(("a", "b"), [(37, 48), (10, 10), (99, 99), (50, 49)])
def test_the_steps_of_a_sum_lead_to_it(a: int, b: int) -> None:
    steps = trace.steps_of(a, b)
    low = int(steps.partition("write ")[2].partition(",")[0])
    high = int(steps.rstrip(".").rpartition("= ")[2])
    assert 10 * high + low == a + b


def test_the_form_is_kept_over_labelled_tasks_but_the_last() -> None:
    nan = math.nan
    unparsable = np.array([[1.0, nan, 1.0], [0.0, nan, 1.0], [0.5, nan, 1.0], [0.8, nan, 0.0]])
    assert trace._format(unparsable, 3, at_once=True) == 1.0
    assert trace._format(unparsable, 3, at_once=False) == pytest.approx(0.2)
