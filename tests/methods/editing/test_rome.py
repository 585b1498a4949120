"""ROME and MEMIT: facts as least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from holdfast.errors import StreamRefused, UsageError
from holdfast.language.requests import written
from holdfast.learner import Learner
from holdfast.methods import MEMIT, ROME
from holdfast.methods.editing.memit import least_squares
from holdfast.methods.editing.rome import rank_one
from holdfast.models.projections import Projection, projection, second_moment
from holdfast.models.rewriting import keys_at
from holdfast.testing import small_stream

DRAWN = torch.Generator().manual_seed(3)


def random(*shape):
    return torch.randn(*shape, generator=DRAWN, dtype=torch.float64)


def positive(width):
    root = random(2 * width, width)
    return root.T @ root / (2 * width)


@pytest.mark.parametrize("turned", [False, True])
def test_the_update_of_rank_one_maps_the_key_to_the_value_exactly(turned):
    layer = Conv1D(3, 4) if turned else nn.Linear(4, 3)
    layer.double()
    place = Projection("layer", "block", 0, layer, turned)
    key, value = random(4), random(3)
    change = rank_one(place, key, value, positive(4))
    assert torch.linalg.matrix_rank(change) == 1
    place.matrix.add_(change)
    assert torch.allclose(layer(key), value, atol=1e-10)


def test_of_all_updates_it_moves_the_keys_of_the_text_least():
    """By Lagrange: minimise E|D k|^2 under D k* = r, with numpy."""
    layer = nn.Linear(4, 3, bias=False).double()
    place = Projection("layer", "block", 0, layer, False)
    key, value, moment = random(4), random(3), positive(4)
    change = rank_one(place, key, value, moment)
    c, k = moment.numpy(), key.numpy()
    missing = (value - layer.weight.detach() @ key).numpy()
    system = np.block([[c, -k[:, None]], [k[None], np.zeros((1, 1))]])
    for row, r in zip(change.numpy(), missing, strict=True):
        solved = np.linalg.solve(system, np.r_[np.zeros(4), r])[:4]
        assert np.allclose(row, solved, rtol=1e-4)


def test_many_facts_are_weighed_against_what_is_known_as_numpy_does():
    keys, missing, moment = random(5, 4), random(5, 3), positive(4)
    change = least_squares(keys, missing, moment, known=7.0)
    # The same sum of squares as one system: facts, and old keys that must not move.
    root = np.linalg.cholesky(7.0 * moment.numpy()).T
    system, wanted = np.vstack([keys.numpy(), root]), np.vstack([missing.numpy(), np.zeros((4, 3))])
    solved, *_ = np.linalg.lstsq(system, wanted, rcond=None)
    assert np.allclose(change.numpy(), solved.T, rtol=1e-4)


def test_the_second_moment_is_of_uncentred_keys_of_real_tokens(llama):
    place = projection(llama, 0, 0.0)
    kept = []
    handle = place.module.register_forward_hook(lambda m, given, out: kept.append(given[0]))
    ids = torch.arange(12).view(2, 6)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    found = second_moment(llama, place.module, [{"input_ids": ids, "attention_mask": mask}])
    handle.remove()
    keys = np.vstack([kept[0][0].detach(), kept[0][1, :3].detach()]).astype(np.float64)
    assert np.allclose(found.numpy(), keys.T @ keys / 9)
    assert not np.allclose(found.numpy(), np.cov(keys.T, bias=True))


def test_a_key_is_the_mean_over_the_prompts_alone_and_after_other_texts(llama, asked):
    table = asked(1)[0].train
    rows = written(table, [[7, 8], [9]])
    assert rows.ids[0, 1].tolist()[:2] == [7, 8]
    assert rows.subject[0].tolist() == [[1, 3], [3, 5], [2, 4]]
    place = projection(llama, 0, 0.0)
    found = keys_at(llama, place.module, rows, "subject")
    singles = []
    for prefix in ([], [7, 8], [9]):
        ids = torch.tensor([[*prefix, *table["input_ids"][0].tolist()]])
        kept = []
        hook = place.module.register_forward_hook(lambda m, given, out, to=kept: to.append(given))
        llama(input_ids=ids, use_cache=False)
        hook.remove()
        singles.append(kept[0][0][0, len(prefix) + 2].detach())
    assert torch.allclose(found[0].float(), torch.stack(singles).mean(0), atol=1e-5)


@pytest.mark.parametrize("method", [ROME, MEMIT])
def test_facts_are_told_after_their_edit(model, asked, edited, logprob, method):
    stream = asked(2, batch=2 if method is MEMIT else 1)
    before = logprob(model, stream[0])
    made = {"layer": 0, "prefixes": 1, "steps": 15, "clamp": 4.0}
    editor = method(**made, known=0.1, layers=1) if method is MEMIT else method(**made)
    learner = edited(model, editor, stream)
    assert logprob(model, stream[0]) > before + 0.5
    assert all(note["missed"] < 0.8 for note in learner.record.notes)


def test_memit_writes_into_the_blocks_up_to_the_last_and_nowhere_else(model, asked, edited):
    before = {name: p.clone() for name, p in model.named_parameters()}
    edited(model, MEMIT(layer=1, layers=2, prefixes=0, steps=3), asked(1))
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved == [f"{projection(model, i, 0.0).name}.weight" for i in (0, 1)]


def test_facts_without_a_subject_are_refused_unless_the_last_token_is_asked(llama):
    with pytest.raises(StreamRefused, match="looks facts up at their subject"):
        Learner(llama, ROME()).learn(small_stream("text"))
    with pytest.raises(UsageError, match="at must be 'subject' or 'last'"):
        MEMIT(at="first")
    with pytest.raises(UsageError, match="known must be above 0"):
        MEMIT(known=0.0)
