"""All methods that learn classes one after another, at an equal memory: docs/measured.md.

    python benchmarks/measured.py [--only NAME ...] [--seeds N] [--jobs N] [--out FOLDER]
                                  [--write] [--quick]

Every method of the catalogue that serves a stream is run with its default arguments, but for its
capacity: all that keep examples get the same budget of bytes for them and for what belongs to each
of them (labels, outputs, keys), so that one that stores outputs too holds fewer examples. How many
bytes a row takes is found out by letting the method fill memories of two sizes. What methods keep
of weights (teachers, importances) is no part of the budget: it has its own column, and plain replay
with as many bytes more stands beside it.

Nothing is tuned. Runs are `holdfast compare`'s: kept in the folder, so that what was interrupted
goes on. `--write` writes src/holdfast/guide/measured/*.json, which `holdfast recommend` reads, and
docs/measured.md with its pictures. `--quick` tries all of it in a minute, into the folder alone.
MNIST comes from the folder that HOLDFAST_DATA names.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from holdfast import catalogue, models, streams
from holdfast.compare import Comparison, Watcher, compare, grid
from holdfast.config import Config
from holdfast.cost import stored_bytes
from holdfast.errors import StreamRefused, UsageError
from holdfast.guide import evidence, tables, taxonomy
from holdfast.guide.measured import Measured, Row, load
from holdfast.learner import Learner
from holdfast.method import refuse_unfit
from holdfast.metrics import interval
from holdfast.spec import Spec, parse
from holdfast.store import Result
from holdfast.stream import Stream
from holdfast.studies.dots import Dot, dots

ROOT = Path(__file__).parents[1]
DATA, DOCS = ROOT / "src" / "holdfast" / "guide" / "measured", ROOT / "docs"
EXAMPLES = 200
"""Plain examples, input and label, that the budget holds."""
SIZES = (40, 80)
"""Capacities by which the bytes of a row are found."""
MODEL = "mlp(width=256, depth=2)"


@dataclass(frozen=True)
class Bench:
    """A stream on which methods are measured.

    Attributes:
        name: Of its file.
        title: In docs/measured.md.
        stream: Spec.
        small: Spec of the same with few examples, for `--quick` and for counting bytes.
        setting: The rest of the configuration.
    """

    name: str
    title: str
    stream: str
    small: str
    setting: dict[str, Any]


DIGITS = {"model": MODEL, "epochs": 10, "batch_size": 32}
MNIST = {"model": MODEL, "epochs": 3, "batch_size": 32}
BENCHES = (
    Bench(
        "split-digits", "Digits, class by class", "split-digits", "split-digits(limit=60)", DIGITS
    ),
    Bench(
        "split-digits-tasks",
        "Digits, the task known",
        "split-digits(scenario=task)",
        "split-digits(scenario=task, limit=60)",
        DIGITS,
    ),
    Bench(
        "split-mnist",
        "MNIST, class by class",
        "split-mnist(limit=1000, test_limit=1000)",
        "split-mnist(limit=60, test_limit=40)",
        MNIST,
    ),
    Bench(
        "split-mnist-tasks",
        "MNIST, the task known",
        "split-mnist(limit=1000, scenario=task, test_limit=1000)",
        "split-mnist(limit=60, scenario=task, test_limit=40)",
        MNIST,
    ),
)

BESIDE = (
    "er(storage=class_balanced)",
    "er(storage=herding)",
    "er+wa(distil=false, clip_weights=false)",
    "wa(exemplars=200)",
    "replay(extra=true)",
    "gdumb(epochs=none, schedule=own)",
)
"""Beside every method by itself: other policies of replay, and chains."""
HOLDS = {"capacity", "exemplars"}
"""Arguments that say how many examples are kept."""


@dataclass(frozen=True)
class Arm:
    """A method in a table.

    Attributes:
        label: As it is called there.
        spec: As it is run.
        role: As in `guide.measured.Row`.
        row: Bytes of an example and what belongs to it.
        capacity: Examples, if it keeps any.
    """

    label: str
    spec: str
    role: str
    row: float = 0.0
    capacity: int = 0


def arms(bench: Bench, rows: int) -> Iterator[Arm]:
    """The methods that a stream of so many training examples is learned with, at the budget."""
    stream = streams.build(bench.small)
    model = models.build(MODEL, stream)
    budget, weights = allowed(stream), stored_bytes(model)
    for label in (*catalogue.METHODS, *BESIDE):
        specs = parse(label)
        records = [taxonomy.load()[spec.name] for spec in specs]
        if not all(learns(record, stream) for record in records):
            continue
        try:
            refuse_unfit(catalogue.build(label), stream, model)
        except (StreamRefused, UsageError):
            continue
        if any(record.family == "bound" for record in records):
            yield Arm(label, label, "bound")
        elif any(map(capacity_of, specs)):
            row = bytes_of_a_row(label, bench.small)
            capacity = int(budget / row)
            spec = sized(label, capacity)
            told = any(HOLDS & set(one.named) for one in specs)
            yield Arm(spec if told else label, spec, "examples", row, capacity)
        else:
            yield Arm(label, label, "weights")
    row = bytes_of_a_row("er", bench.small)
    many = int((budget + weights) / row)
    if many < rows:
        yield Arm(f"er(capacity={many})", f"er(capacity={many})", "more", row, many)


def learns(record: taxonomy.Record, stream: Stream) -> bool:
    """Whether a method is one for streams of classes, whose model begins with nothing."""
    return stream.scenario in record.scenarios and "none" in record.stages


def capacity_of(spec: Spec) -> str | None:
    """The argument by which a method is told how many examples it keeps; None: it keeps none."""
    arguments = catalogue.entry(spec.name).arguments
    return next(
        (n for n in arguments if n in HOLDS and dict(spec.named).get(n, arguments[n])), None
    )


def sized(label: str, capacity: int, **others: Any) -> str:
    """A spec with another capacity, and other values of what a method takes of `others`."""
    parts = []
    for spec in parse(label):
        name = capacity_of(spec)
        taken = {n: v for n, v in others.items() if n in catalogue.entry(spec.name).arguments}
        named = {**spec.named, **({name: capacity} if name else {}), **taken}
        parts.append(str(Spec(spec.name, spec.positional, named)))
    return "+".join(parts)


def allowed(stream: Stream) -> int:
    """Bytes for examples: what so many inputs with labels, and tasks if there are, take."""
    table = stream[0].train
    return EXAMPLES * sum(column[0].nbytes for column in table.columns.values())


@cache
def bytes_of_a_row(label: str, small: str) -> float:
    """How many bytes more a method keeps for every example more that it may keep."""
    stream = streams.build(small)
    held = []
    for capacity in SIZES:
        method = catalogue.build(sized(label, capacity, epochs=1))
        learner = Learner(models.build("mlp(width=8, depth=1)", stream), method, epochs=1)
        learner.learn(stream)
        held.append(stored_bytes(method))
    return (held[1] - held[0]) / (SIZES[1] - SIZES[0])


class Said(Watcher):
    """Tells on the terminal what has been done."""

    def on_start(self, waiting: Sequence[Config], finished: int) -> None:
        print(f"  {len(waiting)} runs to go, {finished} done", flush=True)

    def on_failed(self, config: Config, error: str, detail: str) -> None:
        print(f"  {config.method}, seed {config.seed} failed: {error}", flush=True)


def measure(bench: Bench, seeds: int, jobs: int | None, out: Path, quick: bool) -> Measured | None:
    """Run what is missing of a table; None if a run failed."""
    began = time.perf_counter()
    spec = bench.small if quick else bench.stream
    stream = streams.build(spec)
    chosen = list(arms(bench, sum(len(experience.train) for experience in stream)))
    print(f"{bench.title}: {len(chosen)} methods, {seeds} seeds", flush=True)
    setting = {**bench.setting, **({"epochs": 1} if quick else {})}
    base = Config(spec, "finetune", **setting)
    cells = grid(base, [arm.spec for arm in chosen], range(seeds))
    found: Comparison = compare(cells, out / bench.name, jobs, Said())
    print(f"  {time.perf_counter() - began:.0f} seconds", flush=True)
    if found.failures:
        return None
    by_spec: dict[str, list[Result]] = {}
    for result in found.results:
        by_spec.setdefault(result.method, []).append(result)
    rows = [row_of(arm, by_spec[Config(base.stream, arm.spec).method]) for arm in chosen]
    return Measured(
        name=bench.name,
        stream=base.stream,
        scenario=stream.scenario,
        setting=setting,
        seeds=seeds,
        budget=allowed(stream),
        weights=stored_bytes(models.build(MODEL, stream)),
        rows=tuple(sorted(rows, key=lambda row: -row.mean)),
        torch=torch.__version__.partition("+")[0],
    )


def row_of(arm: Arm, results: Sequence[Result]) -> Row:
    """An arm's results over seeds."""
    kept = int(max(result.record.cost["method_bytes"] for result in results))
    examples = min(kept, round(arm.row * arm.capacity))

    def metric(name: str) -> tuple[float, ...]:
        return tuple(round(result.metrics[name], 6) for result in results)

    return Row(
        spec=arm.spec,
        label=arm.label,
        methods=tuple(spec.name for spec in parse(arm.spec)),
        role=arm.role,
        accuracy=metric("average_accuracy"),
        anytime=metric("average_anytime_accuracy"),
        forgetting=metric("forgetting"),
        seconds=tuple(round(result.record.cost["seconds"], 3) for result in results),
        flops=tuple(result.record.cost["flops"] for result in results),
        examples_bytes=examples,
        other_bytes=kept - examples,
    )


