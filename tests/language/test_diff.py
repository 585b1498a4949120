"""Diff from end to end: a tiny model, copies of it changed here, probe sets in files."""

from __future__ import annotations

import copy
import json
import math
import shutil

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.diff import diff
from holdfast.errors import UsageError
from holdfast.language.generate import generate
from holdfast.report import diff as report

PROMPTS = [f"{i} {'ab'[i % 2]} {'xyz'[i % 3]} ?" for i in range(40)]


@pytest.fixture
def base(make_llama):
    return make_llama()


@pytest.fixture
def probes(tmp_path, base, tokenizer):
    """What the base knows: its own greedy answers, as answers and as one of two choices."""
    greedy = generate(base, tokenizer, PROMPTS, max_new_tokens=2)
    folder = tmp_path / "probes"
    folder.mkdir()
    pairs = list(zip(PROMPTS, greedy, strict=True))
    answers = [{"prompt": p, "answer": a} for p, a in pairs]
    choices = [{**record, "choices": [record["answer"], "q7"]} for record in answers]
    texts = [{"text": f"{p} {a}"} for p, a in pairs]
    for name, records in (("facts", answers), ("choices", choices), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    return folder


@pytest.fixture
def folders(base, save, tokenizer):
    """The base, and a copy fine-tuned on something else."""
    tuned = copy.deepcopy(base).train()
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.5)
    ids = tokenizer(["0 b z : q 7 7 7", "1 a y : q 7 7 7"], return_tensors="pt")["input_ids"]
    for _ in range(30):
        tuned(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return save(base, "base"), save(tuned, "tuned")


def test_a_model_has_lost_nothing_against_itself(folders, probes):
    found = diff(folders[0], folders[0], probes)
    assert [s.name for s in found.sets] == ["choices", "facts", "texts"]
    for one in found.sets:
        assert one.verdict == "same"
        assert one.drop == 0
        assert one.loss[0] == one.loss[1]
        difference = one.judged
        assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
        assert not one.lost
        assert not one.gained
    assert all(tensor.change == 0 for tensor in found.movement.tensors)
    assert all(layer.cosine == pytest.approx(1) for layer in found.layers)
    assert not found.dropped


def test_what_fine_tuning_cost_is_found_everywhere(folders, probes):
    found = diff(*folders, probes)
    sets = {one.name: one for one in found.sets}
    assert {name: one.kind for name, one in sets.items()} == {
        "choices": "choice", "facts": "answer", "texts": "text",
    }  # fmt: skip
    facts = sets["facts"]
    assert facts.score[0] > 0.9  # an answer that held a special token is not itself as a text
    assert facts.verdict == "drop"
    assert len(facts.lost) - len(facts.gained) == round(40 * (facts.score[0] - facts.score[1]))
    assert all(flip.base == flip.expected and flip.tuned.endswith("…") for flip in facts.lost)
    assert facts.lost[0].where.rpartition(":")[0].endswith("facts.jsonl")
    texts = sets["texts"]
    assert texts.drop == pytest.approx((texts.loss[1] - texts.loss[0]) / texts.loss[0])
    assert sets["choices"].calibration[0] < sets["choices"].calibration[1]
    assert found.layers[-1].cosine < 0.99
    assert max(t.relative for t in found.movement.tensors) > 0.01
    assert {one.name for one in found.dropped} >= {"facts"}


def test_an_adapter_is_compared_with_its_base(base, save, probes, tmp_path):
    from peft import LoraConfig, get_peft_model

    home = save(base, "base")
    config = LoraConfig(target_modules=["down_proj"], r=2, lora_alpha=32)
    model = get_peft_model(copy.deepcopy(base), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "adapter")
    found = diff(home, tmp_path / "adapter", probes)
    merged = save(copy.deepcopy(model).merge_and_unload(), "merged")
    twin = diff(home, merged, probes)
    for one, other in zip(found.sets, twin.sets, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.verdict == other.verdict
    assert {t.name for t in found.movement.tensors} == {
        f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)
    }
    assert found.dropped


def test_a_sequence_to_sequence_model_is_compared_too(make_t5, save, probes):
    found = diff(save(make_t5(0), "a"), save(make_t5(1), "b"), probes / "facts.jsonl")
    assert {layer.name.split()[0] for layer in found.layers} == {"encoder", "decoder"}
    assert found.sets[0].loss_difference.value != 0


def test_models_that_cannot_be_compared_are_refused(base, make_t5, save, probes, tokenizer):
    home = save(base, "base")
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["new"])
    with pytest.raises(
        UsageError, match=r"different vocabularies .* token 42 is nothing in .*'new'"
    ):
        diff(home, save(base, "grown", other), probes)
    with pytest.raises(UsageError, match=r"is causal and .* is seq2seq"):
        diff(home, save(make_t5(), "t5"), probes / "facts.jsonl")
    with pytest.raises(UsageError, match="max_drop must be 0 or more"):
        diff(home, home, probes, max_drop=-1)
    with pytest.raises(UsageError, match="Nothing to compare on"):
        diff(home, home, [])
    shutil.copy(probes / "facts.jsonl", probes.parent / "facts.jsonl")
    with pytest.raises(UsageError, match="Two probe sets would be called 'facts'"):
        diff(home, home, [probes, probes.parent / "facts.jsonl"])


