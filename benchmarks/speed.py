"""What the training loop costs, against a bare PyTorch loop doing the same arithmetic.

    python benchmarks/speed.py [--quick] [--json FILE] [--profile]

The bare loop is what a researcher writes by hand for experience replay: minibatches, a vectorised
reservoir, one forward and one backward pass, SGD, nothing else. Both loops draw the same random
numbers, and the final weights must be bit-identical: that is the proof that both did the same.

Blocks of a few steps of either loop take turns in one process, so that whatever else the machine
does meets both; the figure is the median, over pairs of neighbouring blocks, of ours by theirs.
`total` is the ratio of all seconds, and so also holds what happens now and then (the counting of
operations on steps 0, 1, 2, 4, ...). `processor` is the median ratio of processor seconds, which
hardly feel a busy machine and so say whether a miss is ours or its. Memory is measured in a
process of its own for either loop.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = {"mlp": 1.10, "resnet18": 1.02, "memory": 1.10, "flat": 1.05}
SEED = 0


@dataclass(frozen=True)
class Job:
    """What both loops have to do.

    Attributes:
        shape: Of one input.
        rows: Examples an experience.
        batch_size: New examples a step; as many are replayed.
        capacity: Of the reservoir.
        block: Steps before the other loop has its turn.
        threads: Of PyTorch.
    """

    shape: tuple[int, ...]
    experiences: int
    rows: int
    batch_size: int
    capacity: int
    block: int
    threads: int
    rate: float

    def model(self) -> nn.Module:
        from holdfast.models import MLP, Classifier, LinearHead, ResNet18

        torch.manual_seed(SEED)
        backbone = MLP(self.shape[0]) if len(self.shape) == 1 else ResNet18(self.shape[0])
        return Classifier(backbone, LinearHead(int(backbone.width), 10))

    def tables(self, test_rows: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Training inputs and labels, test inputs and labels, of every experience."""
        generator = torch.Generator().manual_seed(SEED)

        def draw(rows: int) -> tuple[Tensor, Tensor]:
            x = torch.rand((rows, *self.shape), generator=generator)
            return x, torch.randint(10, (rows,), generator=generator)

        return [(*draw(self.rows), *draw(test_rows)) for _ in range(self.experiences)]


JOBS = {
    "mlp": Job((784,), 5, 12000, 10, 1000, block=50, threads=1, rate=0.05),
    "resnet18": Job((3, 32, 32), 2, 32 * 60, 32, 1000, block=1, threads=2, rate=0.05),
}


def bare(
    model: nn.Module, job: Job, tables: list[tuple[Tensor, Tensor]], block: int
) -> Iterator[None]:
    """Experience replay as written by hand; gives way after every `block` steps."""
    generator = torch.Generator().manual_seed(SEED)
    capacity, seen = job.capacity, 0
    kept_x = torch.zeros((capacity + 1, *job.shape))  # the last row takes what is not kept
    kept_y = torch.zeros(capacity + 1, dtype=torch.long)
    model.train()
    for all_x, all_y in tables:
        optimizer = torch.optim.SGD(model.parameters(), lr=job.rate)
        order = torch.randperm(len(all_x), generator=generator)
        for step, start in enumerate(range(0, len(all_x), job.batch_size)):
            rows = order[start : start + job.batch_size]
            new_x, new_y = all_x.index_select(0, rows), all_y.index_select(0, rows)
            x, y = new_x, new_y
            if seen:
                drawn = torch.randperm(min(seen, capacity), generator=generator)[: job.batch_size]
                x = torch.cat([x, kept_x.index_select(0, drawn)])
                y = torch.cat([y, kept_y.index_select(0, drawn)])
            number = torch.arange(seen, seen + len(new_x))
            seen += len(new_x)
            if seen > capacity:
                chance = torch.rand(len(new_x), generator=generator, dtype=torch.float64)
                slots = torch.where(number < capacity, number, (chance * (number + 1)).long())
                slots.clamp_(max=capacity)
                taken_later = (slots[:, None] == slots).triu(1).any(1)
                number = slots.masked_fill_(taken_later, capacity)
            kept_x.index_copy_(0, number, new_x)
            kept_y.index_copy_(0, number, new_y)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % block == 0:
                yield


