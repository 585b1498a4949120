"""What `methods`, `streams` and `study` show."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from holdfast import catalogue, streams, studies
from holdfast.catalogue import Entry
from holdfast.checkpoint import write_atomically
from holdfast.guide import taxonomy
from holdfast.method import KINDS
from holdfast.spec import Spec

if TYPE_CHECKING:
    from holdfast.cli.options import Given


def list_methods(name: str | None, as_json: bool, given: Given) -> None:
    """All methods, those that fit, or everything about one."""
    if given["schema"]:
        print(json.dumps(taxonomy.schema(), indent=1))
        return
    if name is None:
        found = _fitting(given)
        if as_json:
            print(json.dumps([_method(catalogue.entry(r.name)) for r, _ in found], indent=1))
            return
        if not found:
            print("No method fits all of that.")
            return
        table = _table("name", "family", "what it does")
        for record, spec in found:
            table.add_row(spec, record.family, record.summary)
        Console().print(table)
        return
    entry = catalogue.entry(name)
    if as_json:
        print(json.dumps(_method(entry), indent=1))
        return
    tags = entry.tags
    source = f" ({tags.source})" if tags.source else ""
    _paragraph(entry.summary)
    print()
    _field("title", tags.title + source)
    _field("family", tags.family)
    record = taxonomy.load()[name]
    _field("streams", ", ".join(KINDS[kind] for kind in sorted(tags.scenarios)))
    _field("stages", ", ".join(record.stages))
    _field("techniques", ", ".join(record.techniques) or "none")
    _field("needs", ", ".join(sorted(tags.needs)) or "nothing special")
    _field("old data", record.needs.old_data)
    _field("keeps", ", ".join(sorted(tags.keeps)) or "nothing")
    if record.combines_with:
        _field("goes with", ", ".join(record.combines_with))
    if record.evidence:
        _field("measured in", ", ".join(record.evidence))
    _arguments(entry.arguments, argument_docs(catalogue.method_class(name)))
    print(f"\nholdfast run split-digits {_example(name, entry.arguments)!r}")


def _fitting(given: Given) -> list[tuple[taxonomy.Record, str]]:
    """The methods that have what was asked for, each with the spec that has it."""
    return list(
        taxonomy.query(
            family=given["family"],
            stage=given["stage"],
            scenario=given["scenario"],
            technique=given["technique"],
            old_data="none" if given["no_old_data"] else None,
            task_free=bool(given["task_free"]),
            unlabelled=bool(given["unlabelled"]),
            peft_ok=bool(given["with_adapters"]),
        )
    )


def list_streams(name: str | None, as_json: bool) -> None:
    """All streams, or everything about one."""
    if name is None:
        entries = list(streams.entries())
        if as_json:
            print(json.dumps([_stream(entry) for entry in entries], indent=1))
            return
        table = _table("name", "scenario", "parts", "what it is")
        for entry in entries:
            missing = "" if entry.present else " (set HOLDFAST_DATA)"
            table.add_row(
                entry.name, entry.scenario, str(entry.experiences or "any"), entry.summary + missing
            )
        Console().print(table)
        return
    entry = streams.entry(name)
    if as_json:
        print(json.dumps(_stream(entry), indent=1))
        return
    _paragraph(entry.summary)
    print()
    _field("scenario", KINDS[entry.scenario])
    _field("experiences", str(entry.experiences or "as many as your data have"))
    if entry.needs_data:
        _field("data", "found" if entry.present else "not found: set HOLDFAST_DATA to their folder")
    _arguments(entry.arguments, {})
    print(f"\nholdfast run {_example(entry.name, entry.arguments)!r} er")


def study(name: str | None, given: Given) -> None:
    """All studies, or run one."""
    if name is None:
        table = Table(box=None, padding=(0, 2, 1, 0))
        table.add_column("name", no_wrap=True)
        table.add_column("what is claimed")
        table.add_column("minutes", justify="right", no_wrap=True)
        for entry in studies.entries():
            table.add_row(entry.name, f"{entry.claim} {entry.source}", f"{entry.minutes:g}")
        Console().print(table)
        return
    folder = given["out"] or studies.default_folder(name, bool(given["quick"]))
    studies.run(name, given["seeds"] or 3, folder, bool(given["quick"]), given["jobs"])
    if given["json"] is not None:
        write_atomically(given["json"], (folder / "result.json").read_bytes())


def argument_docs(documented: type) -> dict[str, str]:
    """What the `Args` section of a class's documentation says of each argument.

    Example:
        >>> class Keeper:
        ...     '''Keeps.
        ...
        ...     Args:
        ...         capacity: Examples
        ...             kept.
        ...     '''
        >>> argument_docs(Keeper)
        {'capacity': 'Examples kept.'}
    """
    text = inspect.cleandoc(documented.__doc__ or "")
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n(?=\w+:)", textwrap.dedent(section[1]).strip()):
        name, _, words = paragraph.partition(":")
        found[name] = " ".join(words.split())
    return found


def _method(entry: Entry) -> dict[str, Any]:
    docs = argument_docs(catalogue.method_class(entry.name))
    return {
        "name": entry.name,
        "summary": entry.summary,
        "family": entry.tags.family,
        "title": entry.tags.title,
        "source": entry.tags.source,
        "scenarios": sorted(entry.tags.scenarios),
        "needs": sorted(entry.tags.needs),
        "keeps": sorted(entry.tags.keeps),
        "arguments": [
            {"name": name, "default": _plain(default), "documentation": docs.get(name, "")}
            for name, default in entry.arguments.items()
        ],
        "taxonomy": taxonomy.load()[entry.name].to_dict(),
    }


def _stream(entry: streams.Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "scenario": entry.scenario,
        "experiences": entry.experiences,
        "arguments": [
            {"name": name, "default": _plain(default)} for name, default in entry.arguments.items()
        ],
        "needs_data": entry.needs_data,
        "present": entry.present,
    }


def _plain(default: Any) -> Any:
    return None if default is inspect.Parameter.empty else default


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1])
    return table


def _paragraph(text: str) -> None:
    print(textwrap.fill(text, 80))


def _field(name: str, value: str) -> None:
    indent = " " * 14
    print(textwrap.fill(value, 80, initial_indent=f"{name:<14}", subsequent_indent=indent))


def _arguments(arguments: dict[str, Any], docs: dict[str, str]) -> None:
    for name, default in arguments.items():
        words = docs.get(name, "")
        head = f"\n{name}" if default is inspect.Parameter.empty else f"\n{name} = {_word(default)}"
        print(head)
        if words:
            print(textwrap.fill(words, 80, initial_indent="    ", subsequent_indent="    "))


def _word(value: Any) -> str:
    """A value as spec strings spell it."""
    return str(Spec("", (value,)))[1:-1]


def _example(name: str, arguments: dict[str, Any]) -> str:
    """A spec with the first argument that has a default."""
    given = {n: v for n, v in arguments.items() if isinstance(v, (int, float, str))}
    return str(Spec(name, (), dict(list(given.items())[:1])))
