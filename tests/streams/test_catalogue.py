"""Streams by name and by path."""

from functools import partial

import numpy as np
import pytest
import torch

from holdfast import models, streams
from holdfast.errors import DataError, UsageError
from holdfast.learner import Learner


@pytest.fixture
def own(tmp_path):
    draw = np.random.default_rng(0)
    y = np.arange(60) % 6
    x = draw.normal(size=(60, 4)).astype(np.float32)
    path = tmp_path / "own.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    return path


def test_split_digits_has_five_experiences_of_two_classes():
    stream = streams.build("split-digits")
    assert stream.name == "split-digits"
    assert stream.scenario == "class"
    assert stream.shape == (1, 8, 8)
    assert [experience.classes for experience in stream] == [
        (0, 1),
        (2, 3),
        (4, 5),
        (6, 7),
        (8, 9),
    ]
    assert sum(len(e.train) + len(e.test) for e in stream) == 1797


def test_everything_follows_the_seed():
    first, again, other = (streams.build("split-digits", seed=seed) for seed in (4, 4, 5))
    assert first.class_names == again.class_names != other.class_names
    assert sorted(first.class_names) == sorted(other.class_names)
    assert torch.equal(first[2].train["x"], again[2].train["x"])


def test_arguments_of_the_spec_are_followed_and_shown_in_the_name():
    text = "split-digits(experiences=2, scenario=task, online=true, order=natural, limit=30)"
    stream = streams.build(text)
    assert stream.name == text
    assert stream.scenario == "task"
    assert stream.online
    assert stream.class_names == tuple("0123456789")
    assert [len(experience.train) for experience in stream] == [30, 30]


def test_a_name_builds_its_own_stream_again(own):
    for text in ("rotated-digits(experiences=2, step=15.5)", f"permuted:{own}?first=permuted"):
        stream = streams.build(text, seed=2)
        again = streams.build(stream.name, seed=2)
        assert again.name == stream.name
        assert torch.equal(again[1].train["x"], stream[1].train["x"])


def test_experiences_from_outside_replace_the_default():
    stream = streams.build("permuted-digits", experiences=3)
    assert len(stream) == 3
    assert stream.name == "permuted-digits(experiences=3)"


