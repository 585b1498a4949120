"""The driver: predictions count while the model learns, whatever the caller's contexts."""

import copy

import pytest
import torch
from torch import nn

from holdfast.adapt import TestTimeAdapter
from holdfast.data import Table
from holdfast.errors import DataError, Diverged, UsageError
from holdfast.methods import TENT, CoTTA
from holdfast.models import CNN
from holdfast.testing.comparison import equal


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(CNN(channels=3, width=4, depth=2), nn.Linear(8, 5))


@pytest.fixture
def batches():
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(10, 3, 8, 8, generator=draw) for _ in range(6)]


class Counting(nn.Module):
    """Counts forward passes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, x):
        self.passes += 1
        return self.inner(x)


@pytest.mark.parametrize(("method", "passes"), [("tent", 1), ("bn_adapt", 1), ("source", 1)])
def test_an_answer_takes_one_pass(model, batches, method, passes):
    counting = Counting(model)
    adapter = TestTimeAdapter(counting, method)
    adapter.predict(batches[0])
    counting.passes = 0
    adapter.predict(batches[1])
    assert counting.passes == passes


@pytest.mark.parametrize("method", ["tent(lr=0.01)", "cotta(views=1, lr=0.01)"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_learns_in_any_context_of_the_caller(model, batches, method, context):
    def answers(context):
        adapter = TestTimeAdapter(copy.deepcopy(model).eval(), method)
        with context():
            found = [adapter.predict(x.clone()) for x in batches[:3]]
        assert not any(z.requires_grad for z in found)
        assert adapter.distance() > 0
        return torch.stack([z.clone() for z in found])

    torch.testing.assert_close(answers(context), answers(torch.no_grad))


@pytest.mark.parametrize("method", ["tent(lr=0.05)", "cotta(views=1, lr=0.05)", "eata(lr=0.05)"])
def test_a_reset_brings_the_source_back_with_optimizer_and_teacher(model, batches, method):
    past = Table({"x": torch.cat(batches)})
    adapter = TestTimeAdapter(copy.deepcopy(model), method, past=past)
    fresh = None
    for x in batches:
        adapter.predict(x)
        fresh = fresh or copy.deepcopy(adapter._initial)
    adapter.reset()
    state = adapter.state_dict()
    for part in ("model", "method"):
        assert all(equal(state[part][name], value) for name, value in fresh[part].items())
    assert not state["optimizer"]["state"]
    assert adapter.distance() == 0


def test_episodic_adapters_answer_every_batch_as_if_it_were_the_first(model, batches):
    tent = TENT(lr=0.05)
    adapter = TestTimeAdapter(copy.deepcopy(model), tent, episodic=True, steps=2)
    found = [adapter.predict(x) for x in batches[:3]]
    for x, answer in zip(batches, found, strict=False):
        alone = TestTimeAdapter(copy.deepcopy(model), TENT(lr=0.05), steps=2)
        torch.testing.assert_close(alone.predict(x), answer)


def test_several_steps_answer_with_the_last_pass(model, batches):
    twice = TestTimeAdapter(copy.deepcopy(model), TENT(lr=0.01), steps=2)
    once = TestTimeAdapter(copy.deepcopy(model), TENT(lr=0.01))
    once.predict(batches[0])
    torch.testing.assert_close(twice.predict(batches[0]), once.predict(batches[0]))


@pytest.mark.parametrize("method", ["tent", "eata(strength=0)", "cotta(views=2, threshold=2.0)"])
def test_a_saved_adapter_goes_on_to_the_last_bit(model, batches, method):
    whole = TestTimeAdapter(copy.deepcopy(model), method, seed=3)
    for x in batches[:3]:
        whole.predict(x)
    saved = whole.state_dict()
    expected = [whole.predict(x) for x in batches[3:]]
    again = TestTimeAdapter(copy.deepcopy(model), method, seed=4)
    again.load_state_dict(saved)
    found = [again.predict(x) for x in batches[3:]]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_nobody_elses_chance_is_touched(model, batches):
    adapter = TestTimeAdapter(model, CoTTA(views=2, threshold=2.0))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    adapter.predict(batches[0])
    adapter.answer(batches[0])
    assert torch.equal(before, torch.get_rng_state())


def test_an_answer_without_learning_changes_nothing(model, batches):
    adapter = TestTimeAdapter(model, "tent(lr=0.05)")
    adapter.predict(batches[0])
    before = adapter.state_dict()
    assert torch.equal(adapter.answer(batches[1]), adapter.answer(batches[1]))
    after = adapter.state_dict()
    assert all(torch.equal(after["model"][n], v) for n, v in before["model"].items())


def test_a_hugging_face_classifier_adapts_its_layer_norms():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    vit = ViTForImageClassification(config)
    before = copy.deepcopy(vit.state_dict())
    adapter = TestTimeAdapter(vit, "tent(lr=0.01)")
    assert adapter.predict(torch.rand(4, 3, 8, 8)).shape == (4, 3)
    moved = {n for n, v in vit.state_dict().items() if not torch.equal(v, before[n])}
    assert moved
    assert all("layernorm" in name for name in moved)
    whole = TestTimeAdapter(vit, "cotta(views=1)")
    whole.predict(torch.rand(4, 3, 8, 8))
    moved = {n for n, p in whole.model.named_parameters() if not torch.equal(p, before[n])}
    assert "vit.embeddings.cls_token" in moved


def test_methods_chain_with_what_needs_no_labels(model, batches):
    free = TestTimeAdapter(copy.deepcopy(model), "tent(lr=0.05)")
    held = TestTimeAdapter(copy.deepcopy(model), "tent(lr=0.05, optimizer=sgd)+l2(strength=5.0)")
    with pytest.raises(UsageError, match="must know where experiences end"):
        held.predict(batches[0])
    assert free.predict(batches[0]).shape == (10, 5)


def test_what_learns_from_labels_is_refused(model):
    with pytest.raises(UsageError, match=r"ER does not learn from inputs alone; .* source"):
        TestTimeAdapter(model, "er")


def test_an_empty_batch_is_refused(model):
    with pytest.raises(DataError, match="the batch is empty"):
        TestTimeAdapter(model, "tent").predict(torch.rand(0, 3, 8, 8))


def test_a_loss_that_is_not_finite_is_reported(model, batches):
    adapter = TestTimeAdapter(model, "tent")
    adapter.predict(batches[0])
    for _ in range(5):
        adapter.predict(batches[0] * float("nan"))
    with pytest.raises(Diverged):
        adapter.state_dict()
