"""Attacks on membership, against formulas by hand and scikit-learn itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from holdfast.unlearning.membership import Seen, attack, entropy, features, modified_entropy


def some(seed, sharpness, rows=60, classes=4):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits = torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), labels] += sharpness
    return Seen(logits.softmax(1), labels)


def test_the_entropy_is_that_of_a_hand_calculation():
    p = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert entropy(p).tolist() == pytest.approx([1.5 * math.log(2), 0.0])


def test_the_modified_entropy_is_that_of_a_hand_calculation():
    """-(1 - p_y) log p_y - sum over the others of p_j log(1 - p_j), row by row."""
    p = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.05, 0.9, 0.05]]
    y = [0, 0, 1]
    expected = []
    for row, own in zip(p, y, strict=True):
        value = -(1 - row[own]) * math.log(row[own])
        for j, q in enumerate(row):
            if j != own:
                value -= q * math.log(1 - q)
        expected.append(value)
    found = modified_entropy(Seen(torch.tensor(p, dtype=torch.float64), torch.tensor(y)))
    assert found.tolist() == pytest.approx(expected)


def test_only_the_right_answer_makes_a_sure_models_modified_entropy_small():
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    right, wrong = modified_entropy(Seen(p, torch.tensor([0, 1]))).tolist()
    assert right == 0
    assert wrong > 60
    assert entropy(p).tolist() == [0, 0]


def test_the_attacks_are_those_of_scikit_learn_on_one_feature_at_a_time():
    members, outsiders, forgotten = some(0, 6.0), some(1, 1.0), some(2, 3.0)
    found = attack(members, outsiders, forgotten)
    assert set(found) == {
        "correctness",
        "confidence",
        "entropy",
        "modified_entropy",
        "probabilities",
    }

    def confidence(seen):
        p, y = seen.probabilities.numpy(), seen.labels.numpy()
        return p[np.arange(len(y)), y][:, None]

    machine = SVC(C=3, kernel="rbf", gamma=1.0)  # "auto" is 1 over the number of features: one
    x = np.concatenate([confidence(members), confidence(outsiders)]).astype(float)
    machine.fit(x, [1] * 60 + [0] * 60)
    taken = (machine.predict(confidence(forgotten).astype(float)) == 0).mean()
    assert found["confidence"] == pytest.approx(taken)
    assert 0 < taken < 1

    whole = SVC(C=3, kernel="rbf", gamma=1 / 4)
    x = torch.cat([members.probabilities, outsiders.probabilities]).double().numpy()
    whole.fit(x, [1] * 60 + [0] * 60)
    told = whole.predict(forgotten.probabilities.double().numpy())
    assert found["probabilities"] == pytest.approx((told == 0).mean())


def test_members_are_taken_for_members_and_outsiders_are_not():
    members, outsiders = some(0, 12.0), some(1, -3.0)
    assert attack(members, outsiders, some(5, 12.0))["confidence"] < 0.1
    assert attack(members, outsiders, some(6, -3.0))["confidence"] > 0.9


def test_correctness_is_whether_the_likeliest_class_is_the_right_one():
    seen = Seen(torch.tensor([[0.6, 0.4], [0.6, 0.4]]), torch.tensor([0, 1]))
    assert features(seen)["correctness"].tolist() == [[1.0], [0.0]]
    assert seen.accuracy == 0.5
