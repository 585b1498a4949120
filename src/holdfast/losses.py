"""Loss terms that several methods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def distillation(
    outputs: Float[Tensor, "*examples classes"],
    targets: Float[Tensor, "*examples classes"],
    temperature: float = 2.0,
) -> Float[Tensor, "*examples"]:
    """Cross-entropy between a teacher's and a student's softened class probabilities.

    The softmax runs over the columns given: pass a slice of the logits to distil only those.
    Multiply by the squared temperature where the gradient's scale should not depend on it.

    Args:
        outputs: The student's logits.
        targets: The teacher's logits, same columns.
        temperature: Divides both; above 1 it softens.

    Source: Hinton et al., "Distilling the knowledge in a neural network" (2015).
    """
    probabilities = (targets / temperature).softmax(-1)
    return -(probabilities * (outputs / temperature).log_softmax(-1)).sum(-1)


def entropy(outputs: Float[Tensor, "*examples classes"]) -> Float[Tensor, "*examples"]:
    """Entropy of the softmax of logits, in nats.

    Example:
        >>> round(float(entropy(torch.zeros(4))), 4)
        1.3863
    """
    return -(outputs.softmax(-1) * outputs.log_softmax(-1)).sum(-1)


def softened_divergence(
    outputs: Float[Tensor, "*examples classes"],
    targets: Float[Tensor, "*examples classes"],
    temperature: float = 4.0,
) -> Float[Tensor, "*examples"]:
    """T^2 KL(teacher, student) between softened class probabilities: `distillation` less its least.

    Args:
        outputs: The student's logits.
        targets: The teacher's logits.
        temperature: T, which divides both.

    Example:
        >>> logits = torch.tensor([[1.0, -1.0]])
        >>> float(softened_divergence(logits, logits))
        0.0
    """
    return temperature**2 * divergence(outputs / temperature, targets / temperature)


def divergence(
    outputs: Float[Tensor, "*examples classes"], reference: Float[Tensor, "*examples classes"]
) -> Float[Tensor, "*examples"]:
    """KL divergence of the reference's distribution from the outputs', in nats: KL(ref || now).

    In single precision at least, whatever the logits'.

    Args:
        outputs: Logits now.
        reference: Logits of the model as it was, same columns.

    Example:
        >>> float(divergence(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])).abs())
        0.0
    """
    low = outputs.dtype in (torch.bfloat16, torch.float16)
    now, then = (x.float() if low else x for x in (outputs, reference))
    log_then = then.log_softmax(-1)
    return F.kl_div(now.log_softmax(-1), log_then, reduction="none", log_target=True).sum(-1)


def output_distance(
    outputs: Float[Tensor, "examples width"], stored: Float[Tensor, "examples width"]
) -> Float[Tensor, ""]:
    """Mean squared difference to stored outputs, over the entries that were known when stored.

    Args:
        outputs: Now.
        stored: As stored; NaN where the output did not exist yet, maybe narrower than `outputs`.
    """
    difference = outputs[:, : stored.shape[1]] - stored
    known = ~stored.isnan()
    return torch.where(known, difference, 0.0).square().sum() / known.sum()


def binary_cross_entropy(
    outputs: Float[Tensor, "examples classes"], targets: Float[Tensor, "examples classes"]
) -> Float[Tensor, " examples"]:
    """Independent sigmoid cross-entropy of every class, summed over classes."""
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1)


def supervised_contrastive(
    features: Float[Tensor, "rows width"], labels: Int[Tensor, " rows"], temperature: float = 0.1
) -> Float[Tensor, " rows"]:
    """How far each row is from the others of its class, compared with all others.

        loss_i = -mean over p in P(i) of log softmax over a != i of (z_i z_a / T), at p

    with P(i) the other rows of row i's label: other examples, and other views of the same one. A
    row that is alone in its class has loss 0.

    Args:
        features: Of unit length; views of one example are rows of their own.
        labels: Of every row; the number of the example makes it the unsupervised loss.
        temperature: T, above 0.

    Source: Khosla et al., "Supervised contrastive learning" (2020), equation 2.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> loss = supervised_contrastive(z, torch.tensor([0, 0, 1]), temperature=1.0)
        >>> [round(float(x), 4) for x in loss[:2]]  # log(1 + exp(-2))
        [0.1269, 0.1269]
    """
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    similar = features @ features.T / temperature
    similar = similar.masked_fill(itself, torch.finfo(similar.dtype).min)
    alike = (labels[:, None] == labels) & ~itself
    log_chance = similar.log_softmax(1).masked_fill(~alike, 0.0)
    return -log_chance.sum(1) / alike.sum(1).clamp(min=1)


def among_present(
    outputs: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, "examples classes"]:
    """Logits with those of classes that no label is of at -1e9: a softmax then leaves them out.

    Example:
        >>> among_present(torch.zeros(2, 3), torch.tensor([0, 2])).softmax(1).tolist()
        [[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]]
    """
    present = torch.zeros(outputs.shape[1], dtype=torch.bool, device=outputs.device)
    return outputs.masked_fill(~present.index_fill_(0, labels, True), -1e9)


def token_logprobs(
    logits: Float[Tensor, "*tokens vocabulary"], labels: Int[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    """The log-probability of every label under the logits at its place, 0 where the label is -100.

    In single precision at least, whatever the logits'.
    """
    flat = logits.flatten(0, -2)
    flat = flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat
    return -F.cross_entropy(flat, labels.flatten(), reduction="none").view(labels.shape)


def sequence_logprobs(
    logits: Float[Tensor, "rows width vocabulary"],
    labels: Int[Tensor, "rows width"],
    *,
    shift: bool = True,
) -> Float[Tensor, " rows"]:
    """The log-probability of each row's labelled tokens together, in nats.

    Args:
        logits: Of a language model.
        labels: Token ids; -100 where nothing is asked.
        shift: Whether the logits at a place predict the label after it, as in causal models; in
            sequence-to-sequence models they predict the label at the place itself.

    Divide by `labels[:, 1:].ne(-100).sum(1)` (unshifted: `labels`) for the mean per token.

    Example:
        >>> logits = torch.log(torch.tensor([[[0.5, 0.5], [0.2, 0.8], [1.0, 1.0]]]))
        >>> round(float(sequence_logprobs(logits, torch.tensor([[0, 1, 1]])).exp()), 6)
        0.4
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return token_logprobs(logits, labels).sum(1)


