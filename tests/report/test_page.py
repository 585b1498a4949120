"""The page as text: what it holds, and that nothing a user wrote can act in it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from holdfast import report
from holdfast.errors import CheckpointError, UsageError
from holdfast.report.page import NOTES, render

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


class _Reader(HTMLParser):
    """Elements in order, and the text of cells and scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.scripts, self._inside = [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        if tag == "td" and "data-name" in given:
            self._inside = ("cell", given["data-name"])
            self.cells.setdefault(given["data-name"], []).append("")
        elif tag == "script":
            self._inside = ("script", None)
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "script"):
            self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            return
        kind, name = self._inside
        held = self.cells[name] if kind == "cell" else self.scripts
        held[-1] += data


def _data(text):
    return json.loads(_Reader(text).scripts[0])


def test_the_table_shows_the_numbers_of_the_results(three_seeds):
    cells = _Reader(render(three_seeds)).cells
    assert cells["average_accuracy"] == ["87.0 ± 5.0", "45.0 ± 12.4"]
    # Forgetting of the first: 0.10, 0.06, 0.02; deviation 0.04.
    assert cells["forgetting"][0] == "6.0 ± 9.9"
    assert cells["method_bytes"] == ["14.5 kB", "14.5 kB"]


def test_the_copied_table_is_that_of_the_functions(three_seeds):
    copies = _data(render(three_seeds))["copies"]["s0"]
    assert copies["csv"] == report.as_csv(three_seeds)
    assert copies["markdown"] == report.as_markdown(three_seeds)
    assert copies["latex"] == report.as_latex(three_seeds)


def test_columns_of_continual_evaluation_appear_only_when_it_was_made(made):
    curve = [{"experience": e, "step": 5, "scores": [0.5, 0.4]} for e in (0, 1)]
    assert "min_accuracy" not in _Reader(render([made()])).cells
    assert _Reader(render([made(curve=curve)])).cells["min_accuracy"] == ["50.0"]


def test_one_seed_is_shown_as_n_1_and_never_with_an_interval(made):
    text = render([made()])
    assert "<td>n = 1</td>" in text
    assert "±" not in "".join(cell for cells in _Reader(text).cells.values() for cell in cells)
    assert "no intervals" in text


def test_nothing_a_user_wrote_becomes_an_element(made):
    harmless, hostile = (
        render(
            [
                made(
                    name,
                    stream=f"split-{name}",
                    config={f"key {name}": name, "class_names": [name], "seed": 0},
                    environment={name: name},
                    notes=[{"experience": 0, "step": 1, name: name}],
                )
            ],
            title=name,
        )
        for name in ("plain", EVIL)
    )
    tags = [[tag for tag, _ in _Reader(text).elements] for text in (harmless, hostile)]
    # A place for a line to break is the only element that depends on a name.
    assert [t for t in tags[1] if t != "wbr"] == [t for t in tags[0] if t != "wbr"]
    assert all("onerror" not in given for _, given in _Reader(hostile).elements)


def test_names_in_the_embedded_data_come_back_unchanged(made):
    data = _data(render([made(EVIL)]))
    assert "<img" not in json.dumps(data["figures"])  # Plotly reads text as HTML
    assert EVIL in data["copies"]["s0"]["csv"]


def test_the_page_refers_to_nothing_outside_itself(three_seeds):
    elements = _Reader(render(three_seeds)).elements
    links = [g[k] for _, g in elements for k in ("src", "href", "action", "data") if k in g]
    assert links == ["data:,"]
    text = render(three_seeds)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_equal_results_give_an_equal_page(three_seeds):
    assert render(three_seeds) == render(three_seeds)


def test_configuration_is_split_into_what_runs_share_and_what_differs(made):
    results = [
        made("a", config={"lr": 0.1, "epochs": 3}),
        made("b", config={"lr": 0.5, "epochs": 3}),
    ]
    text = render(results)
    assert "<dt>epochs</dt><dd>3</dd>" in text
    assert "<dt>lr</dt>" not in text
    assert "<th>lr</th>" in text


def test_notes_are_shown_and_when_too_many_it_says_how_many_there_are(made):
    notes = [{"experience": 0, "step": k, "fisher": 0.5} for k in range(NOTES + 1)]
    text = render([made(notes=notes)])
    assert text.count("<span>fisher = 0.5</span>") == NOTES
    assert f"The first {NOTES} of {NOTES + 1}" in text
    assert "Notes of methods" not in render([made()])


def test_several_streams_have_a_section_each(made):
    text = render([made(stream="split-digits"), made(stream="permuted-digits")])
    assert '<section class="stream" id="s1">' in text
    assert '<h2 class="of">permuted-digits</h2>' in text


@pytest.mark.parametrize("experiences", [1, 2, 100])
def test_any_number_of_experiences_is_drawn(made, experiences):
    matrix = [[0.5] * experiences for _ in range(experiences)]
    curve = [
        {"experience": e, "step": 1, "scores": [0.5] * experiences} for e in range(experiences)
    ]
    figures = _data(render([made(matrix=matrix, curve=curve)]))["figures"]
    assert set(figures) == {"s0-lines", "s0-matrix-0", "s0-gap-0", "s0-cost"}
    assert len(figures["s0-matrix-0"][0]["data"][0]["z"]) == experiences


def test_missing_numbers_are_said_to_be_missing(made):
    text = render([made("a"), made("b", matrix=((0.9, 0.0), (math.nan, 0.8)))])
    assert _Reader(text).cells["average_accuracy"][1] == "\N{EN DASH}"
    assert "A dash: no number" in text
    assert "Blank cells have no number (NaN)" in text
    assert "NaN" not in re.search(r'id="data">(.*?)</script>', text, re.S)[1]


def test_infinite_costs_do_not_end_up_in_the_embedded_data(made):
    _data(render([made(cost={"seconds": math.inf, "flops": math.nan})]))


def test_results_without_any_cost_have_no_figure_of_it(made):
    assert "Accuracy against cost" not in render([made(cost={})])


def test_writing_replaces_the_file_and_returns_its_path(made, tmp_path):
    path = tmp_path / "new" / "report.html"
    assert report.write([made()], path, title="First & last") == path
    report.write([made()], path, title="Second")
    text = path.read_text("utf-8")
    assert "<title>Second</title>" in text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_title_is_escaped(made):
    assert "<h1>First &amp; last</h1>" in render([made()], title="First & last")


def test_no_results_write_no_file(tmp_path):
    with pytest.raises(UsageError, match="none was given"):
        report.write([], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_with_a_sentence(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write"):
        report.write([made()], tmp_path / "file" / "report.html")


def test_importing_the_report_imports_neither_plotly_nor_jinja():
    import subprocess
    import sys

    code = "import sys, holdfast.report; print({'plotly', 'jinja2', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
