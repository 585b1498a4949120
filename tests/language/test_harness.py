"""Tasks of lm-eval: one written here, on a local file, against our own reading of the choices."""

from __future__ import annotations

import json

import numpy as np
import pytest

from holdfast.errors import DataError, UsageError
from holdfast.language import harness
from holdfast.language.fields import Sample
from holdfast.language.probe import ProbeSet, measure

CHOICES = ["yes", "no", "q"]


def test_without_the_package_a_sentence_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UsageError, match=r"pip install 'holdfast\[eval\]'"):
        harness.check(["arc_easy"])


def test_the_score_of_single_examples_is_found_in_what_the_package_logs():
    logged = [
        {"doc_id": i, "metrics": ["acc", "acc_norm"], "acc": float(i % 2), "acc_norm": 0.5}
        for i in (2, 0, 1)
    ]
    found = harness._task("t", logged)
    assert (found.name, found.metric, found.scores.tolist()) == ("t", "acc", [0, 1, 0])
    with pytest.raises(DataError, match="no score for single examples"):
        harness._task("t", [{"doc_id": 0, "metrics": ["perplexity"], "perplexity": (1.0, 2)}])


def test_a_local_task_is_scored_as_our_own_reading_of_it(make_llama, tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="the package lm-eval is not installed")
    from lm_eval.tasks import TaskManager

    records = [{"q": f"{i} is it ?", "label": i % 3} for i in range(18)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    (tmp_path / "mine.yaml").write_text(
        f"task: holdfast_mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'data.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        f"doc_to_text: '{{{{q}}}}'\ndoc_to_target: label\ndoc_to_choice: {json.dumps(CHOICES)}\n"
        "metric_list:\n  - metric: acc\n",
        "utf-8",
    )
    model = make_llama()
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    model.train()
    (found,) = harness.run(model, tokenizer, ["holdfast_mine"], manager=manager)
    assert model.training
    samples = [
        Sample(prompt=r["q"], answer=CHOICES[r["label"]], choices=tuple(CHOICES)) for r in records
    ]
    ours = measure(model, tokenizer, ProbeSet("mine", samples))
    assert found.metric == "acc"
    assert found.scores.tolist() == ours.scores.tolist()
    assert 0 < np.mean(found.scores) < 1
    (few,) = harness.run(model, tokenizer, ["holdfast_mine"], limit=5, manager=manager)
    assert few.scores.tolist() == ours.scores.tolist()[:5]
