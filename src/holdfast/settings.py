"""Settings: named values with types and ranges, as one value that can be written and read.

Nothing here imports PyTorch, so that the command line can list its options at once.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from holdfast.errors import UsageError, unknown

FORMAT = 1
"""Of settings as JSON; raised when older code could misread what newer code writes."""


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of some settings with its range and the line that explains it on the command line."""
    limits = {"least": least, "above": above, "below": below, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """Values that something is given by name: checked, written as JSON, read again, compared.

    A class with its own fields says in `called` what its values are together. Fields are made by
    `setting`; those without a default must be there when JSON is read.
    """

    called: ClassVar[str]

    def __post_init__(self) -> None:
        for name in self.names():
            object.__setattr__(self, name, checked(name, getattr(self, name), type(self)))

    @classmethod
    def names(cls) -> list[str]:
        """The names of all settings, in their order."""
        return [field.name for field in fields(cls)]

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, with the format's number."""
        values = {name: getattr(self, name) for name in self.names()}
        listed = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        return {"format": FORMAT, **listed}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], where: str | None = None) -> Self:
        """The inverse of `to_dict`.

        Args:
            where: What to call it in messages; None: by what it is.

        Raises:
            UsageError: If it comes from a newer version, has keys that do not exist, lacks some or
                has values out of range.
        """
        where = where or f"The {cls.called}"
        written = state.get("format", FORMAT)
        if not isinstance(written, int) or written > FORMAT:
            raise UsageError(
                f"{where} was written by a newer holdfast (format {written}; this one reads up to "
                f"{FORMAT}). Update holdfast to use it."
            )
        values = {name: value for name, value in state.items() if name != "format"}
        for name in values:
            if name not in cls.names():
                raise unknown("setting", name, cls.names())
        for given in fields(cls):
            if given.default is MISSING and given.name not in values:
                raise UsageError(f"{where} names no {given.name}.")
        return cls(**values)

    def write(self, path: Path) -> None:
        """Write them as JSON, wholly or not at all."""
        from holdfast.checkpoint import write_atomically

        write_atomically(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote.

        Raises:
            UsageError: If the file is missing, unreadable or holds something else.
        """
        return cls.from_dict(read_json(path, f"a {cls.called}"), str(path))

    def differences(self, other: Self) -> list[str]:
        """What differs from `other`, one phrase a setting; empty if they are equal."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.names())
        return [
            f"{name} is {_shown(theirs)} there and {_shown(mine)} here"
            for name, mine, theirs in pairs
            if mine != theirs
        ]

    def refuse_other(self, held: Self, where: str) -> None:
        """Raise `UsageError` if settings that a folder holds are not these; `where` says whose."""
        differences = self.differences(held)
        if differences:
            raise UsageError(
                f"{where} with other options: {'; '.join(differences)}. "
                "Resume with the same options, or choose another --out."
            )

    def held_in(self, out: Path, name: str, resume: bool, what: str) -> Self | None:
        """The settings of work that a folder holds already; None where it can begin there.

        Args:
            out: The folder; it must be new or empty, or hold such work.
            name: Of the file that holds the settings, which have a `model` and a `method`.
            resume: Whether to go on with what is there was asked for.
            what: Kind of work, with its article: `"a fine-tuning"`.

        Raises:
            UsageError: If `out` is a file or holds something else, if work is there and was not
                asked for, or the other way round.
        """
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out needs a folder; {out} is a file.")
        if not (out / name).exists():
            if resume:
                raise UsageError(f"There is no {what.split(' ', 1)[1]} in {out} to resume.")
            if out.exists() and any(out.iterdir()):
                raise UsageError(f"{out} is not empty; choose another --out.")
            return None
        held = type(self).read(out / name)
        if not resume:
            told = held.to_dict()
            raise UsageError(
                f"{out} already holds {what} of {told['model']} with {told['method']}: --resume "
                "goes on with it, another --out begins anew."
            )
        return held


_hints = cache(get_type_hints)


def kind(name: str, of: type) -> type:
    """The type of a setting, without None."""
    hint = _hints(of)[name]
    found: type = get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
    return get_origin(found) or found


def checked(name: str, value: Any, of: type) -> Any:
    """`value`, if it may stand for the setting `name`.

    Args:
        of: The class whose setting it is.

    Raises:
        UsageError: If it has the wrong type or is out of range.
    """
    wanted = kind(name, of)
    limits: Mapping[str, Any] = next(f for f in fields(of) if f.name == name).metadata
    if value is None and isinstance(_hints(of)[name], types.UnionType):
        return None
    if wanted is tuple:
        return _texts(name, value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)
    if not fits:
        article = "an" if wanted is int else "a"
        kinds = {int: "integer", float: "number", str: "text", bool: "truth value"}
        raise UsageError(f"{name} must be {article} {kinds[wanted]}; given: {value!r}.")
    if limits.get("choices") and value not in limits["choices"]:
        raise unknown(name, value, limits["choices"])
    least, above, below = limits.get("least"), limits.get("above"), limits.get("below")
    asked = [
        *([f"at least {least}"] if least is not None else []),
        *([f"above {above}"] if above is not None else []),
        *([f"below {below}"] if below is not None else []),
    ]
    if asked and not (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        raise UsageError(f"{name} must be {' and '.join(asked)}; given: {value}.")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One or several texts, such as paths."""
    several = [value] if isinstance(value, (str, Path)) else value
    if not isinstance(several, (list, tuple)) or not all(
        isinstance(item, (str, Path)) for item in several
    ):
        raise UsageError(f"{name} must be text or a list of texts; given: {value!r}.")
    return tuple(str(item) for item in several)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UsageError: If the file is missing, unreadable or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged or not {what}: it is not valid JSON.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not {what}: it holds no JSON object.")
    return content


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)