def call(*words):
    return CliRunner().invoke(app, ["diff", *map(str, words)])


def test_the_command_writes_table_page_and_json_and_leaves_with_3(folders, probes, tmp_path):
    out = tmp_path / "out"
    done = call(*folders, "--on", probes, "--out", out, "--json", tmp_path / "d.json")
    assert done.exit_code == 3, done.output
    assert max(map(len, done.output.splitlines()[:-1])) <= 80
    found = json.loads((tmp_path / "d.json").read_text("utf-8"))
    assert found == json.loads((out / "diff.json").read_text("utf-8"))
    assert "facts" in found["dropped"]
    for one in found["sets"]:
        shown = f"{100 * one['score'][1]:.1f}" if one["score"] else f"{one['loss'][1]:.3f}"
        assert shown in done.output
        assert f'<td data-name="tuned">{shown}</td>' in (out / "index.html").read_text("utf-8")
    facts = next(one for one in found["sets"] if one["name"] == "facts")
    assert math.exp(facts["loss"][0]) == pytest.approx(facts["perplexity"][0])
    blocks = {group["name"] for group in found["movement"]["blocks"]}
    assert blocks == {"model.layers.0", "model.layers.1"}


def test_the_command_leaves_with_0_where_nothing_was_lost_and_2_for_a_mistake(folders, probes):
    same = call(folders[0], folders[0], "--on", probes, "--no-ranks")
    assert same.exit_code == 0, same.output
    assert "No drop" in same.output
    several = call(folders[0], folders[0], "--on", probes / "facts.jsonl", probes / "texts.jsonl")
    assert several.exit_code == 0, several.output
    missing = call(folders[0], "nowhere", "--on", probes)
    assert missing.exit_code == 2
    assert "There is no folder nowhere" in missing.output
    assert call(folders[0], folders[0], "--on", probes, "--metric", "rogue_l").exit_code == 2


def test_the_page_is_whole_without_a_network_and_fits_a_telephone(folders, probes, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium was found on the PATH")
    evil = "<script>window.hit = 1</script>"
    (probes / "evil.jsonl").write_text(
        json.dumps({"prompt": evil, "answer": "zq", "choices": ["zq", "a"]}), "utf-8"
    )
    path = report.write(diff(*folders, probes), tmp_path / "index.html")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        for width, scheme in ((390, "dark"), (1280, "light")):
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            requests, complaints = [], []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            page.on("console", lambda line, said=complaints: said.append(line.text))
            page.goto(path.as_uri())
            page.locator("details").evaluate_all("(all) => all.forEach((d) => { d.open = true; })")
            assert requests == [path.as_uri()]
            assert complaints == []
            assert page.evaluate("window.hit") is None
            assert page.evaluate("document.documentElement.scrollWidth") == width
        browser.close()


@pytest.mark.data
def test_the_real_model_loses_its_stories_when_tuned_on_plays(stories, data_folder, tmp_path):
    import gzip

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from holdfast.language.generate import sample_tokens

    model = AutoModelForCausalLM.from_pretrained(stories)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    told = tokenizer.batch_decode(sample_tokens(model, 40, 120, seed=0), skip_special_tokens=True)
    path = tmp_path / "stories.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in told), "utf-8")
    with gzip.open(data_folder / "corpora" / "tinyshakespeare.txt.gz", "rt", encoding="utf-8") as f:
        play = f.read(60_000)
    (tmp_path / "plays.txt").write_text(play[40_000:], "utf-8")
    ids = torch.tensor(tokenizer(play[:40_000], add_special_tokens=False)["input_ids"])
    rows = ids[: len(ids) // 128 * 128].view(-1, 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(25):
        batch = rows[(step * 8) % (len(rows) - 8) :][:8]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    on = [path, tmp_path / "plays.txt"]
    found = {s.name: s for s in diff(stories, tmp_path / "tuned", on, length=256).sets}
    assert found["stories"].verdict == "drop"
    assert found["stories"].loss[0] < 1.8
    assert found["plays"].verdict == "gain"
