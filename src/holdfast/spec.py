"""Spec strings: how methods, streams and models are named in one line.

    er(capacity=200)+wa
    split-digits(experiences=5)
    der++(alpha=0.2, beta=0.5)

A spec is a name with optional arguments; `+` joins several. Arguments are Python literals,
fractions (`1/256`) or words (`true`, `false`, `none` and any other word, which is a string), by
name or by position.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import UsageError, unknown

_NAME = re.compile(r"[A-Za-z][\w-]*(?:\+\+)?")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_WORDS = {"true": True, "false": False, "none": None}
_KEYWORDS = "|".join(word for word in keyword.kwlist if word.islower())  # not None, True, False
_KEYWORD = re.compile(rf"(?:(?<=[=,[])|^)(\s*)({_KEYWORDS})(?=\s*(?:[],]|$))")
"""A word that Python keeps for itself, standing where a value does."""


@dataclass(frozen=True)
class Spec:
    """A name with arguments."""

    name: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = [_show(v) for v in self.positional]
        shown += [f"{k}={_show(v)}" for k, v in self.named.items()]
        return f"{self.name}({', '.join(shown)})" if shown else self.name


def parse(text: str) -> list[Spec]:
    """The specs joined by `+` in `text`.

    Raises:
        UsageError: If the text is not of that form.

    Example:
        >>> [str(spec) for spec in parse("er(capacity=200)+wa")]
        ['er(capacity=200)', 'wa']
    """
    specs, rest = [], text.strip()
    while True:
        found = _NAME.match(rest)
        if not found:
            raise UsageError(
                f"Cannot read {text!r} at {rest[:20]!r}; accepted: name, name(key=value, ...), "
                "joined by '+'."
            )
        name, rest = found.group(), rest[found.end() :].lstrip()
        positional: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        if rest.startswith("("):
            inside, rest = _closing(rest, text)
            positional, named = _arguments(inside, text)
        specs.append(Spec(name, positional, named))
        if not rest:
            return specs
        if not rest.startswith("+"):
            raise UsageError(f"Cannot read {text!r} at {rest[:20]!r}; expected '+' or the end.")
        rest = rest[1:].lstrip()


def parse_one(text: str) -> Spec:
    """The only spec in `text`."""
    specs = parse(text)
    if len(specs) > 1:
        raise UsageError(f"{text!r} names {len(specs)} things; one is accepted here.")
    return specs[0]


def bind(spec: Spec, build: Callable[..., Any], kind: str) -> dict[str, Any]:
    """The arguments of `spec` by name, checked against the parameters of `build`.

    Raises:
        UsageError: If an argument does not exist, is given twice or has another type than its
            default.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if len(spec.positional) > len(parameters):
        raise UsageError(
            f"{kind} {spec.name!r} takes {len(parameters)} arguments; "
            f"{len(spec.positional)} were given."
        )
    arguments = dict(zip(parameters, spec.positional, strict=False))
    for name, value in spec.named.items():
        if name not in parameters:
            owner = f" of {kind} {spec.name!r}"
            raise unknown("argument", name, parameters or ["(none)"], owner)
        if name in arguments:
            raise UsageError(f"{kind} {spec.name!r} was given {name!r} twice.")
        arguments[name] = value
    for name, value in arguments.items():
        default = parameters[name].default
        if (
            value is None
            and isinstance(default, str)
            and "None" not in _annotated(parameters[name])
        ):
            arguments[name] = "none"  # one of the words that are accepted, or refused with them
            continue
        if default in (None, inspect.Parameter.empty) or value is None:
            continue
        fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(
            default, bool
        )
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            arguments[name] = float(value)
        elif not fits:
            raise UsageError(
                f"{name} of {kind} {spec.name!r} must be {_KINDS[type(default)]} "
                f"(default {default!r}); given: {value!r}."
            )
    return arguments


def _annotated(parameter: inspect.Parameter) -> str:
    return str(parameter.annotation)


def _closing(text: str, whole: str) -> tuple[str, str]:
    """Split `(...)rest` at the bracket that closes the first."""
    depth, quote, escaped = 0, "", False
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return text[1:at], text[at + 1 :].lstrip()
    raise UsageError(f"A bracket in {whole!r} is not closed.")


def _arguments(inside: str, whole: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        call = _call(inside)
    except (SyntaxError, ValueError):  # ValueError: a null byte
        try:
            call = _call(_KEYWORD.sub(r"\1'\2'", inside))  # `scenario=class`
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"Cannot read the arguments ({inside}) in {whole!r}.") from error
    assert isinstance(call, ast.Call)
    names = [given.arg for given in call.keywords]
    if None in names:
        raise UsageError(f"'**' in {whole!r} is not read; accepted: key=value.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"{whole!r} gives {twice[0]!r} twice.")
    return (
        tuple(_value(node, whole) for node in call.args),
        {str(given.arg): _value(given.value, whole) for given in call.keywords},
    )


def _call(inside: str) -> ast.expr:
    return ast.parse(f"f({inside})", mode="eval").body


def _value(node: ast.expr, whole: str) -> Any:
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id.lower(), node.id)
    if isinstance(node, ast.List):
        return [_value(item, whole) for item in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = (_value(node.left, whole), _value(node.right, whole))
        quotient = _quotient(*parts)
        if quotient is not None:
            return quotient
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:  # TypeError: a list as the key of a dictionary
        raise UsageError(
            f"{ast.unparse(node)!r} in {whole!r} is neither a number, a word, a list nor a string."
        ) from error


def _quotient(above: Any, below: Any) -> float | None:
    """A fraction's value; None where there is none."""
    if type(above) not in (int, float) or type(below) not in (int, float):
        return None
    try:
        quotient = float(above / below)
    except (ZeroDivisionError, OverflowError):
        return None
    return quotient if math.isfinite(quotient) else None


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value):
        return value if value.lower() not in _WORDS else repr(value)
    return repr(value)