HEAD = """# Measured

Every method of the catalogue that learns classes as they come, with its default arguments, on the
same streams at the same memory: `make measured HOLDFAST_DATA=FOLDER` runs it all and writes this
page. **Nothing is tuned**, so a low place says what a method does as it comes, not what it can do;
[studies](studies/index.md) and [published figures](reference.md) have some at their own settings.
One exception: `k_fpf` became NaN on MNIST with two seeds of five; the bound on its gradient that is
now its default, and `fpf`'s, was then chosen of four on these streams, with seeds 100 and 101.

- **The budget** is that of {examples} plain examples. It counts what a method keeps of examples and
  what belongs to each (labels, stored outputs, keys): who stores more for each holds fewer.
- **Kept otherwise** are weights: teachers, importances, anchors, bases, means. It is no part of
  the budget, and often many times as much. The line in italics is plain replay with as many bytes
  more as one copy of the weights takes, where there are as many examples. Bounds are in bold.
- Accuracies are means over test sets after the last experience, *anytime* means over all
  experiences, both in percent with 95 % intervals over seeds. Seconds are of training on one
  thread, beside other runs.

Penalties, and projections by a mean gradient, keep next to nothing where classes arrive and
compete: they are made for tasks that are known, and for classes that stay. Aligning weights hurts a
memory that is balanced already: [weight aligning](studies/weight-aligning.md) says where it helps.

Which of them fits what you have: [`holdfast recommend`](guide.md).
"""
COLUMNS = (
    ("method", "---"),
    ("accuracy", "---:"),
    ("anytime", "---:"),
    ("forgetting", "---:"),
    ("seconds", "---:"),
    ("kB of examples", "---:"),
    ("kB kept otherwise", "---:"),
)


