"""Bytes of a learner: every byte of state once, in the kind that it belongs to."""

from __future__ import annotations

import pytest

from holdfast import catalogue, models, streams
from holdfast.cost import stored_bytes
from holdfast.footprint import memory_bytes
from holdfast.learner import Learner
from holdfast.models.frozen import featurised, frozen

FLOAT = 4
IMAGE = 64  # of 8 by 8, in bytes


def learned(method, model="mlp(width=8, depth=1)"):
    stream = streams.build("split-digits(limit=20, test_limit=10)")
    learner = Learner(models.build(model, stream, head="growing"), catalogue.build(method))
    learner.learn(stream)
    return learner


PLAIN = FLOAT * (64 * 8 + 8 + 8 * 10 + 10)


@pytest.mark.parametrize(
    "method",
    ["finetune", "er(20)", "gem(20)", "icarl(20)", "bic(20)", "wa(20)", "ewc", "lwf", "der++(20)",
     "expandable_der(20)", "memo(20)", "ncm", "cls_er(20)", "agem", "fpf(20, iterations=2)",
     "expert_gate(epochs=1)", "expert_gate(features=backbone, epochs=1)"],
)  # fmt: skip
def test_every_byte_of_state_is_counted_once(method):
    learner = learned(method, "cnn(width=2)")
    whole = stored_bytes(learner.model) + stored_bytes(learner.method)
    assert memory_bytes(learner).whole == whole
    assert learner.record.cost["whole_bytes"] == whole


def test_plain_training_holds_its_parameters_alone():
    found = memory_bytes(learned("finetune"))
    assert (found.model, found.deployed, found.whole, found.stored) == (PLAIN, PLAIN, PLAIN, 0)


def test_examples_count_by_their_inputs_and_not_by_their_labels_or_free_room():
    found = memory_bytes(learned("er(capacity=30)"))
    assert (found.stored, found.examples) == (30, 30 * IMAGE)
    assert found.deployed == PLAIN + 30 * IMAGE
    assert found.labels == 30 * 8 + IMAGE + 8  # and the row that takes what is not kept
    roomy = memory_bytes(learned("er(capacity=400)"))
    assert roomy.examples == 100 * IMAGE  # there are no more
    assert roomy.labels == 300 * IMAGE + 400 * 8 + IMAGE + 8


def test_examples_by_experience_count_without_the_copies_that_fill_them_up():
    found = memory_bytes(learned("gem(capacity=20)"))
    assert (found.stored, found.examples) == (20, 20 * IMAGE)


def test_a_teacher_and_importances_are_not_deployed():
    teacher, importances = memory_bytes(learned("lwf")), memory_bytes(learned("ewc"))
    assert (teacher.deployed, teacher.teachers) == (PLAIN, PLAIN)
    assert (importances.deployed, importances.learning) == (PLAIN, 2 * PLAIN)


def test_what_predictions_need_is_deployed():
    means = memory_bytes(learned("icarl(capacity=20)"))
    assert means.use == FLOAT * (10 * 8 + 10)
    described = memory_bytes(learned("expert_gate(features=backbone, code=3, epochs=1)"))
    grown = [FLOAT * (64 * 8 + 8 + 9 * classes) for classes in (2, 4, 6, 8, 10)]  # with the head
    autoencoders, standardised = 5 * FLOAT * (9 * 3 + 4 * 8), FLOAT * 2 * 8
    assert described.teachers == 0
    assert described.use == sum(grown) + grown[0] + autoencoders + standardised
    watched = memory_bytes(learned("fpf(20, iterations=2)"))
    assert watched.use == 0
    assert watched.learning > 0
    correction = memory_bytes(learned("bic(capacity=20)"))
    assert correction.use == 2 * FLOAT


def test_every_network_of_a_growing_model_counts_and_so_does_its_auxiliary_head():
    found = memory_bytes(learned("expandable_der(capacity=20)"))
    networks, head = 5 * (64 * 8 + 8), 5 * 8 * 10 + 10
    auxiliary = 8 * 3 + 3
    assert found.model == FLOAT * (networks + head + auxiliary)
    assert found.deployed == found.model + 20 * IMAGE


def test_statistics_of_normalisation_stand_apart():
    found = memory_bytes(learned("finetune", "cnn(width=2, depth=1)"))
    assert found.statistics == FLOAT * (2 + 2) + 8  # means, variances, and a count
    assert found.model == FLOAT * (2 * 9 + 2 * 2 + 2 * 10 + 10)


def test_a_backbone_that_features_stand_for_counts_as_if_it_were_looked_through():
    stream = streams.build("split-digits(limit=20, test_limit=10)")
    model = models.build("cnn(width=2, depth=1)", stream)
    light, features = featurised(model, stream, keep=False)
    through, past = Learner(frozen(model)), Learner(light)
    assert memory_bytes(past) == memory_bytes(through)
    past.learn(features)
    assert past.record.cost["model_bytes"] == memory_bytes(through).model
