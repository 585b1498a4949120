"""The evaluation protocol: every metric with its function, its direction and where it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from holdfast.errors import unknown

STREAMED = ("none", "cpt", "dap", "cft")


@dataclass(frozen=True)
class Protocol:
    """A metric.

    Attributes:
        name: Of the metric.
        function: Where it is: module and name.
        better: Which direction is good.
        inputs: What it is computed from.
        stages: In which it fits, as in the taxonomy's vocabulary.
        axis: `horizontal`: along a stream; `vertical`: against what was there before a stage.
    """

    name: str
    function: str
    better: Literal["up", "down"]
    inputs: str
    stages: tuple[str, ...]
    axis: Literal["horizontal", "vertical", "both"]

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        module, _, name = self.function.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


_METRICS, _TRACE = "holdfast.metrics", "holdfast.streams.language.trace_metrics"
_CURVE = "scores of every test set every so many steps"
PROTOCOLS = (
    Protocol(
        "average accuracy",
        f"{_METRICS}:average_accuracy",
        "up",
        "the matrix R",
        STREAMED,
        "horizontal",
    ),
    Protocol(
        "average anytime accuracy",
        f"{_METRICS}:average_anytime_accuracy",
        "up",
        "the matrix R",
        STREAMED,
        "horizontal",
    ),
    Protocol(
        "forgetting", f"{_METRICS}:forgetting", "down", "the matrix R", STREAMED, "horizontal"
    ),
    Protocol(
        "backward transfer",
        f"{_METRICS}:backward_transfer",
        "up",
        "the matrix R",
        STREAMED,
        "horizontal",
    ),
    Protocol(
        "forward transfer",
        f"{_METRICS}:forward_transfer",
        "up",
        "the matrix R and scores before any training",
        STREAMED,
        "horizontal",
    ),
    Protocol("plasticity", f"{_METRICS}:plasticity", "up", "the matrix R", STREAMED, "horizontal"),
    Protocol(
        "intransigence",
        f"{_METRICS}:intransigence",
        "down",
        "the matrix R and that of joint training",
        STREAMED,
        "horizontal",
    ),
    Protocol("worst case", f"{_METRICS}:worst_case", "up", _CURVE, STREAMED, "horizontal"),
    Protocol("stability gap", f"{_METRICS}:stability_gap", "down", _CURVE, STREAMED, "horizontal"),
    Protocol(
        "learning curve area",
        f"{_METRICS}:learning_curve_area",
        "up",
        _CURVE,
        STREAMED,
        "horizontal",
    ),
    Protocol(
        "overall performance",
        f"{_TRACE}:overall_performance",
        "up",
        "the matrix R of tasks with metrics of their own",
        ("cft",),
        "horizontal",
    ),
    Protocol(
        "general ability delta",
        f"{_TRACE}:general_delta",
        "up",
        "scores of general suites before and after every stage",
        ("cpt", "dap", "cft"),
        "vertical",
    ),
    Protocol(
        "X-delta",
        "holdfast.language.knowledge:x_delta",
        "up",
        "scores of unrelated sets before and after",
        ("cpt", "dap", "cft", "editing", "unlearning"),
        "vertical",
    ),
    Protocol(
        "FUAR",
        "holdfast.language.knowledge:fuar",
        "down",
        "invariant, updated and new facts, told right or not, before and after",
        ("cpt", "dap", "cft", "editing"),
        "vertical",
    ),
    Protocol(
        "change of a probe set",
        "holdfast.language.verdict:compare_set",
        "up",
        "a probe set measured on both models",
        ("cpt", "dap", "cft", "editing", "unlearning"),
        "vertical",
    ),
    Protocol(
        "losses and answers of probe sets",
        "holdfast.language.probe:measure",
        "up",
        "a model and probe sets",
        ("cpt", "dap", "cft", "editing", "unlearning"),
        "both",
    ),
    Protocol(
        "error while adapting",
        "holdfast.adapt:TestTimeAdapter",
        "down",
        "a stream of inputs whose labels only the counter sees",
        ("test-time",),
        "horizontal",
    ),
    Protocol(
        "reliability, generalization and locality",
        "holdfast.language.editing:told",
        "up",
        "questions about edits, rephrased ones and others, before and after",
        ("editing",),
        "both",
    ),
    Protocol(
        "distance to retraining",
        "holdfast.unlearning.scores:scores",
        "down",
        "the model, one retrained without the forget set, forget, retain and test sets",
        ("unlearning",),
        "vertical",
    ),
    Protocol(
        "utility of a language model",
        "holdfast.language.unlearned:parts_of_utility",
        "up",
        "questions whose answers must stay",
        ("unlearning",),
        "vertical",
    ),
    Protocol(
        "cost",
        "holdfast.cost:Meter",
        "down",
        "a learner at work: seconds, operations, bytes kept",
        ("none", "cpt", "dap", "cft", "test-time", "editing", "unlearning"),
        "both",
    ),
)


def protocols(stage: str | None = None) -> Iterator[Protocol]:
    """The metrics that fit a stage, or all.

    Raises:
        UsageError: If there is no such stage.

    Example:
        >>> [p.name for p in protocols("test-time")]
        ['error while adapting', 'cost']
    """
    stages = list(dict.fromkeys(s for p in PROTOCOLS for s in p.stages))
    if stage is not None and stage not in stages:
        raise unknown("stage", stage, stages)
    return (p for p in PROTOCOLS if stage is None or stage in p.stages)