def page(found: Sequence[Measured]) -> str:
    """docs/measured.md."""
    titles = {bench.name: bench.title for bench in BENCHES}
    parts = [HEAD.format(examples=EXAMPLES)]
    for measured in found:
        setting, seeds = measured.setting, f"{measured.seeds} seed{'s' * (measured.seeds > 1)}"
        parts.append(
            f"\n## {titles[measured.name]}\n\n`{measured.stream}`, `{setting['model']}`, "
            f"{setting['epochs']} epochs, batches of\n{setting['batch_size']}, SGD at 0.01 with "
            f"momentum 0.9; {seeds}. Budget {kilobytes(measured.budget)} kB, one copy of the "
            f"weights\n{kilobytes(measured.weights)} kB.\n\n![Accuracy and its interval, by "
            f"method.](figures/measured-{measured.name}.svg)\n\n{table(measured)}"
        )
    return "".join(parts)


def table(measured: Measured) -> str:
    """What came out on a stream, as a table of Markdown."""
    lines = [[name for name, _ in COLUMNS], [rule for _, rule in COLUMNS]]
    for row in measured.rows:
        name = f"`{row.label}`"
        name = f"**{name}**" if row.role == "bound" else f"*{name}*" if row.role == "more" else name
        lines.append(
            [
                name,
                *(percent(values) for values in (row.accuracy, row.anytime, row.forgetting)),
                f"{sum(row.seconds) / len(row.seconds):.2f}",
                kilobytes(row.examples_bytes),
                kilobytes(row.other_bytes),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(values: Sequence[float]) -> str:
    mean, half = interval([100 * value for value in values])
    return f"{mean:.1f} ± {half:.1f}" if math.isfinite(half) else f"{mean:.1f}"


def kilobytes(count: int) -> str:
    return f"{count / 1000:,.1f}"


def picture(measured: Measured) -> str:
    """Accuracies with their intervals, as SVG."""
    kinds = {"bound": "bounds", "weights": "keeps no examples", "more": "beyond the budget"}
    rows = []
    for row in measured.rows:
        mean, half = interval([100 * value for value in row.accuracy])
        rows.append(
            Dot(row.label, mean, half, kinds.get(row.role, "keeps examples, at the budget"))
        )
    return dots(measured.stream, "average accuracy (%)", rows)


def write(found: Sequence[Measured], data: Path, docs: Path) -> None:
    """Data, page and pictures; what was not measured this time stays as it was."""
    for measured in found:
        print(f"wrote {measured.write(data)}")
        drawn = docs / "figures" / f"measured-{measured.name}.svg"
        drawn.parent.mkdir(parents=True, exist_ok=True)
        drawn.write_text(picture(measured) + "\n", encoding="utf-8")
    (docs / "measured.md").write_text(page(found), encoding="utf-8")


def renew_guide() -> None:
    """docs/guide.md, which orders methods by what was just written."""
    load.cache_clear()
    evidence.tables.cache_clear()
    tables.write(DOCS)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="Names of streams.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/measured"))
    parser.add_argument("--write", action="store_true", help="Write the data and docs/measured.md.")
    parser.add_argument(
        "--quick", action="store_true", help="Few examples, one epoch; no evidence."
    )
    asked = parser.parse_args(arguments)
    names = [bench.name for bench in BENCHES]
    if wrong := sorted(set(asked.only) - set(names)):
        parser.error(f"there is no stream {wrong[0]} here; accepted: {', '.join(names)}")
    if asked.write and (asked.quick or asked.only):
        parser.error("--write needs all streams, and not --quick")
    benches = [bench for bench in BENCHES if not asked.only or bench.name in asked.only]
    found = [measure(bench, asked.seeds, asked.jobs, asked.out, asked.quick) for bench in benches]
    done = [measured for measured in found if measured]
    for measured in done:
        print(f"\n{measured.name}\n\n{table(measured)}")
    if len(done) < len(benches):
        return 1
    if asked.write:
        write(done, DATA, DOCS)
        renew_guide()
    elif asked.quick:
        write(done, asked.out / "data", asked.out / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
