"""Put what a study found into its page.

    python docs/_build/studies.py FOLDER ...

Each folder is what `holdfast study NAME --out FOLDER` has written. In docs/studies/NAME.md the
section "Verdict" and everything from "The numbers" on are written anew from the report there;
the words around them stay. Pictures are copied, and the study's line in docs/studies/index.md gets
the counts of its verdicts.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

PAGES = Path(__file__).parents[1] / "studies"
VERDICT, NUMBERS, DIFFERS = "## Verdict\n", "## The numbers\n", "## Differs from the paper\n"
DECISIONS = ("reproduced", "partly", "not reproduced")


def fill(folder: Path) -> None:
    """Write the page of one study."""
    result = json.loads((folder / "result.json").read_text())
    study = result["study"]
    report = (folder / "report.md").read_text().replace("](figures/", f"](figures/{study}-")
    verdicts, grids, differs = sections(report)
    page = PAGES / f"{study}.md"
    before, found, after = page.read_text().partition(VERDICT)
    words = re.search(r"^## (?!The numbers|Differs)", after, re.MULTILINE)
    if not found or words is None:
        sys.exit(f"{page} has no section 'Verdict' with words behind it.")
    said = after[words.start() :].partition(NUMBERS)[0]
    page.write_text(f"{before}{VERDICT}\n{verdicts}\n{said}{NUMBERS}\n{grids}\n{DIFFERS}{differs}")
    for figure in (folder / "figures").glob("*.svg"):
        shutil.copy(figure, PAGES / "figures" / f"{study}-{figure.name}")
    count(study, Counter(verdict["decision"] for verdict in result["verdicts"]))
    print(f"{page.name}: {result['seeds']} seeds, {result['minutes']:.0f} minutes of one process")


def sections(report: str) -> tuple[str, str, str]:
    """A report's verdicts with its pictures, its tables a level deeper, and its departures."""
    upper, _, differs = report.partition(DIFFERS)
    table = upper.index("| claim | observed")
    at = re.search(r"^## ", upper, re.MULTILINE)
    grids = at.start() if at else len(upper)
    deeper = re.sub(r"^## ", "### ", upper[grids:], flags=re.MULTILINE)
    return upper[table:grids].strip() + "\n", deeper.strip() + "\n", differs


def count(study: str, decisions: Counter[str]) -> None:
    """Put the verdicts of a study into its line of the index."""
    index = PAGES / "index.md"
    counts = " | ".join(str(decisions[name]) for name in DECISIONS)
    line = re.compile(rf"^(\| \[{study}\]\(.*?) \| \d+ \| \d+ \| \d+ \|$", re.MULTILINE)
    text, found = line.subn(rf"\1 | {counts} |", index.read_text())
    if not found:
        sys.exit(f"{index} has no line of {study}.")
    index.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        fill(Path(name))
