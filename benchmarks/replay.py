"""What a step of choosing replay costs, by a step of experience replay that draws at random.

    python benchmarks/replay.py [--quick] [--only {mlp,cnn}] [--json FILE]

ER-ACE, MIR (the most harmed of 50 candidates) and GSS-greedy (every new example scored against 10
batches of the memory, by all weights or by the last layer's) learn the same stream of random
images of MNIST's shape, ten at a time, as ER does. All learners sit in one process and take turns,
a block of a few steps each, so that whatever else the machine does meets all; the figure is the
median, over blocks, of a method's processor seconds by ER's of the same turn. Memories are full,
or nearly so, before the first turn that counts.

By counting operations alone, with the forward pass of one row as 1, a backward pass by weights as 1
and one by activations as 1 (in the MLP nearly nothing, since the first layer needs none): ER's 20
rows make 40 in the MLP and 60 in the CNN. MIR adds 20 or 30 for the virtual step and 100 for its
candidates, seen twice; GSS adds 110 in the MLP, 330 in the CNN, where gradients are formed, and
110 by the last layer alone. Small steps cost less than that says, because a part of what a step
costs does not depend on its rows. A limit is set for the MLP; in the CNN the count alone is 3.2 for
MIR and 6.5 for GSS by all weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

SEED = 0
METHODS = {
    "er": "er(capacity=300)",
    "er_ace": "er_ace(capacity=300, task_free=true)",
    "mir": "mir(capacity=300, candidates=50)",
    "gss": "gss(capacity=300, batches=10)",
    "gss, last layer": "gss(capacity=300, batches=10, weights=last)",
}
LIMITS = {"mir": 3.0, "gss": 3.0}


@dataclass(frozen=True)
class Job:
    """What every method has to do.

    Attributes:
        model: A spec.
        block: Steps before the next method has its turn.
        turns: Of every method.
        skip: Turns at the start that do not count.
        limits: Of the ratios, by method.
    """

    model: str
    block: int
    turns: int
    skip: int
    limits: dict[str, float]


JOBS = {
    "mlp": Job("mlp(width=100, depth=2)", 10, 80, 4, LIMITS),
    "cnn": Job("cnn(width=32, depth=3)", 2, 36, 12, {}),
}


def stream_of(job: Job) -> Any:
    """As many short experiences as there are turns."""
    from holdfast.data import Table
    from holdfast.stream import Experience, Stream

    generator = torch.Generator().manual_seed(SEED)

    def experience(index: int) -> Experience:
        rows = 10 * job.block
        x = torch.randint(256, (rows, 1, 28, 28), generator=generator, dtype=torch.uint8)
        table = Table({"x": x, "y": torch.randint(10, (rows,), generator=generator)})
        return Experience(index, table, table, tuple(range(10)))

    experiences = [experience(index) for index in range(job.turns)]
    return Stream("random", experiences, "class", 10, (1, 28, 28), ((127.5,), (74.0,)))


def turns(job: Job, spec: str) -> Iterator[float]:
    """A method at work; answers with the processor seconds of each turn's steps."""
    from holdfast import catalogue, models
    from holdfast.learner import Learner

    stream = stream_of(job)
    learner = Learner(
        models.build(job.model, stream, seed=SEED),
        catalogue.build(spec),
        optimizer=partial(torch.optim.SGD, lr=0.05),
        batch_size=10,
        seed=SEED,
    )
    learner.meter.counting = False  # of operations, which would be on most of so few steps
    learner.start(stream)
    for experience in stream:
        learner.begin(experience)
        begun = time.process_time()
        learner.train()
        yield time.process_time() - begun


def measure(job: Job) -> dict[str, dict[str, float]]:
    """Processor seconds of all methods, turn by turn."""
    at_work = {name: turns(job, spec) for name, spec in METHODS.items()}
    spent: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(job.turns):
        for name, method in at_work.items():
            spent[name].append(next(method))
    found = {}
    for name, seconds in spent.items():
        pairs = list(zip(seconds, spent["er"], strict=True))[job.skip :]
        ratios = sorted(mine / ers for mine, ers in pairs)
        found[name] = {
            "ratio": statistics.median(ratios),
            "quarter": ratios[len(ratios) // 4],
            "three_quarters": ratios[3 * len(ratios) // 4],
            "ms": 1e3 * statistics.median(mine for mine, _ in pairs) / job.block,
            "turns": len(pairs),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="half of the steps; noisier")
    parser.add_argument("--only", choices=list(JOBS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; a step by one of er, in processor time")
    results: dict[str, dict[str, dict[str, float]]] = {}
    missed = []
    for name, job in JOBS.items():
        if options.only not in (None, name):
            continue
        if options.quick:
            job = Job(**{**vars(job), "turns": job.turns // 2})
        results[name] = measure(job)
        print(f"\n{job.model:<24} {'ratio':>6} {'quartiles':>13} {'ms':>8}  limit")
        for method, f in results[name].items():
            limit = job.limits.get(method)
            beyond = limit is not None and f["ratio"] > limit
            missed += [f"{method} ({name})"] if beyond else []
            verdict = "" if limit is None else f"{limit:.2f}  {'MISSED' if beyond else 'kept'}"
            quartiles = f"{f['quarter']:.2f}-{f['three_quarters']:.2f}"
            print(f"{method:<24} {f['ratio']:6.2f} {quartiles:>13} {f['ms']:8.3f}  {verdict}")
    if options.json:
        options.json.write_text(
            json.dumps({"torch": torch.__version__, "results": results}, indent=2)
        )
    if missed:
        raise SystemExit(f"Beyond the limit: {', '.join(missed)}.")


if __name__ == "__main__":
    main()
