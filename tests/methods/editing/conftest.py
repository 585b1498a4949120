"""Small models and hand-made requests for the tests of editors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from holdfast.data import Table
from holdfast.learner import Learner
from holdfast.stream import Experience, Stream

SIZES = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3}
"""With weights so large that what one layer does is heard at the end."""


def llama_of_three() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=64,
            **SIZES,
        )
    )


def gpt2_of_three() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=64, **SIZES))


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


MODELS: dict[str, Callable[[], Any]] = {"llama": llama_of_three, "gpt2": gpt2_of_three}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    """A Llama, whose projections are `nn.Linear`, and a GPT-2, whose are `Conv1D`."""
    return seeded(MODELS[request.param])


@pytest.fixture
def llama() -> Any:
    return seeded(llama_of_three)


@pytest.fixture
def asked() -> Callable[..., Stream]:
    """A stream of requests: prompts of five tokens with a subject in them, targets of one."""

    def make(count: int = 3, target: int = 1, batch: int = 1) -> Stream:
        drawn = torch.Generator().manual_seed(1)
        ids = torch.randint(1, 256, (count, 5 + target), generator=drawn)
        labels = ids.clone()
        labels[:, :5] = -100
        table = Table(
            {
                "input_ids": ids,
                "labels": labels,
                "attention_mask": torch.ones_like(ids),
                "length": torch.full((count,), 5 + target),
                "subject": torch.tensor([[1, 3]] * count),
                "continued_subject": torch.tensor([[1, 3]] * count),
                "essence_ids": ids[:, 1:5].clone(),
                "essence_length": torch.full((count,), 4),
                "essence_at": torch.full((count,), 1),
                "unrelated_ids": torch.randint(1, 256, (count, 7), generator=drawn),
                "unrelated_length": torch.full((count,), 7),
            }
        )
        parts = [table.take(slice(at, at + batch)) for at in range(0, count, batch)]
        experiences = [Experience(i, part, part, (), f"edit {i}") for i, part in enumerate(parts)]
        past = Table({"input_ids": torch.randint(1, 256, (16, 12), generator=drawn)})
        shape = (5 + target,)
        return Stream("requests", experiences, "text", 0, shape, past=past, scorer=Unscored())

    return make


class Unscored:
    """Scores nothing."""

    def score(self, learner: Learner) -> Any:
        from holdfast.evaluation import Scores

        return Scores([0.0], [0.0])

    def subset(self, examples: int, seed: int) -> Any:
        return self


@pytest.fixture
def edited(asked: Any) -> Callable[..., Learner]:
    """A learner that has made the edits of a stream."""

    def make(model: Any, method: Any, stream: Stream | None = None, **options: Any) -> Learner:
        learner = Learner(model, method, pretrained=True, **options)
        learner.learn(stream or asked())
        return learner

    return make


def foretold(model: Any, experience: Experience) -> float:
    """Mean log-probability of the targets after their prompts, in one pass."""
    table = experience.train
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=table["input_ids"][:, :5], use_cache=False).logits[:, -1]
    target = table["labels"][:, 5]
    return float(logits.log_softmax(-1).gather(1, target[:, None]).mean())


@pytest.fixture
def logprob() -> Callable[..., float]:
    return foretold
