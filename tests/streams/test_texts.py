"""Labelled texts as streams: by class, by domain, and what belongs to no class."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast import Learner, models, streams
from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.models.sentences import embedded
from holdfast.streams.outside import OutOfScope
from holdfast.streams.texts import Texts, texts, topics

DOMAINS = {"rain": "weather", "sun": "weather", "lend": "money", "save": "money", "sing": "music"}


def sentences(count: int, word: str = "ask") -> tuple[list[str], list[str]]:
    labels = [label for label in DOMAINS for _ in range(count)]
    return [f"{word} {i} about {label}" for i, label in enumerate(labels)], labels


@pytest.fixture
def intents() -> Texts:
    return Texts("intents", sentences(6), sentences(3, "tell"), DOMAINS, ["who are you", "what"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with a small clinc150 and banking77."""
    for name in ("clinc150", "banking77"):
        (tmp_path / name).mkdir()
        for part, count in (("train", 6), ("test", 3)):
            rows = [
                {"text": text, "label": label, "domain": DOMAINS[label]}
                for text, label in zip(*sentences(count, part), strict=True)
            ]
            content = "\n".join(json.dumps(row) for row in rows).encode()
            (tmp_path / name / f"{part}.jsonl.gz").write_bytes(gzip.compress(content))
    rows = [{"text": f"odd {i}", "label": "oos", "split": s} for i, s in enumerate(
        ["oos_train", "oos_test", "oos_test"])]  # fmt: skip
    content = "\n".join(json.dumps(row) for row in rows).encode()
    (tmp_path / "clinc150" / "oos.jsonl.gz").write_bytes(gzip.compress(content))
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path))
    return tmp_path


def test_inputs_are_the_texts_vectors_and_labels_follow_arrival(intents: Texts) -> None:
    stream = topics(intents, "intents", 3, encoder="hashed")
    x, by_text = embedded(intents.train[0], "hashed"), {}
    for row, label in zip(x, intents.train[1], strict=True):
        by_text[tuple(row.tolist())] = label
    seen = 0
    for experience in stream:
        assert experience.classes == tuple(range(seen, seen + len(experience.classes)))
        seen += len(experience.classes)
        for row, y in zip(experience.train["x"], experience.train["y"].tolist(), strict=True):
            assert by_text[tuple(row.tolist())] == stream.class_names[y]
    assert seen == 5


def test_the_classes_of_a_domain_arrive_together(intents: Texts) -> None:
    stream = topics(intents, "intents", 0, encoder="hashed", order="natural")
    assert [experience.name for experience in stream] == ["weather", "money", "music"]
    arrived = [{stream.class_names[c] for c in experience.classes} for experience in stream]
    assert arrived == [{"rain", "sun"}, {"lend", "save"}, {"sing"}]
    orders = {
        tuple(e.name for e in topics(intents, "i", seed, encoder="hashed")) for seed in range(12)
    }
    assert len(orders) > 2
    two = topics(intents, "intents", 0, 2, encoder="hashed", order="natural")
    assert [experience.name for experience in two] == ["weather and money", "music"]


def test_by_label_they_split_by_any_number(intents: Texts) -> None:
    stream = topics(intents, "intents", 0, 5, by="label", encoder="hashed", limit=4)
    assert [len(experience.classes) for experience in stream] == [1] * 5
    assert [len(experience.train) for experience in stream] == [4] * 5
    with pytest.raises(UsageError, match=r"has 3 domains, .* With by=label it splits"):
        topics(intents, "intents", 0, 5, encoder="hashed")


def test_classes_may_come_in_a_given_order_after_a_first_experience_of_any_size(
    intents: Texts,
) -> None:
    names = sorted(DOMAINS)  # as the source numbers them
    asked = {"class_order": [4, 0, 2, 1, 3], "base": 3, "encoder": "hashed"}
    for stream in (
        texts(intents, "intents", 0, 3, **asked),
        topics(intents, "intents", 0, 3, by="label", **asked),
    ):
        assert [len(experience.classes) for experience in stream] == [3, 1, 1]
        assert stream.class_names == tuple(names[c] for c in (4, 0, 2, 1, 3))
    with pytest.raises(UsageError, match="use them with by=label"):
        topics(intents, "intents", 0, encoder="hashed", base=2)


def test_a_known_task_gives_its_number(intents: Texts) -> None:
    stream = topics(intents, "intents", 0, scenario="task", encoder="hashed")
    assert stream.scenario == "task"
    assert [int(e.test["task"].unique()) for e in stream] == [0, 1, 2]
    with pytest.raises(UsageError, match="outside=true is for scenario=class"):
        topics(intents, "intents", 0, scenario="task", outside=True, encoder="hashed")
    bare = Texts("bare", intents.train, intents.test, DOMAINS)
    with pytest.raises(DataError, match="no texts outside"):
        topics(bare, "bare", 0, outside=True, encoder="hashed")


