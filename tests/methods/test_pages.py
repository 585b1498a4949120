"""The pages of the methods say what the code does."""

import re
from pathlib import Path

import pytest

from holdfast import catalogue

PAGES = Path(__file__).parents[2] / "docs" / "methods"
COMMAND = r"holdfast (?:run (?:[\w-]+|'[^']+')|(?:finetune|unlearn|edit) .*--method) '(.+)'"
SECTIONS = [
    "Equation",
    "Idea",
    "What it keeps and what it costs",
    "Arguments",
    "When to use it",
    "Example",
    "Differs from the paper",
    "Source",
]


def page(name):
    return (PAGES / f"{name.replace('+', 'p')}.md").read_text()


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def cells(text):
    """The rows of a Markdown table, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def shown(value):
    """As in spec strings."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def test_every_method_has_a_page_and_every_page_a_method():
    files = {path.name for path in PAGES.glob("*.md")}
    expected = {f"{name.replace('+', 'p')}.md" for name in catalogue.METHODS}
    assert files == expected | {"index.md"}


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_a_page_names_its_method_and_has_the_parts_of_all_pages(name):
    text = page(name)
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert all(section(text, title) for title in SECTIONS)
    assert catalogue.entry(name).tags.title in text
    assert section(text, "Equation").count("$$") % 2 == 0


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_a_page_gives_all_arguments_in_order_with_their_defaults(name):
    found = [row[:2] for row in cells(section(page(name), "Arguments"))]
    arguments = catalogue.entry(name).arguments
    assert found == [[f"`{n}`", f"`{shown(value)}`"] for n, value in arguments.items()]


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_the_spec_on_a_page_builds_the_method(name):
    (spec,) = re.findall(COMMAND, section(page(name), "Example"))
    built = [type(part) for part in catalogue.build(spec).parts()]
    assert catalogue.method_class(name) in built


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_the_python_on_a_page_runs(name, capsys):
    (code,) = re.findall(r"```python\n(.+?)```", section(page(name), "Example"), re.DOTALL)
    space = {}
    exec(compile(code, name, "exec"), space)
    assert isinstance(space["learner"].method, catalogue.method_class(name))
    assert len(space["record"].matrix) == len(space["stream"]) > 1
    assert capsys.readouterr().out == f"{space['record'].matrix[-1]}\n"


def test_the_index_gives_every_methods_tags():
    rows = cells((PAGES / "index.md").read_text())
    expected = []
    for entry in catalogue.entries():
        tags = entry.tags
        expected.append(
            [
                f"[{entry.name}]({entry.name.replace('+', 'p')}.md)",
                tags.family,
                ", ".join(s for s in ("class", "task", "domain", "text") if s in tags.scenarios),
                ", ".join(sorted(tags.needs)) or "nothing",
                ", ".join(sorted(tags.keeps)) or "nothing",
                tags.source or "none",
            ]
        )
    assert rows == expected
