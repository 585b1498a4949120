"""Nothing is lost: whole processes killed at any moment, gone on with, and compared bit by bit."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from holdfast import checkpoint
from holdfast.testing.comparison import equal

OPTIONS = ["--epochs", "12", "--checkpoint-every", "7", "--evaluate-every", "5"]
OPTIONS += ["--model", "mlp(width=64)", "--head", "growing", "--optimizer-state", "keep"]
KILLS = 50


def command(method: str, folder: Path, *more: str) -> list[str]:
    begin = [sys.executable, "-m", "holdfast", "run", "split-digits", method]
    return [*begin, *OPTIONS, "--out", str(folder), *more]


def outcome(folder: Path) -> dict[str, Any]:
    """What a run left, down to the tensors of its last checkpoint, less what no two runs share."""
    result = json.loads((folder / "result.json").read_text())
    del result["environment"], result["cost"]["seconds"], result["cost"]["peak_memory_bytes"]
    state = checkpoint.load(sorted((folder / "checkpoints").glob("*.safetensors"))[-1])["learner"]
    del state["meter"], state["record"]
    return {"result": result, "state": state}


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return equal(a, b)


@pytest.mark.slow
def test_fifty_runs_killed_at_random_moments_end_as_if_they_had_not_been(
    tmp_path: Path, methods_on_digits: list[str]
) -> None:
    draw, methods = random.Random(0), methods_on_digits
    quiet: dict[str, Any] = {
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }

    def undisturbed(method: str) -> float:
        """Seconds of training; evaluation and checkpoints come on top."""
        folder = tmp_path / f"{method}-whole"
        subprocess.run(command(method, folder), check=True, **quiet)
        seconds: float = json.loads((folder / "result.json").read_text())["cost"]["seconds"]
        return seconds

    def killed(job: tuple[int, str, float]) -> bool:
        number, method, share = job
        folder = tmp_path / f"{method}-{number}"
        process = subprocess.Popen(command(method, folder), **quiet)
        while not (folder / "config.json").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(share * seconds[method])
        process.kill()
        before_its_end = process.wait() == -9
        subprocess.run(command(method, folder, "--resume"), check=True, **quiet)
        assert alike(outcome(folder), outcome(tmp_path / f"{method}-whole")), (method, number)
        return before_its_end

    with ThreadPoolExecutor(2) as pool:
        seconds = dict(zip(methods, pool.map(undisturbed, methods), strict=True))
        numbers, in_time = iter(range(2 * KILLS)), 0
        while in_time < KILLS:  # a run may end before its turn to be killed comes
            some = islice(numbers, KILLS - in_time)
            jobs = [(k, methods[k % len(methods)], draw.random()) for k in some]
            assert jobs, f"only {in_time} of {2 * KILLS} runs were killed before their end"
            in_time += sum(pool.map(killed, jobs))
