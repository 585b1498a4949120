"""Protocols of comparison at an equal budget of memory, after the deep class-incremental survey.

A budget counts bytes: of the model as it is used after the last experience, and of the examples
that are kept. Copies of the model that only teach do not count (`holdfast.footprint`).

    benchmark   every method keeps as many examples as the others
    aligned     methods with smaller models keep more of them, until all totals equal the largest
    agnostic    accuracy as a function of the budget, summed up by the area under it

In all three, methods whose first experience is plain training start from one model
(`holdfast.start`), and accuracy is that over all classes so far (`holdfast.analysis`): its mean
over experiences, and the last.

Source: Zhou et al., "Class-incremental learning: a survey" (2024), whose accounting this is; the
equal budget is that of Zhou et al., "A model or 603 exemplars" (2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdfast import catalogue
from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.footprint import example_bytes, memory_bytes
from holdfast.metrics import interval
from holdfast.run import build, resolved
from holdfast.spec import Spec, bind, parse
from holdfast.store import Result

PROTOCOLS = ("benchmark", "aligned", "agnostic")

MB = 2**20
"""Bytes of the unit in which budgets are told."""

POINTS = 5
"""Budgets of an agnostic comparison that names none."""

_CAPACITIES = ("capacity", "exemplars")
"""Arguments by which methods are told how many examples to keep, the first that there is."""


@dataclass(frozen=True)
class Allotment:
    """What one method is given under one budget.

    Attributes:
        method: As it was asked for.
        spec: The same with the number of examples that it may keep.
        model: Spec of the model that it begins with.
        exemplars: How many examples; None: it keeps none.
        planned: Bytes of model and examples after the last experience, as planned.
        budget: Bytes that it may have.
    """

    method: str
    spec: str
    model: str
    exemplars: int | None
    planned: int
    budget: int


class Sizes:
    """What methods' models come to on a stream, found by growing them without training.

    Growth depends on the description of the experiences alone, so nothing has to be learned.

    Args:
        base: What is common to all runs.

    Example:
        >>> sizes = Sizes(Config("split-digits", "er", model="mlp(width=8, depth=1)"))
        >>> sizes.example, sizes.after("er", "mlp(width=8, depth=1)")
        (64, 2440)
    """

    def __init__(self, base: Config) -> None:
        _, stream = build(replace(base, method="finetune", shared_start=False))
        self.base = replace(resolved(base, stream), shared_start=False)
        self.example = example_bytes(stream)
        self._known: dict[tuple[str, str], tuple[int, int]] = {}

    @property
    def model(self) -> str:
        """Of all methods that are not given a smaller one."""
        return str(self.base.model)

    def after(self, method: str, model: str) -> int:
        """Bytes deployed after the last experience, examples apart."""
        return self._grown(method, model)[1]

    def grows(self, method: str) -> bool:
        """Whether a method's model grows by more than the head's rows for new classes."""
        first, last = self._grown(method, self.model)
        plain = self._grown("finetune", self.model)
        return last - first > plain[1] - plain[0]

    def _grown(self, method: str, model: str) -> tuple[int, int]:
        if (method, model) not in self._known:
            self._known[method, model] = _grown(replace(self.base, method=method, model=model))
        return self._known[method, model]


def _grown(config: Config) -> tuple[int, int]:
    """Bytes deployed after the first and after the last experience, examples apart."""
    learner, stream = build(config)
    late = [type(part).__name__ for part in learner.method.parts() if not part.size_known]
    if late:
        raise UsageError(
            f"{late[0]} takes on what its predictions need while it learns, so that its size is "
            "not known beforehand, and no budget can be shared out with it: leave it out."
        )
    learner.start(stream)
    found = []
    with learner.chance.mine():
        for experience in stream:
            learner.expand(experience)
            footprint = memory_bytes(learner)
            found.append(footprint.deployed - footprint.examples)
    return found[0], found[-1]


def keeps_examples(method: str) -> bool:
    """Whether a method can be told how many examples to keep.

    Example:
        >>> [keeps_examples(m) for m in ("er", "wa", "ewc", "er+wa", "ewc+lwf")]
        [True, True, False, True, False]
    """
    return _told(method) is not None


def with_exemplars(method: str, count: int) -> str:
    """A method's spec with another number of examples to keep.

    Of a chain, the first part with a memory that is always there is told; one for which examples
    are an addition (`wa`) only if there is no such part.

    Raises:
        UsageError: If it cannot be told, because it keeps none.

    Example:
        >>> with_exemplars("er(200, storage=herding)+wa", 731)
        'er(capacity=731, storage=herding)+wa'
        >>> with_exemplars("wa(clip_weights=false)", 100)
        'wa(clip_weights=false, exemplars=100)'
    """
    told = _told(method)
    if told is None:
        raise UsageError(f"{method} keeps no examples, so that it can be given no number of them.")
    place, name = told
    specs = parse(method)
    arguments = bind(specs[place], catalogue.method_class(specs[place].name), "method")
    specs[place] = Spec(specs[place].name, (), {**arguments, name: count})
    return "+".join(map(str, specs))


def _told(method: str) -> tuple[int, str] | None:
    """Which part of a chain is told its number of examples, and by which argument."""
    entries = [catalogue.entry(spec.name) for spec in parse(method)]
    for name in _CAPACITIES:
        for place, entry in enumerate(entries):
            if "examples" in entry.tags.keeps and name in entry.arguments:
                return place, name
    return None


def benchmark(sizes: Sizes, methods: Sequence[str], exemplars: int) -> list[Allotment]:
    """The same number of examples for every method that keeps any."""
    found = []
    for method in methods:
        planned, count = sizes.after(method, sizes.model), None
        if keeps_examples(method):
            planned, count = planned + exemplars * sizes.example, exemplars
        found.append(_allotment(method, sizes.model, count, planned, planned))
    return found


def aligned(
    sizes: Sizes, methods: Sequence[str], exemplars: int, budget: int | None = None
) -> list[Allotment]:
    """Examples in place of parameters, so that all totals are equal after the last experience.

    Args:
        sizes: Of the models.
        methods: Those that keep no examples stay as they are, below the budget.
        exemplars: That the method with the largest model keeps.
        budget: In bytes; None: that method's total.

    Raises:
        UsageError: If a method does not fit into the budget.
    """
    plain = benchmark(sizes, methods, exemplars)
    if budget is None:
        budget = max(allotment.planned for allotment in plain)
    return [_filled(sizes, one.method, sizes.model, budget) for one in plain]


def agnostic(
    sizes: Sizes,
    methods: Sequence[str],
    exemplars: int,
    budgets: Sequence[int] | None = None,
    smaller: Sequence[str] = (),
) -> list[list[Allotment]]:
    """Every method under every budget, smallest first.

    A method whose model does not grow has the model of all, and as many examples as fit beside it.
    One whose model grows begins with the largest model, of `smaller` and that of all, that in the
    end leaves room for `exemplars`, and has as many examples as then fit.

    Args:
        sizes: Of the models.
        methods: Each keeps examples.
        exemplars: The least number of them.
        budgets: In bytes; None: five, evenly from the plain model with `exemplars` to the largest
            model with as many.
        smaller: Specs of models.

    Raises:
        UsageError: If a method keeps no examples, or has no model that fits.
    """
    for method in methods:
        if not keeps_examples(method):
            raise UsageError(
                f"{method} keeps no examples, so that a larger budget changes nothing for it: "
                "leave it out of an agnostic comparison."
            )
    if budgets is None:
        least = sizes.after("finetune", sizes.model)
        most = max(sizes.after(method, sizes.model) for method in methods)
        room = exemplars * sizes.example
        steps = np.linspace(least + room, most + room, POINTS) if most > least else [least + room]
        budgets = [round(float(step)) for step in steps]
    return [
        [_filled(sizes, m, _fitting(sizes, m, exemplars, budget, smaller), budget) for m in methods]
        for budget in sorted(set(budgets))
    ]


def _fitting(sizes: Sizes, method: str, exemplars: int, budget: int, smaller: Sequence[str]) -> str:
    candidates = [sizes.model, *(smaller if sizes.grows(method) else ())]
    taken = {model: sizes.after(method, model) + exemplars * sizes.example for model in candidates}
    fitting = [model for model in candidates if taken[model] <= budget]
    if not fitting:
        raise UsageError(
            f"Under {budget / MB:.3f} MB {method} has no room for {exemplars} examples beside "
            f"{' or '.join(candidates)}: the least is {min(taken.values()) / MB:.3f} MB. Give a "
            "larger budget, fewer examples or, to a method whose model grows, a smaller model."
        )
    return max(fitting, key=lambda model: taken[model])


def _filled(sizes: Sizes, method: str, model: str, budget: int) -> Allotment:
    """As many examples as the budget has room for."""
    taken = sizes.after(method, model)
    if not keeps_examples(method):
        if taken > budget:
            raise _too_small(method, model, taken, budget)
        return _allotment(method, model, None, taken, budget)
    count = (budget - taken) // sizes.example
    if count < 1:
        raise _too_small(method, model, taken + sizes.example, budget)
    return _allotment(method, model, count, taken + count * sizes.example, budget)


def _too_small(method: str, model: str, least: int, budget: int) -> UsageError:
    return UsageError(
        f"{method} with {model} takes at least {least / MB:.3f} MB; given: {budget / MB:.3f} MB."
    )


def _allotment(method: str, model: str, count: int | None, planned: int, budget: int) -> Allotment:
    spec = catalogue.canonical(method) if count is None else with_exemplars(method, count)
    return Allotment(method, spec, model, count, planned, budget)


def cell(base: Config, allotment: Allotment, seed: int) -> Config:
    """The run of an allotment under a seed."""
    return replace(
        base,
        method=allotment.spec,
        model=allotment.model,
        seed=seed,
        shared_start=True,
        analyse=True,
    )


def accuracies(result: Result) -> list[float]:
    """Accuracy over all classes so far, after every experience.

    Raises:
        UsageError: If the run was not analysed.
    """
    found = [note["seen_accuracy"] for note in result.record.notes if "seen_accuracy" in note]
    if len(found) != len(result.record.names):
        raise UsageError(f"The run of {result.method} has no analysis: run it with analyse.")
    return found


def standing(result: Result) -> dict[str, Any]:
    """What a protocol reports of one run.

    `average` and `last` accuracy over all classes so far, the same of the nearest exemplar mean
    (None without one), the bytes that were really held, and whether the start was shared.
    """
    seen = accuracies(result)
    notes = [note for note in result.record.notes if "seen_accuracy" in note]
    means = [note.get("nearest_mean_accuracy") for note in notes]
    cost = result.record.cost
    return {
        "average": sum(seen) / len(seen),
        "last": seen[-1],
        "curve": seen,
        "nearest_mean": means,
        "matrix": result.record.matrix,
        "confusion": notes[-1]["confusion"],
        "row_norms": notes[-1].get("row_norms"),
        "examples": cost["examples"],
        "deployed_bytes": cost["deployed_bytes"],
        "whole_bytes": cost["whole_bytes"],
        "shared_start": not result.record.steps[0],
    }


def area(budgets: Sequence[float], values: Sequence[float]) -> float:
    """Area under accuracy (a fraction) over budgets in MB, by trapezoids.

    Raises:
        UsageError: If there are fewer than two budgets.

    Example:
        >>> area([1.0, 2.0, 4.0], [0.5, 0.7, 0.7])
        2.0
    """
    if len(budgets) < 2:
        raise UsageError(f"An area needs at least two budgets; given: {len(budgets)}.")
    return float(np.trapezoid(np.asarray(values), np.asarray(budgets)))


def ranks(values: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """The place of every method: one more than there are methods that are surely better.

    Another is surely better when the whole 95 % interval of the difference, seed by seed, lies
    above zero; methods that cannot be told apart from the best share the first place. With a single
    seed nothing is known of chance, and the numbers alone decide.

    Args:
        values: By method, one number a seed, larger is better; the same seeds in the same order.

    Example:
        >>> ranks({"a": [0.9, 0.91, 0.9], "b": [0.91, 0.9, 0.9], "c": [0.5, 0.52, 0.51]})
        {'a': 1, 'b': 1, 'c': 3}
    """

    def better(one: Sequence[float], other: Sequence[float]) -> bool:
        differences = [a - b for a, b in zip(one, other, strict=True)]
        mean, half = interval(differences)
        return mean > 0 if len(differences) == 1 else mean - half > 0

    return {
        method: 1 + sum(better(other, own) for other in values.values())
        for method, own in values.items()
    }
