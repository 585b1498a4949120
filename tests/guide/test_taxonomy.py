"""Every method has a record, and the record says what the code does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import catalogue
from holdfast.catalogue import METHODS
from holdfast.errors import StreamRefused, UsageError
from holdfast.guide import taxonomy
from holdfast.learner import Learner
from holdfast.method import Method, chain, refuse_unfit
from holdfast.models import build
from holdfast.testing import small_stream

ROOT = Path(__file__).parents[2]
RECORDS = taxonomy.load()
LEARN = [
    name
    for name, record in RECORDS.items()
    if "class" in record.scenarios and {"none"} & set(record.stages) and name != "guard"
]
"""Those that learn classes one after another, but for the one that watches sets of its own."""


def test_every_method_has_a_record_and_every_record_a_method() -> None:
    said = taxonomy.content()["methods"]
    assert sorted(set(METHODS) - set(said)) == [], (
        "add a record under `methods` in src/holdfast/guide/taxonomy.yaml (its head shows one)"
    )
    assert sorted(set(said) - set(METHODS)) == [], "these are no methods of the catalogue"
    assert list(RECORDS) == list(METHODS)


def test_a_method_without_a_record_is_told_where_to_add_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = {**taxonomy.content(), "methods": {}}
    monkeypatch.setattr(taxonomy, "content", lambda: without)
    with pytest.raises(UsageError, match=r"er has no record in src/holdfast/guide/taxonomy\.yaml"):
        taxonomy._said("er")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"techniques": ["magic"]}, r"'magic' is no word of techniques"),
        ({"old_data": "some"}, r"'some' is no word of old_data"),
        ({"colour": "red"}, r"holds colour, which no record does"),
        ({"stages": None}, r"lacks stages"),
    ],
)
def test_a_record_with_a_foreign_word_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    said = {**taxonomy.content()["methods"]["er"], **change}
    said = {field: value for field, value in said.items() if value is not None}
    altered = {**taxonomy.content(), "methods": {"er": said}}
    monkeypatch.setattr(taxonomy, "content", lambda: altered)
    with pytest.raises(UsageError, match=message):
        taxonomy._said("er")


def test_every_word_has_a_definition_and_the_survey_has_all_of_its_stages() -> None:
    words = taxonomy.content()["vocabulary"]
    assert all(definition.endswith(".") for field in words for definition in words[field].values())
    assert {"cpt", "dap", "cft", "test-time", "editing", "none"} <= set(words["stages"])
    assert {"general", "cit", "cmr", "cma", "cmllm"} == set(words["subtypes"])


def test_records_are_as_their_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = taxonomy.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for record in RECORDS.values():
        jsonschema.validate(record.to_dict(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**RECORDS["er"].to_dict(), "stages": ["sometime"]}, schema)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_record_points_to_is_there(name: str) -> None:
    record = RECORDS[name]
    assert [page for page in record.evidence if not (ROOT / page).is_file()] == []
    for form in record.forms:
        (part,) = catalogue.build(form.spec).parts()
        assert type(part) is catalogue.method_class(name)
    assert set(record.combines_with) <= set(METHODS)
    assert record.techniques or record.family in ("bound", "test-time")
    assert bool(record.subtypes) <= bool({"cft", "editing"} & set(record.stages))


@pytest.mark.parametrize("name", METHODS)
def test_what_goes_together_is_not_refused_and_what_conflicts_is(name: str) -> None:
    record = RECORDS[name]
    assert not set(record.combines_with) & set(record.conflicts_with)
    for other in record.conflicts_with:
        for first, second in ((name, other), (other, name)):
            with pytest.raises(UsageError):
                chain(catalogue.build(first), catalogue.build(second))


def test_two_that_write_the_same_blocks_conflict() -> None:
    assert "memit" in RECORDS["rome"].conflicts_with
    assert "lora" in RECORDS["hft"].conflicts_with
    assert "o_lora" in RECORDS["i_lora"].conflicts_with
    assert RECORDS["lora"].conflicts_with.count("replay") == 0


@pytest.mark.contract
@pytest.mark.parametrize("name", LEARN)
def test_what_needs_boundaries_is_refused_without_them_and_the_rest_learns(name: str) -> None:
    stream = replace(small_stream("class"), boundaries=False)
    record = RECORDS[name]
    for form in record.forms:
        method, model = catalogue.build(form.spec), build("mlp(width=16, depth=1)", stream)
        if form.boundaries:
            with pytest.raises(StreamRefused):
                refuse_unfit(method, stream, model)
        else:
            refuse_unfit(method, stream, model)


@pytest.mark.contract
@pytest.mark.parametrize("name", LEARN)
def test_old_data_are_what_a_method_stores_or_trains_on_again(name: str) -> None:
    old_data = RECORDS[name].needs.old_data
    assert (old_data == "all") == ("past data" in catalogue.entry(name).tags.needs)
    stored = stores_inputs(name)
    assert stored == (old_data == "few"), f"{name}: {old_data}, and inputs are stored: {stored}"


@cache
def stores_inputs(name: str) -> bool:
    """Whether what a method has kept after two experiences holds rows that it was trained on."""
    stream = small_stream("class")
    extra = {"gdumb": "gdumb(epochs=1)", "ranpac": "ranpac(projections=50)"}
    method = catalogue.build(extra.get(name, name))
    learner = Learner(build("mlp(width=16, depth=1)", stream, seed=0), method, epochs=1, seed=0)
    learner.learn(stream)
    shown = torch.cat([e.train["x"] for e in stream]).flatten(1)
    for tensor in method.state_dict().values():
        inner = stream[0].train["x"].shape[1:]
        if not isinstance(tensor, torch.Tensor) or tensor.shape[-len(inner) :] != inner:
            continue
        rows = tensor.reshape(-1, inner.numel()).to(shown.dtype)
        same = (rows[:, None] == shown[None]).all(-1).any(1) & (rows != 0).any(1)
        if bool(same.any()):
            return True
    return False


def test_a_task_that_must_be_known_in_use_is_asked_for() -> None:
    stream = small_stream("class")
    for name in ("packnet", "hat"):
        assert RECORDS[name].needs.task_id == "test"
        with pytest.raises(StreamRefused):
            refuse_unfit(catalogue.build(name), stream, build("mlp", stream))
    assert [n for n, r in RECORDS.items() if r.needs.task_id == "test"] == ["packnet", "hat"]


def test_what_a_class_says_is_not_said_again() -> None:
    held = {field for said in taxonomy.content()["methods"].values() for field in said}
    assert not held & {"family", "title", "source", "scenarios", "needs", "keeps"}


def test_a_method_that_only_adds_to_the_loss_is_served_alone_and_costs_nothing_in_use() -> None:
    needs = RECORDS["ewc"].needs
    assert (needs.served_alone, needs.inference_cost, needs.extra_parameters) == (True, 1.0, 0.0)
    assert not RECORDS["icarl"].needs.served_alone
    assert not RECORDS["grace"].needs.served_alone
    assert RECORDS["wise"].needs.inference_cost is None  # not known, and not guessed
    assert RECORDS["rome"].needs.served_alone


def test_questions_are_answered_by_the_form_that_has_what_is_asked() -> None:
    assert [s for _, s in taxonomy.query(family="replay", old_data="none")] == [
        "replay(source=self)"
    ]
    free = [s for _, s in taxonomy.query(family="replay", task_free=True)]
    assert "er_ace(task_free=true)" in free
    assert "replay" not in free
    assert all(r.needs.old_data != "all" for r, _ in taxonomy.query(old_data="few"))
    with pytest.raises(UsageError, match=r"Did you mean 'rehearsal'"):
        list(taxonomy.query(technique="rehersal"))


def test_integration_is_by_hooks() -> None:
    class Watcher(Method):
        def loss(self, learner: Any, batch: Any, outputs: Any, loss: Any) -> Any:
            return loss

    assert taxonomy._overrides(Watcher, "loss")
    assert not taxonomy._overrides(Watcher, "step")
    assert RECORDS["ewc"].integration == ("loss", "between experiences")
    assert "own training" in RECORDS["ncm"].integration
