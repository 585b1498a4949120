"""Unlearning of a trained classifier: several methods on several forget sets, beside retraining.

Unlearning is good when its result cannot be told from a model that never saw what was to go. So
every number stands beside that of the same run, done again without the forget set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holdfast import augment, catalogue, checkpoint
from holdfast.errors import UsageError, at_least
from holdfast.learner import Learner
from holdfast.optim import schedules
from holdfast.run import environment
from holdfast.unlearning.chosen import Chosen, choose
from holdfast.unlearning.request import request
from holdfast.unlearning.scores import Scores, scores
from holdfast.unlearning.trained import load, retrained

ORIGINAL, RETRAIN = "original", "retrain"

SCHEDULE = "steps(0.5, 0.75, factor=0.1)"

METHODS = ("finetune_retain", "l1_sparse", "random_labels", "salun", "scrub")
"""What is done when no method is named."""


@dataclass(frozen=True)
class Usual:
    """How a method is usually run: passes, and its learning rate as a share of the run's."""

    epochs: int = 10
    share: float = 1.0


USUAL: dict[str, Usual] = {
    "random_labels": Usual(10, 0.2),
    "salun": Usual(10, 0.2),
    "ga": Usual(5, 0.05),
    "scrub": Usual(10, 0.1),
    "boundary_expand": Usual(10, 0.01),
    "boundary_shrink": Usual(10, 0.01),
}
"""Methods that relabel or climb take smaller steps than training does, and those that see the
forget set alone the smallest. These shares came nearest to retraining on random sets of the digits
and of Fashion-MNIST, and are where to begin."""


@dataclass(frozen=True)
class Way:
    """What one method did.

    Attributes:
        method: Its spec; `original`: nothing; `retrain`: the run again without the forget set.
        scores: What was measured.
        gaps: Distance to retraining by measure, and `average`.
        epochs: Passes it made; 0 where it has none of its own.
        lr: Its learning rate; 0 likewise.
        model: Where the model was written; empty: nowhere.
    """

    method: str
    scores: Scores
    gaps: dict[str, float]
    epochs: int = 0
    lr: float = 0.0
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "scores": self.scores.to_dict()}


@dataclass(frozen=True)
class Forgotten:
    """All ways of forgetting one set."""

    chosen: Chosen
    ways: tuple[Way, ...]

    def to_dict(self) -> dict[str, Any]:
        search = self.chosen.selection
        return {
            "forget": self.chosen.name,
            "examples": len(self.chosen.rows),
            "rows": self.chosen.rows.tolist(),
            "search": None if search is None else {**search.to_dict(), "rows": None},
            "methods": [way.to_dict() for way in self.ways],
        }


@dataclass(frozen=True)
class Outcome:
    """What came of it, set by set."""

    run: Path
    config: dict[str, Any]
    settings: dict[str, Any]
    sets: tuple[Forgotten, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "run": str(self.run),
            "config": self.config,
            "settings": self.settings,
            "sets": [each.to_dict() for each in self.sets],
            "environment": self.environment,
        }


