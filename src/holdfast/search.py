"""Search for settings that does not peek: no test set is looked at until a choice has been made.

Every trial is a run in which a part of the training data is held out and scored in the test sets'
place (`holdfast.streams.validation`). Two protocols say of which experiences:

    first   the first few experiences are learned, and nothing after them is seen
    end     all are learned, and held-out data of all are scored in the end

Continual learners do not have the second in use, since it goes through the whole stream for every
trial; `first` is what one could do before the rest of the stream has arrived (Chaudhry et al.,
"Efficient lifelong learning with A-GEM", 2019). Which one it was stands in every result.

Values are proposed by Optuna's tree-structured Parzen estimator. A trial's proposal depends on the
seed, its number and the trials of earlier batches alone, so that a search is the same however many
processes share it and however often it was interrupted. What has finished is kept in
`trials.sqlite`, Optuna's own format, and every trial's run in a folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from holdfast import catalogue
from holdfast.compare import Crew, Watcher, compare, default_jobs, grid
from holdfast.config import SETTINGS, Config
from holdfast.errors import RunError, UsageError, unknown
from holdfast.run import locked
from holdfast.spec import Spec, bind, parse, parse_one
from holdfast.store import Result, Store

if TYPE_CHECKING:
    import optuna

Protocol = Literal["first", "end"]

BATCH = 4
"""Trials proposed together, knowing of one another nothing."""

FIRST = 3
"""Experiences that `first` learns where no number is given."""

SHARE = 0.1
"""Of the training data that is held out where no share is given."""

FIXED = ("stream", "method", "seed", "until", "validation", "device", "shared_start", "analyse")
"""Settings that a search has no say in."""


@dataclass(frozen=True)
class Dimension:
    """One thing to be chosen.

    Attributes:
        name: A setting of a run, or `METHOD.ARGUMENT`.
        kind: `range` (uniform), `log` (uniform in the logarithm) or `choice`.
        values: Both ends, or everything that there is to choose from.

    Example:
        >>> Dimension.read("lr=log(1e-3, 1e-1)")
        Dimension(name='lr', kind='log', values=(0.001, 0.1))
    """

    name: str
    kind: str
    values: tuple[Any, ...]

    @staticmethod
    def read(text: str) -> Dimension:
        """A dimension from `NAME=range(a, b)`, `NAME=log(a, b)` or `NAME=choice(a, b, ...)`.

        Between two whole numbers, `range` and `log` propose whole numbers.

        Raises:
            UsageError: If the text says nothing of that kind.
        """
        name, equals, what = (part.strip() for part in text.partition("="))
        accepted = "accepted: NAME=range(a, b), NAME=log(a, b), NAME=choice(a, b, ...)"
        if not (name and equals and what):
            raise UsageError(f"Cannot read the space {text!r}; {accepted}.")
        spec = parse_one(what)
        if spec.name not in ("range", "log", "choice") or spec.named:
            raise UsageError(f"Cannot read the space {text!r}; {accepted}.")
        values = spec.positional
        if spec.name == "choice":
            plain = all(isinstance(v, (str, int, float)) or v is None for v in values)
            if len(values) < 2 or not plain:
                raise UsageError(f"{text!r} must name two or more numbers or words to choose from.")
            return Dimension(name, spec.name, values)
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(values) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise UsageError(f"{text!r} must name two numbers, the smaller one first.")
        if not all(map(math.isfinite, numbers)) or (spec.name == "log" and numbers[0] <= 0):
            raise UsageError(f"{text!r}: the ends of a log must be above 0 and finite.")
        return Dimension(name, spec.name, values)

    def propose(self, trial: optuna.Trial) -> Any:
        """A value for a trial."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.name, self.values)
        low, high = self.values
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(self.name, low, high, log=self.kind == "log")
        return trial.suggest_float(self.name, low, high, log=self.kind == "log")

    def __str__(self) -> str:
        return f"{self.name}={Spec(self.kind, self.values)}"


