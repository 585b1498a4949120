"""One tensor for every parameter."""

import torch
from torch import nn

from holdfast.memory.parameters import ParameterStore
from holdfast.models import GrowingHead


def named(module):
    return list(module.named_parameters())


def test_it_keeps_copies():
    layer, store = nn.Linear(3, 2), ParameterStore()
    before = layer.weight.detach().clone()
    store.put(named(layer))
    with torch.no_grad():
        layer.weight.add_(1)
    kept = store.get(named(layer))
    assert torch.equal(kept[0], before)
    assert not any(t.requires_grad for t in kept)


def test_it_keeps_copies_of_other_tensors_under_the_parameters_names():
    layer, store = nn.Linear(2, 1), ParameterStore()
    others = [torch.ones(1, 2), torch.full((1,), 3.0)]
    store.put(named(layer), others)
    others[0].zero_()
    assert [t.tolist() for t in store.get(named(layer))] == [[[1.0, 1.0]], [3.0]]


def test_it_is_empty_until_something_is_put_and_then_answers_zeros_for_strangers():
    store = ParameterStore()
    assert not store
    assert [t.tolist() for t in store.get(named(nn.Linear(2, 1)))] == [[[0.0, 0.0]], [0.0]]
    assert store


def test_rows_that_a_parameter_has_gained_are_zero():
    head, store = GrowingHead(3, 2), ParameterStore()
    store.put(named(head))
    old = head.weight.detach().clone()
    head.grow(5)
    weight, bias = store.get(named(head))
    assert weight.shape == (5, 3)
    assert torch.equal(weight[:2], old)
    assert not weight[2:].any()
    assert not bias[2:].any()


def test_asking_with_the_same_list_answers_the_same_tensors_until_put_again():
    layer, store = nn.Linear(3, 2), ParameterStore()
    store.put(named(layer))
    asked = named(layer)
    first = store.get(asked)
    assert store.get(asked) is first
    store.put([(n, p + 1) for n, p in asked])
    assert torch.equal(store.get(asked)[0], layer.weight + 1)


def test_its_state_goes_into_an_empty_store_bit_by_bit_whatever_the_growth():
    head, store = GrowingHead(3, 2), ParameterStore()
    store.put([("deep.head.weight", head.weight)])
    head.grow(4)
    store.get([("deep.head.weight", head.weight)])
    other = ParameterStore()
    asked = [("deep.head.weight", head.weight)]
    other.put([("deep.head.weight", torch.ones(1, 3))])
    other.get([("deep.head.weight", torch.ones(1, 3))])
    other.load_state_dict(store.state_dict())
    assert torch.equal(other.get(asked)[0], store.get(asked)[0])


def test_loading_and_moving_make_it_look_again():
    layer, store = nn.Linear(3, 2), ParameterStore()
    store.put(named(layer))
    asked = named(layer)
    store.get(asked)
    store.load_state_dict(
        {k: v + 1 for k, v in store.state_dict().items() if torch.is_tensor(v)}, strict=False
    )
    assert torch.equal(store.get(asked)[0], layer.weight + 1)
    store.to(torch.float64)
    assert store.get(asked)[0].dtype == torch.float64
