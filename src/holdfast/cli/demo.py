"""The demonstration: what forgetting is, and what six methods do about it, in a minute."""

from __future__ import annotations

from holdfast.cli.options import Given
from holdfast.cli.running import run_many

STREAM = "split-digits"
METHODS = ("finetune", "ewc", "lwf", "er", "der++", "joint")
SETTINGS = {
    "model": "mlp",
    "epochs": 10,
    "batch_size": 32,
    "lr": 0.01,
    "momentum": 0.9,
    "evaluate_every": 10,
    "seeds": 3,
}
"""Equal for all methods, none of them tuned."""


def run_demo(given: Given) -> None:
    """Compare `METHODS` on digits that arrive two classes at a time."""
    run_many(STREAM, METHODS, Given({**SETTINGS, **given.values}, given.debug), ["demo"], given)