@dataclass(frozen=True)
class Plan:
    """What is searched, where, and by what.

    Attributes:
        base: Everything that is not searched, with the seed of the search.
        space: What is searched.
        protocol: `first` or `end`.
        trials: How many.
        share: Of every experience's training data that is held out.
        first: How many experiences `first` learns.

    Raises:
        UsageError: If a number is out of range, or a dimension is of nothing that can be chosen.
    """

    base: Config
    space: tuple[Dimension, ...]
    protocol: Protocol = "first"
    trials: int = 20
    share: float = SHARE
    first: int = FIRST

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise unknown("protocol of validation", self.protocol, get_args(Protocol))
        if not self.space:
            raise UsageError("A search needs a space; such as: lr=log(0.001, 0.1).")
        if self.trials < 1 or self.first < 1:
            least = min(self.trials, self.first)
            raise UsageError(f"trials and first experiences must be at least 1; given: {least}.")
        names = [dimension.name for dimension in self.space]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"The space names {name!r} twice.")
        ends = [{d.name: value for d in self.space for value in [d.values[i]]} for i in (0, -1)]
        for values in ends:
            self.config(values)

    @property
    def told(self) -> str:
        """The protocol in a sentence."""
        where = (
            "all experiences"
            if self.protocol == "end"
            else (
                f"the first {self.first} experiences, the only ones that were learned"
                if self.first > 1
                else "the first experience, the only one that was learned"
            )
        )
        return (
            f"Chosen by the mean accuracy on {100 * self.share:g} % of the training data of "
            f"{where}, held out; no test set was looked at."
        )

    def config(self, values: Mapping[str, Any]) -> Config:
        """The run with these values in place."""
        settings: dict[str, Any] = {}
        specs = parse(self.base.method)
        for name, value in values.items():
            part, dot, argument = name.partition(".")
            if not dot:
                if name in FIXED or name not in SETTINGS:
                    raise unknown(
                        "setting to search", name, [s for s in SETTINGS if s not in FIXED]
                    )
                settings[name] = value
                continue
            places = [place for place, spec in enumerate(specs) if spec.name == part]
            if not places:
                raise unknown("method to search", part, [spec.name for spec in specs])
            spec = specs[places[0]]
            cls = catalogue.method_class(spec.name)
            given = bind(spec, cls, "method")
            changed = Spec(spec.name, (), {**given, argument: value})
            bind(changed, cls, "method")
            specs[places[0]] = changed
        return replace(self.base, method="+".join(map(str, specs)), **settings)

    def trial(self, values: Mapping[str, Any]) -> Config:
        """The run by which values are judged."""
        until = self.first if self.protocol == "first" else None
        return replace(self.config(values), until=until, validation=self.share)

    def to_dict(self) -> dict[str, Any]:
        return {
            "base": self.base.to_dict(),
            "space": [str(dimension) for dimension in self.space],
            "protocol": self.protocol,
            "share": self.share,
            "first": self.first if self.protocol == "first" else None,
        }


