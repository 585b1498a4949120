"""Change a model without losing what it knows.

The names below are looked up on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import catalogue, memory, methods, metrics, models, report, streams, studies
    from holdfast.config import Config
    from holdfast.data import Batch, Table
    from holdfast.engines.trainer import attach
    from holdfast.errors import HoldfastError
    from holdfast.evaluation import Record
    from holdfast.learner import Learner, Observer
    from holdfast.method import Method, Tags, chain
    from holdfast.objective import Classification, Objective
    from holdfast.store import Result
    from holdfast.stream import Experience, Stream

    __version__: str

__all__ = [
    "Batch",
    "Classification",
    "Config",
    "Experience",
    "HoldfastError",
    "Learner",
    "Method",
    "Objective",
    "Observer",
    "Record",
    "Result",
    "Stream",
    "Table",
    "Tags",
    "attach",
    "catalogue",
    "chain",
    "memory",
    "methods",
    "metrics",
    "models",
    "report",
    "streams",
    "studies",
]

_HOME = {
    "Batch": "data",
    "Classification": "objective",
    "Config": "config",
    "Experience": "stream",
    "HoldfastError": "errors",
    "Learner": "learner",
    "Method": "method",
    "Objective": "objective",
    "Observer": "learner",
    "Record": "evaluation",
    "Result": "store",
    "Stream": "stream",
    "Table": "data",
    "Tags": "method",
    "attach": "engines.trainer",
    "chain": "method",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("holdfast")
    if name in _HOME:
        return getattr(import_module(f"holdfast.{_HOME[name]}"), name)
    if name in __all__:
        return import_module(f"holdfast.{name}")
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