def test_named_sets_are_read_from_the_data_folder(folder: Path) -> None:
    stream = streams.build("clinc150(encoder=hashed, outside=true)", experiences=3)
    assert stream.name == "clinc150(encoder=hashed, outside=true, experiences=3)"
    assert sum(len(e.train) for e in stream) == 30
    scorer = stream.scorer
    assert isinstance(scorer, OutOfScope)
    assert torch.equal(scorer.outside["x"], embedded(["odd 1", "odd 2"], "hashed"))
    other = streams.build("banking77(encoder=hashed, experiences=5)")
    assert [len(e.classes) for e in other] == [1] * 5
    (folder / "banking77" / "train.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"no file banking77/train\.jsonl\.gz"):
        streams.build("banking77(encoder=hashed)")


class Told(nn.Module):
    """A model whose two logits are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_texts_outside_are_told_by_how_sure_the_model_is() -> None:
    """Of 2 x 2 pairs, three have the example within the surer: an area of 3/4."""
    y = torch.tensor([0, 1] * 2)
    x = torch.tensor([[4.0, 0.0], [0.0, 2.0], [9.0, 0.0], [0.0, 9.0]])
    stream = streams.split((x, y), (x[:2], y[:2]), experiences=1, order="natural")
    outside = Table({"x": torch.tensor([[1.0, 0.0], [3.0, 0.0]])})
    scorer = OutOfScope(stream, outside)
    learner = Learner(Told())
    learner.start(stream)
    scores = scorer.score(learner)
    assert scores.measures == {"outside": [0.75]}
    assert scores.plain == [1.0]
    assert len(scorer.subset(1, 0).outside) == 1


def test_a_run_records_how_well_what_is_outside_is_told(folder: Path) -> None:
    stream = streams.build("clinc150(encoder=hashed, outside=true, experiences=3)")
    learner = Learner(models.build("mlp(depth=0)", stream, head="growing", seed=0))
    record = learner.learn(stream)
    rows = record.measures["outside"]
    assert rows[0] == [0.5] * 3  # a head without rows is equally sure of everything
    assert len(rows) == 4
    assert all(0 <= area <= 1 for row in rows for area in row)


def test_your_own_texts_are_a_file_or_a_pair(tmp_path: Path) -> None:
    texts, labels = sentences(5)
    rows = [json.dumps({"text": t, "label": c}) for t, c in zip(texts, labels, strict=True)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    stream = streams.build(f"texts:{tmp_path}/train.jsonl?encoder=hashed&order=natural")
    assert [(len(e.train), len(e.test)) for e in stream] == [(4, 1)] * 5
    assert stream.class_names == ("lend", "rain", "save", "sing", "sun")
    with pytest.raises(DataError, match=r"has train\.jsonl but no test\.jsonl"):
        streams.build(f"texts:{tmp_path}")
    (tmp_path / "test.jsonl").write_text("\n".join(rows[::5]))
    pair = streams.build(f"texts:{tmp_path}?encoder=hashed")
    assert [(len(e.train), len(e.test)) for e in pair] == [(5, 1)] * 5
    (tmp_path / "odd.csv").write_text("words,label\na b,c\n")
    with pytest.raises(DataError, match="has no field 'text'; it has 'words', 'label'"):
        streams.build(f"texts:{tmp_path}/odd.csv")


def test_arguments_of_texts_at_hand_are_checked() -> None:
    with pytest.raises(UsageError, match="no argument 'encodr' of stream 'texts'"):
        streams.texts(sentences(2), encodr="hashed")
    with pytest.raises(UsageError, match="inputs must be embeddings or tokens; given: 'words'"):
        streams.texts(sentences(2), inputs="words", encoder="hashed")


@pytest.mark.data
def test_clinc150_and_banking77_have_their_published_counts(data_folder: Path) -> None:
    stream = streams.build("clinc150(encoder=hashed, outside=true)")
    assert [len(e.classes) for e in stream] == [15] * 10
    assert [(len(e.train), len(e.test)) for e in stream] == [(1500, 450)] * 10
    assert len(stream.scorer.outside) == 1000
    banking = streams.build("banking77(encoder=hashed)")
    assert [len(e.classes) for e in banking] == [11] * 7
    assert (sum(len(e.train) for e in banking), sum(len(e.test) for e in banking)) == (10003, 3080)
