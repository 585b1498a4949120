"""Paths between checkpoints."""

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.merge.path import Path, between, distance, linear_cka, linear_path, scored
from holdfast.methods import LoRA
from holdfast.models import adapters
from holdfast.testing import small_stream
from holdfast.testing.trials import small_llama


def test_a_double_well_has_the_barrier_that_algebra_gives():
    def well(weights):
        w = float(weights["w"])
        return {"well": ((w**2 - 1) ** 2, -abs(w)), "slope": (2 * w + 5, w)}

    path = linear_path({"w": torch.tensor([-1.0])}, {"w": torch.tensor([1.0])}, well)
    assert path.lambdas == tuple(step / 10 for step in range(11))
    assert path.barrier("well") == pytest.approx(1.0, abs=1e-6)
    assert path.barrier("slope") == pytest.approx(0.0, abs=1e-6)
    assert path.distance == pytest.approx(2.0)
    assert path.losses["well"][0] == path.losses["well"][-1] == 0


def test_the_best_point_is_that_of_the_mean_score_and_must_beat_both_ends_to_win_inside():
    points = (0.0, 0.25, 0.5, 1.0)
    path = Path(points, {}, {"old": (0.8, 0.8, 0.6, 0.1), "new": (0.0, 0.5, 0.6, 0.9)}, 1.0)
    assert path.means == pytest.approx((0.4, 0.65, 0.6, 0.5))
    assert path.best == 0.25
    assert path.inside_wins
    assert path.kept_inside("old", "new") == pytest.approx(0.6 / 0.9)
    worse = Path(points, {}, {"old": (0.8, 0.7, 0.6, 0.1), "new": (0.9, 0.8, 0.6, 0.9)}, 1.0)
    assert worse.best == 0
    assert not worse.inside_wins


@pytest.fixture
def learner():
    stream = small_stream("text", 24)
    learner = Learner(small_llama(), LoRA(rank=2), batch_size=8)
    learner.start(stream)
    learner.begin(stream[0])
    return learner


def chance(weights, seed):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(w.shape, generator=draw) / 3 for name, w in weights.items()}


def test_the_ends_of_a_path_of_adapters_are_the_adapters_and_its_middle_their_mean(learner):
    own = adapters.weights(learner.model)
    a, b = chance(own, 1), chance(own, 2)
    table = learner.stream[0].test
    path = linear_path(a, b, scored(learner, {"test": table}), [0, 0.5, 1])
    held = dict(learner.model.named_parameters())
    learner.model.eval()
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    for at, weights in enumerate((a, middle, b)):
        for name, value in weights.items():
            held[name].data.copy_(value)
        with torch.no_grad():
            answer = learner.model(
                input_ids=table["input_ids"],
                attention_mask=table["attention_mask"],
                labels=table["labels"],
            )
        right = (answer.logits[:, :-1].argmax(-1) == table["labels"][:, 1:]).float()
        asked = (table["labels"][:, 1:] != -100).float()
        share = ((right * asked).sum(1) / asked.sum(1)).mean()
        assert path.losses["test"][at] == pytest.approx(float(answer.loss), rel=1e-4)
        assert path.scores["test"][at] == pytest.approx(float(share), rel=1e-4)


def test_a_path_leaves_the_model_as_it_was(learner):
    own = adapters.weights(learner.model)
    learner.model.train()
    linear_path(
        chance(own, 1),
        chance(own, 2),
        scored(learner, {"test": learner.stream[0].test}),
        [0, 1],
    )
    assert all(torch.equal(w, own[name]) for name, w in adapters.weights(learner.model).items())
    assert learner.model.training


def test_state_dicts_of_full_models_are_joined_too_with_their_tied_weights():
    from transformers import GPT2Config, GPT2LMHeadModel

    stream = small_stream("text", 24)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=256, n_positions=32)
    torch.manual_seed(0)
    a, b, model = (GPT2LMHeadModel(config) for _ in range(3))
    learner = Learner(model, batch_size=8)
    learner.start(stream)
    tables = {"test": stream[0].test}
    path = linear_path(a.state_dict(), b.state_dict(), scored(learner, tables), [0, 1])
    for at, end in enumerate((a, b)):
        with torch.no_grad():
            given = {k: tables["test"][k] for k in ("input_ids", "attention_mask", "labels")}
            assert path.losses["test"][at] == pytest.approx(float(end.eval()(**given).loss))


def test_a_path_is_json():
    import json

    path = Path((0.0, 0.5, 1.0), {"d": (1.0, 4.0, 2.0)}, {"d": (0.5, 0.9, 0.5)}, 1.0)
    kept = json.loads(json.dumps(path.to_dict()))
    assert kept["barriers"] == {"d": 2.5}
    assert kept["best"] == 0.5


def test_counts_are_not_interpolated():
    a, b = {"n": torch.tensor(3), "w": torch.zeros(2)}, {"n": torch.tensor(7), "w": torch.ones(2)}
    assert between(a, b, 0.25)["n"] == 3
    assert between(a, b, 0.25)["w"].tolist() == [0.25, 0.25]
    assert distance(a, b) == pytest.approx(2**0.5)


def test_checkpoints_that_do_not_fit_are_refused(learner):
    a = {"w": torch.zeros(2)}
    with pytest.raises(UsageError, match="1 are in one only, the first: 'v'"):
        linear_path(a, {**a, "v": torch.zeros(1)}, lambda weights: {})
    with pytest.raises(UsageError, match=r"'w' has \(2,\) and \(3,\)"):
        linear_path(a, {"w": torch.zeros(3)}, lambda weights: {})
    with pytest.raises(UsageError, match="lambdas must rise from 0 to 1"):
        linear_path(a, a, lambda weights: {}, [0.0, 0.5])
    with pytest.raises(UsageError, match="PeftModelForCausalLM has no weights 'w'"):
        linear_path(a, a, scored(learner, {"test": learner.stream[0].test}))


def test_likeness_of_features_ignores_rotation_and_scale_and_tells_noise_apart():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=draw)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1.0, abs=1e-6)
    assert linear_cka(x, torch.randn(200, 6, generator=draw)) < 0.2
    centred, other = x - x.mean(0), (x + torch.randn(200, 6, generator=draw))
    other = other - other.mean(0)
    k, m = centred @ centred.T, other @ other.T
    by_kernels = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(x, other) == pytest.approx(float(by_kernels), rel=1e-4)
