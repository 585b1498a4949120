"""holdfast adapt: what it shows, what it writes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from holdfast.adaptation import of_folder
from holdfast.cli.app import app
from holdfast.config import Config
from holdfast.run import run

STREAM = "corrupted-digits(limit=1, test_limit=60, rounds=2, kinds=[fog, contrast])"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of a small network on clean digits, its classes in the order of the seed."""
    folder = tmp_path_factory.mktemp("source") / "run"
    config = Config(
        "split-digits(experiences=1)", "finetune", model="cnn(width=8)", epochs=6, lr=0.05,
        batch_size=64,
    )  # fmt: skip
    result = run(config, folder)
    assert result.record.matrix[-1][0] > 0.8
    return folder


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_methods_are_compared_shown_and_written(call, source):
    result = call(
        "adapt", source, STREAM, "source", "bn_adapt", "cotta(views=2, mirror=false)",
        "--batch-size", 30, "--out", "o", "--json", "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert all(len(line) <= 80 for line in lines if "report.html" not in line)
    assert any(line.startswith("fog 5") for line in lines)
    assert "Report:  o/report.html" in lines
    found = json.loads(Path("r.json").read_text())
    assert found == json.loads(Path("o/adapt.json").read_text())
    by_method = {method["method"]: method for method in found["methods"]}
    assert list(by_method) == ["source", "bn_adapt", "cotta(views=2, mirror=false)"]
    for method in by_method.values():
        assert [(p["name"], p["round"], p["images"]) for p in method["passages"]] == [
            ("fog 5", 1, 60), ("contrast 5", 1, 60), ("fog 5", 2, 60), ("contrast 5", 2, 60),
        ]  # fmt: skip
        errors = [p["error"] for p in method["passages"]]
        assert method["error"] == pytest.approx(sum(errors) / 4)
        assert method["rounds"] == pytest.approx([sum(errors[:2]) / 2, sum(errors[2:]) / 2])
    # Classes come in the run's own order: were they mixed up, nine in ten would be wrong.
    assert by_method["source"]["clean_before"] == by_method["source"]["clean_after"] < 0.2
    assert by_method["bn_adapt"]["error"] < by_method["source"]["error"]
    assert (
        by_method["cotta(views=2, mirror=false)"]["distance"] > 0 == by_method["source"]["distance"]
    )
    page = Path("o/report.html").read_text()
    assert "cotta" in page
    assert f"{100 * by_method['source']['error']:.1f}" in page


def test_the_source_is_that_of_the_runs_newest_checkpoint(source):
    from holdfast.run import read_result

    found = of_folder(source)
    with torch.no_grad():
        hits = found.model.eval()(found.test["x"]).argmax(1) == found.test["y"]
    assert float(hits.float().mean()) == pytest.approx(read_result(source).record.matrix[-1][0])


def test_without_labels_errors_are_not_computed_and_it_says_so(call, source, tmp_path):
    x = np.random.default_rng(0).integers(0, 17, (40, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", x=x)
    result = call("adapt", source, "mine.npz", "tent", "--batch-size", 20, "--out", "o")
    assert result.exit_code == 0, result.output
    assert "errors on them are not computed" in " ".join(result.output.split())
    (method,) = json.loads(Path("o/adapt.json").read_text())["methods"]
    assert method["error"] is None
    assert method["clean_after"] is not None


def test_resets_by_domain_and_by_batch_are_followed(call, source):
    def distance(reset):
        call(
            "adapt", source, STREAM, "tent(lr=0.05)", "--reset", reset, "--out", reset,
            "--batch-size", 30,
        )  # fmt: skip
        (method,) = json.loads(Path(f"{reset}/adapt.json").read_text())["methods"]
        return method["distance"]

    assert distance("never") > distance("domain") > distance("batch") > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere", STREAM, "tent"), "nowhere is not a model: there is no such folder"),
        (("SOURCE", "split-digits", "tent"), "brings new classes"),
        (("SOURCE", STREAM, "tnt"), "no method 'tnt'. Did you mean 'tent'"),
        (("SOURCE", STREAM, "er"), "ER does not learn from inputs alone"),
        (("SOURCE", STREAM, "tent", "--reset", "often"), "no reset 'often'"),
        (("SOURCE", STREAM, "tent", "--batch-size", 0), "batch_size must be at least 1"),
    ],
)
def test_mistakes_are_sentences_and_nothing_is_written(call, source, tmp_path, words, sentence):
    words = [source if word == "SOURCE" else word for word in words]
    result = call("adapt", *words, "--out", "o")
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()


def test_images_and_classes_that_do_not_fit_are_named(call, source, tmp_path):
    x = np.zeros((4, 12, 12, 3), np.uint8)
    np.savez(tmp_path / "large.npz", x=x)
    result = call("adapt", source, "large.npz", "tent")
    assert result.exit_code == 2
    assert "takes images of 1 x 8 x 8 (channels, height, width)" in result.stderr
    assert "are 3 x 12 x 12" in result.stderr
    np.savez(tmp_path / "strange.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array(["cat"] * 4))
    result = call("adapt", source, "strange.npz", "tent")
    assert result.exit_code == 2
    assert "the class 'cat', which the model does not know" in result.stderr
    np.savez(tmp_path / "beyond.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array([3, 4, 5, 12]))
    result = call("adapt", source, "beyond.npz", "tent")
    assert result.exit_code == 2
    assert "lie in 3..12" in result.stderr


def test_a_run_whose_model_does_not_answer_by_itself_is_refused(call, tmp_path):
    run(Config("split-digits(experiences=1)", "ncm", head="prototype"), tmp_path / "ncm")
    result = call("adapt", "ncm", STREAM, "source")
    assert result.exit_code == 2
    assert "does not answer by itself: NCM decides its answers" in result.stderr


def test_a_hugging_face_folder_is_adapted(call, tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=10,
        layer_type="basic",
    )  # fmt: skip
    ResNetForImageClassification(config).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_resize": True,
                "size": {"height": 32, "width": 32},
                "do_normalize": True,
                "image_mean": [0.5],
                "image_std": [0.25],
            }
        )
    )
    result = call("adapt", "hf", STREAM, "source", "tent", "--out", "o", "--limit", 20)
    assert result.exit_code == 0, result.output
    source, tent = json.loads(Path("o/adapt.json").read_text())["methods"]
    assert source["distance"] == 0 < tent["distance"]
