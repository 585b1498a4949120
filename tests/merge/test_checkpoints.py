"""Merged checkpoints hold what a reference of a few lines gives, and are written wholly or not."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.merge.conftest import LETTERS, llama, words

from holdfast.errors import CheckpointError, UsageError
from holdfast.language import checkpoints
from holdfast.language.tensors import Tensors, Writer
from holdfast.merge import changes, merge, merge_states, rules, soup


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """So that even small tensors come in several."""
    monkeypatch.setattr(changes, "PIECE", 100)


def deltas(base, *models):
    return [(m.double() - base.double()).float() for m in models]


def chance(seed, name, model):
    return changes.seeded(f"{seed} {name} {model}")


def dare_kept(name, ds, drop=0.5, seed=0):
    return [
        d * (torch.rand(d.shape, generator=chance(seed, name, i)) >= drop) / (1 - drop)
        for i, d in enumerate(ds)
    ]


REFERENCES = {
    "average": lambda n, o, a, b: (o + a + b) / 3,
    "linear(weights=[0.2, 0.3, 0.5])": lambda n, o, a, b: 0.2 * o + 0.3 * a + 0.5 * b,
    "task_arithmetic(scale=0.4)": lambda n, o, a, b: o + 0.4 * (a - o) + 0.4 * (b - o),
    "task_arithmetic(scale=-0.4)": lambda n, o, a, b: o - 0.4 * (a - o) - 0.4 * (b - o),
    "task_arithmetic(scale=0.5, weights=[1, -2])": lambda n, o, a, b: o + 0.5 * (a - o) - (b - o),
    "ties(density=0.3, scale=0.7)": lambda n, o, a, b: (
        o + 0.7 * rules.ties(deltas(o, a, b), [1, 1], 0.3)
    ),
    "ties(density=0.3, weights=[1, 3])": lambda n, o, a, b: (
        o + rules.ties(deltas(o, a, b), [1, 3], 0.3)
    ),
    "magnitude(density=0.25, rescale=l1)": lambda n, o, a, b: (
        o + rules.magnitude(deltas(o, a, b), [1, 1], 0.25, "l1")
    ),
    "breadcrumbs(density=0.4, outliers=0.1)": lambda n, o, a, b: (
        o + rules.breadcrumbs(deltas(o, a, b), [1, 1], 0.4, 0.1)
    ),
    "dare(drop=0.5, scale=0.6)": lambda n, o, a, b: o + 0.6 * sum(dare_kept(n, deltas(o, a, b))),
    "dare_ties(drop=0.5, seed=3)": lambda n, o, a, b: (
        o + rules.disjoint_mean(dare_kept(n, deltas(o, a, b), seed=3), [1, 1])
    ),
}


@pytest.mark.parametrize("spec", REFERENCES)
def test_every_rule_is_its_reference_on_every_tensor_in_files_and_in_memory(spec, put, tmp_path):
    base, one, two = llama(0), llama(1), llama(2)
    folders = [put(n, m) for n, m in (("base", base), ("one", one), ("two", two))]
    merge(folders[1:], tmp_path / "out", rule=spec, base=folders[0])
    found = load_file(tmp_path / "out" / "model.safetensors")
    states = [m.state_dict() for m in (base, one, two)]
    held = merge_states(spec, states[1:], states[0])
    assert set(found) == set(states[0])
    for name, tensor in found.items():
        wanted = REFERENCES[spec](name, *(state[name] for state in states))
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=1e-6, msg=name)
        torch.testing.assert_close(held[name], tensor, rtol=0, atol=1e-7, msg=name)


def test_slerp_and_wise_ft_go_from_one_end_to_the_other(put, tmp_path):
    base, one = llama(0), llama(1)
    folders = put("base", base), put("one", one)
    merge(folders, tmp_path / "arc", rule="slerp(t=0.3)")
    merge(folders[1], tmp_path / "same", rule="slerp(t=0.3)", base=folders[0])
    merge(folders[1], tmp_path / "line", rule="wise_ft(alpha=0.3)", base=folders[0])
    arc, same, line = (
        load_file(tmp_path / n / "model.safetensors") for n in ("arc", "same", "line")
    )
    for name, a in base.state_dict().items():
        b = one.state_dict()[name]
        torch.testing.assert_close(arc[name], rules.slerp(a, b, 0.3), rtol=0, atol=1e-6)
        torch.testing.assert_close(line[name], 0.7 * a + 0.3 * b, rtol=0, atol=1e-6)
        assert torch.equal(arc[name], same[name])


def test_dare_with_the_sum_of_magnitudes_kept(put, tmp_path):
    base, one = llama(0), llama(1)
    merged = merge_states("dare(rescale=l1)", [one.state_dict()], base.state_dict())
    for name, tensor in merged.items():
        before = (one.state_dict()[name] - base.state_dict()[name]).abs().sum()
        after = (tensor - base.state_dict()[name]).abs().sum()
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)


def test_what_is_written_loads_and_answers_with_the_merged_weights(put, tmp_path):
    base, one = llama(0), llama(1)
    folders = put("base", base), put("one", one)
    told = merge(folders[1], tmp_path / "out", rule="wise_ft(alpha=0.5)", base=folders[0])
    loaded = checkpoints.load(tmp_path / "out")
    halfway = (base.lm_head.weight + one.lm_head.weight) / 2
    torch.testing.assert_close(loaded.model.lm_head.weight, halfway)
    assert loaded.tokenizer.get_vocab() == words().get_vocab()
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["rule"] == told.rule
    assert told.rule == "wise_ft(alpha=0.5)"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_half_precision_stays_or_becomes_what_is_asked_and_is_reckoned_in_single(put, tmp_path):
    base, one = llama(0).bfloat16(), llama(1).bfloat16()
    folders = put("base", base), put("one", one)
    merge(folders, tmp_path / "same")
    merge(folders, tmp_path / "wide", dtype="float32")
    same, wide = (load_file(tmp_path / n / "model.safetensors") for n in ("same", "wide"))
    for name, a in base.state_dict().items():
        mean = (a.float() + one.state_dict()[name].float()) / 2
        assert torch.equal(same[name], mean.bfloat16())
        assert torch.equal(wide[name], mean)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    assert json.loads((tmp_path / "same" / "config.json").read_text())["dtype"] == "bfloat16"


def test_files_in_several_parts_are_read_and_written(put, tmp_path, monkeypatch):
    base, one = llama(0), llama(1)
    folders = put("base", base, max_shard_size="3KB"), put("one", one)
    monkeypatch.setattr("holdfast.language.tensors.Writer.__init__.__defaults__", (4000,))
    merge(folders, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    loaded = checkpoints.load(tmp_path / "out").model
    for name, tensor in loaded.state_dict().items():
        mean = (base.state_dict()[name] + one.state_dict()[name]) / 2
        torch.testing.assert_close(tensor, mean, rtol=0, atol=1e-7)


def test_integers_and_buffers_come_from_the_first_model(put, tmp_path):
    folders = [put("base", llama(0)), put("one", llama(1))]
    for number, folder in enumerate(folders):
        state = load_file(folder / "model.safetensors")
        state["steps"] = torch.tensor([number + 5])
        state["model.rotary_emb.inv_freq"] = torch.full((2,), number + 1.0)
        state["scale"] = torch.tensor(float(number))
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    merge(folders, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["steps"].tolist() == [5]
    assert found["model.rotary_emb.inv_freq"].tolist() == [1, 1]
    assert found["scale"].item() == 0.5


def test_tied_embeddings_are_merged_once_and_tied_again(put, tmp_path):
    base, one = llama(0, tie_word_embeddings=True), llama(1, tie_word_embeddings=True)
    folders = put("base", base), put("one", one)
    state = load_file(folders[1] / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()  # stored twice
    save_file(state, folders[1] / "model.safetensors", {"format": "pt"})
    merge(folders[1], tmp_path / "out", rule="dare(drop=0.5)", base=folders[0])
    loaded = checkpoints.load(tmp_path / "out").model
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_an_untied_output_layer_is_merged_with_the_embedding_that_it_came_from(put, tmp_path):
    base, one = llama(0, tie_word_embeddings=True), llama(1)
    folders = put("base", base), put("one", one)
    merge(folders[1], tmp_path / "out", rule="wise_ft(alpha=0.25)", base=folders[0])
    loaded = checkpoints.load(tmp_path / "out").model
    wanted = 0.75 * base.model.embed_tokens.weight + 0.25 * one.lm_head.weight
    torch.testing.assert_close(loaded.lm_head.weight, wanted)


def test_common_rows_are_merged_and_added_ones_kept(put, tmp_path):
    base, one = llama(0), llama(1, vocab_size=len(LETTERS) + 2)
    folders = put("base", base), put("one", one, words(("<a>", "<b>")))
    with pytest.raises(UsageError, match=r"lm_head.weight has 29 rows in .* and 31 in"):
        merge(folders[1], tmp_path / "out", rule="wise_ft", base=folders[0])
    told = merge(
        folders[1], tmp_path / "out", rule="wise_ft(alpha=0.5)", base=folders[0], common_rows=True
    )
    found = checkpoints.load(tmp_path / "out").model.get_input_embeddings().weight
    old, new = base.get_input_embeddings().weight, one.get_input_embeddings().weight
    torch.testing.assert_close(found[:29], (old + new[:29]) / 2)
    assert torch.equal(found[29:], new[29:])
    assert any("first 29 rows are merged, 2 are those of" in note for note in told.notes)


def llava(text, **vision):
    """A multimodal model around a language model."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    tower = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4, num_channels=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=tower, text_config=text.config, image_token_index=len(LETTERS),
        tie_word_embeddings=text.config.tie_word_embeddings,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rule", ["wise_ft(alpha=0.5)", "neuron_fusion(share=0.5, rest=0.0)"])
