"""What the site knows from the code: methods by family, the command line; and formulas as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from holdfast import catalogue
from holdfast.cli.app import app

COMMANDS = "command-line.md"
FORMULA = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\[\[(](?P<tex>.*?)\\[\])]</(?P=tag)>', re.DOTALL
)


def on_config(config: Any) -> Any:
    """Fill the navigation's Methods by family, and Numbers with the studies."""
    for section in config.nav:
        if "Methods" in section:
            section["Methods"] += by_family()
        elif "Numbers" in section:
            studies = sorted((Path(config.docs_dir) / "studies").glob("*.md"))
            section["Numbers"] += [
                {"Studies": [f"studies/{page.name}" for page in studies if page.stem != "index"]}
            ]
        else:
            for name, pages in section.items():
                section[name] = [
                    page
                    for page in pages
                    if page == COMMANDS or (Path(config.docs_dir) / page).exists()
                ]
    return config


def by_family() -> list[dict[str, list[str]]]:
    """The methods' pages, a section for each family, in the catalogue's order."""
    families: dict[str, list[str]] = {}
    for entry in catalogue.entries():
        page = f"methods/{entry.name.replace('+', 'p')}.md"
        families.setdefault(entry.tags.family.capitalize(), []).append(page)
    return [{name: pages} for name, pages in families.items()]


def on_files(files: Files, config: Any) -> Files:
    """Add the page of the command line, made from the commands themselves."""
    files.append(File.generated(config, COMMANDS, content=command_line()))
    return files


def command_line() -> str:
    """Every command with its arguments and options."""
    import typer
    from typer.cli import get_docs_for_click

    command = typer.main.get_command(app)
    context = command.make_context("holdfast", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="holdfast", title="Command line")
    for name, sub in command.commands.items():  # typer cuts the list's sentences short
        text = re.sub(rf"(?m)^\* `{name}`: .*$", f"* `{name}`: {sub.help}", text, count=1)
    return re.sub(r"(?m)^\$ (holdfast.*)$", r"\1", text).replace("```console", "```sh")


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw themselves."""
    return FORMULA.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    tex = html.unescape(found["tex"]).strip()
    tex = re.sub(r"\\[bB]igg?[lr]?(?![a-zA-Z])", "", tex).replace(r"\arg", r"\mathrm{arg}\,")
    return convert(tex, display="block" if found["tag"] == "div" else "inline")
