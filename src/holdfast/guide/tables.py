"""The pages that are made from the records: the list of methods, the taxonomy, the guide.

    python -m holdfast.guide.tables DOCS

writes the table in DOCS/methods/index.md, DOCS/taxonomy.md and DOCS/guide.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from holdfast.guide import taxonomy
from holdfast.guide.examples import EXAMPLES
from holdfast.guide.protocol import PROTOCOLS
from holdfast.guide.recommend import Answer, recommend, ruled_out_by
from holdfast.guide.rules import RULES

CHOICES = 3
"""Choices of each situation that the guide's page shows."""
HEADER = "| name | family | incremental in | needs | keeps | source |"


def methods() -> str:
    """The table of docs/methods/index.md: what each method's class says of it."""
    from holdfast import catalogue

    rows = []
    for entry in catalogue.entries():
        tags = entry.tags
        rows.append(
            [
                f"[{entry.name}]({page_of(entry.name)})",
                tags.family,
                ", ".join(taxonomy.load()[entry.name].scenarios),
                ", ".join(sorted(tags.needs)) or "nothing",
                ", ".join(sorted(tags.keeps)) or "nothing",
                tags.source or "none",
            ]
        )
    return _table([cell.strip() for cell in HEADER.strip("|").split("|")], rows)


def page_of(name: str) -> str:
    """The file of a method's page."""
    return f"{name.replace('+', 'p')}.md"


def index(page: str) -> str:
    """docs/methods/index.md with its table made anew."""
    before, _, rest = page.partition(HEADER)
    _, _, after = rest.partition("\n\n")
    return f"{before}{methods()}\n{after}"


def coverage() -> str:
    """Which methods there are for every technique in every stage; an empty cell has none."""
    stages = list(taxonomy.vocabulary("stages"))
    records = taxonomy.load().values()
    rows = []
    for technique in taxonomy.vocabulary("techniques"):
        cells = [
            ", ".join(r.name for r in records if technique in r.techniques and stage in r.stages)
            for stage in stages
        ]
        rows.append([technique, *cells])
    return _table(["technique", *stages], rows)


def needs() -> str:
    """What every method needs and costs, as the guide sees it."""
    rows = []
    for record in taxonomy.load().values():
        has = record.needs
        forms = ", ".join(f"`{form.spec}`" for form in record.variants)
        rows.append(
            [
                f"[{record.name}](methods/{page_of(record.name)})",
                record.continuity or "",
                has.old_data,
                "yes" if has.boundaries else "no",
                "in use" if has.task_id == "test" else "no",
                "yes" if has.peft_ok else "no",
                "yes" if has.served_alone else "no",
                forms,
                ", ".join(record.combines_with),
            ]
        )
    return _table(
        [
            "name",
            "continuity",
            "old data",
            "boundaries",
            "task",
            "with adapters",
            "served alone",
            "with other needs",
            "goes with",
        ],
        rows,
    )


TAXONOMY = """# Taxonomy

What is known of every method beside its page, in the words of a survey of continual learning of
language models (Wang et al., 2024). `holdfast methods` filters by it (`--stage`, `--technique`,
`--no-old-data`, `--task-free` and more), `holdfast methods --json` prints it, and
`holdfast methods --schema` its JSON schema. It is kept in `src/holdfast/guide/taxonomy.yaml` and in
the methods' classes; this page is made of it by `make docs-tables`.

## Words

{words}
## Which techniques there are in which stage

An empty cell is one that no method here fills.

{coverage}
## What methods need

*Old data*, *boundaries*: as their default arguments have it. *With adapters*: goes with LoRA on a
frozen model, or brings adapters. *Served alone*: the saved model answers without the method.

{needs}
## How to measure

{protocols}"""


def taxonomy_page() -> str:
    """docs/taxonomy.md."""
    words = []
    for field in taxonomy.content()["vocabulary"]:
        words.append(f"**{field.replace('_', ' ')}**\n")
        words += [f"- `{word}`: {told}" for word, told in taxonomy.vocabulary(field).items()]
        words.append("")
    measures = _table(
        ["metric", "better", "from", "stages", "axis", "function"],
        [
            [p.name, p.better, p.inputs, ", ".join(p.stages), p.axis, f"`{p.function}`"]
            for p in PROTOCOLS
        ],
    )
    return TAXONOMY.format(
        words="\n".join(words), coverage=coverage(), needs=needs(), protocols=measures
    )


GUIDE = """# Which method?

`holdfast recommend` asks what there is (or takes it as options, or `--json`) and answers with the
methods that fit, best first, why, what was measured of them, and which are ruled out by what. In
Python: `holdfast.guide.recommend.recommend(Situation(...))`, and
`holdfast.guide.situation.check("gem", Situation(...))` names every need that is not met.

Rules put methods first; each has an id and names on whose word it stands. Among those that a rule
prefers what was measured decides: how much of the best method's gain over plain training each
has, the mean over the tables that speak for the situation ([measured](measured.md) and the
[studies](studies/index.md)). A method that was not measured in such a situation comes after those
that were. All tables are small, and none of their methods was tuned: hold the first two or three
against plain training on your own data before you believe any order.

The seven situations below are run through it by a test: where a table speaks, the first choice must
beat its baseline there and be among the best two that fit. `make docs-tables` writes this page.
{examples}
## The rules

{rules}"""


def guide_page() -> str:
    """docs/guide.md."""
    parts = []
    for example in EXAMPLES:
        answer = recommend(example.situation)
        parts.append(
            f"\n## {example.title}\n\n{fill(example.words, 100)}\n\n"
            f"```sh\n{example.command}\n```\n\n{_answered(answer)}"
        )
    rules = _table(
        ["id", "prefers", "because", "on the word of"],
        [
            [rule.id, ", ".join(f"`{spec}`" for spec in rule.prefer), rule.because, rule.basis]
            for rule in RULES
        ],
    )
    return GUIDE.format(examples="".join(parts), rules=rules)


def _answered(answer: Answer) -> str:
    lines = []
    for place, choice in enumerate(answer.choices[:CHOICES], 1):
        told = "; ".join(choice.evidence) or "not measured in such a situation"
        rules = f" ({', '.join(choice.rules)})" if choice.rules else ""
        lines.append(f"{place}. `{choice.spec}`{rules}: {told}.")
    lines.append("")
    for need, specs in ruled_out_by(answer):
        listed = ", ".join(f"`{spec}`" for spec in specs)
        lines.append(f"- Not, for {need.replace('_', ' ')}: {listed}.")
    if answer.ruled_out:
        lines.append("")
    if answer.note:
        lines += [answer.note, ""]
    lines += ["```sh", answer.trial, answer.own, "```", ""]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(docs: Path) -> None:
    """Write all of them into the folder of documentation."""
    path = docs / "methods" / "index.md"
    path.write_text(index(path.read_text(encoding="utf-8")), encoding="utf-8")
    (docs / "taxonomy.md").write_text(taxonomy_page(), encoding="utf-8")
    (docs / "guide.md").write_text(guide_page(), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the folder of documentation: python -m holdfast.guide.tables docs")
    write(Path(sys.argv[1]))
