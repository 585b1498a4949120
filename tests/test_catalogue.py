"""The catalogue lists every method under a name that builds it."""

from __future__ import annotations

import inspect

import pytest

from holdfast import catalogue
from holdfast.errors import UsageError
from holdfast.method import Method


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_every_entry_is_complete(name: str) -> None:
    entry = catalogue.entry(name)
    cls = catalogue.method_class(name)
    assert issubclass(cls, Method)
    assert entry.summary == inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    assert entry.tags.title
    assert entry.tags.source or entry.tags.family in ("bound", "penalty")
    assert entry.tags is not Method.tags, "a method has tags of its own"
    assert all(default is not inspect.Parameter.empty for default in entry.arguments.values())


@pytest.mark.parametrize("name", catalogue.METHODS)
def test_every_method_is_built_by_its_name_alone_and_keeps_its_arguments(name: str) -> None:
    method = catalogue.build(name)
    assert type(method) is catalogue.method_class(name)
    assert method.arguments() == catalogue.entry(name).arguments


def test_entries_come_in_the_catalogues_order() -> None:
    assert [entry.name for entry in catalogue.entries()] == list(catalogue.METHODS)


def test_a_spec_builds_a_chain_with_its_arguments() -> None:
    parts = list(catalogue.build("er(capacity=50, storage=ring)+ewc").parts())
    assert [type(part).__name__ for part in parts] == ["ER", "EWC"]
    assert parts[0].arguments()["capacity"] == 50
    assert parts[0].arguments()["storage"] == "ring"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("err", "no method 'err'. Did you mean 'er'"),
        ("er(capasity=5)", "no argument 'capasity' of method 'er'. Did you mean 'capacity'"),
        ("finetune(5)", "method 'finetune' takes 0 arguments; 1 were given"),
        ("er(capacity=0)", "capacity must be at least 1"),
        ("er(storage=pile)", "storage must be one of"),
        ("zzzzzz", "no method 'zzzzzz'. Accepted: agem"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_name(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        catalogue.build(text)


def test_specs_have_one_spelling() -> None:
    assert catalogue.canonical(" er( capacity = 5 )+ wa ") == "er(capacity=5)+wa"
