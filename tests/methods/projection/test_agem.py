"""A-GEM."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast import streams
from holdfast.errors import UsageError
from holdfast.method import chain
from holdfast.methods import AGEM


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_the_gradient_is_projected_by_the_formula_and_never_against_the_reference(
    numbered, learned, watching, scenario
):
    method, plain, conflicts = AGEM(capacity=1000, references=1000), {}, []

    def before(self, learner):
        plain["g"] = np.concatenate([p.grad.double().numpy().ravel() for p in learner.parameters])

    def after(self, learner):
        g = plain["g"]
        found = np.concatenate([p.grad.double().numpy().ravel() for p in learner.parameters])
        if not learner.index:
            assert np.array_equal(found, g), "there is no reference yet"
            return
        # All of memory is drawn, so the reference is the gradient on every earlier example.
        past = [e.train for e in learner.stream.experiences[: learner.index]]
        x = torch.cat([table["x"] for table in past])
        y = torch.cat([table["y"] for table in past])
        loss = F.cross_entropy(learner.model(x), y)
        r = np.concatenate(
            [p.double().numpy().ravel() for p in torch.autograd.grad(loss, learner.parameters)]
        )
        against = g @ r < 0
        expected = g - (g @ r) / (r @ r) * r if against else g
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        assert found @ r >= -1e-4 * np.linalg.norm(found) * np.linalg.norm(r)
        if not against:
            assert np.array_equal(found, g)
        conflicts.append(against)

    look = (watching(gradients=before), method, watching(gradients=after))
    learned(numbered(scenario), chain(*look), epochs=4)
    assert any(conflicts)
    if scenario == "domain":
        assert not all(conflicts)


def test_memory_holds_earlier_experiences_only_equal_numbers_of_every_class(
    numbered, learned, watching
):
    counts = []

    def gradients(self, learner):
        columns = self.agem.buffer.columns
        if learner.index == 0:
            assert not columns
            return
        assert int(columns["id"].max()) < 1000 * learner.index
        counts.append(torch.bincount(columns["y"]).tolist())

    agem, look = AGEM(capacity=24), watching(gradients=gradients)
    look.agem = agem
    learned(numbered(), chain(agem, look), epochs=1)
    assert counts == [[12] * 2] * 4 + [[6] * 4] * 4
    assert torch.bincount(agem.buffer.columns["y"]).tolist() == [4] * 6


def test_memory_may_hold_equal_numbers_of_every_task(learned):
    stream = streams.build("permuted-digits(experiences=3)", seed=0)
    method = AGEM(capacity=30, storage="task_balanced")
    learned(stream, method, epochs=1)
    assert torch.bincount(method.buffer.columns["task"]).tolist() == [10] * 3


def test_a_memory_by_herding_is_refused():
    with pytest.raises(UsageError, match=r"task_balanced.*given: 'herding'"):
        AGEM(storage="herding")


def test_no_more_references_are_drawn_than_asked(numbered, learned, monkeypatch):
    method, drawn = AGEM(capacity=30, references=7), []
    sample = method.buffer.sample

    def counting(count, generator):
        batch = sample(count, generator)
        drawn.append(len(batch["y"]) if batch else 0)
        return batch

    monkeypatch.setattr(method.buffer, "sample", counting)
    learned(numbered(), method, epochs=1)
    assert drawn == [0] * 4 + [7] * 8
