"""Joint training."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from holdfast.data import Batches, Table
from holdfast.methods import Finetune, Joint
from holdfast.models import build


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("head", ["full", "growing"])
def test_steps_are_those_of_fine_tuning_and_all_rows_are_equal(numbered, learned, scenario, head):
    stream = numbered(scenario)
    joint = learned(stream, Joint(), head=head).record
    assert joint.cost["steps"] == learned(stream, Finetune(), head=head).record.cost["steps"] == 24
    assert len(joint.matrix) == 3
    assert joint.matrix[0] == joint.matrix[1] == joint.matrix[2]


def test_it_is_one_training_on_all_data_shuffled_together(numbered, learned):
    stream = numbered()
    learner = learned(stream, Joint(), lr=0.05)
    model = build("mlp(width=16, depth=1)", stream, seed=1)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    table = Table.concat([e.train for e in stream])
    for batch in Batches(table, 10, 2, generator):
        optimizer.zero_grad()
        F.cross_entropy(model(batch["x"]), batch["y"]).backward()
        optimizer.step()
    for name, tensor in learner.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_a_growing_head_has_all_its_rows_from_the_start(numbered, learned):
    learner = learned(numbered(), Joint(), head="growing", epochs=8, lr=0.1)
    assert learner.model.head.classes == 6
    assert min(learner.record.matrix[0]) > 0.7


def test_one_experience_is_plain_training(numbered, learned):
    stream = replace(numbered(), experiences=[numbered()[0]])
    joint, plain = learned(stream, Joint()), learned(stream, Finetune())
    assert torch.equal(joint.model.head.weight, plain.model.head.weight)
