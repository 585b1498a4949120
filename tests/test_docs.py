"""The documentation: its Python runs as it stands, and the site is built without a complaint."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["quickstart.md", "write-a-method.md"])
def test_the_python_of_a_page_runs(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.system
def test_the_site_has_every_page_and_method(site: Path) -> None:
    pages = {p.relative_to(ROOT / "docs").with_suffix(".html") for p in ROOT.glob("docs/**/*.md")}
    assert [page for page in pages if not (site / page).exists()] == []
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="methods/derpp.html"' in home


@pytest.mark.system
def test_the_site_fetches_nothing_and_draws_formulas_itself(site: Path) -> None:
    page = (site / "methods" / "bic.html").read_text(encoding="utf-8")
    assert "<math" in page
    assert "arithmatex" not in page
    assert re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', page) == []


@pytest.mark.system
def test_the_command_line_has_every_command_with_its_options(site: Path) -> None:
    page = (site / "command-line.html").read_text(encoding="utf-8")
    for command in ("run", "compare", "finetune", "unlearn", "edit", "adapt", "merge", "methods"):
        assert f"holdfast {command}" in page
    assert "--batch-size" in page
