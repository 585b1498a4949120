"""Plain fine-tuning."""

import torch
import torch.nn.functional as F

from holdfast.data import Batches
from holdfast.methods import Finetune
from holdfast.models import build


def test_it_is_the_ordinary_loop_over_one_experience_after_another(numbered, learned):
    stream = numbered()
    learner = learned(stream, Finetune(), epochs=2, lr=0.05)
    model = build("mlp(width=16, depth=1)", stream, seed=1)
    generator = torch.Generator().manual_seed(0)
    for experience in stream:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for batch in Batches(experience.train, 10, 2, generator):
            optimizer.zero_grad()
            F.cross_entropy(model(batch["x"]), batch["y"]).backward()
            optimizer.step()
    for name, tensor in learner.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])


def test_it_forgets_nearly_everything_in_the_class_incremental_scenario(numbered, learned):
    learner = learned(numbered(), Finetune(), epochs=6, lr=0.1)
    assert max(learner.record.matrix[-1][:2]) < 0.1
    assert learner.record.matrix[-1][2] > 0.9
