"""Examples of what a pre-trained model knows, whether or not anybody has any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.data import Table
from holdfast.memory.rehearsal import alike

if TYPE_CHECKING:
    from holdfast.learner import Learner


def known(learner: Learner, rows: int | None = None) -> Table | None:
    """What the model knew before training, as examples like those of the experience at hand.

    The stream's `past` if it has one; else text sampled from the model itself, as long as the
    experience's rows; None where neither can be had (no language model, or one with an encoder).

    Args:
        learner: Before its first step.
        rows: The first so many of the past, or so many sampled; None: all of the past, or 256.
    """
    assert learner.stream is not None
    like, past = learner.experience.train, learner.stream.past
    if past is not None:
        return alike(past if rows is None else past.take(slice(0, rows)), like).to(learner.device)
    config: Any = getattr(learner.model, "config", None)
    if learner.stream.scenario != "text" or config is None or config.is_encoder_decoder:
        return None
    from holdfast.language.generate import said_by

    said = said_by(learner.model, rows or 256, like["input_ids"].shape[1], learner.seed)
    return alike(said, like).to(learner.device)


def inherited(learner: Learner, rows: int | None = None) -> Table | None:
    """What is `known`, with a note of how many examples tell of it."""
    past = known(learner, rows)
    learner.note(inherited_rows=0 if past is None else len(past))
    return past
