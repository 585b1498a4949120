"""Options that commands share, from the command line and from a YAML file.

What a run can be given is listed once, in `holdfast.config`; its fields become options here, so a
new field is an option at once, with its help, its default and its place in YAML files.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from holdfast.cli.messages import in_sentences
from holdfast.config import SETTINGS, Config
from holdfast.edit_config import EDIT_SETTINGS, EditConfig
from holdfast.errors import UsageError, unknown
from holdfast.recipe import SETTINGS as RECIPE
from holdfast.recipe import Recipe
from holdfast.request import SETTINGS as REQUEST
from holdfast.request import Request
from holdfast.settings import kind

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: "", tuple: "PATH"}


@dataclass(frozen=True)
class Option:
    """One option: its name in Python and YAML, and what the command line says of it."""

    name: str
    type: type
    help: str
    default: str = ""
    panel: str = "Learning"
    metavar: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def parameter(self) -> inspect.Parameter:
        """As a parameter that Typer reads; None stands for an option that was not given."""
        shown = f" (default: {self.default})" if self.default else ""
        info = typer.Option(
            None if self.type is not bool else False,
            self.flag,
            help=self.help.rstrip(".") + shown + ".",
            show_default=False,
            rich_help_panel=self.panel,
            metavar=self.metavar or METAVARS[self.type],
        )
        annotation: Any = self.type if self.type is bool else self.type | None
        if self.type is tuple:
            annotation = list[str] | None
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, keyword, default=info, annotation=annotation)


_EVALUATION = {"evaluate_every", "evaluate_subset"}
_MACHINE = {"checkpoint_every", "keep_checkpoints", "device"}


def _panel(name: str) -> str:
    if name in _EVALUATION:
        return "Evaluation"
    return "Files and machine" if name in _MACHINE else "Learning"


def options_of(of: type, panel: Callable[[str], str], but: tuple[str, ...] = ()) -> list[Option]:
    """The settings of a class as options, in their order, but those in `but`."""
    return [
        Option(
            field.name,
            kind(field.name, of),
            field.metadata["help"],
            "" if field.default in (None, "", (), False) else str(field.default),
            panel(field.name),
        )
        for field in fields(of)
        if field.name not in but
    ]


_DATA = {
    "fields",
    "template",
    "length",
    "overlong",
    "pack",
    "whole",
    "skip_bad",
    "limit",
    "holdout",
}
_WHAT = {
    "model",
    "data",
    "test",
    "method",
    "guard",
    "past",
    "lora",
    "baseline",
    "generate",
    "max_drop",
}
_WHERE = {"checkpoint_every", "keep_checkpoints", "device", "trust_remote_code"}


def _tuning_panel(name: str) -> str:
    if name in _WHAT:
        return "What is learned, and what is kept"
    if name in _WHERE:
        return "Files and machine"
    return "Reading the data" if name in _DATA else "Learning"


LEARNING = options_of(Config, _panel, but=("stream", "method"))
"""Every setting of a run but the stream and the method, which are arguments."""

TUNING = options_of(Recipe, _tuning_panel)
"""Everything that a fine-tuning can be given."""


def _unlearning_panel(name: str) -> str:
    if name in ("model", "forget", "retain", "method", "refusals", "lora"):
        return "What is forgotten, and what is kept"
    if name in ("fields", "length", "overlong"):
        return "Reading the data"
    audits = ("reference", "utility", "strangers", "look", "no_writing", "new_tokens")
    if name in audits or name.startswith("relearn"):
        return "Audit"
    return "Files and machine" if name in _WHERE else "Learning"


UNLEARNING = options_of(Request, _unlearning_panel)
"""Everything that an unlearning can be given."""
_MEASURED = {"measure", "no_fluency", "locality"}


def _editing_panel(name: str) -> str:
    if name in _MEASURED:
        return "Evaluation"
    return "Files and machine" if name in {*_WHERE, "seed"} else "What is edited, and how"


EDITING = options_of(EditConfig, _editing_panel)
"""Everything that an editing can be given."""

_FILES = "Files and machine"
SEEDS = Option("seeds", int, "Number of seeds, from --seed upwards.", "1")
STUDY_SEEDS = Option("seeds", int, "Number of seeds, from 0 upwards.", "the study's")
QUICK = Option("quick", bool, "A trial in seconds, whose verdicts are no evidence.")
JOBS = Option("jobs", int, "Parallel processes.", "one a core", panel=_FILES)
OUT = Option("out", Path, "Folder for everything.", "runs/STREAM-TIME", panel=_FILES)
STUDY_OUT = Option(
    "out", Path, "Folder; one with results is gone on with.", "runs/study-NAME", panel=_FILES
)
JSON = Option("json", Path, "Also write the results to this file as JSON.", panel=_FILES)
CONFIG = Option("config", Path, "YAML file with options; the command line wins.", panel=_FILES)
RAY = Option(
    "ray", str, "Do the runs on the Ray cluster at this address (or `local`).", panel=_FILES
)
TRACK = Option(
    "track", str, "Also tell a tracker: tensorboard, wandb, mlflow or trackio.", panel=_FILES
)
PROTOCOL = Option(
    "protocol", str, "benchmark, aligned or agnostic: at an equal budget of memory.", panel="Memory"
)
EXEMPLARS = Option("exemplars", int, "Examples that methods keep.", "2000", panel="Memory")
BUDGET = Option(
    "budget", tuple, "MB of model and examples; agnostic: several.", panel="Memory", metavar="MB"
)
SMALLER = Option(
    "smaller", tuple, "A model for small budgets (agnostic).", panel="Memory", metavar="MODEL"
)
PROTOCOLS = (PROTOCOL, EXEMPLARS, BUDGET, SMALLER)
SPACE = Option(
    "space",
    tuple,
    "What is searched: lr=log(1e-3, 1e-1), er.capacity=range(10, 90), model=choice(mlp, cnn); "
    "may be repeated.",
    panel="Search",
    metavar="NAME=...",
)
TRIALS = Option("trials", int, "How many.", "20", panel="Search")
VALIDATE = Option(
    "validate",
    str,
    "By held-out training data of the first experiences (first) or of all (end).",
    "first",
    panel="Search",
)
RESUME = Option("resume", bool, "Go on with what --out holds.", panel=_FILES)
DRY_RUN = Option("dry_run", bool, "Check everything and tell what is to come.", panel=_FILES)
TUNE_OUT = Option("out", Path, "Folder for everything.", "runs/MODEL-DATA-TIME", panel=_FILES)
EDIT_OUT = Option("out", Path, "Folder for everything.", "runs/MODEL-EDITS-TIME", panel=_FILES)
LIST = Option("list", bool, "List the edits of OUT.", panel=_FILES)
UNDO = Option("undo", int, "Take this edit of OUT back (a number that --list shows).", panel=_FILES)
_FIT = "Only those that fit"
FILTERS = (
    Option("family", str, "Of this family, as the list shows.", panel=_FIT),
    Option("stage", str, "For cpt, dap, cft, test-time, editing, unlearning or none.", panel=_FIT),
    Option("scenario", str, "For class, task, domain or text streams.", panel=_FIT),
    Option("technique", str, "That does this, such as rehearsal or projection.", panel=_FIT),
    Option("no_old_data", bool, "That keep and ask for no example of the past.", panel=_FIT),
    Option("task_free", bool, "That need neither boundaries nor tasks.", panel=_FIT),
    Option("unlabelled", bool, "That learn from examples without labels.", panel=_FIT),
    Option("with_adapters", bool, "That go with adapters on a frozen model.", panel=_FIT),
)
"""What `methods` can be asked for."""
SCHEMA = Option("schema", bool, "The JSON schema of what is known of a method.")
DEBUG = Option("debug", bool, "Show the traceback of an error.", panel=_FILES)


@dataclass(frozen=True)
class Given:
    """The values of options, by name; only those that were given.

    `debug` stands apart, because it says nothing of what is to be done.
    """

    values: Mapping[str, Any]
    debug: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    def any_of(self, *options: Option) -> bool:
        """Whether one of them was given."""
        return any(option.name in self.values for option in options)

    def config(self, stream: str, method: str) -> Config:
        """The configuration of a run with these options."""
        settings = {name: value for name, value in self.values.items() if name in SETTINGS}
        return Config(stream=stream, method=method, **settings)

    def recipe(self) -> Recipe:
        """The fine-tuning with these options."""
        return Recipe(**{name: value for name, value in self.values.items() if name in RECIPE})

    def request(self) -> Request:
        """The unlearning with these options."""
        return Request(**{name: value for name, value in self.values.items() if name in REQUEST})

    def edit_config(self) -> EditConfig:
        """The editing with these options."""
        return EditConfig(**{n: value for n, value in self.values.items() if n in EDIT_SETTINGS})

    def command(self, *words: str, **changed: Any) -> str:
        """The command line that gives the same options again, with some changed."""
        parts = ["holdfast", *words]
        for name, value in {**self.values, **changed}.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                parts.append(flag)
            elif isinstance(value, (list, tuple)):
                parts += [word for item in value for word in (flag, str(item))]
            elif value is not None and value is not False:
                parts += [flag, str(value)]
        return shlex.join(parts)


def takes(*options: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take `options`; it receives them as `given`, and its errors are sentences.

    If `CONFIG` is among them, what the YAML file says counts where the command line is silent.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def wrapper(**arguments: Any) -> None:
            with in_sentences(arguments.get("debug", False)):
                own = {name: arguments.pop(name) for name in own_names}
                values = {n: v for n, v in arguments.items() if not _silent(v)}
                path = values.pop("config", None)
                debug = values.pop("debug", False)
                if path is not None:
                    values = {**from_yaml(path, options), **values}
                command(**own, given=Given(values, debug))

        signature = inspect.signature(command, eval_str=True)
        own_parameters = [p for n, p in signature.parameters.items() if n != "given"]
        own_names = [parameter.name for parameter in own_parameters]
        parameters = [*own_parameters, *(option.parameter() for option in options)]
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _silent(value: Any) -> bool:
    """Whether an option was not given."""
    return value is None or value is False or value == []


def from_yaml(path: Path, options: tuple[Option, ...]) -> dict[str, Any]:
    """The options in a YAML file; names with hyphens or underscores.

    Raises:
        UsageError: If the file is missing, unreadable or not a mapping from options to values.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UsageError(f"{path} is not valid YAML{where}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold lines of `option: value`.")
    accepted = {option.name: option for option in options if option not in (CONFIG, DEBUG)}
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in accepted:
            raise unknown(f"option in {path} called", str(key), accepted)
        if value is not None and value is not False:
            values[name] = _typed(accepted[name], value, path)
    return values


def _typed(option: Option, value: Any, path: Path) -> Any:
    """A YAML value as the option's type; YAML reads 1e-3, which has no point, as text."""
    if option.type is tuple:
        return [value] if isinstance(value, str) else value  # the recipe checks what is in it
    if option.type is Path and isinstance(value, str):
        return Path(value)
    if option.type is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, option.type) and (option.type is bool or not isinstance(value, bool)):
        return value
    wanted = {int: "an integer", float: "a number", str: "text", Path: "a path", bool: "true"}
    raise UsageError(f"{option.name} in {path} must be {wanted[option.type]}; given: {value!r}.")
