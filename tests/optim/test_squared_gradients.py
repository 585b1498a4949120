"""Squares of single examples' gradients from one pass, against one pass an example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.language.objective import CausalLM
from holdfast.optim.squared_gradients import squared_gradients
from holdfast.testing.trials import small_llama, small_stream

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128}


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=128))


def qwen() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {**SIZES, "hidden_size": 16, "num_key_value_heads": 1, "intermediate_size": 24}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))


def neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, hidden_size=16, intermediate_size=24))


def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {**SIZES, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24}
    return OPTForCausalLM(OPTConfig(**sizes))


def both(model: Any) -> tuple[list[Tensor] | None, list[Tensor]]:
    """In one pass, and one example after another; rows of several lengths, padded."""
    model.eval()
    objective, table = CausalLM(), small_stream("text")[0].train
    assert len(set(table["length"][:6].tolist())) > 1
    parameters = [p for p in model.parameters() if p.requires_grad]

    def losses(rows: slice) -> Tensor:
        batch = table[rows]
        return objective.losses(objective.forward(model, batch), batch)

    expected = [torch.zeros_like(p) for p in parameters]
    for row in range(6):
        single = losses(slice(row, row + 1)).sum()
        for total, g in zip(expected, torch.autograd.grad(single, parameters), strict=True):
            total += g.square()
    return squared_gradients(model, lambda: losses(slice(0, 6)), 6), expected


@pytest.mark.parametrize("make", [small_llama, gpt2, qwen, neox, adapted])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_squares_of_one_pass_are_those_of_single_examples(
    make: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.optim.squared_gradients.AT_ONCE", at_once)
    torch.manual_seed(0)
    found, expected = both(make())
    assert found is not None
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6 * float(b.max()))


def test_layers_of_another_kind_are_left_to_single_passes() -> None:
    assert both(opt())[0] is None, "its positions are offset inside the layer"


def test_a_normalisation_that_only_sounds_like_one_is_not_trusted() -> None:
    class OtherRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(3)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x.sin()

    layer, x = OtherRMSNorm(), torch.randn(4, 2, 3)
    assert squared_gradients(layer, lambda: layer(x).sum((1, 2)), 4) is None


def test_hooks_are_taken_off_also_after_an_error() -> None:
    layer = nn.Linear(2, 2)

    def fails() -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        squared_gradients(layer, fails, 1)
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
