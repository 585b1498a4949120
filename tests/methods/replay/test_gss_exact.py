"""What the greedy selection comes near to: the integer programme, solved by looking at all sets.

Of n examples choose k whose gradients point as many ways as can be: the set of least
sum_ij <g_i, g_j> / (|g_i| |g_j|). For small n all sets can be gone through.
"""

from dataclasses import replace
from itertools import combinations

import torch
import torch.nn.functional as F

from holdfast.data import Table
from holdfast.methods import GSS

STORED, OFFERED = 5, 16


def spread(cosines, chosen):
    """The sum over a set, or over each of several sets."""
    return cosines[chosen[..., :, None], chosen[..., None, :]].sum((-1, -2))


def exact(cosines, size):
    """All sets of a size with what they sum to, the best first."""
    sets = torch.tensor(list(combinations(range(len(cosines)), size)))
    sums = spread(cosines, sets)
    order = sums.argsort()
    return sets[order], sums[order]


def test_of_three_ways_the_exact_choice_takes_one_each():
    ways = F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [-1, 1], [-1, 1.1], [-1, -1]]))
    sets, sums = exact(ways @ ways.T, 3)
    assert sets[0].tolist() in ([0, 2, 4], [1, 2, 4], [0, 3, 4], [1, 3, 4])
    assert float(sums[0]) == float(spread(ways @ ways.T, sets[0]))
    assert float(sums[0]) < float(sums[-1])


def test_the_greedy_memory_is_nearer_to_the_exact_one_than_a_random_one(numbered, learned):
    """A stream in which one class is frequent, at weights that stay as they are."""
    stream = numbered("domain", 40)
    train = stream[0].train
    frequent = (train["y"] == train["y"].mode().values).nonzero().flatten()
    rare = (train["y"] != train["y"].mode().values).nonzero().flatten()
    rows = torch.cat([frequent[:1].repeat(OFFERED - 4), rare[:4]])
    noisy = train["x"][rows] + torch.rand(
        OFFERED, 1, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    table = Table({"x": noisy, "y": train["y"][rows], "id": torch.arange(OFFERED)})
    stream = replace(stream, experiences=[replace(stream[0], train=table)])
    found = []
    for seed in range(20):
        method = GSS(capacity=STORED, batches=2)
        learner = learned(stream, method, lr=0.0, batch_size=2, epochs=1, seed=seed)
        found.append(method.buffer.columns["id"])
    model = learner.model.eval()
    gradients = []
    for row in range(OFFERED):
        loss = F.cross_entropy(model(noisy[row : row + 1]), table["y"][row : row + 1])
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, learner.parameters)])
        )
    ways = F.normalize(torch.stack(gradients))
    cosines = ways @ ways.T
    _, sums = exact(cosines, STORED)
    greedy = torch.stack([spread(cosines, chosen) for chosen in found])
    assert greedy.min() >= sums[0] - 1e-3
    # The mean over all sets is what a uniform sample, a reservoir, has on average.
    assert greedy.mean() < sums.mean() - 1.5
    assert greedy.min() < (sums[0] + sums.mean()) / 2
