"""Checkpoints in and out: what is refused, what is kept, and that nothing is half written."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.errors import CheckpointError, UsageError
from holdfast.language.checkpoints import (
    advice,
    describe,
    estimate_memory,
    free_memory,
    load,
    save,
)


@pytest.fixture
def folder(tmp_path, make_llama, tokenizer):
    return save(make_llama(), tokenizer, tmp_path / "base")


@pytest.fixture
def make_lora(make_llama):
    def make(model=None, **changed):
        from peft import LoraConfig, get_peft_model

        settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        adapted = get_peft_model(
            make_llama() if model is None else model, LoraConfig(**{**settings, **changed})
        )
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        return adapted.eval()

    return make


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 13)[None]).logits


def edit(file, **changed):
    content = json.loads(file.read_text()) | changed
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_comes_back_bit_for_bit(tmp_path, make_llama, tokenizer, tied, dtype):
    model = make_llama(tie_word_embeddings=tied).to(dtype)
    loaded = load(save(model, tokenizer, tmp_path / "new"), dtype="auto")
    assert (loaded.kind, loaded.adapter, loaded.context) == ("causal", False, 64)
    assert not loaded.model.training
    before, after = model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(after[name], tensor)
    output, embedding = (
        loaded.model.get_output_embeddings().weight,
        loaded.model.get_input_embeddings().weight,
    )
    assert (output is embedding) == tied


def test_the_folder_is_an_ordinary_one(folder, make_llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert torch.equal(logits(theirs), logits(make_llama()))
    assert AutoTokenizer.from_pretrained(folder)("ab")["input_ids"][0] == 1


def test_weights_are_loaded_in_the_type_asked_for(folder):
    assert load(folder).model.dtype == torch.float32
    assert load(folder, dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(UsageError, match=r"no dtype 'bfloat'.*Did you mean 'bfloat16'"):
        load(folder, dtype="bfloat")


def test_an_encoder_decoder_model_is_known_as_one(tmp_path, make_t5, tokenizer):
    model = make_t5()
    loaded = load(save(model, tokenizer, tmp_path / "t5"))
    assert (loaded.kind, loaded.context) == ("seq2seq", None)
    assert describe(tmp_path / "t5").parameters == sum(p.numel() for p in model.parameters())


def test_a_tokenizer_without_padding_pads_with_eos_on_the_right_and_no_row_is_added(folder):
    loaded = load(folder)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token == "</s>"
    assert loaded.tokenizer.padding_side == "right"
    assert len(loaded.tokenizer) == loaded.model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("name", ["default", "english"])
def test_an_adapter_comes_back_on_its_base(tmp_path, folder, tokenizer, make_lora, name):
    base = load(folder).model
    adapted = make_lora(base)
    if name != "default":
        adapted.add_adapter(name, adapted.peft_config["default"])
        adapted.set_adapter(name)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if name in key:
                    parameter.normal_()
    where = save(adapted, tokenizer, tmp_path / "adapter")
    files = {path.name for path in where.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert not files & {"model.safetensors", name}
    loaded = load(where)
    assert loaded.adapter
    assert torch.equal(logits(loaded.model), logits(adapted))
    assert not torch.equal(logits(loaded.model), logits(load(folder).model))
    trained = {key for key, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in key for key in trained)
    told = describe(where)
    assert told.adapter_parameters == sum(
        p.numel() for p in loaded.model.parameters() if p.requires_grad
    )
    assert told.parameters == describe(folder).parameters


def test_an_adapter_that_trains_the_embedding_brings_it(tmp_path, folder, tokenizer, make_lora):
    adapted = make_lora(load(folder).model, modules_to_save=["embed_tokens"])
    with torch.no_grad():
        adapted.get_input_embeddings().weight.add_(1)
    loaded = load(save(adapted, tokenizer, tmp_path / "adapter"))
    assert torch.equal(logits(loaded.model), logits(adapted))


def test_an_adapter_finds_its_base_where_it_is_told(tmp_path, folder, tokenizer, make_lora):
    where = save(make_lora(load(folder).model), tokenizer, tmp_path / "adapter")
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"is for the base '.*base', which is no folder here"):
        load(where)
    assert load(where, base=moved).adapter
    assert describe(where, base=moved).layers == 2
    with pytest.raises(UsageError, match=r"is not an adapter's folder"):
        load(moved, base=moved)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"hidden_size": 64}, "does not fit the base"),
        ({"num_hidden_layers": 1}, "the base has no place for .*layers.1"),
        ({"num_hidden_layers": 3}, "the adapter has nothing for .*layers.2"),
    ],
)
def test_an_adapter_for_another_base_is_refused(
    tmp_path, folder, make_llama, tokenizer, make_lora, changed, why
):
    where = save(make_lora(load(folder).model), tokenizer, tmp_path / "adapter")
    other = save(make_llama(**changed), tokenizer, tmp_path / "other")
    with pytest.raises(UsageError, match=why):
        load(where, base=other)


def test_an_adapter_for_another_kind_of_model_is_refused(
    tmp_path, folder, make_t5, tokenizer, make_lora
):
    where = save(make_lora(load(folder).model), tokenizer, tmp_path / "adapter")
    other = save(make_t5(), tokenizer, tmp_path / "t5")
    with pytest.raises(UsageError, match=r"does not fit the base .*t5"):
        load(where, base=other)


def test_two_adapters_at_once_are_not_saved(tmp_path, tokenizer, make_lora):
    adapted = make_lora()
    adapted.add_adapter("other", adapted.peft_config["default"])
    adapted.base_model.set_adapter(["default", "other"])
    with pytest.raises(UsageError, match=r"in use are 2: default, other"):
        save(adapted, tokenizer, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_folder_is_refused_with_what_is_missing(tmp_path, folder):
    with pytest.raises(UsageError, match=r"no folder meta-llama/Llama.*never downloaded"):
        load("meta-llama/Llama")
    with pytest.raises(UsageError, match=r"is a file; accepted: a model's folder"):
        load(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"has no config.json"):
        load(tmp_path / "empty")
    edit(folder / "config.json", model_type=None)
    with pytest.raises(UsageError, match=r"has no 'model_type'"):
        load(folder)
    edit(folder / "config.json", model_type="lama")
    with pytest.raises(
        UsageError, match=r"cannot read the configuration of a model of type 'lama'"
    ):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be read as JSON"):
        load(folder)


def test_a_model_that_writes_no_text_is_refused(tmp_path, folder):
    edit(folder / "config.json", architectures=["LlamaForSequenceClassification"])
    with pytest.raises(UsageError, match=r"ForSequenceClassification, which does not write text"):
        load(folder)
    edit(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    with pytest.raises(UsageError, match=r"ViTModel, which does not write text"):
        describe(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer \(none of tokenizer.json"):
        load(folder)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    tmp_path, folder, tokenizer, make_lora
):
    adapter = save(make_lora(load(folder).model), tokenizer, tmp_path / "adapter")
    for where, old, new in (
        (adapter, "adapter_model.safetensors", "adapter_model.bin"),
        (folder, "model.safetensors", "pytorch_model.bin"),
    ):
        (where / old).rename(where / new)
        with pytest.raises(UsageError, match=rf"pickled weights \({new}\).*save_pretrained"):
            load(where)
        with pytest.raises(UsageError, match=r"pickled"):
            describe(where, base=folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model.safetensors"):
        load(folder)


EVIL = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_not_run(folder, name):
    (folder / "evil.py").write_text(EVIL)
    edit(folder / name, auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    for look in (load, describe):
        with pytest.raises(UsageError, match=rf"'auto_map' in {name}.*--trust-remote-code"):
            look(folder)
    assert not (folder / "ran").exists()


OWN = """
from transformers import LlamaConfig, LlamaForCausalLM
class C(LlamaConfig):
    model_type = "own-llama"