def unlearn(
    run: Path | str,
    forget: Sequence[str],
    methods: Sequence[str] = METHODS,
    *,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = SCHEDULE,
    attackers: int = 2000,
    seed: int = 0,
    models: Path | None = None,
    progress: Callable[[str], None] = lambda doing: None,
) -> Outcome:
    """Have a trained classifier forget, by several methods, and compare each with retraining.

    Args:
        run: Folder of a finished `holdfast run`, whose augmentation the methods share.
        forget: Forget sets, as `holdfast.unlearning.chosen.choose` reads them.
        methods: Specs of methods that unlearn.
        epochs: Passes of every method; None: 10, and 5 of gradient ascent.
        lr: Learning rate of every method; None: the run's, and a share of it (`USUAL`) for
            methods that relabel, climb or see the forget set alone.
        batch_size: Examples a step; None: the run's.
        momentum: Of SGD, by which all methods unlearn.
        weight_decay: Likewise.
        schedule: Of the learning rate.
        attackers: Examples of either kind that the attacks are fitted on, at most.
        seed: Of everything that is drawn, retraining apart, which has the run's.
        models: Folder to write every unlearned model to; None: none is written.
        progress: Is told what is being done.

    Raises:
        UsageError: If the run, a set or a method does not exist or does not fit.
        StreamRefused: If a method cannot serve the model.
        Diverged: If a loss becomes NaN or infinite.
    """
    at_least(1, epochs=epochs, batch_size=batch_size, attackers=attackers)
    for name, value in (("lr", lr),):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be above 0; given: {value}.")
    for name, value in (("momentum", momentum), ("weight_decay", weight_decay)):
        if not 0 <= value < 1:
            raise UsageError(f"{name} must be at least 0 and below 1; given: {value}.")
    if not forget:
        raise UsageError("Say what to forget, such as --forget 'random(100)' or 'class(3)'.")
    pace = schedules.build(schedule)
    asked = list(dict.fromkeys(catalogue.canonical(text) for text in methods))
    asked = [name for name in asked if name != RETRAIN]  # it is there in any case
    for name in asked:
        _refuse_others(name)
    trained = load(Path(run))
    altered = trained.config.augment
    rate = float(trained.config.lr or 0.01) if trained.config.optimizer == "sgd" else 0.01
    paces = {name: _pace(name, rate, epochs, lr) for name in asked}

    def learner_of(name: str) -> Learner:
        passes, step = paces[name]
        return Learner(
            deepcopy(trained.model),
            catalogue.build(name),
            optimizer=partial(
                torch.optim.SGD, lr=step, momentum=momentum, weight_decay=weight_decay
            ),
            epochs=passes,
            batch_size=batch_size or trained.config.batch_size or 32,
            schedule=pace,
            augment=augment.build(altered) if altered is not None else None,
            seed=seed,
        )

    found: list[Forgotten] = []
    for text in forget:
        progress(f"choosing {text}")
        chosen = choose(text, trained, seed)
        stream = request(
            trained.table,
            chosen.rows,
            trained.test,
            classes=trained.stream.classes,
            scale=trained.stream.scale,
            class_names=trained.stream.class_names,
            name=chosen.name,
        )
        learners = {name: learner_of(name) for name in asked}
        for learner in learners.values():
            learner.start(stream)  # may refuse, before anything takes time
        kept = stream[0].sets["retain"]
        left = trained.test.where(torch.isin(trained.test["y"], kept["y"].unique()))
        tables = (stream[0].train, kept, left)  # of whole classes that went, nothing is tested
        measure = partial(scores, attackers=attackers, seed=seed)
        progress(f"{chosen.name}: retraining")
        gold = measure(retrained(trained, chosen.rows), *tables)
        still = Learner(trained.model, batch_size=1024, seed=seed)
        still.start(stream)
        before = measure(still, *tables, seconds=0.0)
        ways = [Way(n, s, s.gaps(gold)) for n, s in ((ORIGINAL, before), (RETRAIN, gold))]
        for name, learner in learners.items():
            progress(f"{chosen.name}: {name}")
            learner.learn(stream)
            after = measure(learner, *tables)
            passes, step = paces[name]
            path = _write(learner, models, len(found), name) if models is not None else ""
            ways.append(Way(name, after, after.gaps(gold), passes, step, path))
        found.append(Forgotten(chosen, tuple(ways)))
    settings = {
        "momentum": momentum, "weight_decay": weight_decay, "schedule": schedule,
        "attackers": attackers, "seed": seed,
    }  # fmt: skip
    where = next(iter(trained.model.parameters())).device
    return Outcome(Path(run), asdict(trained.config), settings, tuple(found), environment(where))


def _refuse_others(name: str) -> None:
    """Refuse what does not unlearn."""
    parts = list(catalogue.build(name).parts())
    if not any(part.tags.family == "unlearning" for part in parts):
        accepted = [n for n in catalogue.METHODS if _unlearns(n)]
        raise UsageError(f"{name} does not unlearn. Accepted: {', '.join(accepted)}.")


def _unlearns(name: str) -> bool:
    tags = catalogue.method_class(name).tags
    return tags.family == "unlearning" and "domain" in tags.scenarios


def _pace(name: str, rate: float, epochs: int | None, lr: float | None) -> tuple[int, float]:
    """Passes and learning rate of a method, or of a chain: that of its most careful part."""
    usual = [USUAL.get(each.partition("(")[0], Usual()) for each in name.split("+")]
    careful = min(usual, key=lambda each: each.share)
    return epochs or careful.epochs, lr or rate * careful.share


def _write(learner: Learner, folder: Path, place: int, name: str) -> str:
    plain = "".join(c if c.isalnum() or c in "_-+" else "-" for c in name).strip("-")
    path = folder / f"{place + 1}-{plain}.safetensors"
    checkpoint.save(path, {"method": name, "model": dict(learner.model.state_dict())})
    return str(path)
