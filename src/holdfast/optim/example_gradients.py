"""Each example's gradient at both ends of a language model, as norms, in one backward pass a batch.

An example's gradient by the input embedding E, or by the weight W of the head, has as many entries
as the matrix. Its norm does not need it: with u_t the gradient at the output of the embedding for
token x_t, d_t that at the output of the head, and z_t the head's input,

    |dl/dE|^2 = sum over t, s with x_t = x_s of u_t . u_s
    |dl/dW|^2 = sum over t, s of (d_t . d_s) (z_t . z_s)

(Gram matrices of one example's tokens). This needs neither E nor W to be trainable, so it holds
under LoRA too, and tied embeddings, which are one matrix, are kept apart as two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from holdfast.errors import UsageError


class Norms(NamedTuple):
    """One number an example, each.

    Attributes:
        embedding: Norm of the gradient by the input embedding.
        head: Norm of the gradient by the weight of the output head.
        error: Norms of the gradient by single tokens' logits, added up: for a mean over an
            example's tokens this is the mean of |softmax - one-hot|.
    """

    embedding: Float[Tensor, " examples"]
    head: Float[Tensor, " examples"]
    error: Float[Tensor, " examples"]


class Ends:
    """Looks at both ends of a language model during forward passes, within a `with` block.

    Args:
        model: With `get_input_embeddings` and `get_output_embeddings`, as Hugging Face models and
            PEFT models have them.

    Raises:
        UsageError: If the model does not tell its embeddings.

    Example:
        >>> from holdfast.language.objective import CausalLM
        >>> from holdfast.testing.trials import small_llama, small_stream
        >>> model, objective = small_llama(), CausalLM()
        >>> batch = small_stream("text")[0].train[:4]
        >>> with Ends(model) as ends:
        ...     losses = objective.losses(objective.forward(model, batch), batch)
        ...     norms = ends.norms(losses.sum())
        >>> norms.head.shape
        torch.Size([4])
    """

    def __init__(self, model: Any) -> None:
        reason = lacking(model)
        if reason:
            raise UsageError(reason)
        first = model.get_input_embeddings()
        # T5 has three modules around one matrix; a wrapper's own parts are not further ones.
        inside = {id(part) for part in first.modules()}
        self.embeddings: list[nn.Module] = [first] + [
            part
            for part in model.modules()
            if isinstance(part, nn.Embedding)
            and id(part) not in inside
            and part.weight is first.weight
        ]
        self.padding: int | None = getattr(first, "padding_idx", None)
        self.head: nn.Module = model.get_output_embeddings()
        self._handles: list[RemovableHandle] = []
        self._forget()

    def __enter__(self) -> Ends:
        hooks = [part.register_forward_hook(self._embedded) for part in self.embeddings]
        self._handles = [*hooks, self.head.register_forward_hook(self._read_out)]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def norms(self, total: Float[Tensor, ""]) -> Norms:
        """The norms of each example's part of `total`, the sum of all examples' losses.

        It makes one backward pass of its own, down to the output of the embedding; no `.grad` is
        touched. Examples must not act on one another.
        """
        ids, hidden, ends = self._taken()
        return self._reduced(ids, hidden, torch.autograd.grad(total, ends))

    def watch(self, loss: Float[Tensor, ""], then: Callable[[Norms, Tensor], None]) -> None:
        """The same for nothing, from a backward pass that is to be made anyway.

        Args:
            loss: What will be descended, or what a multiple of it is made of.
            then: Called in the backward pass with the norms of each example's part of what is
                descended, and with that multiple.
        """
        ids, hidden, ends = self._taken()

        found: dict[int, Tensor] = {}
        watched = [*ends, loss]

        def arrived(place: int, gradient: Tensor) -> None:
            found[place] = gradient
            if len(found) == len(watched):
                *gradients, share = (found[at] for at in range(len(watched)))
                with torch.no_grad():
                    then(self._reduced(ids, hidden, gradients), share)

        for place, tensor in enumerate(watched):
            tensor.register_hook(partial(arrived, place))

    def _embedded(self, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        if output.requires_grad:
            self._inputs.append((given[0], output))
            return None
        # A frozen embedding, under adapters. A view, since a leaf as a module's input is more than
        # PyTorch's counter of operations can bear.
        seen = output.requires_grad_().view_as(output)
        self._inputs.append((given[0], seen))
        return seen

    def _read_out(self, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self._outputs.append((given[0].detach(), output))

    def _taken(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Token ids, inputs of the head, and what gradients are asked by; then looks afresh."""
        ids = [ids for ids, _ in self._inputs]
        hidden = [hidden for hidden, _ in self._outputs]
        ends = [output for _, output in (*self._inputs, *self._outputs)]
        self._forget()
        return ids, hidden, ends

    def _forget(self) -> None:
        self._inputs: list[tuple[Tensor, Tensor]] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def _reduced(
        self, ids: Sequence[Tensor], hidden: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> Norms:
        places, errors = gradients[: len(ids)], gradients[len(ids) :]
        logits = torch.cat([error.float() for error in errors], 1)
        tokens = torch.cat(list(ids), 1)
        at_embedding = torch.cat([place.float() for place in places], 1)
        if self.padding is not None:  # this row of the embedding takes no gradient
            at_embedding = at_embedding * (tokens != self.padding)[:, :, None]
        return Norms(
            embedding_norms(tokens, at_embedding),
            head_norms(torch.cat([z.float() for z in hidden], 1), logits),
            logits.norm(dim=2).sum(1),
        )


def lacking(model: Any) -> str | None:
    """Why the gradients at a model's ends cannot be had, as a sentence; None if they can."""
    for end in ("get_input_embeddings", "get_output_embeddings"):
        if getattr(model, end, lambda: None)() is None:
            return (
                f"The gradients at both ends of a language model are needed, and "
                f"{type(model).__name__} does not tell by {end}(): give a Hugging Face language "
                "model."
            )
    return None


def embedding_norms(
    ids: Int[Tensor, "examples tokens"], gradients: Float[Tensor, "examples tokens hidden"]
) -> Float[Tensor, " examples"]:
    """Norms of each example's gradient by an embedding, from those by its outputs.

    Example:
        >>> ids, gradients = torch.tensor([[7, 7, 2]]), torch.tensor([[[1.0], [2.0], [4.0]]])
        >>> embedding_norms(ids, gradients)  # rows 7 and 2 have 1 + 2 and 4
        tensor([5.])
    """
    same = ids[:, :, None] == ids[:, None, :]
    gram = gradients @ gradients.mT
    return torch.where(same, gram, 0.0).sum((1, 2)).clamp(min=0).sqrt()


def head_norms(
    hidden: Float[Tensor, "examples tokens hidden"],
    gradients: Float[Tensor, "examples tokens vocabulary"],
) -> Float[Tensor, " examples"]:
    """Norms of each example's gradient by a linear map's weight, from inputs and from gradients
    by outputs.

    Example:
        >>> head_norms(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[2.0]]]))
        tensor([10.])
    """
    gram = (gradients @ gradients.mT) * (hidden @ hidden.mT)
    return gram.sum((1, 2)).clamp(min=0).sqrt()
