"""Training in stages."""

from functools import partial

import pytest
import torch

from holdfast.errors import RunError, UsageError
from holdfast.language.stages import sweep, train_stages
from holdfast.methods import L2
from holdfast.streams.language.composition import stages
from holdfast.testing.trials import small_llama, small_stream

TRAINING = {"optimizer": partial(torch.optim.AdamW, lr=1e-2), "batch_size": 8}


@pytest.fixture
def sets():
    first, second, third = small_stream("text")
    return {"first": first.train, "second": second.train}, third.train


def norm(model):
    return {"norm": float(sum(p.detach().double().square().sum() for p in model.parameters()))}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_every_stage_tells_what_it_took_and_what_came_of_it(sets):
    model = small_llama()
    found = train_stages(model, stages("dmt", *sets, k=1 / 4), norm, epochs=2, **TRAINING)
    assert [(r.updates, r.epochs) for r in found] == [(20, 2), (16, 2)]
    assert [sum(r.examples.values()) for r in found] == [80, 60]
    assert found[1].examples == {"first": 10, "second": 10, "general": 40}
    assert found[1].scores == norm(model)
    assert found[0].scores != found[1].scores


def test_individual_stages_each_begin_at_the_base_weights(sets):
    plans = stages("individual", *sets)
    alone, together = small_llama(), small_llama()
    train_stages(together, plans, norm, **TRAINING)
    train_stages(alone, [plans[2]], norm, **TRAINING)
    # the same stage from the same weights, but for the order of its examples
    (small,) = train_stages(small_llama(), [plans[0]], norm, **TRAINING)
    assert small.scores == train_stages(small_llama(), plans, norm, **TRAINING)[0].scores
    base = norm(small_llama())["norm"]
    moved = [abs(norm(model)["norm"] - base) for model in (alone, together)]
    assert moved[1] == pytest.approx(moved[0], rel=0.2)


def test_stages_in_a_row_go_on_from_one_another(sets):
    whole, parts = small_llama(), small_llama()
    plan = stages("sequential", *sets)
    train_stages(whole, plan, norm, **TRAINING)
    train_stages(parts, plan[:1], norm, **TRAINING)
    assert not same(state(whole), state(parts))
    first = train_stages(small_llama(), plan, norm, **TRAINING)[0].scores
    assert first == norm(parts)


def test_a_method_may_act_inside_each_stage(sets):
    plan = stages("sequential", *sets)
    free, held = small_llama(), small_llama()
    base = state(small_llama())
    train_stages(free, plan, norm, **TRAINING)
    train_stages(held, plan, norm, method=lambda: L2(strength=50.0), **TRAINING)

    def gone(model):
        return sum(float((t - base[n]).square().sum()) for n, t in state(model).items())

    assert gone(held) < 0.5 * gone(free)


def test_a_sweep_goes_on_where_it_was_stopped(sets, tmp_path):
    plans = {f"dmt {k}": stages("dmt", *sets, k=k) for k in (0, 1 / 4)}
    sizes = {"small": small_llama, "other": partial(small_llama, seed=4)}
    made = []

    def train(model, plan):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(plan)
        return train_stages(model, plan, norm, **TRAINING)

    with pytest.raises(KeyboardInterrupt):
        sweep(sizes, plans, train, tmp_path)
    found = sweep(sizes, plans, lambda m, p: made.append(p) or train_stages(m, p, norm), tmp_path)
    assert len(made) == 4
    assert set(found) == {(size, plan) for size in sizes for plan in plans}
    again = sweep(sizes, plans, lambda m, p: pytest.fail("trained again"), tmp_path)
    assert again == found


def test_a_sweep_refuses_results_of_other_examples(sets, tmp_path):
    def train(model, plan):
        return train_stages(model, plan, norm, **TRAINING)

    sweep({"small": small_llama}, {"dmt": stages("dmt", *sets, k=1 / 4)}, train, tmp_path)
    other = {"dmt": stages("dmt", *sets, k=1 / 4, seed=1)}
    with pytest.raises(UsageError, match="a result of other examples"):
        sweep({"small": small_llama}, other, train, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    with pytest.raises(RunError, match="delete it"):
        sweep({"small": small_llama}, other, train, tmp_path)
