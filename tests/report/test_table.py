"""The table in its four forms."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from holdfast import report


def _terminal(results, width=80):
    out = io.StringIO()
    Console(file=out, width=width).print(report.text_table(results))
    return out.getvalue()


def test_csv_holds_unrounded_means_and_half_widths_under_the_names_of_the_json(three_seeds):
    rows = list(csv.DictReader(io.StringIO(report.as_csv(three_seeds))))
    assert [row["method"] for row in rows] == ["er(capacity=200)", "finetune"]
    assert float(rows[0]["average_accuracy"]) == pytest.approx(0.87, abs=1e-15)
    half = 4.302652729911275 * 0.02 / 3**0.5
    assert float(rows[0]["average_accuracy_interval"]) == pytest.approx(half, rel=1e-9)
    assert rows[0]["seeds"] == "3"
    assert float(rows[0]["method_bytes"]) == 14472


def test_csv_leaves_the_interval_of_one_run_empty(made):
    [row] = csv.DictReader(io.StringIO(report.as_csv([made()])))
    assert row["average_accuracy"] == "0.7"
    assert row["average_accuracy_interval"] == ""


def test_csv_keeps_any_name_whole(made):
    name = 'a,"b"\n<script>'
    [row] = csv.DictReader(io.StringIO(report.as_csv([made(name)]), newline=""))
    assert row["method"] == name


def test_markdown_rounds_as_the_page_does_and_every_row_has_as_many_cells(three_seeds):
    lines = report.as_markdown(three_seeds).splitlines()
    assert "| er(capacity=200) | 3 | 87.0 ± 5.0 |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1


def test_markdown_escapes_what_would_break_the_table_or_become_html(made):
    text = report.as_markdown([made("a|b_c\n<script>&")])
    assert r"| a\|b\_c &lt;script&gt;&amp; |" in text


def test_latex_escapes_every_special_character(made):
    text = report.as_latex([made(r"a_b%c&d#e$f{g}h~i^j\k")])
    escaped = r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    assert escaped in text


def test_latex_has_as_many_columns_as_it_announces(three_seeds):
    lines = report.as_latex(three_seeds).splitlines()
    announced = len(re.search(r"\{(l+r+)\}$", lines[0])[1])
    body = [line for line in lines if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body} == {announced}
    assert r"$87.0 \pm 5.0$" in lines[4]


def test_several_streams_get_a_column_of_their_own(made):
    results = [made(stream="a"), made(stream="b")]
    assert report.as_markdown(results).startswith("| Stream | Method |")
    assert report.as_markdown(results[:1]).startswith("| Method |")


def test_the_terminals_table_shows_mean_and_interval_within_80_columns(three_seeds):
    text = _terminal(three_seeds, width=200)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert re.search(r"er\(capacity=200\) +87\.0 ± 5\.0 ", text)
    assert "2.00 ± 0.00 s" in text
    assert "14.5 kB" in text
    assert "over 3 seeds" in text


def test_the_terminals_table_of_one_seed_says_so_and_shows_no_interval(made):
    text = _terminal([made()])
    assert "n = 1" in text
    assert "±" not in text


def test_the_terminals_table_counts_seeds_where_they_differ(made):
    text = _terminal([made("a"), made("b"), made("b", seed=1)])
    assert re.search(r"^a +1 +70\.0 ", text, re.M)
    assert re.search(r"^b +2 +70\.0 ± 0\.0 ", text, re.M)


def test_names_cannot_style_or_steer_the_terminal_nor_fill_it(made):
    text = _terminal([made("[red]x[/]\x1b[31m" + "y" * 5000)])
    assert "[red]x" in text
    assert "\x1b" not in text
    assert text.count("\n") < 20
    assert max(map(len, text.splitlines())) <= 80