def test_experiences_given_twice_must_agree():
    assert len(streams.build("split-digits(experiences=2)", experiences=2)) == 2
    with pytest.raises(UsageError, match="asks for 2 experiences, and 5 were asked for beside it"):
        streams.build("split-digits(experiences=2)", experiences=5)
    with pytest.raises(UsageError, match="asks for 2 experiences"):
        streams.build("split-digits(2)", experiences=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split-digit", "no stream 'split-digit'. Did you mean 'split-digits'"),
        ("splt:own.npz", "no kind of stream 'splt'. Did you mean 'split'"),
        ("split:", "split: needs a path"),
        ("split-digits(limits=3)", "'limits' of stream 'split-digits'. Did you mean 'limit'"),
        ("split-digits(first=identity)", "no argument 'first' of stream 'split-digits'"),
        ("split-digits(online=1)", "online .* must be true or false"),
        ("split-digits(experiences=two)", "experiences .* must be a whole number"),
        ("split-digits+rotated-digits", "names 2 things; one is accepted"),
        ("split-digits(experiences=11)", "splits into 1 to 10 experiences; given: 11"),
        ("", "Cannot read ''"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_name(text, message):
    with pytest.raises(UsageError, match=message):
        streams.build(text)


def test_a_bare_path_is_told_apart_from_a_wrong_name(own):
    with pytest.raises(UsageError, match=r"own\.npz is a path; say what to do with it: split:"):
        streams.build(str(own))


def test_own_data_take_arguments_after_a_question_mark(own):
    stream = streams.build(f"split:{own}?scenario=task&limit=10", experiences=3)
    assert stream.scenario == "task"
    assert [len(experience.train) for experience in stream] == [10] * 3
    assert stream.name == f"split:{own}?scenario=task&limit=10&experiences=3"


@pytest.mark.parametrize("name", ["why?.npz", "a?limit=3", "a (b)+c.npz", "ä b&c=d.npz", "x:y.npz"])
def test_paths_may_contain_any_characters(own, name):
    path = own.with_name(name)
    path.mkdir() if not name.endswith(".npz") else path.write_bytes(own.read_bytes())
    if path.is_dir():
        (path / "train.csv").write_text("a,label\n1,0\n2,1\n")
        (path / "test.csv").write_text("a,label\n1,0\n2,1\n")
    assert len(streams.build(f"split:{path}", experiences=2)) == 2
    assert len(streams.build(f"split:{path}?experiences=2")) == 2


def test_unknown_arguments_of_own_data_are_refused(own):
    with pytest.raises(UsageError, match=r"no argument 'limt' of stream 'split'. Did you mean"):
        streams.build(f"split:{own}?limt=10")


def test_a_missing_path_with_a_question_mark_is_named_whole():
    with pytest.raises(DataError, match=r"There is no file or folder /gone/what\?\.npz"):
        streams.build("split:/gone/what?.npz")


def test_vectors_cannot_be_rotated(own):
    with pytest.raises(DataError, match="Only images"):
        streams.build(f"rotated:{own}")


def test_data_that_are_not_there_say_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    with pytest.raises(DataError, match=r"set HOLDFAST_DATA to a folder that holds mnist/mnist"):
        streams.build("split-mnist")
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no file mnist/mnist\.npz in .*that HOLDFAST_DATA names"):
        streams.build("split-mnist")


def test_entries_tell_what_there_is_and_whether_it_can_be_built(monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "mnist.npz").write_bytes(b"")
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path))
    found = {entry.name: entry for entry in streams.entries()}
    assert not found["split-digits"].needs_data
    assert found["split-digits"].present
    assert found["split-mnist"].needs_data
    assert found["split-mnist"].present
    assert not found["split-cifar10"].present
    assert found["omniglot"].experiences == found["omniglot"].arguments["experiences"] == 11
    assert found["rotated:PATH"].scenario == "domain"
    assert found["split-digits"].arguments == {
        "experiences": 5,
        "scenario": "class",
        "online": False,
        "order": "seed",
        "limit": None,
        "test_limit": None,
        "labels": 1.0,
        "ordered": False,
        "evaluations": None,
        "class_order": None,
        "base": None,
    }
    assert streams.entry("split-mnist") == found["split-mnist"]
    with pytest.raises(UsageError, match="Did you mean 'split-mnist'"):
        streams.entry("split-minst")


@pytest.mark.parametrize(
    "entry",
    [
        e
        for e in streams.entries()
        if e.present
        and not e.needs_data
        and e.name
        not in (
            "tasks:PATH",
            "trace:PATH",
            "glue:PATH",
            "texts:PATH",
        )  # of many files, tested apart
    ],
    ids=lambda e: e.name,
)
def test_entries_describe_the_streams_that_are_built(entry, tmp_path, tokenizer):
    text = entry.name
    if text.endswith(":PATH"):
        images = np.zeros((20, 4, 4), np.uint8)
        labels = np.arange(20) % 10
        path = tmp_path / "own.npz"
        np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
        if entry.scenario == "text":
            path = tmp_path / "own.txt"
            path.write_text("A line of text.\n" * 1000)
        text = text.replace("PATH", str(path))
    stream = streams.build(text, tokenizer=tokenizer)
    assert stream.scenario == entry.scenario
    assert len(stream) == (entry.experiences or 1)


def test_a_model_learns_a_table_whose_columns_differ_in_scale_by_millions(tmp_path):
    """Each feature alone tells two classes apart; only equal scales let all of them count."""
    draw = np.random.default_rng(0)
    y = np.arange(400) % 4
    small, large = y % 2 + draw.normal(0, 0.05, 400), 1e6 * (y // 2 + draw.normal(0, 0.05, 400))
    rows = [f"{a},{b},{label}" for a, b, label in zip(small, large, y, strict=True)]
    (tmp_path / "own.csv").write_text("\n".join(["small,large,label", *rows]))
    stream = streams.build(f"split:{tmp_path / 'own.csv'}", experiences=1)
    assert accuracy_on(stream, epochs=20) > 0.95


def accuracy_on(stream, epochs):
    learner = Learner(
        models.build("mlp(width=64)", stream, seed=0),
        optimizer=partial(torch.optim.SGD, lr=0.03),
        epochs=epochs,
    )
    return learner.learn(stream).matrix[0][0]


def test_digits_are_learned_to_the_accuracy_that_they_allow():
    assert accuracy_on(streams.build("split-digits", experiences=1), epochs=20) > 0.95