class M(LlamaForCausalLM):
    config_class = C
"""


def test_code_of_a_checkpoint_is_run_where_it_is_trusted(folder, make_llama, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hub"))
    (folder / "own.py").write_text(OWN)
    auto = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    edit(folder / "config.json", model_type="own-llama", architectures=["M"], auto_map=auto)
    loaded = load(folder, trust_remote_code=True)
    assert type(loaded.model).__name__ == "M"
    assert torch.equal(logits(loaded.model), logits(make_llama()))
    assert describe(folder, trust_remote_code=True).architecture == "M"


def test_damaged_weights_are_said_to_be_so(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content, message in (
        (whole[:-5], "is damaged: it has"),
        (whole[:40], "not a safetensors file, or damaged"),
        (b"", "not a safetensors file, or damaged"),
        (b"\xff" * 100, "not a safetensors file, or damaged"),
    ):
        file.write_bytes(content)
        for look in (load, describe):
            with pytest.raises(CheckpointError, match=message):
                look(folder)


def test_weights_that_are_missing_are_not_made_up(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the weights.*up_proj"):
        load(folder)


def test_weights_of_another_shape_are_refused(folder):
    edit(folder / "config.json", intermediate_size=52)
    with pytest.raises(CheckpointError, match=r"cannot be loaded"):
        load(folder)


def test_weights_in_several_files_are_found_and_missed(tmp_path, make_llama, tokenizer):
    model = make_llama()
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "parts")
    shards = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(logits(load(tmp_path / "parts").model), logits(model))
    assert describe(tmp_path / "parts").parameters == sum(p.numel() for p in model.parameters())
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of its {len(shards)} files of weights"):
        load(tmp_path / "parts")


FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {"num_hidden_layers": 2, "intermediate_size": 48},
    "qwen2": {"num_hidden_layers": 2, "intermediate_size": 48, "num_key_value_heads": 2},
    "gemma": {"num_hidden_layers": 2, "intermediate_size": 48, "num_key_value_heads": 2},
    "opt": {"num_hidden_layers": 2, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "mamba": {"num_hidden_layers": 2},
    "bart": {"encoder_layers": 1, "decoder_layers": 1, "d_model": 32},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_many_families_are_described_saved_and_loaded(tmp_path, tokenizer, family):
    import transformers as t

    config = t.AutoConfig.for_model(
        family, vocab_size=42, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        **{"hidden_size": 32, "num_attention_heads": 4, **FAMILIES[family]},
    )  # fmt: skip
    auto = t.AutoModelForSeq2SeqLM if family == "bart" else t.AutoModelForCausalLM
    model = auto.from_config(config).eval()
    where = save(model, tokenizer, tmp_path / family)
    told, loaded = describe(where), load(where)
    assert told.parameters == sum(p.numel() for p in model.parameters())
    assert (told.layers, told.hidden, told.vocabulary) == (2, 32, 42)
    assert told.kind == loaded.kind == ("seq2seq" if family == "bart" else "causal")
    assert torch.equal(logits(loaded.model), logits(model))


@pytest.mark.parametrize("tied", [True, False])
def test_a_description_is_what_the_model_is_without_loading_it(
    tmp_path, make_llama, tokenizer, tied, monkeypatch
):
    model = make_llama(tie_word_embeddings=tied).to(torch.bfloat16)
    where = save(model, tokenizer, tmp_path / "new")
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    told = describe(where)
    assert told.parameters == sum(p.numel() for p in model.parameters())
    assert told.bytes == 2 * told.parameters
    assert (told.dtype, told.tied, told.context) == ("bfloat16", tied, 64)
    assert (told.kind, told.architecture) == ("causal", "LlamaForCausalLM")
    assert (told.layers, told.hidden, told.inner, told.heads) == (2, 32, 48, 4)
    assert told.key_width == 16  # two heads of eight
    assert told.vocabulary == 42


def test_writing_is_all_or_nothing(tmp_path, folder, make_llama, tokenizer, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(
        type(tokenizer), "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(CheckpointError, match=r"disk full. What was there before is untouched"):
        save(make_llama(seed=1), tokenizer, folder, replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(CheckpointError, match=r"disk full"):
        save(make_llama(seed=1), tokenizer, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_folder_appears_only_when_all_of_it_is_on_the_disk(
    tmp_path, make_llama, tokenizer, monkeypatch
):
    target, seen = tmp_path / "new", []
    sync = os.fsync

    def watched(descriptor):
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), target.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    save(make_llama(), tokenizer, target)
    files = {os.path.basename(path) for path, there in seen if not there}
    assert {path.name for path in target.iterdir()} <= files
    assert seen[-1] == (str(tmp_path), True)


def test_an_older_checkpoint_is_replaced_only_when_asked(folder, make_llama, tokenizer):
    new = make_llama(seed=1)
    (folder / "old-file").touch()
    with pytest.raises(UsageError, match=r"is not empty, and replace=True was not given"):
        save(new, tokenizer, folder)
    save(new, tokenizer, folder, replace=True)
    assert torch.equal(logits(load(folder).model), logits(new))
    assert not (folder / "old-file").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["base"]


def test_only_a_checkpoint_is_ever_replaced(tmp_path, make_llama, tokenizer):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds something else than a checkpoint"):
        save(make_llama(), tokenizer, tmp_path, replace=True)
    with pytest.raises(UsageError, match=r"is a file"):
        save(make_llama(), tokenizer, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").exists()


def kept_for_backward(model, rows=2, width=32):
    """Bytes that autograd keeps of a forward pass, parameters left out."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(3, 40, (rows, width))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train()(input_ids=ids, labels=ids, use_cache=False).loss
    assert loss.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("family", ["llama", "grouped", "gpt2"])
