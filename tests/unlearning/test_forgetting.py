"""A trained classifier forgets: from a run's folder to a table beside retraining."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from holdfast import checkpoint
from holdfast.cli.app import app
from holdfast.config import Config
from holdfast.errors import DataError, UsageError
from holdfast.forgetting import unlearn
from holdfast.run import run
from holdfast.unlearning.chosen import choose
from holdfast.unlearning.trained import load, retrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A perceptron that has learned 300 digits in two experiences."""
    out = tmp_path_factory.mktemp("run") / "r"
    config = Config(
        "split-digits(limit=150, test_limit=60, order=natural)", "er(capacity=300)", experiences=2,
        model="mlp(width=16, depth=1)", epochs=4, lr=0.05, seed=2,
    )  # fmt: skip
    run(config, out)
    return out


@pytest.fixture(scope="module")
def trained(folder):
    return load(folder)


def test_a_run_comes_back_with_its_model_and_all_it_learned(trained, folder):
    assert len(trained.table) == 300
    assert len(trained.test) == 120
    last = checkpoint.load(sorted((folder / "checkpoints").glob("*.safetensors"))[-1])
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, last["learner"]["model"][name])


def test_retraining_without_nothing_is_the_run_itself(trained):
    learner = retrained(trained, torch.tensor([], dtype=torch.long))
    for a, b in zip(learner.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_retraining_never_sees_what_was_to_go(trained):
    """Without the whole of the first experience there is one less, and its classes are unknown."""
    first = (trained.table["y"] < 5).nonzero().flatten()
    learner = retrained(trained, first)
    assert learner.stream is not None
    assert [len(e.train) for e in learner.stream] == [150]
    assert learner.stream[0].index == 0
    with pytest.raises(DataError, match="Nothing is left"):
        retrained(trained, torch.arange(300))


def test_forget_sets_by_name(trained, tmp_path):
    assert len(choose("random(0.1)", trained).rows) == 30
    assert torch.equal(
        choose("random(30, seed=0)", trained).rows, choose("random(30)", trained).rows
    )
    assert not torch.equal(
        choose("random(30, seed=1)", trained).rows, choose("random(30)", trained).rows
    )
    sevens = choose("class(7)", trained).rows
    assert set(trained.table["y"][sevens].tolist()) == {7}
    assert len(sevens) == int((trained.table["y"] == 7).sum())
    two = choose("class(7, 3)", trained).rows
    assert set(trained.table["y"][two].tolist()) == {3, 7}
    (tmp_path / "rows").write_text("5\n17\n")
    assert choose(f"rows(3, file='{tmp_path / 'rows'}')", trained).rows.tolist() == [3, 5, 17]
    worst = choose("worst(30, iterations=2, lower='l1(alpha=0.01)')", trained)
    assert len(worst.rows) == 30
    assert len(worst.selection.losses) == 2
    easiest = choose("easiest(30, iterations=2)", trained)
    assert not torch.equal(easiest.rows, worst.rows)
    classes = choose("worst_class(2, iterations=2, scale=10)", trained)
    assert len(trained.table["y"][classes.rows].unique()) == 2


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("hardest(5)", "no kind of forget set 'hardest'"),
        ("random", "random needs a size"),
        ("random(300)", "there are 300: accepted are 1 to 299"),
        ("worst(1000)", "there are 300"),
        ("worst(10, iteration=3)", "Did you mean 'iterations'"),
        ("worst_class(10)", "A forget set of 10 groups was asked for, and there are 10"),
        ("class(eleven)", "no class 'eleven'"),
        ("class(12)", "no class '12'"),
        ("class", "class takes one name or more"),
        ("class(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)", "nothing would be left"),
        ("rows(1.5)", "Row numbers must be whole"),
        ("rows", "rows takes row numbers"),
        ("rows(file='/nowhere')", "cannot be read as a list of row numbers"),
    ],
)
def test_sets_that_do_not_exist_are_refused(trained, spec, complaint):
    with pytest.raises(UsageError, match=complaint):
        choose(spec, trained)


