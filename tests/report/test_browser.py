"""The page in a browser: what a reader sees, on a desk and on a telephone."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

from holdfast import report
from holdfast.report.page import render

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium was found on the PATH"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """From results to a page with all drawn, what it asked for and what it complained of."""

    def open_page(results, width=1280, scheme="light", before=None):
        path = report.write(results, tmp_path_factory.mktemp("page") / "report.html")
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.requests, page.complaints = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda line: page.complaints.append(line.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        if before:
            page.add_init_script(before)
        page.goto(path.as_uri())
        for plot in page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
        page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((box) => box.dataset.drawn)"
        )
        page.path = path
        return page

    return open_page


@pytest.fixture(scope="module")
def results(made):
    """Two methods with three seeds, curves and a task-incremental matrix."""
    found = []
    for method, kept in (("er(capacity=200)", 0.8), ("finetune", 0.1)):
        for seed in range(3):
            score = kept + 0.03 * seed
            curve = [
                {"experience": e, "step": s, "scores": [0.9 - 0.1 * e, 0.7 * e]}
                for e in (0, 1)
                for s in (5, 10)
            ]
            matrix = ((0.95, 0.0), (score, 0.9))
            known = ((0.95, 0.5), (score / 2 + 0.5, 0.9))
            found.append(made(method, seed, matrix, task_matrix=known, curve=curve))
    return found


@pytest.fixture(scope="module")
def page(opened, results):
    """One page on a desk, for tests that leave it as they found it."""
    stub = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"
    return opened(results, before=stub)


def test_every_number_of_the_json_is_on_the_page(page, results):
    written = json.loads(
        json.dumps([{"method": r.method, "matrix": r.record.matrix} for r in results])
    )
    for method in ("er(capacity=200)", "finetune"):
        runs = [run["matrix"] for run in written if run["method"] == method]
        row = page.locator(".results tbody tr", has_text=method)
        final = sum(sum(m[1]) / 2 for m in runs) / 3
        forgotten = sum(m[0][0] - m[1][0] for m in runs) / 3
        shown = row.locator("[data-name=average_accuracy]").inner_text()
        assert shown.startswith(f"{100 * final:.1f} ± ")
        assert (
            row.locator("[data-name=forgetting]")
            .inner_text()
            .startswith(f"{100 * forgotten:.1f} ± ")
        )
        heatmap = page.locator("figure", has_text=method).locator(".plot.square")
        cells = heatmap.locator(".textpoint").all_text_contents()
        means = [sum(m[i][j] for m in runs) / 3 for i in (0, 1) for j in (0, 1)]
        assert cells == [f"{100 * mean:.1f}" for mean in means]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_asks_for_nothing_complains_of_nothing_and_fits_the_screen(
    opened, results, width, scheme
):
    page = opened(results, width, scheme)
    assert page.requests == [page.path.as_uri()]
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_it_follows_the_readers_colour_scheme_while_open(opened, results):
    page = opened(results)
    ink = "getComputedStyle(document.querySelector('#s0-lines .xtitle')).fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{ink} !== {json.dumps(light)}")
    assert page.complaints == []


def test_long_and_hostile_names_fit_a_telephone_and_do_nothing(opened, made):
    evil = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    results = [
        made(name, stream=evil, config={name: name, "classes": [evil]}, environment={"host": name},
             notes=[{"experience": 0, "step": 1, evil: name}])
        for name in (evil, "x" * 3000)
    ]  # fmt: skip
    page = opened(results, width=390)
    page.locator("details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.complaints == []
    assert page.requests == [page.path.as_uri()]


@pytest.mark.parametrize(
    ("label", "form"),
    [("CSV", report.as_csv), ("Markdown", report.as_markdown), ("LaTeX", report.as_latex)],
)
def test_the_buttons_copy_the_table(page, results, label, form):
    page.evaluate("window.copied = undefined")
    page.get_by_role("button", name=label, exact=True).click()
    page.wait_for_function("window.copied !== undefined")
    assert page.evaluate("window.copied") == form(results)
    assert page.get_by_text("Copied.").is_visible()


def test_where_the_clipboard_is_refused_the_text_is_shown_and_selected(opened, results):
    refusal = "navigator.clipboard.writeText = async () => { throw new Error('refused'); };"
    page = opened(results, before=refusal)
    page.get_by_role("button", name="CSV", exact=True).click()
    area = page.locator("textarea")
    area.wait_for(state="visible")
    assert list(csv.reader(io.StringIO(area.input_value())))[1][1] == "er(capacity=200)"
    selected = "(area) => area.value.slice(area.selectionStart, area.selectionEnd)"
    assert area.evaluate(selected) == report.as_csv(results)


def test_the_scenario_can_be_chosen(page):
    heatmap = page.locator("#s0-matrix-0 .textpoint")
    assert heatmap.all_text_contents()[1] == "0.0"
    page.get_by_role("button", name="task-incremental").click()
    page.wait_for_function(
        "document.querySelectorAll('#s0-matrix-0 .textpoint')[1].textContent == '50.0'"
    )
    page.get_by_role("button", name="class-incremental").click()


def test_the_cost_can_be_chosen(page):
    title = page.locator("#s0-cost .xtitle")
    assert title.text_content() == "seconds of training"
    page.get_by_role("button", name="Stored", exact=True).click()
    page.wait_for_function(
        "document.querySelector('#s0-cost .xtitle').textContent.startsWith('bytes')"
    )
    page.get_by_role("button", name="Time", exact=True).click()


def test_a_method_can_be_hidden_in_all_figures_at_once(page):
    count = "document.querySelectorAll('#s0-cost .scatterlayer .trace').length"
    assert page.evaluate(count) == 2
    page.get_by_role("button", name="finetune").first.click()
    page.wait_for_function(f"{count} === 1")
    assert page.locator(".chip[aria-pressed=false]").count() == 2
    page.get_by_role("button", name="finetune").first.click()
    page.wait_for_function(f"{count} === 2")


def test_a_browser_without_decompression_says_so_and_keeps_the_table(browser, results, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(results), "utf-8")
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream;")
    page.goto(path.as_uri())
    assert page.get_by_text("cannot unpack the figures").is_visible()
    assert page.locator("[data-name=average_accuracy]").first.is_visible()
    page.close()
