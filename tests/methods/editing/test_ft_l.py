"""FT-L and FT-M: one matrix, trained on one fact."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.methods import FTL, FTM
from holdfast.models.projections import projection


def test_only_the_projection_moves_and_no_further_than_the_box(model, asked, edited, logprob):
    stream = asked(1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    low = logprob(model, stream[0])
    edited(model, FTM(layer=1, lr=0.01, steps=10, box=0.02), stream)
    place = projection(model, 1, 0.0)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved == [f"{place.name}.weight"]
    distance = (place.module.weight.detach() - before[moved[0]]).abs().max()
    assert 0.019 < float(distance) <= 0.02 + 1e-6
    assert logprob(model, stream[0]) > low


def test_the_loss_is_of_all_the_targets_tokens_right_after_the_prompt(llama, asked, edited):
    stream = asked(1, target=3)
    table = stream[0].train
    with torch.no_grad():
        after = llama(input_ids=table["input_ids"][:, :5], use_cache=False).logits[0, -1]
    logprobs = after.log_softmax(-1)
    expected = -logprobs[table["input_ids"][0, 5:]].mean()
    learner = edited(llama, FTL(steps=1, lr=1e-9), stream)
    (note,) = learner.record.notes
    assert note["loss"] == pytest.approx(float(expected), abs=1e-4)


def test_a_fact_that_is_told_is_not_trained_further(llama, asked, edited):
    assert edited(llama, FTM(enough=1e9), asked(2)).record.steps == [1, 1]


def test_arguments_out_of_range_are_refused():
    with pytest.raises(UsageError, match="lr must be above 0"):
        FTL(lr=0.0)
    with pytest.raises(UsageError, match="box must not be negative"):
        FTM(box=-1.0)
