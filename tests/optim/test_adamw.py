"""Only matrices decay."""

import torch
from torch import nn

from holdfast.optim.adamw import adamw


def test_a_step_without_gradient_shrinks_matrices_and_leaves_vectors():
    layer = nn.Linear(3, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = adamw(0.1, weight_decay=0.5)(list(layer.parameters()))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight, weight * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, bias)


def test_the_first_step_has_the_length_of_the_rate_in_every_direction():
    vector = nn.Parameter(torch.zeros(2))
    optimizer = adamw(0.01)([vector])
    vector.grad = torch.tensor([3.0, -0.2])
    optimizer.step()
    torch.testing.assert_close(vector.detach(), torch.tensor([-0.01, 0.01]))
