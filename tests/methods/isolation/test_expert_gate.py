"""Expert gate: from which expert one starts, what is distilled, and who answers."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import ExpertGate
from holdfast.models import build
from holdfast.models.reconstruction import Autoencoders


@pytest.fixture
def told(monkeypatch):
    """Autoencoders whose mean errors are given, one row an experience."""

    def make(rows):
        asked = []

        def learn(self, z, code, generator):
            self.inward = torch.zeros(len(asked) + 1, 1, 1)
            asked.append(len(z))

        def errors(self, z):
            return torch.tensor(rows[len(asked) - 1]).expand(len(z), -1)

        monkeypatch.setattr(Autoencoders, "learn", learn)
        monkeypatch.setattr(Autoencoders, "errors", errors)
        return asked

    return make


ERRORS = [[2.0], [2.2, 2.0], [2.1, 1.2, 1.0]]
"""Of the second experience expert 0 is related by .9, of the third expert 1 by .8."""


def test_an_experience_starts_from_the_most_related_expert(numbered, learned, watching, told):
    asked, started, held = told(ERRORS), [], []

    def begin(self, learner, experience):
        started.append(deepcopy(learner.model))

    def end(self, learner, experience):
        held.append(deepcopy(learner.model))

    learner = learned(
        numbered("domain"), chain(ExpertGate(), watching(begin=begin, end=end)), epochs=1
    )
    assert asked == [36, 36, 36]  # a tenth of the 40 examples is held out
    for index, parent in ((1, 0), (2, 1)):
        for a, b in zip(started[index].parameters(), held[parent].parameters(), strict=True):
            assert torch.equal(a, b)
    notes = [n for n in learner.record.notes if "relatedness" in n]
    assert notes[0]["relatedness"] == pytest.approx([0.9])
    assert notes[1]["relatedness"] == pytest.approx([-0.1, 0.8])
    assert [n["parent"] for n in notes] == [0, 1]
    assert [n["transfer"] for n in notes] == ["lwf", "finetune"]


def test_where_the_parent_is_related_its_answers_are_distilled(numbered, learned, watching, told):
    told(ERRORS)
    held, compared = {}, []

    def end(self, learner, experience):
        held[learner.index] = deepcopy(learner.model)

    def loss(self, learner, batch, outputs, loss):
        own = list(learner.experience.classes)
        others = [c for c in range(outputs.shape[1]) if c not in own]
        masked = outputs.clone()
        masked[:, others] = -torch.inf
        expected = F.cross_entropy(masked, batch["y"])
        if learner.index == 1:  # experience 0 brought classes 0 and 1
            with torch.no_grad():
                old = (held[0](batch["x"])[:, :2] / 2).softmax(1)
            kept = -(old * (outputs[:, :2] / 2).log_softmax(1)).sum(1).mean()
            expected = expected + 0.7 * 4 * kept
            compared.append(learner.step)
        torch.testing.assert_close(loss, expected)
        return loss

    learned(numbered(), chain(ExpertGate(alpha=0.7), watching(loss=loss, end=end)))
    assert len(compared) == 8


@pytest.mark.parametrize("head", ["full", "growing"])
def test_every_example_is_answered_by_the_expert_that_reconstructs_it_best(
    numbered, learned, head, watching
):
    stream, held = numbered("class", 120), []

    def end(self, learner, experience):
        held.append(deepcopy(learner.model).eval())

    method = ExpertGate(code=10, epochs=10)
    learner = learned(stream, chain(method, watching(end=end)), head=head)
    x = torch.cat([e.test["x"] for e in stream])
    with undisturbed(learner.model, method):
        answers = learner.predict({"x": x})
        gate = method.gate(learner, {"x": x})
    torch.testing.assert_close(gate.sum(1), torch.ones(len(x)))
    chosen = gate.argmax(1)
    assert len(chosen.unique()) == 3
    truth = torch.arange(3).repeat_interleave(len(stream[0].test))
    assert (chosen == truth).float().mean() > 0.8
    for row, expert in enumerate(chosen.tolist()):
        own = list(stream[expert].classes)
        logits = held[expert](x[row : row + 1])[0]
        torch.testing.assert_close(answers[row, own], logits[own].detach(), rtol=1e-4, atol=1e-5)
        assert int(answers[row].argmax()) in own


def test_autoencoders_see_features_standardised_by_the_first_experience(numbered, learned):
    stream = numbered("domain")
    learner = learned(stream, ExpertGate(code=5, epochs=1), epochs=1)
    raw = stream[0].train["x"].flatten(1).double()
    deviation = raw.std(0, correction=0)
    deviation = deviation.clamp(min=0.1 * float(deviation.max()))
    later = stream[2].test["x"].flatten(1).double()
    expected = torch.sigmoid((later - raw.mean(0)) / deviation)
    found = learner.method.described(learner, stream[2].test)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inputs", "units"), [(784, 100), (150, 75), (64, 32), (3, 1)])
def test_by_itself_an_autoencoder_has_fewer_hidden_units_than_inputs(inputs, units):
    assert ExpertGate().hidden(inputs) == units


def test_an_autoencoder_that_could_copy_its_inputs_is_refused(numbered, learned):
    stream = numbered("domain")
    inputs = stream[0].train["x"][0].numel()
    with pytest.raises(UsageError, match=f"code must be less than the {inputs} features"):
        learned(stream, ExpertGate(code=inputs, epochs=1), epochs=1)


def test_the_gate_is_a_softmax_of_reconstruction_errors(numbered, learned, told):
    told([[1.0], [1.0, 3.0], [1.0, 3.0, 2.0]])
    method = ExpertGate(temperature=4.0)
    learner = learned(numbered("domain"), method, epochs=1)
    found = method.gate(learner, {"x": learner.stream[0].test["x"][:2]})
    expected = torch.tensor([-0.25, -0.75, -0.5]).softmax(0)
    torch.testing.assert_close(found, expected.expand(2, -1))


def test_where_the_task_is_known_earlier_answers_never_change(numbered, answering):
    stream = numbered("task")
    watch = answering(stream)
    learner = Learner(
        build("cnn(width=4, depth=2)", stream, seed=0),
        ExpertGate(code=5, epochs=2),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        epochs=2,
        seed=0,
    )
    learner.learn(stream, [watch])
    for task in range(2):
        for later in watch.after[task + 1 :]:
            assert torch.equal(later[task], watch.after[task][task])


def test_a_frozen_backbone_describes_examples_if_asked(numbered, learned):
    stream = numbered("domain")
    method = ExpertGate(features="backbone", code=4, epochs=2)
    learner = learned(stream, method, epochs=1)
    assert method.autoencoders.inward.shape == (3, 17, 4)  # 16 features and the bias
    first = method.extractor.model.backbone[1][1].weight
    assert not torch.equal(first, learner.model.backbone[1][1].weight)  # as it came


@pytest.mark.parametrize(
    "arguments",
    [{"code": 0}, {"epochs": 0}, {"alpha": -1.0}, {"temperature": 0.0}, {"rate": 0.0},
     {"features": "pixels"}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} must be .*; given: "):
        ExpertGate(**arguments)