def test_the_language_model_inside_a_multimodal_one_is_merged_and_the_rest_is_kept(
    put, tmp_path, tied, rule
):
    from transformers import LlavaForConditionalGeneration

    base = llama(0, tie_word_embeddings=tied)
    torch.manual_seed(5)
    tuned = llava(llama(1, vocab_size=len(LETTERS) + 1, tie_word_embeddings=tied))
    folders = put("base", base), put("tuned", tuned, words(("<image>",)))
    merge(folders[1], tmp_path / "out", rule=rule, base=folders[0], common_rows=True)
    found = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    before, after = tuned.state_dict(), found.state_dict()
    for name in before:
        if "vision" in name or "projector" in name:
            assert torch.equal(after[name], before[name])
    q = "layers.1.self_attn.q_proj.weight"
    old = base.state_dict()[f"model.{q}"]
    new, merged = before[f"model.language_model.{q}"], after[f"model.language_model.{q}"]
    if rule.startswith("wise"):
        torch.testing.assert_close(merged, (old + new) / 2)
    else:
        heads = (merged - old).abs().amax(1).view(4, 4).amax(1) > 0
        assert heads.sum() == 2, "two of four heads keep their change"
    image = "model.language_model.embed_tokens.weight"
    assert torch.equal(after[image][-1], before[image][-1])


