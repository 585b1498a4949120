"""Published figures, reproduced at their own settings: the table of docs/reference.md.

    python benchmarks/reference.py [--rows PART ...] [--seeds N] [--jobs N] [--out FOLDER]
                                   [--kept] [--write]

Every row is a figure that a public code base or a paper prints, with the setting it was got at, run
here through holdfast's ordinary comparison (equal streams and weights by seed, one thread a run).
What was run is kept in the folder, so a table that was interrupted goes on. A row is reproduced if
the mean over the seeds lies within two of the published standard deviations, and two points are
always allowed; where it does not, the table says what was found about the reason.

`--rows` runs only the rows whose name holds one of the texts; `--write` records what came out in
benchmarks/reference.json and writes docs/reference.md of all that is recorded there; `--kept` runs
nothing, and tells of what is recorded.
The data come from the folder that HOLDFAST_DATA names.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.compare import Comparison, Watcher, compare, grid
from holdfast.config import Config
from holdfast.store import Result

AVALANCHE = "Avalanche's baselines"
DER, CO2L = "Buzzega et al., 2020", "Cha et al., 2021"
PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
RECORD = Path(__file__).with_suffix(".json")
ALLOWED = 2.0
"""Points that any row may be off by."""


@dataclass(frozen=True)
class Row:
    """A published figure and the setting it was got at.

    Attributes:
        name: Benchmark and method.
        published: Final average accuracy, in percent.
        deviation: Published standard deviation over runs; 0: none is given.
        source: Where it is printed.
        method: Spec of ours.
        stream: Spec of ours.
        setting: The rest of the configuration.
        differs: Where ours is not theirs to the letter.
        reason: What was found where the figure is not met.
        seeds: How many at most: fewer where a run takes many minutes.
    """

    name: str
    published: float
    deviation: float
    source: str
    method: str
    stream: str
    setting: dict[str, Any] = field(default_factory=dict)
    differs: str = ""
    reason: str = ""
    seeds: int = 5

    @property
    def config(self) -> Config:
        return Config(self.stream, self.method, **self.setting)

    @property
    def allowed(self) -> float:
        return max(2 * self.deviation, ALLOWED)

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower().replace("+", "p")).strip("-")


def sgd(lr: float, **setting: Any) -> dict[str, Any]:
    return {"optimizer": "sgd", "momentum": 0.0, "lr": lr, **setting}


def adam(lr: float, **setting: Any) -> dict[str, Any]:
    """Its state is forgotten between experiences, as Avalanche did until May 2023."""
    return {"optimizer": "adam", "lr": lr, "optimizer_state": "reset", **setting}


SIMPLE = {"model": "mlp(width=512, depth=1, dropout=0.5)"}
MIR = {
    "model": "mlp(width=400, depth=1, dropout=0.5)",
    "epochs": 1,
    "batch_size": 10,
    "inputs": "unit",
}
ORDER = "class_order=[4, 1, 7, 5, 3, 9, 0, 8, 6, 2]"
"""Of their single run with seed 0, where the order is not fixed."""
SUM = (
    "There the means of the loss over the new and the old examples are added, at a rate of 0.05; "
    "ours is one mean over both, so the rate is doubled."
)
BOUND = (
    "Importances above 0.001 count as 0.001, as in their code, which also lets them fall below 0. "
    "Without that bound, which the paper does not have, and with Adam's state kept ours has"
)
A_GEM = "agem(capacity={}, references={}, storage=task_balanced)"
MULTI = {"model": "mlp(width=256, depth=2)", "epochs": 10, "batch_size": 64}

AVALANCHE_ROWS = (
    Row(
        "Permuted MNIST 10, EWC", 83, 0, AVALANCHE, "ewc(strength=2, labels=empirical)",
        "permuted-mnist(experiences=10, first=permuted)",
        sgd(0.001, model="mlp(width=512, depth=1)", epochs=10, batch_size=256),
        seeds=2,
    ),
    Row(
        "Permuted MNIST 10, SI", 83, 0, AVALANCHE, "si(strength=5, xi=0.1, max_importance=0.001)",
        "permuted-mnist(experiences=10, first=permuted)",
        adam(0.001, model="mlp(width=1000, depth=1)", epochs=10, batch_size=256),
        differs=f"{BOUND} 90.3 ± 0.1.",
        reason="Their code is only asked not to fall three points short of 83; ours lies above, "
        "for a cause that is not known.",
        seeds=2,
    ),
    Row(
        "Permuted MNIST 17, A-GEM", 81, 0, AVALANCHE, A_GEM.format(4250, 256),
        "permuted-mnist(experiences=17, first=permuted)",
        sgd(0.1, model="mlp(width=256, depth=2)", epochs=1, batch_size=10),
        seeds=1,
    ),
    Row(
        "Permuted MNIST 10, MIR", 80, 0, AVALANCHE,
        "mir(capacity=500, candidates=50, storage=class_balanced)",
        "permuted-mnist(experiences=10, first=permuted, limit=1000)", sgd(0.1, **MIR),
        differs=SUM,
    ),
    Row(
        "Split MNIST 5, tasks known, SI", 97, 0, AVALANCHE,
        "si(strength=0.5, xi=0.1, max_importance=0.001)",
        "split-mnist(scenario=task, order=natural)", adam(0.001, **MULTI),
        differs=f"{BOUND} 99.3 ± 0.1.",
        reason="97 is the paper's figure, which their code is only asked not to fall short of; "
        "ours lies above.",
    ),
    Row(
        "Split MNIST 5, tasks known, RWalk", 99, 0, AVALANCHE, "rwalk(strength=0.1)",
        "split-mnist(scenario=task, order=natural)", adam(0.001, **MULTI),
    ),
    Row(
        "Split MNIST 5, LwF", 23, 0, AVALANCHE,
        "lwf(balance=experiences, new_classes_only=false)", f"split-mnist({ORDER})",
        sgd(0.001, model="mlp(width=200, depth=1, activation=tanh)", epochs=21, batch_size=128),
    ),
    Row(
        "Split MNIST 5, GDumb", 97, 0, AVALANCHE,
        "gdumb(capacity=4400, epochs=10, schedule=own, cutmix=0.0, clip=none)",
        f"split-mnist({ORDER})",
        sgd(0.1, model="mlp(width=400, depth=2)", epochs=1, batch_size=16),
    ),
    Row(
        "Split MNIST 5, GSS", 82, 0, AVALANCHE, "gss(capacity=300)",
        "split-mnist(limit=1000, class_order=[5, 6, 1, 2, 0, 8, 9, 3, 7, 4])",
        sgd(0.05, model="mlp(width=100, depth=2)", epochs=3, batch_size=10),
        differs="82 is the paper's figure at this setting, 78 their code's.",
        reason="Their code replays what the memory held when an experience began, and offers "
        "replayed examples to it again; ours replays what it holds, and offers only new ones.",
    ),
    Row(
        "Split MNIST 5, replay", 92, 0, AVALANCHE,
        "er(capacity=1000, storage=class_balanced)", "split-mnist(order=natural)",
        sgd(0.1, **SIMPLE, epochs=1, batch_size=10),
    ),
    Row(
        "Split MNIST 5, MIR", 87, 0, AVALANCHE,
        "mir(capacity=500, candidates=50, storage=class_balanced)",
        f"split-mnist(limit=1000, {ORDER})", sgd(0.1, **MIR),
        differs=SUM,
    ),
)  # fmt: skip


TURNED = "rotated-mnist(experiences=20, angles=drawn, evaluations=1)"


def rotated(
    name: str, method: str, lr: float, published: float, deviation: float, reason: str = ""
) -> Row:
    """A figure of Rotated MNIST, 20 angles, from the paper on dark experience replay.

    Settings are those of its public code; figures were read where a later paper reprints them.
    """
    return Row(
        f"Rotated MNIST 20, {name}", published, deviation, DER, method, TURNED,
        sgd(lr, model="mlp(width=100, depth=2)", inputs="unit", epochs=1, batch_size=128),
        reason=reason,
    )  # fmt: skip


def convolved(row: Row) -> Row:
    """A figure of the same stream from the paper on contrastive continual learning.

    It prints beside them figures of the paper on dark experience replay, but not here: these it got
    itself, with a convolutional network and with rates chosen for it (its section 5.1, appendices
    A.2 and A.3).
    """
    name = row.name.replace("20, ", "20, convolutional, ")
    return replace(row, name=name, source=CO2L, seeds=1, setting={**row.setting, "model": "lenet"})


DER_ROWS = (
    rotated("ER, 200 examples", "er(capacity=200)", 0.2, 85.01, 1.90),
    rotated("ER, 500 examples", "er(capacity=500)", 0.2, 88.91, 1.44),
    rotated("DER, 200 examples", "der(capacity=200, alpha=1)", 0.2, 90.04, 2.61),
    rotated("DER, 500 examples", "der(capacity=500, alpha=0.5)", 0.2, 92.24, 1.12),
    rotated("DER++, 200 examples", "der++(capacity=200, alpha=1, beta=0.5)", 0.1, 90.43, 1.87),
    rotated("DER++, 500 examples", "der++(capacity=500, alpha=0.5, beta=1)", 0.2, 92.77, 1.05),
    rotated(
        "A-GEM, 200 examples",
        A_GEM.format(200, 128),
        0.1,
        81.91,
        0.76,
        "The draw of angles decides: ten gave 75.4 ± 7.0, from 61.7 to 84.7, the less the further "
        "the last angle was from the middle of the half circle (rank correlation -0.83). Their "
        "method, memory and network, given the angles of our first five, have 82.3, 83.9, 64.8, "
        "68.4 and 69.0 where ours has 81.1, 84.7, 61.7, 69.9 and 67.9. Published is a deviation of "
        "0.76 over ten runs.",
    ),
    rotated("A-GEM, 500 examples", A_GEM.format(500, 128), 0.3, 80.31, 6.29),
    rotated("SI", "si(strength=1, xi=1)", 0.1, 71.91, 5.83),
)

CO2L_ROWS = tuple(
    map(
        convolved,
        (
            rotated("ER, 200 examples", "er(capacity=200)", 0.1, 93.53, 1.15),
            rotated("DER, 200 examples", "der(capacity=200, alpha=0.5)", 0.1, 96.43, 0.59),
            rotated(
                "DER++, 200 examples", "der++(capacity=200, alpha=1, beta=0.5)", 0.1, 95.98, 1.06
            ),
            rotated("A-GEM, 200 examples", A_GEM.format(200, 128), 0.1, 89.03, 2.76),
        ),
    )
)

ROWS = (*AVALANCHE_ROWS, *DER_ROWS, *CO2L_ROWS)


class Said(Watcher):
    """Tells on the terminal what has been done."""

    def on_finished(self, config: Config, result: Result) -> None:
        print(f"  {config.method}, seed {config.seed}: {final(result):.1f}", flush=True)

    def on_failed(self, config: Config, error: str, detail: str) -> None:
        print(f"  {config.method}, seed {config.seed} failed: {error}", flush=True)


def final(result: Result) -> float:
    """Average accuracy over all test sets after the last experience, in percent."""
    last = result.record.matrix[-1]
    return 100 * sum(last) / len(last)


@dataclass(frozen=True)
class Outcome:
    """What came out of a row here."""

    row: Row
    finals: list[float]

    @property
    def mean(self) -> float:
        return sum(self.finals) / len(self.finals)

    @property
    def deviation(self) -> float:
        if len(self.finals) < 2:
            return 0.0
        spread = sum((value - self.mean) ** 2 for value in self.finals)
        return math.sqrt(spread / (len(self.finals) - 1))

    @property
    def reproduced(self) -> bool:
        return abs(self.mean - self.row.published) <= self.row.allowed


def measured(row: Row, seeds: int, jobs: int | None, out: Path) -> Outcome | None:
    """Run what is missing of a row; None if a run failed."""
    cells = grid(row.config, [row.method], range(min(seeds, row.seeds)))
    print(f"{row.name}: {row.method}", flush=True)
    found: Comparison = compare(cells, out / row.slug, jobs, Said())
    return None if found.failures else Outcome(row, [final(result) for result in found.results])


def recorded() -> list[Outcome]:
    """What earlier runs found, of the rows whose setting is still the same."""
    known = {entry["key"]: entry["finals"] for entry in json.loads(RECORD.read_text())}
    return [Outcome(row, known[key(row)]) for row in ROWS if key(row) in known]


def record(outcomes: Iterable[Outcome]) -> None:
    """Put outcomes beside, or in the place of, what is recorded."""
    everything = {key(o.row): o.finals for o in (*recorded(), *outcomes)}
    RECORD.write_text(
        json.dumps([{"key": k, "finals": finals} for k, finals in everything.items()], indent=1)
        + "\n"
    )


def key(row: Row) -> str:
    """A row's whole setting: a figure got at another one is not its figure."""
    told = " ".join(f"{name}={value}" for name, value in sorted(row.setting.items()))
    return f"{row.name}: {row.stream} {row.method} {told}"


