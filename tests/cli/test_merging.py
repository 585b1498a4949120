"""The verbs merge and repair, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.language import checkpoints
from holdfast.models import zoo
from holdfast.streams.language import python


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny Llama, one that was trained to say one text, and probe sets of old and new."""
    place = tmp_path_factory.mktemp("models")
    words = zoo.byte_pairs([d.text for d in python.documentation()[:12]], 300)
    recipe = zoo.Recipe(width=16, depth=2, heads=2, context=64, vocabulary=300)
    torch.manual_seed(0)
    model = zoo.untrained(recipe, words)
    texts = {"old": "for the sake of the example", "new": "class Zebra(Horse): stripes = 40"}
    for name, folder, steps in (("old", "base", 60), ("new", "tuned", 25)):
        ids = words(texts[name], return_tensors="pt")["input_ids"]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        checkpoints.save(model, words, place / folder)
    for name, text in texts.items():
        lines = [json.dumps({"text": text}) for _ in range(3)]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_merging_writes_a_model_and_says_what_it_did(call, folders, tmp_path):
    options = ("--base", folders / "base", "--rule", "neuron_fusion(share=0.3)", "--json", "m.json")
    result = call("merge", folders / "tuned", *options, "--out", "merged")
    assert result.exit_code == 0, result.output
    assert "neuron_fusion(share=0.3)" in result.stdout
    assert "Model:    merged" in result.stdout
    assert json.loads(Path("m.json").read_text())["tensors"] > 10
    assert checkpoints.load(tmp_path / "merged").model is not None


def test_a_dry_run_writes_nothing(call, folders, tmp_path):
    result = call("merge", folders / "base", folders / "tuned", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Everything is in order" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rule", "tiess"), "There is no rule 'tiess'. Did you mean 'ties'?"),
        (("--rule", "ties"), "give what the models were tuned from: --base FOLDER"),
        (("--base", "base", "--rule", "wise_ft", "--dtype", "int8"), "There is no dtype 'int8'"),
        ((), "average merges at least 2"),
    ],
)
def test_a_merge_that_does_not_fit_is_refused_with_status_2(call, folders, tmp_path, options, said):
    named = [folders / word if word == "base" else word for word in options]
    result = call("merge", folders / "tuned", *named, "--out", "merged")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_repair_finds_the_mixture_that_keeps_enough_and_loses_least(call, folders, tmp_path):
    sets = ("--on", folders / "old.jsonl", "--new", folders / "new.jsonl")
    rules = ("--rule", "wise_ft(alpha=[0.5, 0.9])", "--rule", "neuron_fusion(share=0.5, rest=0.5)")
    options = ("--keep-new", "0.5", "--out", "fixed", "--max-drop", "100")
    result = call("repair", folders / "base", folders / "tuned", *sets, *rules, *options)
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    found = json.loads(Path("fixed/repair.json").read_text())
    points = {point["rule"]: point for point in found["points"]}
    assert list(points) == [
        "base",
        "wise_ft(alpha=0.5)",
        "wise_ft(alpha=0.9)",
        "neuron_fusion(share=0.5, rest=0.5)",
        "tuned",
    ]
    enough = [point for point in points.values() if point["kept"] >= 0.5]
    assert found["best"] == min(enough, key=lambda point: point["lost"])
    assert (points["base"]["kept"], points["tuned"]["kept"]) == (0.0, 1.0)
    assert points["base"]["lost"] == 0.0
    written = checkpoints.load(tmp_path / "fixed" / "model")
    words = written.tokenizer("for the sake of the example", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = written.model(input_ids=words, labels=words).loss.item()
    assert loss == pytest.approx(found["best"]["values"]["old"], rel=1e-4)
    assert "<svg" in Path("fixed/report.html").read_text()
    assert sorted(p.name for p in tmp_path.joinpath("fixed").iterdir()) == [
        "model",
        "repair.json",
        "report.html",
    ]


def test_repair_leaves_with_status_3_where_too_much_is_lost(call, folders):
    sets = ("--on", folders / "old.jsonl", "--new", folders / "new.jsonl")
    options = ("--keep-new", "1", "--rule", "wise_ft(alpha=0.5)", "--max-drop", "0")
    result = call("repair", folders / "base", folders / "tuned", *sets, *options)
    assert result.exit_code == 3, result.output
    assert "what was written is the tuned model" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("--new", "new"), "Say what the base could do: --on PATH."),
        (("--on", "old"), "Say what the tuned model learned: --new PATH."),
        (("--on", "old", "--new", "old"), "is the name of an old and of a new probe set"),
        (("--on", "new", "--new", "old"), "is no better than the base"),
        (("--on", "old", "--new", "new", "--keep-new", "2"), "keep_new must lie between 0 and 1"),
        (("--on", "old", "--new", "new", "--rule", "ties(density=[])"), "is an empty list"),
        (("--on", "old", "--new", "new", "--rule", "ties(x=1)"), "There is no argument 'x'"),
    ],
)
def test_a_repair_that_does_not_fit_is_refused_with_status_2(call, folders, tmp_path, sets, said):
    named = [folders / f"{word}.jsonl" if word in ("old", "new") else word for word in sets]
    result = call("repair", folders / "base", folders / "tuned", *named, "--out", "fixed")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())