def test_a_prefix_may_be_given_and_must_fit(put, tmp_path):
    tuned = llava(llama(1, vocab_size=len(LETTERS) + 1))
    folders = put("base", llama(0)), put("tuned", tuned, words(("<image>",)))
    options = {"rule": "wise_ft", "base": folders[0], "common_rows": True, "dry_run": True}
    fits = merge(folders[1], tmp_path / "out", prefix="language_model", **options)
    assert fits.tensors == 21
    with pytest.raises(UsageError, match=r"has no tensor lm_head.weight"):
        merge(folders[1], tmp_path / "out", prefix="vision_tower", **options)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"intermediate_size": 32}, r"mlp.down_proj.weight is \[16, 24\] in .* and \[16, 32\] in"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 2 in the first and 3 in the second"),
        ({"num_attention_heads": 8, "head_dim": 4}, "architectures"),
        ({"vocab_size": 40}, "lm_head.weight has 29 rows in .* and 40 in .*--common-rows"),
        ({"attention_bias": True}, "has a tensor model.layers.0.self_attn.k_proj.bias, which"),
    ],
)
def test_other_architectures_are_refused_by_the_first_tensor_that_differs(
    put, tmp_path, changed, said
):
    folders = put("base", llama(0)), put("one", llama(1, **changed))
    for dry in (True, False):
        with pytest.raises(UsageError, match=said):
            merge(folders, tmp_path / "out", dry_run=dry)
    assert not (tmp_path / "out").exists()