@dataclass(frozen=True)
class Trial:
    """One trial: what was proposed, and what it gave (None: its run failed, for the reason)."""

    number: int
    values: Mapping[str, Any]
    score: float | None
    error: str | None = None


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        trials: All of them.
        best: That with the highest score, the first of several.
        config: Of the best, as it is to be tested.
        results: On the test sets, one a seed.
    """

    trials: tuple[Trial, ...]
    best: Trial
    config: Config
    results: tuple[Result, ...] = ()


def search(plan: Plan, out: Path, jobs: int | None = None, watcher: Watcher | None = None) -> Found:
    """Do all trials, or those that are left, and return the best.

    Args:
        plan: What is searched.
        out: Its folder; one that holds a part of this search is gone on with. More trials may be
            asked for than before.
        jobs: Processes, of one thread each; None: one a core.
        watcher: Is told of every trial's run.

    Raises:
        UsageError: If Optuna is not installed, or if `out` holds another search.
        RunError: If no trial could be finished.
        Stopped: On a keyboard interrupt; what has finished is kept.
    """
    optuna = _optuna()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        study = optuna.create_study(
            storage=f"sqlite:///{out / 'trials.sqlite'}",
            study_name="holdfast",
            direction="maximize",
            load_if_exists=True,
        )
        _check(study, plan, out)
        while True:
            waiting = [t for t in study.get_trials(deepcopy=False) if not t.state.is_finished()]
            if not waiting:
                count = len(study.get_trials(deepcopy=False))
                if count >= plan.trials:
                    break
                waiting = [study.ask() for _ in range(min(BATCH, plan.trials - count))]
            for trial in waiting:
                _propose(optuna, study, plan, trial.number)
            numbers = [trial.number for trial in waiting]
            _judge(optuna, study, plan, numbers, out, jobs, watcher or Watcher())
        return _found(study, plan)


def confirmed(
    plan: Plan,
    found: Found,
    seeds: int,
    out: Path,
    jobs: int | None = None,
    watcher: Watcher | None = None,
) -> Found:
    """Run the choice on the test sets, with so many seeds from that of the search on."""
    start = plan.base.seed
    cells = grid(found.config, [found.config.method], range(start, start + seeds))
    done = compare(cells, out / "test", jobs, watcher)
    if done.failures:
        raise RunError(f"The choice could not be tested. {done.failures[0].error}")
    return replace(found, results=tuple(done.results))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "A search needs Optuna, which is not installed: pip install 'holdfast[search]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _check(study: Any, plan: Plan, out: Path) -> None:
    """Refuse a folder that holds another search; else say whose it is."""
    held = study.user_attrs.get("plan")
    mine = plan.to_dict()
    if held is None:
        study.set_user_attr("plan", mine)
    elif held != mine:
        differing = [name for name in mine if held.get(name) != mine[name]]
        raise UsageError(
            f"{out} holds a search with another {', '.join(differing)}. Go on with the same "
            "options, or choose another --out."
        )


def _propose(optuna: Any, study: Any, plan: Plan, number: int) -> None:
    """Give a trial its values, each drawn by a seed of its own; those that it has it keeps.

    So a search that was interrupted at any moment goes on as if it had not been.
    """
    trial = _trial(optuna, study, number)
    for place, dimension in enumerate(plan.space):
        drawn = (plan.base.seed * 1_000_003 + number * 1_009 + place) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=drawn)
        dimension.propose(trial)


def _trial(optuna: Any, study: Any, number: int) -> Any:
    """A trial by its number, as one that can be written to."""
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _judge(
    optuna: Any,
    study: Any,
    plan: Plan,
    numbers: Sequence[int],
    out: Path,
    jobs: int | None,
    watcher: Watcher,
) -> None:
    """Run trials that have their values, and tell what they gave in the order of their numbers."""
    trials = study.get_trials(deepcopy=False)
    cells = {number: plan.trial(trials[number].params) for number in numbers}
    with Store(Path(":memory:")) as store:
        crew = _Trials(cells, out, store, watcher)
        watcher.on_start(crew.cells, 0)
        crew.work(min(jobs or default_jobs(plan.base), len(crew.cells)))
    for number, cell in cells.items():
        result, error = crew.given[cell]
        score = float("nan") if result is None else result.metrics["average_accuracy"]
        if math.isfinite(score):
            study.tell(number, score)
            continue
        _trial(optuna, study, number).set_user_attr("error", error or "It has no score.")
        study.tell(number, state=optuna.trial.TrialState.FAIL)


class _Trials(Crew):
    """Workers that run trials, each in a folder by its number."""

    def __init__(
        self, cells: Mapping[int, Config], out: Path, store: Store, watcher: Watcher
    ) -> None:
        super().__init__(list(dict.fromkeys(cells.values())), out, store, watcher)
        self.numbers = {cell: number for number, cell in reversed(list(cells.items()))}
        self.given: dict[Config, tuple[Result | None, str | None]] = {}

    def _folder(self, cell: Config) -> Path:
        return self.out / "trials" / f"{self.numbers[cell]:05d}"

    def _left(self) -> int:
        return sum(cell not in self.given for cell in self.cells)

    def _keep(self, cell: Config, result: Result) -> None:
        self.given[cell] = result, None

    def _lose(self, cell: Config, error: str) -> None:
        self.given[cell] = None, error


def _found(study: Any, plan: Plan) -> Found:
    trials = tuple(
        Trial(t.number, t.params, t.value, t.user_attrs.get("error"))
        for t in study.get_trials(deepcopy=False)
    )
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        reasons = [trial.error for trial in trials if trial.error]
        raise RunError(f"No trial of the search could be finished. {''.join(reasons[:1])}")
    best = max(scored, key=lambda trial: (trial.score, -trial.number))
    return Found(trials, best, plan.config(best.values))
