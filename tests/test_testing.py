"""The contract battery: every method passes it, and each of its checks can fail."""

import random
import time
from functools import partial

import pytest
import torch

from holdfast import catalogue
from holdfast.data import Table
from holdfast.memory.buffer import Buffer
from holdfast.method import Method, Tags
from holdfast.methods import ER
from holdfast.testing import CHECKS, ContractError, check_method, small_stream

VARIANTS = [
    "er(storage=herding)",
    "er(capacity=30)+wa",
    "er_ace(task_free=true)",
    "gss(weights=last)",
    "wa(exemplars=30)",
    "lwf(warmup_epochs=1)",
    "cumulative(from_scratch=true)",
    "scr(capacity=20, batch_size=8, review=true)",
    "slda(plastic=false, base=true)",
    "ranpac(projections=24, ridge=1.0)",
    "fpf(iterations=3, when=each)",
]


# Reading the Fisher information takes a language model one example at a time.
# Small text names no subjects, and editors take requests one by one. GDumb would train 256 epochs.
SHORTER = {
    "gdumb": "gdumb(epochs=2)",
    "ranpac": "ranpac(projections=24)",
    "fpf": "fpf(iterations=3)",
    "k_fpf": "k_fpf(iterations=3)",
    "ewc": "ewc(examples=12)",
    "online_ewc": "online_ewc(examples=12)",
    "mas": "mas(examples=12)",
    "refresh": "refresh(examples=12)",
    "wise": "wise(steps=2, prefixes=0)",
    "grace": "grace(steps=1)",
    "rome": "rome(at=last, prefixes=0, steps=2)",
    "memit": "memit(at=last, prefixes=0, steps=1)",
    "ft_l": "ft_l(steps=2)",
    "ft_m": "ft_m(steps=2)",
}


FIRST = {entry.tags.family: entry.name for entry in reversed(list(catalogue.entries()))}.values()
"""The first method of each family; `make test-contract` tries all."""


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(SHORTER.get(name, name), marks=[] if name in FIRST else pytest.mark.contract)
        for name in (*catalogue.METHODS, *VARIANTS)
    ],
)
def test_every_method_keeps_the_contract(spec, check):
    CHECKS[check](lambda: catalogue.build(spec))


class Unseeded(Method):
    """Draws from a generator that no seed reaches."""

    def loss(self, learner, batch, outputs, loss):
        return loss * (1 + random.Random(time.perf_counter_ns()).random())


class ForgetsItsMemory(Method):
    """Remembers a number that is in no state."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def loss(self, learner, batch, outputs, loss):
        self.steps += 1
        return loss / self.steps


class ForgetsWhenAnExperienceBegan(Method):
    """The same, set at the beginning of an experience and used within it."""

    def begin(self, learner, experience):
        self.start = [float(p.detach().norm()) for p in learner.parameters]

    def loss(self, learner, batch, outputs, loss):
        return loss / (1 + self.start[0])


class LosesGrownBuffers(Method):
    """Loads as an ordinary module does, which knows no buffers that appear later."""

    _load_from_state_dict = torch.nn.Module._load_from_state_dict

    def end(self, learner, experience):
        self.register_buffer("mean", torch.ones(3))


class RoundsWhenLoading(Method):
    remembers = ("total",)

    def __init__(self):
        super().__init__()
        self.total = 0.5

    def set_extra_state(self, state):
        self.total = round(state["total"])


class KeepsATensor(Method):
    def end(self, learner, experience):
        self.last = learner.parameters[0].detach().clone()


class KeepsTensorsInADictionary(Method):
    def end(self, learner, experience):
        self.past = {"weights": [(experience.index, learner.parameters[0].detach().clone())]}


class KeepsATable(Method):
    def end(self, learner, experience):
        self.past = Table(experience.train.columns)


class CountsOnlyTheStreamsRows(Method):
    """Takes the batch to be the stream's, which it is not after replay."""

    def loss(self, learner, batch, outputs, loss):
        weights = torch.ones(learner.stream_rows)
        return (learner.objective.losses(outputs, batch) * weights).mean()


class NeedsTwoClasses(Method):
    def begin(self, learner, experience):
        _, _ = experience.classes[:2]


class NeedsTwoExamples(Method):
    """The deviation of a single example is NaN."""

    def begin(self, learner, experience):
        x = experience.train["x"].float()
        self.scale = float((x - x.mean(0)).square().sum() / torch.tensor(len(x) - 1.0))

    def loss(self, learner, batch, outputs, loss):
        return loss * (1 + 0 * self.scale)


class NeedsTwoRowsABatch(Method):
    def loss(self, learner, batch, outputs, loss):
        spread = (outputs - outputs.mean(0)).square().sum() / torch.tensor(len(outputs) - 1.0)
        return loss + 0.0 * spread


class NeedsNewClasses(Method):
    def begin(self, learner, experience):
        self.share = len(learner.seen) / len(learner.new)


class MasksReturningClasses(Method):
    """Hides all earlier classes, also one that this experience brings again."""

    def logits(self, learner, batch, outputs):
        outputs = outputs.clone()
        if learner.new:
            outputs[:, learner.old_logits] = -torch.inf
        return outputs


class DisturbsTheGenerator(Method):
    def batch(self, learner, batch):
        torch.rand(1, generator=learner.generator)
        return batch

    def predict(self, learner, batch, outputs):
        return outputs + 1e-6 * torch.rand(outputs.shape, generator=learner.generator)


class LearnsWhileEvaluated(Method):
    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(()))

    def predict(self, learner, batch, outputs):
        self.asked += len(outputs)
        return outputs


