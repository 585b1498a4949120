"""LoRA."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ER, HFT, ILoRA, LoRA
from holdfast.models import adapters
from holdfast.testing.trials import small_llama


def test_one_adapter_is_trained_through_all_experiences_as_by_a_loop_over_peft_alone(
    text, tuned, watching
):
    seen = []

    def gradients(self, learner):
        seen.append((learner.index, {k: v.clone() for k, v in learner.incoming.items()}))

    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    learner = tuned(text, chain(LoRA(rank=2), watching(gradients=gradients)), optimizer=sgd)
    reference = adapters.adapted(small_llama(), 2, 16.0, 0.0, "all-linear", seed=0).train()
    moving = [p for p in reference.parameters() if p.requires_grad]
    for index in range(3):
        optimizer = sgd(moving)
        for batch in (batch for at, batch in seen if at == index):
            logits = reference(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    expected = adapters.weights(reference)
    for name, found in adapters.weights(learner.model).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-3, atol=1e-4)
    assert any(w.abs().sum() > 0.01 for name, w in expected.items() if "lora_B" in name)


def test_the_model_s_own_weights_stay_and_are_not_in_the_optimizer(text, tuned):
    learner = tuned(text, LoRA(rank=2))
    own = dict(small_llama().named_parameters())
    base = {
        name.replace(".base_layer", ""): p
        for name, p in learner.model.get_base_model().named_parameters()
        if "lora_" not in name
    }
    assert set(base) == set(own)
    assert all(torch.equal(base[name], own[name]) for name in own)
    optimized = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in base.values()}
    assert len(optimized) == len(adapters.weights(learner.model))


def test_with_restart_every_experience_has_a_new_adapter_and_the_earlier_ones_stay(
    text, tuned, watching
):
    ends = []

    def end(self, learner, experience):
        ends.append(adapters.weights(learner.model))

    learner = tuned(text, chain(LoRA(rank=2, restart=True), watching(end=end)))
    past = adapters.weights(learner.model, adapters.PAST)
    for name, w in past.items():
        own = name.replace(adapters.PAST, "default")
        dim = 0 if "lora_A" in name else 1
        torch.testing.assert_close(w, torch.cat([ends[0][own], ends[1][own]], dim))
    assert not any(p.requires_grad for n, p in learner.model.named_parameters() if "past" in n)


def test_with_restart_the_saved_adapter_holds_all_experiences(text, tuned, tmp_path):
    from peft import PeftModel

    learner = tuned(text, LoRA(rank=2, restart=True))
    batch = text[0].test[torch.arange(4)]
    learner.model.eval()
    with torch.no_grad():
        used = learner.predict(batch)
        with learner.serving():
            adapters.save(learner.model, tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(small_llama(), tmp_path / "adapter").eval()
        torch.testing.assert_close(learner.objective.forward(loaded, batch), used)


def test_replay_works_beside_it(text, tuned):
    learner = tuned(text, chain(ER(capacity=16), LoRA(rank=2)))
    assert len(learner.record.matrix) == 3


def test_two_adapters_or_a_choice_among_frozen_weights_are_refused():
    with pytest.raises(UsageError, match="LoRA and ILoRA cannot be chained: both bring an adapter"):
        chain(LoRA(), ILoRA())
    for pair in ((LoRA(), HFT()), (HFT(), LoRA())):
        with pytest.raises(UsageError, match="HFT chooses which of the model's weights are"):
            chain(*pair)


def test_what_is_no_language_model_is_refused(make_stream, text):
    with pytest.raises(StreamRefused, match=r"LoRA serves language streams; 'clouds' is class"):
        Learner(nn.Linear(5, 6), LoRA()).start(make_stream())
    with pytest.raises(StreamRefused, match=r"transformers of Hugging Face; Embedding is none\."):
        Learner(nn.Embedding(256, 8), LoRA()).start(text)


def test_restart_refuses_an_adapter_that_cannot_be_added_up(text):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(small_llama(), LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(StreamRefused, match=r"LoRA with restart adds up .* use_dora\."):
        Learner(model, LoRA(restart=True)).start(text)
    Learner(model, LoRA()).start(text)