def learner_and_stream(
    model: nn.Module, job: Job, tables: list[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> tuple[Any, Any]:
    """The same job for us."""
    from holdfast.data import Table
    from holdfast.learner import Learner
    from holdfast.methods.replay.er import ER
    from holdfast.stream import Experience, Stream

    experiences = [
        Experience(i, Table({"x": x, "y": y}), Table({"x": test_x, "y": test_y}), tuple(range(10)))
        for i, (x, y, test_x, test_y) in enumerate(tables)
    ]
    stream = Stream("random", experiences, "domain", 10, job.shape)
    learner = Learner(
        model,
        ER(job.capacity),
        optimizer=partial(torch.optim.SGD, lr=job.rate),
        batch_size=job.batch_size,
        seed=SEED,
    )
    return learner, stream


class Times(NamedTuple):
    """Seconds on the wall and of the processor."""

    wall: float
    processor: float

    def __sub__(self, other: Times) -> Times:
        return Times(self.wall - other.wall, self.processor - other.processor)


def now() -> Times:
    return Times(time.perf_counter(), time.process_time())


def paired(job: Job) -> dict[str, float]:
    """Seconds of both loops, turn by turn."""
    from holdfast.learner import Learner, Observer

    torch.set_num_threads(job.threads)
    tables = job.tables(test_rows=100)
    model = job.model()
    rival = deepcopy(model)
    theirs = bare(rival, job, [table[:2] for table in tables], job.block)
    learner, stream = learner_and_stream(model, job, tables)
    pairs: list[tuple[Times, Times]] = []

    class TakeTurns(Observer):
        since = Times(0.0, 0.0)

        def on_step(self, learner: Learner) -> None:
            if learner.step % job.block == 0:
                middle = now()
                next(theirs)
                end = now()
                if learner.step > job.block:  # the first block also evaluates and sets up
                    pairs.append((middle - self.since, end - middle))
                self.since = now()

    learner.learn(stream, [TakeTurns()])
    next(theirs, None)
    for (name, ours), other in zip(
        model.state_dict().items(), rival.state_dict().values(), strict=True
    ):
        if not torch.equal(ours, other):
            raise SystemExit(f"The loops did not do the same: {name} differs.")
    pairs = pairs[len(pairs) // 20 :]
    ratios = sorted(ours.wall / theirs.wall for ours, theirs in pairs)
    return {
        "ratio": statistics.median(ratios),
        "quarter": ratios[len(ratios) // 4],
        "three_quarters": ratios[3 * len(ratios) // 4],
        "processor": statistics.median(ours.processor / theirs.processor for ours, theirs in pairs),
        "total": sum(ours.wall for ours, _ in pairs) / sum(theirs.wall for _, theirs in pairs),
        "ours_ms": 1e3 * statistics.median(ours.wall for ours, _ in pairs) / job.block,
        "bare_ms": 1e3 * statistics.median(theirs.wall for _, theirs in pairs) / job.block,
        "pairs": len(pairs),
    }


def flat(rows: int, few: int = 5, many: int = 100) -> dict[str, float]:
    """Seconds a step early and late in long streams, and in short ones, taken in turn."""
    from holdfast.learner import Observer

    torch.set_num_threads(1)
    base = JOBS["mlp"]

    def per_step(experiences: int) -> list[float]:
        job = Job((784,), experiences, rows, base.batch_size, 200, 1, 1, base.rate)
        learner, stream = learner_and_stream(job.model(), job, job.tables(test_rows=10))
        seconds = []

        class Note(Observer):
            before = 0.0

            def on_experience(self, learner: Any) -> None:
                seconds.append((learner.meter.seconds - self.before) / (rows / job.batch_size))
                self.before = learner.meter.seconds

        learner.learn(stream, [Note()])
        return seconds

    per_step(few)
    short: list[float] = []
    for _ in range(4):
        short += per_step(few)
    long = per_step(many)
    for _ in range(4):
        short += per_step(few)
    return {
        "few_ms": 1e3 * statistics.median(short),
        "many_ms": 1e3 * statistics.median(long),
        "many_last_ms": 1e3 * statistics.median(long[-20:]),
        "ratio": statistics.median(long) / statistics.median(short),
    }


def high_water() -> int:
    """The largest resident size of this process since it began or the mark was reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("Peak memory is read from /proc/self/status, which is not here.")


def memory_of(loop: str, name: str) -> dict[str, int]:
    """Run one loop alone and read this process's peak."""
    job = JOBS[name]
    torch.set_num_threads(job.threads)
    imported = high_water()
    tables = job.tables(test_rows=job.rows // 6)  # as in MNIST
    model = job.model()
    if loop == "bare":
        for _ in bare(model, job, [table[:2] for table in tables], job.block):
            pass
        return {"imported": imported, "peak": high_water()}
    learner, stream = learner_and_stream(model, job, tables)
    before = high_water()  # the learner resets the mark
    learner.learn(stream)
    return {"imported": imported, "peak": max(before, high_water())}


def memory(name: str) -> dict[str, float]:
    """Peaks of both loops, each in a process of its own."""
    found = {}
    for loop in ("ours", "bare"):
        command = [sys.executable, __file__, "--memory-of", loop, name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[loop] = json.loads(output)
    ours, theirs = found["ours"], found["bare"]
    return {
        "ours_mib": ours["peak"] / 2**20,
        "bare_mib": theirs["peak"] / 2**20,
        "ratio": ours["peak"] / theirs["peak"],
        "ours_beyond_import_mib": (ours["peak"] - ours["imported"]) / 2**20,
        "bare_beyond_import_mib": (theirs["peak"] - theirs["imported"]) / 2**20,
        "ratio_beyond_import": (ours["peak"] - ours["imported"])
        / (theirs["peak"] - theirs["imported"]),
    }


def profile(job: Job, lines: int = 25) -> None:
    """Where either loop spends its time, by function, in microseconds a step."""
    torch.set_num_threads(job.threads)
    tables = job.tables(test_rows=10)
    steps = job.experiences * job.rows // job.batch_size
    learner, stream = learner_and_stream(job.model(), job, tables)
    loops: dict[str, Callable[[], Any]] = {
        "ours": lambda: learner.learn(stream),
        "bare": lambda: list(bare(job.model(), job, [t[:2] for t in tables], job.block)),
    }
    for loop, run in loops.items():
        profiler = cProfile.Profile()
        profiler.runcall(run)
        stats = pstats.Stats(profiler).get_stats_profile()
        rows = sorted(
            ((f.tottime, f.ncalls, name, f.file_name) for name, f in stats.func_profiles.items()),
            reverse=True,
        )
        print(f"\n{loop}: microseconds a step within each function, profiler's own cost included")
        for seconds, calls, name, file in rows[:lines]:
            where = Path(file).name if file != "~" else ""
            print(f"  {1e6 * seconds / steps:8.1f}  {calls:>9}  {name[:60]}  {where}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps; noisier")
    parser.add_argument("--only", choices=["mlp", "resnet18", "memory", "flat"])
    parser.add_argument("--profile", action="store_true", help="where the time goes, for the MLP")
    parser.add_argument("--memory-of", nargs=2, metavar=("LOOP", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(*options.memory_of)))
        return
    if options.profile:
        profile(JOBS["mlp"])
        return

    found: dict[str, dict[str, float]] = {}
    missed = []

    def show(name: str, figures: dict[str, float], target: float, what: str) -> None:
        found[name] = {**figures, "target": target}
        kept = figures["ratio"] <= target
        if not kept:
            missed.append(name)
        verdict = "kept" if kept else "MISSED"
        print(f"{name:<18} {figures['ratio']:6.3f}  {target:5.2f}  {verdict:<7} {what}", flush=True)

    print(f"torch {torch.__version__}\n{'':<18} {'ratio':>6}  limit")
    for name in ("mlp", "resnet18"):
        if options.only in (None, name):
            job = JOBS[name]
            if options.quick:
                job = Job(**{**vars(job), "rows": job.rows // 5})
            f = paired(job)
            detail = (
                f"quartiles {f['quarter']:.3f}-{f['three_quarters']:.3f}, total {f['total']:.3f}, "
                f"processor {f['processor']:.3f}, "
                f"{f['ours_ms']:.3f} against {f['bare_ms']:.3f} ms a step, {f['pairs']} pairs"
            )
            show(name, f, TARGETS[name], detail)
    if options.only in (None, "memory"):
        f = memory("mlp")
        detail = (
            f"{f['ours_mib']:.0f} against {f['bare_mib']:.0f} MiB; beyond the import "
            f"{f['ours_beyond_import_mib']:.0f} against {f['bare_beyond_import_mib']:.0f} "
            f"({f['ratio_beyond_import']:.3f})"
        )
        show("memory (mlp)", f, TARGETS["memory"], detail)
    if options.only in (None, "flat"):
        f = flat(rows=600 if options.quick else 2000)
        detail = (
            f"{f['few_ms']:.3f} ms a step with 5 experiences, {f['many_ms']:.3f} with 100 "
            f"({f['many_last_ms']:.3f} over the last 20)"
        )
        show("flat, 5 to 100", f, TARGETS["flat"], detail)
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "results": found}, indent=2)
        )
    if missed:
        raise SystemExit(f"Beyond the limit: {', '.join(missed)}.")


if __name__ == "__main__":
    main()
