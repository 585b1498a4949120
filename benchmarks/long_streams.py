"""Whether memory and time per step stay as they are along a hundred or a thousand experiences.

    python benchmarks/long_streams.py [--quick] [--json FILE]

Experience replay learns each stream in a process of its own; its experiences are divided into
tenths. For every tenth: processor milliseconds of a training step and of what an experience needs
around its steps (medians, evaluation left out), and the memory that the process holds at its end.
The last tenth is held against the second, since the first holds what happens once. How fast the
machine is changes too, in processor time as well: after every experience a calculation that is
always the same is timed (`machine`), and times are held against each other in its measure. Without
HOLDFAST_DATA the digits alone are learned.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STREAMS = {
    "recurring-digits(experiences=1000, limit=96, evaluations=10)": "digits",
    "recurring-mnist(experiences=100, limit=640, evaluations=10)": "mnist",
    "omniglot-1000(experiences=100, evaluations=10)": "omniglot-1000",
    "omniglot-1000(experiences=1000, evaluations=10)": "omniglot-1000",
}
"""By spec: the source that it needs."""
QUICK = {
    "recurring-digits(experiences=100, limit=64, evaluations=5)": "digits",
}
TARGETS = {"step": 1.10, "around": 1.25, "memory": 1.05}
"""The last tenth by the second."""
PARTS = 10
REPEATS = 5
"""Of the calculation that is always the same."""


def resident() -> float:
    """Megabytes that the process holds now."""
    with open("/proc/self/status") as lines:
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


def learn(text: str) -> dict[str, Any]:
    """Learn a stream; what every tenth took."""
    import torch

    from holdfast import models, streams
    from holdfast.learner import Learner, Observer
    from holdfast.methods import ER

    torch.set_num_threads(1)
    begun = time.process_time()
    stream = streams.build(text)
    built = time.process_time() - begun

    weights = [torch.randn(128, 128, requires_grad=True) for _ in range(4)]
    inputs = torch.randn(16, 128)

    def same() -> float:
        """Milliseconds of a calculation like a step's, that knows nothing of the stream."""
        begun = time.process_time()
        for _ in range(REPEATS):
            found = inputs
            for weight in weights:
                found = (found @ weight).relu()
            torch.autograd.grad(found.sum(), weights)
        return 1000 * (time.process_time() - begun) / REPEATS

    class Watch(Observer):
        def __init__(self) -> None:
            self.machine: list[list[float]] = [[] for _ in range(PARTS)]
            self.steps: list[list[float]] = [[] for _ in range(PARTS)]
            self.around: list[list[float]] = [[] for _ in range(PARTS)]
            self.memory = [0.0] * PARTS
            self.last = time.process_time()
            self.first = True

        def on_step(self, learner: Learner) -> None:
            now = time.process_time()
            part = learner.index * PARTS // len(stream)
            # Before its first step an experience is begun; the step itself is not told apart.
            (self.around if self.first else self.steps)[part].append(1000 * (now - self.last))
            self.last, self.first = now, False

        def on_experience(self, learner: Learner) -> None:
            part = (learner.index - 1) * PARTS // len(stream)
            self.memory[part] = resident()
            self.machine[part].append(same())
            self.last, self.first = time.process_time(), True

    watch = Watch()
    learner = Learner(
        models.build("mlp(width=128)", stream, seed=0), ER(capacity=1000), batch_size=8
    )
    record = learner.learn(stream, [watch])
    return {
        "stream": text,
        "build_seconds": built,
        "steps": record.cost["steps"],
        "accuracy": sum(record.matrix[-1]) / len(record.matrix[-1]),
        "step": [statistics.median(part) for part in watch.steps],
        "around": [statistics.median(part) for part in watch.around],
        "machine": [statistics.median(part) for part in watch.machine],
        "memory": watch.memory,
    }


def line(name: str, unit: str, values: Sequence[float]) -> str:
    digits = 2 if unit == "ms" else 1
    return f"{name:<8}{unit:>3}" + "".join(f"{value:8.{digits}f}" for value in values)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a hundred experiences of digits")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(learn(given.one)))
        return 0
    from holdfast.streams.sources import SOURCES, present

    found, missed = [], False
    for text, source in (QUICK if given.quick else STREAMS).items():
        files = SOURCES[source][1]
        if files and not any(map(present, files)):
            print(f"{text}: left out; set HOLDFAST_DATA to the folder of data sets")
            continue
        answer = subprocess.run(
            [sys.executable, __file__, "--one", text], capture_output=True, text=True, check=True
        )
        measured = json.loads(answer.stdout.splitlines()[-1])
        found.append(measured)
        print(f"\n{text}: built in {measured['build_seconds']:.2f} s, {measured['steps']} steps")
        print("tenth      " + "".join(f"{part + 1:>8}" for part in range(PARTS)))
        pace = measured["machine"][-1] / measured["machine"][1]
        print(line("machine", "ms", measured["machine"]) + f"   last by second {pace:.2f}")
        for name, unit in (("step", "ms"), ("around", "ms"), ("memory", "MB")):
            values = measured[name]
            ratio = values[-1] / values[1] / (1.0 if name == "memory" else pace)
            held = ratio <= TARGETS[name]
            missed |= not held
            print(
                line(name, unit, values)
                + f"   last by second {ratio:.2f}, target {TARGETS[name]:.2f}: "
                + ("held" if held else "missed")
            )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
