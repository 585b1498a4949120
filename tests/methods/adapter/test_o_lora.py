"""O-LoRA."""

from functools import partial

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import OLoRA
from holdfast.models import adapters
from holdfast.testing.trials import small_llama


def by_loops(earlier, now):
    """The sum over layers, earlier experiences and entries of |A_i A_t^T|."""
    total = 0.0
    for name, a in now.items():
        if "lora_A" not in name:
            continue
        for before in earlier:
            for row in before[name]:
                for new in a:
                    total += abs(float(row @ new))
    return total


def test_the_loss_grows_by_the_overlap_with_every_earlier_adapter(text, tuned, watching):
    ends, compared = [], []

    class Seeing(OLoRA):
        def loss(self, learner, batch, outputs, loss):
            whole = super().loss(learner, batch, outputs, loss)
            overlap = by_loops(ends, adapters.weights(learner.model))
            assert float(whole - loss) == pytest.approx(0.3 * overlap, rel=1e-4, abs=1e-5)
            compared.append((learner.index, overlap))
            return whole

    def end(self, learner, experience):
        ends.append(adapters.weights(learner.model))

    tuned(text, chain(Seeing(rank=2, orthogonality=0.3), watching(end=end)), epochs=1)
    assert [overlap for index, overlap in compared if index == 0] == [0.0] * 3
    assert all(overlap > 0 for index, overlap in compared if index)


def test_decay_adds_the_norm_of_every_new_matrix(text, tuned):
    seen = []

    class Seeing(OLoRA):
        def loss(self, learner, batch, outputs, loss):
            whole = super().loss(learner, batch, outputs, loss)
            norms = sum(float(w.norm()) for w in adapters.weights(learner.model).values())
            assert float(whole - loss) == pytest.approx(0.2 * norms, rel=1e-5)
            seen.append(norms)
            return whole

    tuned(text, Seeing(rank=2, orthogonality=0.0, decay=0.2), epochs=1)
    assert len(seen) == 9


def test_earlier_adapters_are_frozen_active_and_kept_apart_by_rows(text, tuned, watching):
    ends = []

    def end(self, learner, experience):
        ends.append(adapters.weights(learner.model))
        assert learner.model.active_adapters == (["past"] if experience.index else []) + ["default"]

    learner = tuned(text, chain(OLoRA(rank=2), watching(end=end)))
    past = adapters.weights(learner.model, adapters.PAST)
    for name, w in past.items():
        own = name.replace(adapters.PAST, "default")
        dim = 0 if "lora_A" in name else 1
        torch.testing.assert_close(w, torch.cat([e[own] for e in ends[:2]], dim), rtol=0, atol=0)


def test_the_answer_is_the_base_and_the_sum_of_all_adapters(text, tuned, watching):
    ends = []

    def end(self, learner, experience):
        ends.append(adapters.weights(learner.model))

    learner = tuned(text, chain(OLoRA(rank=2, alpha=6.0), watching(end=end)))
    plain = small_llama().eval()
    for kept in ends:
        for name, b in kept.items():
            if "lora_B" in name:
                layer = name.removeprefix("base_model.model.").removesuffix(
                    ".lora_B.default.weight"
                )
                a = kept[name.replace("lora_B", "lora_A")]
                plain.get_submodule(layer).weight.data += 6.0 / 2 * b @ a
    batch = text[0].test[torch.arange(4)]
    with torch.no_grad(), learner.serving():
        learner.model.eval()
        torch.testing.assert_close(learner.predict(batch), learner.objective.forward(plain, batch))


def test_the_new_rows_are_pushed_out_of_the_earlier_ones(text, tuned):
    def overlap(orthogonality):
        method = OLoRA(rank=2, orthogonality=orthogonality, dropout=0.0)
        tuned(text, method, epochs=8, optimizer=partial(torch.optim.Adam, lr=0.01))
        return float(method.overlap().detach())

    assert overlap(0.5) < 0.3 * overlap(0.0)


def test_all_adapters_are_saved_as_one(text, tuned, tmp_path):
    from peft import PeftModel

    learner = tuned(text, OLoRA(rank=2))
    batch = text[0].test[torch.arange(4)]
    learner.model.eval()
    with torch.no_grad():
        used = learner.predict(batch)
        with learner.serving():
            adapters.save(learner.model, tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(small_llama(), tmp_path / "adapter").eval()
        torch.testing.assert_close(learner.objective.forward(loaded, batch), used)
    assert loaded.peft_config["default"].r == 6


def test_negative_weights_are_refused():
    with pytest.raises(UsageError, match=r"decay must not be negative; given: -1\.0"):
        OLoRA(decay=-1.0)
