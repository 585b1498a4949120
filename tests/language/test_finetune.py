"""Fine-tuning from a recipe: an ordinary checkpoint, what was gained and kept, and nothing lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.diff import diff
from holdfast.errors import DataError, RunError, StreamRefused, UsageError
from holdfast.finetune import build_learner, finetune, forecast
from holdfast.language.plan import prepare
from holdfast.learner import Learner, Observer
from holdfast.recipe import Recipe
from holdfast.run import Stopped

CPU = torch.device("cpu")


@pytest.fixture
def model(make_llama: Any, save: Any) -> Path:
    return save(make_llama(), "base")


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The letter after each, as prompts with completions."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [(a + b, letters[(letters.index(b) + 1) % 26]) for a in letters[:8] for b in letters]
    rows = [{"prompt": f"{prompt}:", "completion": answer} for prompt, answer in pairs]
    return lines(tmp_path / "next.jsonl", rows)


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    return lines(
        tmp_path / "digits.jsonl",
        [{"text": "".join("0123456789"[i % 10 :] * 3)} for i in range(20)],
    )


@pytest.fixture
def recipe(model: Path, data: Path, guard: Path) -> Callable[..., Recipe]:
    def make(**changed: Any) -> Recipe:
        settings: dict[str, Any] = {
            "model": str(model), "data": str(data), "guard": str(guard), "lr": 0.01,
            "batch_size": 16, "epochs": 2, "schedule": "constant",
        }  # fmt: skip
        return Recipe(**{**settings, **changed})

    return make


def weights(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder)
    return torch.cat([p.detach().flatten() for p in loaded.parameters()])


def test_the_result_is_an_ordinary_checkpoint_and_its_numbers_are_those_of_diff(
    recipe: Callable[..., Recipe], model: Path, guard: Path, tmp_path: Path
) -> None:
    outcome = finetune(recipe(), tmp_path / "out")
    gained, kept = outcome.sets
    assert gained.verdict == "gain"
    assert gained.loss[1] < gained.loss[0] - 1
    again = diff(model, tmp_path / "out" / "model", guard, weights=False).sets[0]
    assert kept.loss == pytest.approx(again.loss, rel=1e-5)
    assert kept.verdict == again.verdict == "drop"
    assert outcome.dropped == [kept]
    written = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert written["sets"][1]["loss"] == list(kept.loss)


def test_the_weights_are_those_of_a_bare_loop(
    recipe: Callable[..., Recipe], model: Path, tmp_path: Path
) -> None:
    """One update on all rows: transformers' loss, AdamW, nothing else."""
    from transformers import AutoModelForCausalLM

    given = recipe(batch_size=1000, epochs=1, clip=0.0)
    finetune(given, tmp_path / "out")
    bare = AutoModelForCausalLM.from_pretrained(model).train()
    table = prepare(given, CPU).stream[0].train
    bare(**{k: v for k, v in table.columns.items() if k != "length"}).loss.backward()
    torch.optim.AdamW(bare.parameters(), lr=0.01, weight_decay=0.0).step()
    expected = torch.cat([p.detach().flatten() for p in bare.parameters()])
    found = weights(tmp_path / "out" / "model")
    # Adam's first step has the length of the rate: where a gradient is all but 0, rounding decides.
    assert float(((found - expected).abs() > 1e-4).float().mean()) < 0.01


def test_an_adapter_is_written_as_peft_writes_it_and_the_base_stays(
    recipe: Callable[..., Recipe], model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    given = recipe(lora="lora(rank=4)")
    outcome = finetune(given, tmp_path / "out")
    assert outcome.sets[0].loss[1] < outcome.sets[0].loss[0] - 1
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model), tmp_path / "out" / "model"
    ).eval()
    assert not (tmp_path / "out" / "model" / "model.safetensors").exists()
    after = diff(model, tmp_path / "out" / "model", tmp_path / "digits.jsonl", weights=False)
    assert after.sets[0].loss == pytest.approx(outcome.sets[1].loss, rel=1e-5)
    assert sum("lora" in name for name, _ in loaded.named_parameters()) > 0


class StopAt(Observer):
    def __init__(self, update: int) -> None:
        self.update = update

    def on_step(self, learner: Learner) -> None:
        if learner.updates == self.update:
            raise Stopped("Stopped.")


