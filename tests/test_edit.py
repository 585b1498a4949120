"""Editing from a file to a model: saved, loaded, listed, taken back, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.diff import diff
from holdfast.edit import edit, edits_in, undo
from holdfast.edit_config import EditConfig
from holdfast.errors import CheckpointError, UsageError
from holdfast.language import checkpoints
from holdfast.language.editing import told
from holdfast.language.fields import Sample
from holdfast.language.generate import generate
from holdfast.language.questions import Questioner
from holdfast.learner import Observer
from holdfast.models import zoo
from holdfast.models.beside import beside
from holdfast.run import Stopped
from holdfast.streams.language.python import documentation

FACTS = [
    {"prompt": "The list is", "target": "new", "subject": "list", "rephrase": "A list is",
     "locality": "The file is"},
    {"prompt": "The name of the object", "target": "old", "subject": "object"},
    {"prompt": "A class can be", "target": "red", "subject": "class", "locality": "If it"},
]  # fmt: skip
EDITORS = {
    "wise": "wise(steps=3, prefixes=1, layer=0, ratio=0.0, shard=1, merge=2)",
    "wise, retrieving": "wise(mode=retrieve, steps=3, prefixes=1, layer=0, shard=1, merge=2)",
    "grace": "grace(steps=4, layer=0, radius=0.1)",
    "rome": "rome(steps=2, prefixes=1, layer=0)",
    "ft_m": "ft_m(steps=3, lr=0.01)",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained Llama of two blocks with a tokenizer, as a folder."""
    words = zoo.byte_pairs([d.text for d in documentation()[:6]], 280)
    recipe = zoo.Recipe(width=16, depth=2, heads=2, context=96, vocabulary=280)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.untrained(recipe, words)
    with torch.no_grad():  # so that what it says differs from prompt to prompt
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return checkpoints.save(model, words, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Any:
    def make(method: str = EDITORS["ft_m"], facts: Any = FACTS, **changed: Any) -> EditConfig:
        path = tmp_path / f"facts-{len(facts)}.jsonl"
        path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
        known = tmp_path / "known.txt"  # instead of text that the model would have to write
        known.write_text(documentation()[0].text[:4000])
        settings = {"no_fluency": True, "device": "cpu", "checkpoint_every": 1, **changed}
        settings.setdefault("past", (str(known),))
        return EditConfig(str(base), str(path), method, **settings)

    return make


def logits(folder: Path, prompt: str = "The list is") -> torch.Tensor:
    loaded = checkpoints.load(folder)
    ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found: torch.Tensor = loaded.model(input_ids=ids).logits
    return found


def same_model(a: Path, b: Path) -> bool:
    return all(torch.equal(logits(a, fact["prompt"]), logits(b, fact["prompt"])) for fact in FACTS)


@pytest.mark.parametrize("name", EDITORS)
def test_an_edited_model_is_loaded_as_it_was_measured_and_an_edit_is_undone_exactly(
    config: Any, base: Path, tmp_path: Path, name: str
) -> None:
    made = edit(config(EDITORS[name]), tmp_path / "all")
    model = tmp_path / "all" / "model"
    loaded = checkpoints.load(model)
    memory = name.split(",")[0] in ("wise", "grace")
    assert (beside(loaded.model) is not None) == memory
    ask = Questioner(loaded.tokenizer, 96)
    for fact, each in zip(FACTS, made.points[-1]["each"], strict=True):
        sample = Sample(prompt=fact["prompt"], answer=fact["target"])
        (right,) = told(loaded.model, ask.answers([sample], [[fact["target"]]])).right
        assert right == pytest.approx(each["reliability"])
    assert not same_model(model, base)

    without = edit(config(EDITORS[name], [FACTS[0], FACTS[2]]), tmp_path / "two")
    undo(tmp_path / "all", 2)
    assert same_model(model, tmp_path / "two" / "model")
    assert [r.prompt for r in edits_in(tmp_path / "all")] == [r.prompt for r in without.requests]


def test_a_memory_is_beside_the_weights_and_goes_where_the_model_goes(
    config: Any, base: Path, tmp_path: Path
) -> None:
    edit(config(EDITORS["wise"]), tmp_path / "out")
    folder = tmp_path / "out" / "model"
    loaded, plain = checkpoints.load(folder), checkpoints.load(base)
    weights = dict(plain.model.named_parameters())
    named = dict(loaded.model.named_parameters())
    assert named.keys() == weights.keys()
    assert all(torch.equal(named[name], weight) for name, weight in weights.items())
    again = checkpoints.save(loaded.model, loaded.tokenizer, tmp_path / "again")
    assert same_model(folder, again)
    prompts = [fact["prompt"] for fact in FACTS]
    said = generate(loaded.model, loaded.tokenizer, prompts, max_new_tokens=4)
    one_by_one = [
        generate(loaded.model, loaded.tokenizer, [p], max_new_tokens=4)[0] for p in prompts
    ]
    assert said == one_by_one
    assert said != generate(plain.model, plain.tokenizer, prompts, max_new_tokens=4)


def test_diff_sees_the_edits_of_a_memory(config: Any, base: Path, tmp_path: Path) -> None:
    edit(config(EDITORS["wise"]), tmp_path / "out")
    probe = tmp_path / "facts.jsonl"
    probe.write_text(
        "".join(json.dumps({"prompt": f["prompt"], "answer": f["target"]}) + "\n" for f in FACTS)
    )
    found = diff(base, tmp_path / "out" / "model", [probe], ranks=False)
    before, after = found.sets[0].loss
    assert after < before


def test_a_damaged_memory_or_one_of_another_model_is_refused(config: Any, tmp_path: Path) -> None:
    edit(config(EDITORS["grace"]), tmp_path / "out")
    path = tmp_path / "out" / "model" / "edits.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoints.load(tmp_path / "out" / "model")


class StopAfter(Observer):
    def __init__(self, edits: int) -> None:
        self.edits = edits

    def on_experience(self, learner: Any) -> None:
        if learner.index == self.edits:
            raise Stopped("Stopped.")


@pytest.mark.parametrize("name", ["wise", "rome"])
def test_stopped_work_goes_on_and_ends_alike_and_more_edits_may_be_added(
    config: Any, tmp_path: Path, name: str
) -> None:
    whole = config(EDITORS[name])
    edit(whole, tmp_path / "whole")
    with pytest.raises(Stopped):
        edit(whole, tmp_path / "parts", observers=[StopAfter(1)])
    assert not (tmp_path / "parts" / "model").exists()
    edit(whole, tmp_path / "parts", resume=True)
    assert same_model(tmp_path / "whole" / "model", tmp_path / "parts" / "model")

    edit(config(EDITORS[name], FACTS[:2]), tmp_path / "more")
    more = edit(whole, tmp_path / "more", resume=True)
    assert same_model(tmp_path / "whole" / "model", tmp_path / "more" / "model")
    assert [point["edits"] for point in more.points] == [1, 2, 3]
    with pytest.raises(UsageError, match="holds other edits than"):
        edit(config(EDITORS[name], FACTS[1:]), tmp_path / "more", resume=True)


def test_many_edits_at_once_and_each_on_its_own(config: Any, tmp_path: Path) -> None:
    spec = "memit(steps=2, prefixes=0, layer=0, known=1.0)"
    together = edit(config(spec, protocol="batch"), tmp_path / "batch")
    assert [point["edits"] for point in together.points] == [3]
    single = edit(config(protocol="single"), tmp_path / "single")
    assert not (tmp_path / "single" / "model").exists()
    each = [entry["reliability"] for entry in single.points[0]["each"]]
    assert single.points[0]["reliability"] == pytest.approx(sum(each) / 3)
    alone = edit(config(facts=FACTS[2:]), tmp_path / "alone")
    assert alone.points[0]["reliability"] == pytest.approx(each[2])


def test_batches_that_become_longer_or_shorter_are_made_anew(config: Any, tmp_path: Path) -> None:
    spec = "memit(steps=2, prefixes=0, layer=0, known=1.0)"
    facts = [*FACTS, {"prompt": "The end of", "target": "all", "subject": "end"}]
    for batch in (None, 2):
        out, whole = tmp_path / f"grown-{batch}", tmp_path / f"whole-{batch}"
        edit(config(spec, FACTS, protocol="batch", batch=batch), out)
        edit(config(spec, facts, protocol="batch", batch=batch), out, resume=True)
        edit(config(spec, facts, protocol="batch", batch=batch), whole)
        assert same_model(out / "model", whole / "model")
        undo(out, 2)
        without = config(spec, [facts[0], *facts[2:]], protocol="batch", batch=batch)
        edit(without, tmp_path / f"without-{batch}")
        assert same_model(out / "model", tmp_path / f"without-{batch}" / "model")


def test_the_command_line_edits_lists_and_takes_back(config: Any, tmp_path: Path) -> None:
    asked = config()
    call = CliRunner().invoke
    words = ["edit", "--model", asked.model, "--edits", asked.edits, "--method", asked.method]
    done = call(app, [*words, "--out", str(tmp_path / "out"), "--no-fluency", "--measure", "1"])
    assert done.exit_code == 0, done.output
    assert all(len(line) <= 80 for line in done.output.splitlines() if str(tmp_path) not in line)
    assert "sequential: one edit after another" in " ".join(done.output.split())
    assert "share of the target's tokens" in " ".join(done.output.split())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The list is" in page
    found = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert [point["edits"] for point in found["points"]] == [1, 3]
    listed = call(app, ["edit", "--list", str(tmp_path / "out")])
    assert [line.split()[0] for line in listed.output.splitlines()] == ["1", "2", "3"]
    assert listed.output == call(app, ["edit", "--list", str(tmp_path / "out" / "model")]).output
    back = call(app, ["edit", "--undo", "1", str(tmp_path / "out")])
    assert back.exit_code == 0, back.output
    listed = call(app, ["edit", "--list", str(tmp_path / "out")])
    assert [line.split()[1:4] for line in listed.output.splitlines()] == [
        ["The", "name", "of"],
        ["A", "class", "can"],
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "er"], "er does not edit; accepted: wise, grace, rome, memit, ft_l, ft_m."),
        (["--method", "wize"], "There is no editor 'wize'. Did you mean 'wise'? Accepted: ft_l,"),
        (["--measure", "1,x"], "measure must be numbers of edits"),
        (["--batch", "2"], "batch goes with protocol='batch'"),
        (["--undo", "1"], "--list and --undo need the folder"),
        (["--protocol", "both"], "Accepted: batch, sequential, single."),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    config: Any, tmp_path: Path, words: list[str], sentence: str
) -> None:
    asked = config()
    command = ["edit", "--model", asked.model, "--edits", asked.edits, *words]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("method", "facts", "changed"),
    [
        ("wize", FACTS, {}),
        ("ft_m(layer=9)", FACTS, {}),
        ("rome", [{"prompt": "The end of", "target": "all"}], {}),
        ("ft_m", FACTS, {"locality": "nowhere.jsonl"}),
        ("ft_m", FACTS, {"length": 2}),
    ],
)
def test_what_cannot_be_done_leaves_no_folder(
    config: Any, tmp_path: Path, method: str, facts: Any, changed: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        edit(config(method, facts, **changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(config: Any, tmp_path: Path) -> None:
    edit(config(facts=FACTS[:1]), tmp_path / "out")
    for folder, number, complaint in (
        (tmp_path / "out", 2, "There is no edit 2"),
        (tmp_path / "out", 1, "is undone by using"),
        (tmp_path, 1, "holds no editing|There is no editing"),
    ):
        with pytest.raises(UsageError, match=complaint):
            undo(folder, number)
    with pytest.raises(UsageError, match="--resume goes on with it"):
        edit(config(facts=FACTS[:1]), tmp_path / "out")
    with pytest.raises(UsageError, match="with other options: method is"):
        edit(config("grace", FACTS[:1]), tmp_path / "out", resume=True)
    edit(config(EDITORS["wise"], FACTS[:1]), tmp_path / "beside")
    onto = EditConfig(str(tmp_path / "beside" / "model"), config().edits, device="cpu")
    with pytest.raises(UsageError, match="has edits beside it already"):
        edit(onto, tmp_path / "onto")
