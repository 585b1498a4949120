"""Reading token by token: what a model makes of every single token that it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.evaluation import undisturbed
from holdfast.language.questions import Question
from holdfast.language.reading import by_length, logits_of
from holdfast.losses import divergence, token_logprobs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tokens:
    """The asked tokens of some questions, end to end.

    Attributes:
        logprob: Of each token, in nats.
        right: Whether it is the likeliest at its place.
        mean: The expectation of the log-probability there, under the model.
        deviation: Its standard deviation there.
        counts: Tokens of each question.
    """

    logprob: Floats
    right: NDArray[np.bool_]
    mean: Floats
    deviation: Floats
    counts: NDArray[np.int64]

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """One array a question, of values that stand end to end."""
        return np.split(values, np.cumsum(self.counts)[:-1])

    @property
    def nll(self) -> Floats:
        """Of each question's tokens together, in nats."""
        return np.array([-part.sum() for part in self.split(self.logprob)])

    @property
    def mean_nll(self) -> Floats:
        """Of each question, in nats a token."""
        return self.nll / self.counts


def read_tokens(model: Any, questions: Sequence[Question], budget: int | None = None) -> Tokens:
    """Read all questions, those of similar length together; the model is left as it was.

    Args:
        model: A causal or sequence-to-sequence model of transformers, or a PEFT model.
        questions: Any number.
        budget: Tokens of a pass, padding included; None: as many as make a quarter of a gigabyte
            of logits in single precision.
    """
    counts = np.array([len(question.asked) for question in questions], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    found = np.zeros((3, int(starts[-1])))
    right = np.zeros(int(starts[-1]), dtype=bool)
    with undisturbed(model, device=model.device):
        for rows in _batches(model, questions, budget):
            logits, labels = logits_of(model, [questions[i] for i in rows])
            asked = labels != -100
            picked, wanted = logits[asked].float(), labels[asked]
            own = token_logprobs(picked, wanted)
            log = picked.log_softmax(-1)
            share = log.exp()
            mean = (share * log).sum(-1)
            spread = (share * (log - mean[:, None]).square()).sum(-1).sqrt()
            values = torch.stack([own, mean, spread]).double().cpu().numpy()
            hits = (picked.gather(1, wanted[:, None])[:, 0] >= picked.max(-1).values).cpu().numpy()
            places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rows])
            found[:, places], right[places] = values, hits
    return Tokens(found[0], right, found[1], found[2], counts)


def mean_divergence(
    model: Any, reference: Any, questions: Sequence[Question], budget: int | None = None
) -> float:
    """KL divergence of a reference's next token from a model's, a mean over all asked tokens.

    Args:
        model: As it is now.
        reference: As it was, on the same device.
        questions: Any number.
        budget: As in `read_tokens`.
    """
    total, count = 0.0, 0
    with undisturbed(model, reference, device=model.device):
        for rows in _batches(model, questions, budget):
            chosen = [questions[i] for i in rows]
            now, labels = logits_of(model, chosen)
            before, _ = logits_of(reference, chosen)
            apart = divergence(now[labels != -100], before[labels != -100])
            total, count = total + float(apart.double().sum()), count + len(apart)
    return total / count


def _batches(model: Any, questions: Sequence[Question], budget: int | None) -> list[list[int]]:
    limit = budget or max(512, 2**26 // model.config.get_text_config().vocab_size)
    return list(by_length(questions, limit, bool(model.config.is_encoder_decoder)))