HEAD = """# Published figures, run here

Figures that public code or a paper prints, each run at the setting it was got at, by
`make bench-reference HOLDFAST_DATA=FOLDER`: final average accuracy in percent, mean and standard
deviation over seeds. A figure is reproduced if ours lies within two of its standard deviations, or
two points where that is more. Where it does not, the last column says what was found.

Figures of Avalanche's baselines are of single runs; where the order of the classes is drawn, ours
is theirs, of the seed that their tests use. (With the order drawn anew by seed, LwF has 28.3 ± 3.9
instead of 23.4 ± 0.4, and MIR with a reservoir in place of their class-balanced memory 89.5 ± 1.7.)
Adam forgets its state between experiences, as it did there when the figures were made; since May
2023 that library keeps it.
Figures on Rotated MNIST are of two papers, which differ by ten points for one method: that on dark
experience replay has an MLP of two hidden layers of 100 units, and its public code the rates; that
on contrastive continual learning, which prints other figures of the first paper beside its own, got
these itself, with a convolutional network (20 and 50 filters of 5x5, 500 units) and its own rates.
The first paper's figures were read in a later paper that reprints them. MIR's are of images in
0..1, as in that code; with standardised ones it has 82.2 on permuted and 87.6 on split MNIST here.

"""
COLUMNS = (
    "benchmark and method",
    "published",
    "ours",
    "seeds",
    "reproduced",
    "ours is called by",
    "what differs",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """What came out, as a table of Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(outcome) for outcome in outcomes)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def missing(rows: Sequence[Row]) -> str:
    """The rows that have not been run, in a sentence."""
    names = [row.name for row in ROWS if row not in rows]
    return f"\nNot run yet: {'; '.join(names)}.\n" if names else ""


def cells(outcome: Outcome) -> tuple[str, ...]:
    """An outcome as a row of the table."""
    row, found = outcome.row, [outcome.row.differs]
    if not outcome.reproduced:
        found.append(row.reason)
    return (
        f"{row.name} ({row.source})",
        f"{row.published:g}" + (f" ± {row.deviation:g}" if row.deviation else ""),
        f"{outcome.mean:.1f}" + (f" ± {outcome.deviation:.1f}" if len(outcome.finals) > 1 else ""),
        str(len(outcome.finals)),
        "yes" if outcome.reproduced else "no",
        f"`{row.stream}`, `{row.method}`, `{row.setting['model']}`, {settings(row)}",
        " ".join(filter(None, found)) or "nothing",
    )


def settings(row: Row) -> str:
    """The rest of a configuration, in words."""
    told = row.setting
    epochs = told["epochs"]
    parts = [
        f"{told['optimizer']} at {told['lr']:g}",
        f"batch {told['batch_size']}",
        f"{epochs} epoch{'s' if epochs > 1 else ''}",
    ]
    if told.get("inputs") == "unit":
        parts.append("inputs in 0..1")
    return ", ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", default=[], help="Only rows whose name holds a text.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/reference"))
    parser.add_argument("--kept", action="store_true", help="Run nothing; tell what is recorded.")
    parser.add_argument("--write", action="store_true", help="Record it; write the page.")
    asked = parser.parse_args()
    wanted = [part.lower() for part in asked.rows]
    rows = [r for r in ROWS if not wanted or any(part in r.name.lower() for part in wanted)]
    if not rows:
        parser.error(f"no row holds {asked.rows}; there are: {', '.join(r.name for r in ROWS)}")
    if asked.kept:
        done = [outcome for outcome in recorded() if outcome.row in rows]
    else:
        outcomes = [measured(row, asked.seeds, asked.jobs, asked.out) for row in rows]
        done = [outcome for outcome in outcomes if outcome]
    print(table(done))
    print(f"{sum(o.reproduced for o in done)} of {len(rows)} figures are reproduced.")
    if asked.write:
        record([] if asked.kept else done)
        everything = recorded()
        PAGE.write_text(HEAD + table(everything) + missing([o.row for o in everything]))
    return 0 if len(done) == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
