"""Which classes come together: frequencies against closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.streams.samplers import SAMPLERS, Subsets, entropy, probabilities

LONG = 2000


@pytest.fixture
def given(generator) -> Subsets:
    return Subsets(10, 2, LONG, torch.full((10,), 0.1).double(), 2.0, 0.1, 0.2, generator)


def visits(drawn: list[torch.Tensor], classes: int = 10) -> list[int]:
    return torch.cat(drawn).bincount(minlength=classes).tolist()


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_gives_different_classes_and_as_many_subsets_as_asked(name, given) -> None:
    drawn = SAMPLERS[name](given)
    assert len(drawn) == LONG
    size = 10 if name == "all" else 2
    assert all(len(set(members.tolist())) == size for members in drawn)
    again = replace(given, generator=torch.Generator().manual_seed(0))
    other = SAMPLERS[name](replace(given, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(a, b) for a, b in zip(SAMPLERS[name](again), other, strict=True))


def test_uniform_classes_come_as_often_as_each_other(given) -> None:
    # 400 visits each; the deviation of a binomial of 2,000 at 0.2 is 17.9.
    assert visits(SAMPLERS["uniform"](given)) == pytest.approx([400] * 10, abs=4.5 * 17.9)


def test_unequal_chances_are_those_of_the_closed_form(generator) -> None:
    chances = probabilities(10, 4.0, generator)
    weights = sorted((1 - 0.05 * c) ** 4 for c in range(10))
    assert chances.sort().values.tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert probabilities(10, 0.0, generator).tolist() == pytest.approx([0.1] * 10)
    assert float(probabilities(100, 1.0, generator).min()) == pytest.approx(0.01 / 50.5)
    assert entropy(chances) < 1 == pytest.approx(entropy(torch.full((10,), 0.1)))


def test_classes_of_unequal_chances_come_that_often_one_at_a_time(given, generator) -> None:
    chances = probabilities(10, 4.0, generator)
    drawn = SAMPLERS["uniform"](replace(given, size=1, probabilities=chances))
    assert visits(drawn) == pytest.approx((LONG * chances).tolist(), abs=5 * 17.9)


def test_damping_evens_out_the_visits(given) -> None:
    spread = {
        n: max(v) - min(v) for n in ("uniform", "damped") for v in [visits(SAMPLERS[n](given))]
    }
    assert spread["damped"] < 10 < spread["uniform"]


def test_a_fixed_order_goes_through_all_subsets_again_and_again(given) -> None:
    drawn = SAMPLERS["cyclic"](replace(given, replaced=0.0, experiences=100))
    assert [tuple(m.tolist()) for m in drawn[:45]] == list(combinations(range(10), 2))
    assert all(torch.equal(a, b) for a, b in zip(drawn, drawn[45:], strict=False))


def test_an_order_that_does_not_get_through_prefers_no_class(given) -> None:
    few = replace(given, classes=20, size=3, replaced=0.0, experiences=400)  # of 1,140
    drawn = SAMPLERS["cyclic"](few)
    assert len({tuple(m.tolist()) for m in drawn}) == 400
    visits = torch.cat(drawn).bincount(minlength=20)
    assert visits.min() > 60 - 4.5 * 60**0.5, "sixty each; in the order of counting the last: six"
    with pytest.raises(UsageError, match="up to 1,000,000"):
        SAMPLERS["cyclic"](replace(given, classes=100, size=10))


def test_in_a_fixed_order_classes_give_way_as_often_as_asked(given) -> None:
    drawn = SAMPLERS["cyclic"](replace(given, replaced=0.25))
    fixed = list(combinations(range(10), 2))
    gone = sum(len(set(fixed[k % 45]) - set(members.tolist())) for k, members in enumerate(drawn))
    # 4,000 places, a quarter of them: 1,000 with a deviation of 27.4.
    assert gone == pytest.approx(1000, abs=4.5 * 27.4)


def test_only_so_many_subsets_ever_come(given) -> None:
    drawn = {tuple(sorted(m.tolist())) for m in SAMPLERS["restricted"](given)}
    assert len(drawn) == 9  # a fifth of 45
    with pytest.raises(UsageError, match="up to 1,000,000"):
        SAMPLERS["restricted"](replace(given, classes=100, size=10))


def test_two_periods_share_no_class(given) -> None:
    drawn = SAMPLERS["halves"](given)
    first, second = (set(torch.cat(part).tolist()) for part in (drawn[:1000], drawn[1000:]))
    assert len(first) == len(second) == 5
    assert not first & second
    with pytest.raises(UsageError, match="Half of 10 classes"):
        SAMPLERS["halves"](replace(given, size=6))


def test_half_of_the_classes_never_come_back(given) -> None:
    drawn = SAMPLERS["retention"](given)
    first, second = (set(torch.cat(part).tolist()) for part in (drawn[:1000], drawn[1000:]))
    assert (len(first), len(second)) == (10, 5)


def test_disjoint_tasks_come_in_cycles(given) -> None:
    drawn = SAMPLERS["disjoint"](replace(given, experiences=10))
    assert sorted(torch.cat(drawn[:5]).tolist()) == list(range(10))
    assert all(torch.equal(a, b) for a, b in zip(drawn[:5], drawn[5:], strict=True))