class SpoilsTestExamples(Method):
    """Writes into the table that it is shown."""

    def predict(self, learner, batch, outputs):
        batch["x"].bitwise_or_(1)
        return outputs


def tagged(**tags):
    return Tags("bound", "", "", **tags)


class AcceptsWhatItsTagsExclude(Method):
    tags = tagged(scenarios=frozenset({"class"}))

    def refusal(self, stream, model):
        return None


class AcceptsStreamsWithoutBoundaries(AcceptsWhatItsTagsExclude):
    tags = tagged(needs=frozenset({"boundaries"}))


class AcceptsStreamsWithoutLabels(AcceptsWhatItsTagsExclude):
    tags = tagged(needs=frozenset({"labels"}))


class AcceptsModelsWithoutFeatures(AcceptsWhatItsTagsExclude):
    tags = tagged(needs=frozenset({"features"}))


class AcceptsAllClassesAtOnce(AcceptsWhatItsTagsExclude):
    tags = tagged(needs=frozenset({"new classes"}))


class RefusesWithAWord(Method):
    def refusal(self, stream, model):
        return "no" if stream.scenario == "domain" else None


class ConcealsThatItNeedsFeatures(Method):
    tags = Tags("bound", "", "")  # of classes only

    def setup(self, learner):
        learner.model.features(learner.stream[0].train["x"][:1])


class ChangesItsArgument(Method):
    def __init__(self, capacity=200):
        super().__init__()
        self.capacity = capacity // 2


class DropsItsArgument(Method):
    def __init__(self, capacity=200):
        super().__init__()


class RefusesEverything(Method):
    tags = tagged(scenarios=frozenset())


BROKEN = [
    ("arguments", ChangesItsArgument, "changes its arguments"),
    ("arguments", DropsItsArgument, "keep each constructor argument"),
    ("determinism", Unseeded, "Two runs"),
    ("determinism", RefusesEverything, "refuses class-, task- and domain"),
    ("exact_resume", ForgetsItsMemory, "resumed"),
    ("exact_resume", ForgetsWhenAnExperienceBegan, "resumed"),
    ("exact_resume", Unseeded, "resumed"),
    ("state_dict", LosesGrownBuffers, "does not take the state dict"),
    ("state_dict", RoundsWhenLoading, "changes it"),
    ("device", KeepsATensor, r"plain attributes \(last\)"),
    ("device", KeepsTensorsInADictionary, r"plain attributes \(past\)"),
    ("device", KeepsATable, r"plain attributes \(past\)"),
    ("chaining", CountsOnlyTheStreamsRows, "After er"),
    ("chaining", Unseeded, "Two runs of er"),
    ("one_class_experiences", NeedsTwoClasses, "not learned nor refused"),
    ("one_example_experiences", NeedsTwoExamples, "not learned nor refused: Diverged"),
    ("last_batch_of_one", NeedsTwoRowsABatch, "last batches of one"),
    ("returning_classes", NeedsNewClasses, "ZeroDivisionError"),
    ("returning_classes", MasksReturningClasses, "Diverged"),
    ("evaluation_without_side_effects", DisturbsTheGenerator, "with and without evaluation"),
    ("evaluation_without_side_effects", LearnsWhileEvaluated, "with and without evaluation"),
    ("evaluation_without_side_effects", SpoilsTestExamples, "changes the test examples"),
    ("refusal", AcceptsWhatItsTagsExclude, "exclude task-incremental streams"),
    ("refusal", AcceptsStreamsWithoutBoundaries, "exclude streams without boundaries"),
    ("refusal", AcceptsStreamsWithoutLabels, "exclude streams without labels"),
    ("refusal", AcceptsModelsWithoutFeatures, "exclude models without features"),
    ("refusal", AcceptsAllClassesAtOnce, "exclude domain-incremental streams"),
    ("refusal", RefusesWithAWord, "must be a sentence"),
    ("refusal", ConcealsThatItNeedsFeatures, "models without features the method fails"),
]


@pytest.mark.parametrize(
    ("check", "broken", "complaint"), BROKEN, ids=[f"{c}-{b.__name__}" for c, b, _ in BROKEN]
)
def test_a_broken_method_fails_the_check_for_its_fault(check, broken, complaint):
    with pytest.raises(ContractError, match=complaint):
        check_method(broken, only=[check])


def test_every_check_is_seen_to_fail():
    assert {check for check, _, _ in BROKEN} == set(CHECKS)


def test_a_method_with_one_fault_passes_the_other_checks():
    assert check_method(KeepsATensor, only=["determinism", "refusal", "arguments"])
    assert check_method(MasksReturningClasses, only=["one_class_experiences", "determinism"])


def test_a_memory_that_is_a_buffer_is_not_mistaken_for_a_stray_tensor():
    class Remembering(Method):
        def __init__(self):
            super().__init__()
            self.buffer = Buffer(10)

        def end(self, learner, experience):
            self.buffer.add(experience.train.columns, learner.generator)

    assert check_method(Remembering, only=["device", "state_dict"])


def test_all_checks_are_run_in_order_unless_some_are_named():
    assert check_method(partial(ER, capacity=20), only=["refusal", "arguments"]) == [
        "refusal",
        "arguments",
    ]


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_the_small_streams_are_real_digits_without_an_overlap(scenario):
    stream = small_stream(scenario)
    assert [len(e.train) for e in stream] == [40, 40, 40]
    rows = [tuple(x.flatten().tolist()) for e in stream for x in [*e.train["x"], *e.test["x"]]]
    assert len(set(rows)) == len(rows)
    assert stream.validated() is stream
