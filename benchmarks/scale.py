"""What more processes bring: a grid of runs on one process, two and a local Ray; one run on two.

    python benchmarks/scale.py [--quick] [--json FILE]

A grid is methods times seeds, so that it divides; its time holds the start of every process and of
the cluster, which is why it must be long enough to say something. One run in two processes
exchanges its gradients after every backward pass, so it gains only where a pass is long beside
that: an MLP of a narrow and of a wide kind, each with as many rows a step in all. Every figure is a
time by that of one process on one thread, in the same invocation; both are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS = ("finetune", "er", "der++", "lwf")
WIDTHS = {"narrow": 100, "wide": 2000}
CLI = "from holdfast.cli.app import main; main()"

RUN = """
import sys, time, torch
from holdfast import catalogue, models, streams
from holdfast.learner import Learner
torch.set_num_threads(1)
width, rows, limit = map(int, sys.argv[1:])
stream = streams.build(f"split-digits(experiences=2, limit={limit})")
model = models.build(f"mlp(width={width}, depth=2)", stream, seed=0)
learner = Learner(model, catalogue.build("er(capacity=200)"), batch_size=rows, epochs=4, seed=0)
began = time.perf_counter()
learner.learn(stream)
if learner.ranks.first:
    print(len(stream) * learner.step, time.perf_counter() - began)
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def grid(seeds: int, limit: int, epochs: int, *how: str) -> float:
    """Seconds that a comparison takes, from its start to its report."""
    out = tempfile.mkdtemp(prefix="scale-")
    stream = f"split-digits(limit={limit})"
    asked = ["compare", stream, *METHODS, "--seeds", str(seeds), "--epochs", str(epochs)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CLI, *asked, "--out", f"{out}/grid", *how],
        env=environment(),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return seconds


def together(count: int, width: int, rows: int, limit: int) -> tuple[int, float]:
    """Steps of one run in so many processes, and the seconds that they took, without the start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = environment(WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    if count == 1:
        shared = environment()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(width), str(rows // count), str(limit)],
            env=shared if count == 1 else {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(error for _, error in ended))
    steps, seconds = ended[0][0].split()
    return int(steps), float(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Much less of everything.")
    parser.add_argument("--json", type=Path, help="Write the figures here, too.")
    asked = parser.parse_args()
    seeds, limit, epochs = (2, 60, 2) if asked.quick else (8, 300, 40)
    found: dict[str, Any] = {}

    runs = len(METHODS) * seeds
    print(f"A grid of {runs} runs on {os.cpu_count()} cores, from start to report")
    ways = {
        "1 process": ("--jobs", "1"),
        "2 processes": ("--jobs", "2"),
        "local Ray, 2 cores": ("--ray", "local", "--jobs", "2"),
    }
    for name, how in ways.items():
        seconds = grid(seeds, limit, epochs, *how)
        found[name] = seconds
        print(f"  {name:<20} {seconds:7.1f} s   {found['1 process'] / seconds:5.2f} times as fast")

    rows = 256
    print(f"One run of er, {rows} rows a step in all, without the start")
    for name, width in WIDTHS.items():
        alone = 0.0
        for count in (1, 2):
            steps, seconds = together(count, width, rows, 128 if asked.quick else 700)
            alone = alone or seconds / steps
            found[f"er, {name}, {count}"] = seconds / steps
            processes = "1 process" if count == 1 else f"{count} processes"
            gain = f"{alone * steps / seconds:5.2f} times as fast"
            print(f"  {name:<6} {processes:<13} {1e3 * seconds / steps:7.2f} ms a step   {gain}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
