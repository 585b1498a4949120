"""The random-features part of NPO's study: unlearning where everything can be computed.

Two clouds of points in 16 dimensions, one to be kept and one to be forgotten, whose labels follow
opposite rules; a logistic regression on 128 frozen ReLU features is fitted to both, and then
forgets one of them by plain gradient descent. What it should become is known: the fit to the other
cloud alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, FEATURES = 16, 128
METHODS = (
    "GA", "GradDiff", "KL", "IDK", "NPO", "NPO+retain", "NPO+KL", "DPO", "DPO+retain", "DPO+KL",
    "KTO",
)  # fmt: skip
BETAS = (0.01, 0.1, 0.2, 0.5, 1.0)
EQUAL_RATE = 5e-4
"""At which betas are compared, and with gradient ascent."""


@dataclass(frozen=True)
class Setting:
    """Learning rates and betas for one arrangement of the clouds, as the paper has them.

    Attributes:
        apart: Alpha: the centres lie at minus and plus so much in every coordinate.
        ascent: Learning rate of GA, GradDiff, KL and IDK.
        npo: Learning rate and beta of NPO, and of KTO.
        dpo: Learning rate and beta of DPO.
    """

    apart: float
    ascent: float
    npo: tuple[float, float]
    dpo: tuple[float, float]

    def rate(self, method: str) -> float:
        """The learning rate of a method."""
        if method.startswith(("NPO", "KTO")):
            return self.npo[0]
        return self.dpo[0] if method.startswith("DPO") else self.ascent


SETTINGS = {
    "apart": Setting(1.0, 5e-4, (5e-3, 1.0), (5e-3, 0.1)),
    "overlapping": Setting(0.0, 1e-4, (5e-2, 10.0), (5e-2, 5.0)),
}


@dataclass(frozen=True)
class Problem:
    """Points as features, labels as signs (+1 is the first class), and both fits.

    Attributes:
        forget: Features of what is to be forgotten, [examples, features].
        forget_sign: Its labels.
        refusal: Labels drawn at random in their place.
        retain: Features of what is to be kept.
        retain_sign: Its labels.
        test_forget: Features of fresh points of the cloud to be forgotten.
        test_retain: Likewise, to be kept.
        fitted: Weights fitted to both clouds.
        never: Weights fitted to what is to be kept alone.
    """

    forget: Tensor
    forget_sign: Tensor
    refusal: Tensor
    retain: Tensor
    retain_sign: Tensor
    test_forget: Tensor
    test_retain: Tensor
    fitted: Tensor
    never: Tensor


def problem(apart: float, seed: int, fit_steps: int = 20_000) -> Problem:
    """Draw the clouds and fit both models.

    Args:
        apart: Alpha.
        seed: Of everything.
        fit_steps: Full-batch steps of gradient descent at a rate of 0.05.
    """
    chance = torch.Generator().manual_seed(seed)
    frozen = _normal(chance, FEATURES, WIDTH) / WIDTH**0.5

    def cloud(side: int, rows: int) -> tuple[Tensor, Tensor]:
        around = _normal(chance, rows, WIDTH)
        # About its own centre, a point of the kept cloud is of the first class with the logit
        # 1 + its place along the diagonal; of the other cloud, of the second class.
        logit = -side * (1 + around.sum(1) / WIDTH**0.5)
        sign = 2.0 * (_uniform(chance, rows) < logit.sigmoid()) - 1
        return (around + side * apart).matmul(frozen.T).relu(), sign.double()

    retain, retain_sign = cloud(-1, 1000)
    forget, forget_sign = cloud(+1, 200)
    refusal = (2.0 * (_uniform(chance, 200) < 0.5) - 1).double()
    test_retain, test_forget = cloud(-1, 1000)[0], cloud(+1, 1000)[0]
    both = torch.cat([retain, forget])
    counted = torch.stack([torch.ones(1200), (torch.arange(1200) < 1000).float()]).double()
    fitted, never = fit(both, torch.cat([retain_sign, forget_sign]), counted, fit_steps)
    return Problem(
        forget, forget_sign, refusal, retain, retain_sign, test_forget, test_retain, fitted, never
    )


def fit(points: Tensor, signs: Tensor, counted: Tensor, steps: int, rate: float = 0.05) -> Tensor:
    """Logistic regressions by gradient descent, one for every row of `counted`.

    Args:
        points: Features, [examples, features].
        signs: Labels, +1 or -1.
        counted: By regression and example, 1 where the example counts, else 0.
        steps: Full-batch steps.
        rate: Their length.
    """
    weights = points.new_zeros(len(counted), points.shape[1])
    share = counted / counted.sum(1, keepdim=True) * signs
    for _ in range(steps):
        margin = weights.matmul(points.T) * signs
        weights += rate * (share * torch.sigmoid(-margin)).matmul(points)
    return weights


def unlearn(
    given: Problem, setting: Setting, steps: int = 2000, every: int = 25
) -> dict[str, dict[str, list[float]]]:
    """All methods side by side, one row of weights each.

    Returns:
        By method, at every `every` steps: `forget` and `retain`, the divergence KL(never || now) on
        fresh points of either cloud.
    """
    rates = torch.tensor([setting.rate(m) for m in METHODS], dtype=torch.float64)[:, None]
    weights = given.fitted.repeat(len(METHODS), 1).requires_grad_()
    with torch.no_grad():
        before_forget = _logprob(given.fitted, given.forget, given.forget_sign)
        before_refusal = _logprob(given.fitted, given.forget, given.refusal)
        before_retain = given.retain.matmul(given.fitted)
    found: dict[str, dict[str, list[float]]] = {m: {"forget": [], "retain": []} for m in METHODS}
    for step in range(steps + 1):
        if step % every == 0:
            for method, forget, retain in zip(
                METHODS, *apart(given, weights.detach()), strict=True
            ):
                found[method]["forget"].append(forget)
                found[method]["retain"].append(retain)
        answered = _logprob(weights, given.forget, given.forget_sign)
        refused = _logprob(weights, given.forget, given.refusal)
        kept = -_logprob(weights, given.retain, given.retain_sign).mean(1)
        same = _divergence(before_retain, weights.matmul(given.retain.T)).mean(1)
        drift = before_forget - answered
        gain = refused - before_refusal
        losses = []
        for place, method in enumerate(METHODS):
            forgetting, _, beside = method.partition("+")
            if forgetting in ("GA", "GradDiff", "KL"):
                loss = answered[place].mean()
                beside = {"GradDiff": "retain", "KL": "KL"}.get(forgetting, "")
            elif forgetting == "IDK":
                loss, beside = -refused[place].mean(), "retain"
            elif forgetting == "NPO":
                loss = _preference(drift[place], setting.npo[1])
            elif forgetting == "KTO":
                moved = _divergence(
                    given.forget.matmul(weights[place].detach()), given.forget.matmul(given.fitted)
                )
                loss = _preference(drift[place] + moved.mean(), setting.npo[1])
            else:
                loss = _preference(gain[place] + drift[place], setting.dpo[1])
            terms = {"retain": kept[place], "KL": same[place]}
            losses.append(loss + terms[beside] if beside else loss)
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), weights)
        with torch.no_grad():
            weights -= rates * gradient
    return found


def drifts(given: Problem, steps: int = 10_000, every: int = 100) -> dict[str, list[float]]:
    """How far weights have gone from where they began, by NPO at one rate for every beta, and GA.

    Returns:
        By `GA` or beta, the distance at every `every` steps.
    """
    names = ["GA", *(f"{beta:g}" for beta in BETAS)]
    betas = torch.tensor(BETAS, dtype=torch.float64)[:, None]
    weights = given.fitted.repeat(len(names), 1)
    before = _logprob(given.fitted, given.forget, given.forget_sign)
    found: dict[str, list[float]] = {name: [] for name in names}
    rows = len(given.forget)
    for step in range(steps + 1):
        if step % every == 0:
            distances = (weights - given.fitted).norm(dim=1).tolist()
            for name, distance in zip(names, distances, strict=True):
                found[name].append(distance)
        margin = weights.matmul(given.forget.T) * given.forget_sign
        pull = torch.sigmoid(-margin)  # of log p by the margin
        drift = before - F.logsigmoid(margin[1:])
        pull[1:] *= 2 * torch.sigmoid(-betas * drift)
        weights -= EQUAL_RATE / rows * (pull * given.forget_sign).matmul(given.forget)
    return found


def apart(given: Problem, weights: Tensor) -> tuple[list[float], list[float]]:
    """KL(never || now) of every row of weights, on fresh points to be forgotten and kept."""
    found = []
    for points in (given.test_forget, given.test_retain):
        told = points.matmul(given.never)
        found.append(_divergence(told, weights.matmul(points.T)).mean(1).tolist())
    return found[0], found[1]


def measure(setting: str, seed: int, fit_steps: int, steps: int, drift: int) -> dict[str, Any]:
    """One arrangement of the clouds under one seed."""
    given = problem(SETTINGS[setting].apart, seed, fit_steps)
    ways = unlearn(given, SETTINGS[setting], steps)
    found = {}
    for method, way in ways.items():
        best = min(range(len(way["forget"])), key=way["forget"].__getitem__)
        found[method] = {
            "way": way,
            "best": way["forget"][best],
            "retain_at_best": way["retain"][best],
            "end": way["forget"][-1],
            "retain_at_end": way["retain"][-1],
        }
    return {"methods": found, "drift": drifts(given, drift) if drift else {}}


def _preference(drift: Tensor, beta: float) -> Tensor:
    return (2 / beta) * -F.logsigmoid(beta * drift).mean()


def _logprob(weights: Tensor, points: Tensor, signs: Tensor) -> Tensor:
    return F.logsigmoid(weights.matmul(points.T) * signs)


def _divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL of Bernoulli distributions by the logits of the first class."""
    first, second = F.logsigmoid(reference), F.logsigmoid(-reference)
    return first.exp() * (first - F.logsigmoid(logits)) + second.exp() * (
        second - F.logsigmoid(-logits)
    )


def _normal(chance: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=chance, dtype=torch.float64)


def _uniform(chance: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=chance, dtype=torch.float64)