def quadratic_penalty(
    parameters: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importances: Sequence[Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Half the sum of importance times squared distance to the anchors, over all parameters.

    One node in the graph for all parameters, whose gradient is importance times distance.

    Args:
        parameters: Trainable tensors.
        anchors: Tensors of the same shapes.
        importances: Likewise, not negative; None: all one.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> half = quadratic_penalty([w], [torch.zeros(2)], [torch.tensor([1.0, 3.0])])
        >>> half.backward(); float(half.detach()), w.grad.tolist()
        (6.5, [1.0, 6.0])
    """
    weights = importances if importances is not None else ()
    penalty: Tensor = _Quadratic.apply(len(parameters), *parameters, *anchors, *weights)
    return penalty


class _Quadratic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Tensor:
        parameters, anchors = tensors[:count], tensors[count : 2 * count]
        pull = distance = torch._foreach_sub(parameters, anchors)
        if len(tensors) > 2 * count:
            pull = torch._foreach_mul(distance, tensors[2 * count :])
        ctx.pull, ctx.extra = pull, len(tensors) - count
        products = torch._foreach_mul(pull, distance)
        return 0.5 * torch.stack(torch._foreach_norm(products, 1)).sum()

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        return (None, *torch._foreach_mul(ctx.pull, gradient[0]), *[None] * ctx.extra)
