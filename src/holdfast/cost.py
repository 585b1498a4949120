"""Cost is a metric: seconds, floating-point operations, peak memory, bytes stored."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Result = TypeVar("Result")

EVERY = 16
"""Up to this experience, operations are counted in each; after it, in ever fewer."""


class Meter:
    """Measures a learner at work.

    Seconds are those of training (hooks included; evaluation, progress and checkpoints excluded).
    Floating-point operations are counted on training steps 0, 1, 2, 4, 8, ... of every experience,
    each count standing for the steps until the next, because counting every step would slow them;
    what happens outside steps (`begin`, `end`, `fit`) is counted in full. Operations that PyTorch's
    counter has no formula for (everything but matrix products, convolutions and attention) are
    taken as free. Counting makes small operations several times slower, so that of a long stream
    only experiences 0 to 16, 32, 64, 128, ... are counted; in the others a step, and each kind of
    work outside steps, is charged what the latest one counted took. `counting` can be switched off,
    and operations are then not told.

    Attributes:
        apart_flops: Operations of what was done `apart`, which are part of all.
        apart_seconds: Seconds, likewise.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.flops = 0
        self.steps = 0
        self.flops_per_step = 0
        self.counting = True
        self.exact = True  # whether the experience at hand is one that is counted
        self.known: dict[str, int] = {}  # operations of each kind of work, as counted last
        self.apart_flops, self.apart_seconds = 0, 0.0
        self._counter: Any = None  # at work
        self._found = 0  # by counters that were at work before it, in the same piece of work
        self._since: float | None = None

    def start(self) -> None:
        """Begin to count seconds."""
        self._since = time.perf_counter()

    def stop(self, wait: bool = True) -> None:
        """Cease to count seconds.

        Args:
            wait: Until a GPU has done what it was given, so that its time is counted too. Not at
                every step, which would slow it.
        """
        if self._since is not None:
            if wait and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def begin(self, experience: int) -> None:
        """Be told which experience is at hand."""
        self.exact = experience <= EVERY or experience & (experience - 1) == 0

    def step(self, index: int, update: Callable[[], Result]) -> Result:
        """Run the training step `index` (of its experience) and charge its operations."""
        self.steps += 1
        if self.counting and self.exact and index & (index - 1) == 0:
            before = self.flops - self.apart_flops
            result = self.counted(update)
            self.flops_per_step = self.flops - self.apart_flops - before
            return result
        self.flops += self.flops_per_step
        return update()

    def counted(self, work: Callable[[], Result], kind: str = "") -> Result:
        """Run `work` and add all its operations.

        Args:
            work: What to run.
            kind: Of work that every experience brings, and that need not be counted in each.
        """
        if not self.counting:
            return work()
        if not self.exact and kind in self.known:
            self.flops += self.known[kind]
            return work()
        self._found = 0
        self._open()
        try:
            result = work()
        finally:
            self._close()
        self.flops += self._found
        if kind:
            self.known[kind] = self._found
        return result

    def apart(self, work: Callable[[], None], times: int) -> None:
        """Do the same piece of work so many times, in a step or between steps, and account for it.

        The first is counted and stands for all. In a step that is counted, none of it is taken for
        what steps cost: few of them do such work.
        """
        began, open_before = time.perf_counter(), self._counter is not None
        if open_before:
            self._close()
        before = self._found
        for place in range(times):
            if place or not self.counting:
                work()
                continue
            self._open()
            try:
                work()
            finally:
                self._close()
            self.flops += times * (self._found - before)
            self.apart_flops += times * (self._found - before)
            self._found = before
        if open_before:
            self._open()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.apart_seconds += time.perf_counter() - began

    def _open(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()

    def _close(self) -> None:
        counter, self._counter = self._counter, None
        counter.__exit__(None, None, None)
        self._found += counter.get_total_flops()

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "flops": self.flops,
            "steps": self.steps,
            "flops_per_step": self.flops_per_step,
            "known": dict(self.known),
            "apart_flops": self.apart_flops,
            "apart_seconds": self.apart_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak begin anew, so that one process can measure several runs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        with open("/proc/self/clear_refs", "w") as handle:
            handle.write("5")
    except OSError:  # no such file off Linux: the peak is then that of the whole process
        return


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the device for CUDA, resident in the process for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as handle:
            for line in handle:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all tensors in a module's state."""
    return sum(v.nbytes for v in module.state_dict().values() if isinstance(v, torch.Tensor))