def test_every_method_stands_beside_retraining_and_the_original(folder, tmp_path):
    outcome = unlearn(
        folder, ["random(30)"], ["finetune_retain", "ga+saliency", "retrain"], epochs=1,
        models=tmp_path,
    )  # fmt: skip
    (each,) = outcome.sets
    assert [way.method for way in each.ways] == [
        "original",
        "retrain",
        "finetune_retain",
        "ga+saliency",
    ]
    gold = each.ways[1].scores
    assert each.ways[1].gaps["average"] == 0
    for way in each.ways:
        expected = abs(way.scores.unlearning - gold.unlearning)
        assert way.gaps["unlearning"] == pytest.approx(expected)
    assert each.ways[3].lr == pytest.approx(0.05 * 0.05)
    assert [way.epochs for way in each.ways] == [0, 0, 1, 1]
    state = checkpoint.load(tmp_path / "1-finetune_retain.safetensors")
    assert state["method"] == "finetune_retain"
    model = load(folder).model
    model.load_state_dict(state["model"])


def test_whole_classes_that_go_are_not_tested(folder):
    outcome = unlearn(folder, ["class(3)"], ["finetune_retain"], epochs=1)
    gold = outcome.sets[0].ways[1].scores
    assert gold.unlearning == 1
    assert gold.test > 0.5


@pytest.fixture
def call(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["unlearn", *map(str, words)])


def test_the_command_prints_a_table_and_leaves_json_and_a_page(call, folder, tmp_path):
    result = call(
        "--run", folder, "--forget", "random(30)", "--forget", "worst(30, iterations=2)",
        "--method", "finetune_retain", "--epochs", 1, "--out", "o", "--json", "r.json", "--save",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"method +UA +RA +TA +MIA +avg. gap +seconds", result.stdout)
    assert "worst(30, iterations=2): 30 examples" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    document = json.loads((tmp_path / "r.json").read_text())
    assert [each["forget"] for each in document["sets"]] == [
        "random(30)",
        "worst(30, iterations=2)",
    ]
    assert [m["method"] for m in document["sets"][0]["methods"]] == [
        "original",
        "retrain",
        "finetune_retain",
    ]
    assert len(document["sets"][1]["search"]["losses"]) == 2
    page = (tmp_path / "o" / "report.html").read_text()
    assert "comes nearest to it" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {path.name for path in (tmp_path / "o" / "models").iterdir()} == {
        "1-finetune_retain.safetensors",
        "2-finetune_retain.safetensors",
    }


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--run FOLDER"),
        (["--run", "nowhere", "--forget", "random(3)"], "There is no run in nowhere"),
        (["--run", "FOLDER"], "Say what to forget"),
        (["--run", "FOLDER", "--forget", "random(301)"], "there are 300"),
        (["--run", "FOLDER", "--forget", "class(x)"], "no class 'x'"),
        (["--run", "FOLDER", "--forget", "random(3)", "--method", "er"], "er does not unlearn"),
        (["--run", "FOLDER", "--forget", "random(3)", "--method", "salum"], "Did you mean 'salun'"),
        (["--run", "FOLDER", "--forget", "random(3)", "--lr", "0"], "lr must be above 0"),
        (["--run", "FOLDER", "--forget", "random(3)", "--out", "FOLDER"], "already holds results"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, folder, words, complaint, tmp_path):
    result = call(*(folder if word == "FOLDER" else word for word in words))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert complaint in result.stderr
    assert "\n" not in result.stderr.strip()
    assert list(tmp_path.iterdir()) == []


def test_runs_that_cannot_be_unlearned_are_refused(folder, tmp_path):
    for stream, method, complaint in (
        ("split-digits(limit=20, scenario=task)", "finetune", "was told the task"),
        ("split-digits(limit=20)", "ncm", "NCM decides predictions beside the model"),
    ):
        out = tmp_path / method
        run(Config(stream, method, model="mlp(width=4)", epochs=1, experiences=2), out)
        with pytest.raises(UsageError, match=complaint):
            load(out)
    begun = tmp_path / "begun"
    begun.mkdir()
    replace(Config.read(folder / "config.json"), seed=5).write(begun / "config.json")
    with pytest.raises(UsageError, match="has not finished"):
        load(begun)