def test_other_families_tokens_and_kinds_of_folder_are_refused(put, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    base = put("base", llama(0))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=len(LETTERS)))
    with pytest.raises(UsageError, match=r"is a llama and .* a gpt2; only models of one arch"):
        merge([base, put("gpt2", gpt2)], tmp_path / "out")
    turned = words(letters=[*LETTERS[:3], *reversed(LETTERS[3:])])
    with pytest.raises(UsageError, match=r"token 3 is 'a' in .* and 'z' in"):
        merge([base, put("other", llama(1), turned)], tmp_path / "out")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"is a PEFT adapter; .*merge_and_unload"):
        merge([base, adapter], tmp_path / "out")
    missing = put("missing", llama(1))
    state = load_file(missing / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, missing / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"has no tensor model.norm.weight, which .*base has"):
        merge([base, missing], tmp_path / "out")
    (beside := put("beside", llama(1))).joinpath("edits.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"has edits in a memory beside its weights"):
        merge([base, beside], tmp_path / "out")
    with pytest.raises(UsageError, match=r"There is no folder"):
        merge([base, tmp_path / "nothing"], tmp_path / "out")


@pytest.mark.parametrize(
    ("rule", "count", "with_base", "said"),
    [
        ("ties", 2, False, "give what the models were tuned from: --base"),
        ("average", 1, False, "average merges at least 2, the base counted as one; given: 1 model"),
        ("slerp", 2, True, "slerp merges 2, the base counted as one; given: 2 models and a base"),
        ("neuron_fusion", 2, True, "neuron_fusion merges 1; given: 2 models"),
        ("tis(density=0.2)", 2, True, "There is no rule 'tis'. Did you mean 'ties'"),
        ("ties(dens=0.2)", 2, True, "There is no argument 'dens' of rule 'ties'"),
        ("ties(density=2)", 2, True, "density must be above 0 and at most 1; given: 2.0"),
        ("dare(drop=1.0)", 2, True, "drop must be at least 0 and below 1; given: 1.0"),
        ("linear(weights=[1, 1, 1])", 2, True, "weights of linear must sum to 1"),
        ("ties(weights=[1])", 2, True, "weights must be a list of 2 numbers, one a model"),
        ("neuron_fusion(share=2)", 1, True, "share must be between 0 and 1; given: 2.0"),
        ("neuron_fusion(choose=big)", 1, True, "choose must be one of large, small, random"),
    ],
)
def test_rules_that_do_not_fit_are_refused(put, tmp_path, rule, count, with_base, said):
    folders = [put(f"m{i}", llama(i)) for i in range(count)]
    base = put("base", llama(9)) if with_base else None
    with pytest.raises(UsageError, match=said):
        merge(folders, tmp_path / "out", rule=rule, base=base)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_leaves_nothing_behind(put, tmp_path, monkeypatch):
    folders = put("base", llama(0)), put("one", llama(1))
    write, calls = Writer.write, []

    def full(self, name, piece):
        calls.append(name)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, piece)

    monkeypatch.setattr(Writer, "write", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"No space left on device. Nothing of it was left"):
        merge(folders, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    older = put("older", llama(2))
    kept = (older / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError):
        merge(folders, older, replace=True)
    assert (older / "model.safetensors").read_bytes() == kept


def test_too_small_a_disk_is_told_before_anything_is_written(put, tmp_path, monkeypatch):
    folders = put("base", llama(0)), put("one", llama(1))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("holdfast.merge.plan.shutil.disk_usage", lambda place: usage)
    with pytest.raises(CheckpointError, match=r"has 1 kB left; nothing was written"):
        merge(folders, tmp_path / "out")


def test_a_trial_writes_nothing_and_tells_what_would_be(put, tmp_path):
    folders = put("base", llama(0)), put("one", llama(1))
    before = sorted(tmp_path.rglob("*"))
    told = merge(folders[1], tmp_path / "out", rule="ties", base=folders[0], dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    size = sum(math.prod(p.shape) for p in llama(0).parameters())
    assert told.bytes == 4 * size
    assert told.out is None
    assert told.seconds > 0


def test_what_is_there_is_not_overwritten_unless_asked(put, tmp_path):
    folders = put("base", llama(0)), put("one", llama(1))
    out = put("out", llama(2))
    with pytest.raises(UsageError, match=r"is not empty"):
        merge(folders, out)
    merge(folders, out, replace=True)
    wanted = (llama(0).lm_head.weight + llama(1).lm_head.weight) / 2
    torch.testing.assert_close(Tensors(out)["lm_head.weight"], wanted)


def test_a_greedy_soup_takes_in_what_does_no_harm(put, tmp_path):
    folders = [put(f"m{i}", llama(i)) for i in range(3)]
    target = (llama(0).lm_head.weight + llama(2).lm_head.weight) / 2

    def score(folder):
        return -float((Tensors(folder)["lm_head.weight"] - target).detach().norm())

    _, chosen = soup(folders, tmp_path / "out", score)
    assert set(chosen) == {str(folders[0]), str(folders[2])}
    torch.testing.assert_close(Tensors(tmp_path / "out")["lm_head.weight"], target)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