def test_the_estimate_of_a_block_is_what_backward_keeps(tmp_path, make_llama, tokenizer, family):
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(layers):
        if family == "gpt2":
            none = {"attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0}
            config = GPT2Config(
                vocab_size=42, n_embd=64, n_layer=layers, n_head=4, bos_token_id=1, eos_token_id=2,
                **none,
            )  # fmt: skip
            return GPT2LMHeadModel(config)
        heads = 2 if family == "grouped" else 8
        return make_llama(
            hidden_size=64, intermediate_size=172, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=heads,
        )  # fmt: skip

    kept, told = {}, {}
    for layers in (1, 3):
        model = make(layers)
        kept[layers] = kept_for_backward(model)
        described = describe(save(model, tokenizer, tmp_path / str(layers)))
        told[layers] = estimate_memory(described, batch=2, length=32, trainable=0)
        told[layers] -= described.bytes
    ratio = (told[3] - told[1]) / (kept[3] - kept[1])
    assert 1 <= ratio < 1.2
    # The whole counts gradients of the logits too, which come only with backward.
    assert 1 <= told[3] / kept[3] < 1.4


def test_checkpointing_is_estimated_as_what_is_then_kept(tmp_path, make_llama, tokenizer):
    model = make_llama(hidden_size=64, num_hidden_layers=6)
    described = describe(save(model, tokenizer, tmp_path / "new"))
    settings = {"batch": 2, "length": 32, "trainable": 0}
    saved = estimate_memory(described, **settings) - estimate_memory(
        described, **settings, checkpointing=True
    )
    plainly = kept_for_backward(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    # The estimate holds one block being computed again, which is not yet so after forward.
    block = (plainly - kept_for_backward(model)) / 6
    assert saved == pytest.approx(5 * block, rel=0.25)


def test_the_estimate_is_its_formula(folder):
    told = describe(folder)
    P, h, k, f, L, V, n = told.parameters, 32, 16, 48, 2, 42, 3 * 10
    for dtype, b in (("float32", 4), ("bfloat16", 2)):
        for optimizer, states in (("adamw", 2), ("momentum", 1), ("sgd", 0)):
            expected = P * b + 100 * b * (1 + states)
            expected += L * n * (8 * h + 2 * k + 5 * f) * b + n * V * (b + 8)
            settings = {"trainable": 100, "optimizer": optimizer, "dtype": dtype}
            assert estimate_memory(told, batch=3, length=10, **settings) == expected
    with pytest.raises(UsageError, match=r"no optimizer 'adamm'"):
        estimate_memory(told, batch=1, length=1, trainable=0, optimizer="adamm")


def test_advice_names_what_would_fit_and_it_does(folder):
    told = describe(folder)
    settings = {"batch": 8, "length": 64, "trainable": told.parameters}
    need = estimate_memory(told, **settings)
    assert advice(told, need, **settings) is None
    said = advice(told, need - 1, **settings)
    assert said is not None
    assert "a batch of 7" in said
    assert "gradient checkpointing" in said
    assert "LoRA" in said
    seven = estimate_memory(told, **{**settings, "batch": 7})
    assert seven <= need - 1
    assert advice(told, seven, **{**settings, "batch": 7}) is None
    assert "neither a smaller batch" in advice(told, 1000, **settings)


def test_free_memory_is_less_than_all_there_is():
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory() < everything


@pytest.mark.data
def test_the_real_llama_is_described_and_comes_back(stories, tmp_path):
    told = describe(stories)
    assert (told.parameters, told.context, told.tied) == (260_032, 512, True)
    loaded = load(stories)
    again = load(save(loaded.model, loaded.tokenizer, tmp_path / "new"))
    ids = loaded.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, again.model(ids).logits)
    assert math.prod(loaded.model.get_input_embeddings().weight.shape) == 512 * 64