@pytest.mark.parametrize("method", ["finetune", "l2(strength=0.1)", "hft+er(capacity=20)"])
def test_what_was_stopped_goes_on_to_the_same_bits(
    recipe: Callable[..., Recipe], tmp_path: Path, method: str
) -> None:
    given = recipe(method=method, schedule="warmup_cosine")
    finetune(given, tmp_path / "whole")
    for update in (3, 13, 20):
        with pytest.raises(Stopped):
            finetune(given, tmp_path / "parts", resume=update > 3, observers=[StopAt(update)])
    finetune(given, tmp_path / "parts", resume=True)
    assert torch.equal(weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model"))


def test_plain_training_stands_beside_it_on_request(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    plain = finetune(recipe(), tmp_path / "plain")
    strong = finetune(recipe(method="l2(strength=10.0)", baseline=True), tmp_path / "l2")
    assert [found.loss for found in strong.plain] == [
        pytest.approx(found.loss, rel=1e-6) for found in plain.sets
    ]
    assert strong.sets[1].drop < strong.plain[1].drop


def test_a_dry_run_tells_what_is_to_come_and_leaves_the_model_alone(
    recipe: Callable[..., Recipe],
) -> None:
    plan = prepare(recipe(method="hft(embeddings=freeze)"), CPU)
    before = [p.detach().clone() for p in plan.loaded.model.parameters()]
    expected = forecast(plan)
    assert expected.updates == 2 * -(-len(plan.stream[0].train) // 16)
    assert 0.2 < expected.trained / expected.parameters < 0.5
    assert expected.seconds > 0
    assert expected.scarce is None
    for now, then in zip(plan.loaded.model.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_accumulation_and_clipping_reach_the_learner(recipe: Callable[..., Recipe]) -> None:
    learner = build_learner(prepare(recipe(accumulate=4, clip=0.5, precision="bfloat16"), CPU))
    assert (learner.accumulate, learner.clip, learner.precision) == (4, 0.5, "bfloat16")
    assert learner.pretrained


def test_samples_that_guard_and_data_share_are_counted(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    shared = lines(tmp_path / "shared.jsonl", [*rows[:3], {"prompt": "zz9:", "completion": "q"}])
    plan = prepare(recipe(guard=str(shared)), CPU)
    assert any("3 samples of the guard set shared" in warning for warning in plan.warnings)


def test_one_long_text_is_parted_into_what_is_learned_and_what_is_held_out(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    text = tmp_path / "long.txt"
    text.write_text("abc def ghi. " * 200)
    plan = prepare(recipe(data=str(text), guard=(), length=32), CPU)
    (held,) = plan.gained.samples
    assert 0.03 < len(held.text) / len(text.read_text()) < 0.07
    assert plan.stream[0].train["input_ids"].shape[1] == 32


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"model": "nowhere"}, UsageError, "nowhere"),
        ({"data": "missing.jsonl"}, DataError, "missing.jsonl"),
        ({"method": "hfd"}, UsageError, "Did you mean 'hft'"),
        ({"method": "icarl"}, StreamRefused, "language"),
        ({"method": "hft", "lora": "lora(rank=4)"}, UsageError, "cannot be chained|adapter"),
        ({"length": 1000}, DataError, "context of 64"),
        ({"holdout": 0.0}, DataError, "--test"),
        ({"test": "missing.jsonl"}, DataError, "missing.jsonl"),
        ({"template": "nonsense"}, UsageError, "not Jinja"),
        ({"guard_limit": 0.1, "guard": ()}, UsageError, "guard"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_nothing_is_written(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    changed: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        finetune(recipe(**changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_run_is_not_overwritten(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    finetune(recipe(epochs=1), tmp_path / "out")
    with pytest.raises(UsageError, match="already holds a fine-tuning"):
        finetune(recipe(epochs=1), tmp_path / "out")
    with pytest.raises(UsageError, match="epochs is 1 there and 3 here"):
        finetune(recipe(epochs=3), tmp_path / "out", resume=True)
    with pytest.raises(UsageError, match="no fine-tuning"):
        finetune(recipe(), tmp_path / "new", resume=True)


def test_a_lack_of_memory_says_what_would_fit(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(Learner, "descend", starve)
    with pytest.raises(RunError, match=r"Memory has run out.*--batch-size"):
        finetune(recipe(), tmp_path / "out")


def test_the_command_line_and_a_yaml_recipe_do_the_same(
    model: Path, data: Path, guard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        f"model: {model}\ndata: {data}\nguard: [{guard}]\nlr: 1e-2\nbatch-size: 16\n"
    )
    options = ["--model", model, "--data", data, "--guard", guard, "--lr", "0.01"]
    shell = CliRunner()
    by_hand = ["finetune", *options, "--batch-size", "16", "--out", "a", "--json", "a.json"]
    first = shell.invoke(app, [str(word) for word in by_hand])
    second = shell.invoke(app, ["finetune", "--config", "recipe.yaml", "--out", "b"])
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert torch.equal(weights(tmp_path / "a/model"), weights(tmp_path / "b/model"))
    assert max(map(len, first.stdout.splitlines())) <= 80
    found = json.loads((tmp_path / "a.json").read_text())
    page = (tmp_path / "a" / "report.html").read_text()
    for one in found["sets"]:
        assert f"{one['loss'][1]:.3f}" in first.stdout
        assert f"{one['loss'][1]:.3f}" in page
    assert not re.search(r"(?:src|href)=.?https?:", page)


def test_a_dry_run_on_the_command_line_writes_nothing(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = ["finetune", "--model", model, "--data", data, "--method", "l2", "--dry-run"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "updates" in result.stdout
    assert "Everything is in order" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_lines_stop_it_or_are_counted(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data.write_text(data.read_text() + "{not json\n")
    words = ["finetune", "--model", str(model), "--data", str(data), "--dry-run"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "next.jsonl:209" in refused.stderr
    passed = CliRunner().invoke(app, [*words, "--skip-bad"])
    assert passed.exit_code == 0
    assert "1 records were passed over" in passed.stderr


def test_samples_are_packed_only_where_the_model_keeps_them_apart(
    recipe: Callable[..., Recipe], save: Any, make_t5: Any, make_llama: Any
) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    assert "position_ids" in prepare(recipe(pack=True), CPU).train.table
    bloom = BloomForCausalLM(BloomConfig(vocab_size=42, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(UsageError, match="would see one another in 'bloom'"):
        prepare(recipe(pack=True, model=str(save(bloom, "bloom"))), CPU)
    with pytest.raises(UsageError, match="no rows to pack"):
        prepare(recipe(pack=True, model=str(save(make_t5(), "t5"))), CPU)
