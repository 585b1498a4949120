"""Losses of language: one row before any training, one a method, the same on page and terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console

from holdfast import report
from holdfast.report.comparison import comparisons
from holdfast.report.losses import losses_of
from holdfast.report.page import render


def told(made: Any, method: str, seed: int, docs: float) -> Any:
    result = made(method, seed)
    result.record.measures["loss"] = [[4.0, 5.0], [4.0, 5.0], [docs, 3.0]]
    return result


def test_losses_are_those_before_any_training_and_after_the_last_experience(made: Any) -> None:
    results = [
        told(made, "finetune", 0, 4.4),
        told(made, "finetune", 1, 4.6),
        told(made, "l2", 0, 4.1),
    ]
    (comparison,) = comparisons(results)
    found = losses_of(comparison)
    assert found is not None
    assert found.names == ("part 0", "part 1")
    rows = dict(found.rows)
    assert [loss.loss.mean for loss in rows["before any training"]] == [4.0, 5.0]
    assert rows["finetune"][0].loss.mean == 4.5
    assert rows["l2"][0].loss.text == "4.100"
    assert math.isclose(rows["l2"][1].perplexity.mean, math.exp(3.0))
    assert rows["l2"][1].perplexity.text == "20.1"


def test_the_terminal_and_the_page_show_them(made: Any) -> None:
    results = [told(made, "finetune", 0, 4.4), told(made, "l2", 0, 4.1)]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(report.loss_table(results))
    text = shown.get()
    assert all(len(line) <= 80 for line in text.splitlines())
    page = render(results)
    for number in ("4.000", "5.000", "4.400", "4.100", "3.000"):
        assert number in text
        assert number in page
    assert "Loss before and after" in page


def test_without_losses_nothing_is_shown(made: Any) -> None:
    assert report.loss_table([made()]) is None
    assert "Loss before and after" not in render([made()])


def test_of_many_test_sets_the_first_and_the_last_have_columns(made: Any) -> None:
    matrix = [[0.5] * 9 for _ in range(9)]
    result = made("finetune", 0, matrix)
    result.record.measures["loss"] = [[float(i) for i in range(9)]] * 10
    table = report.loss_table([result])
    assert table is not None
    assert [str(c.header) for c in table.columns] == [
        "Loss on", "part 0", "part 1", "part 2", "part 3", "part 8",
    ]  # fmt: skip
