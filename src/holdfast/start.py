"""A shared start: one model that has been through the first experience, for all methods alike.

Curves of methods are easier to compare where they begin at one point. Where a method's first
experience is plain training (`Method.starts_plain`) nothing is lost by beginning with a model that
plain training has taken through it: the method's `begin` and `end` of that experience still run, so
that it keeps of it what it would have kept. All other methods learn their first experience
themselves.

The model depends on nothing but the run's configuration, so that a run with a shared start is as
repeatable as any other; a folder in which it is kept saves the time to make it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast import cache, checkpoint
from holdfast.config import Config
from holdfast.learner import Learner, Observer
from holdfast.method import Method, refuse_unfit
from holdfast.stream import Experience, Experiences, Stream


def shares(method: Method) -> bool:
    """Whether a method can begin with a model that plain training has taken so far.

    Example:
        >>> from holdfast import catalogue
        >>> [shares(catalogue.build(spec)) for spec in ("ewc", "er", "er(storage=herding)")]
        [True, False, True]
    """
    return all(part.starts_plain for part in method.parts())


def begun(stream: Stream) -> Stream:
    """The stream with a first experience that is not trained on any more."""

    def make(index: int) -> Experience:
        experience = stream.experiences[index]
        return experience if index else replace(experience, epochs=0)

    return replace(stream, experiences=Experiences(len(stream), make))


def begin(
    learner: Learner,
    stream: Stream,
    config: Config,
    folder: Path | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Bring a fresh learner's model to where plain training of the first experience takes it.

    Nothing is done where the configuration does not ask for it, or the method has to learn its
    first experience itself. What that training cost is charged to the learner.

    Args:
        learner: As `holdfast.run.build` makes it of `config`; not started yet.
        stream: What it is to learn.
        config: Of the run.
        folder: Where the model is looked for, and left; None: it is made.
        observers: Of the run; those that may stop it look on.

    Raises:
        StreamRefused: If the method cannot serve the stream.
        Stopped: If an observer stops it; the first experience is then trained anew.
    """
    if not (config.shared_start and shares(learner.method)):
        return
    refuse_unfit(learner.method, stream, learner.model)
    plain = replace(
        config,
        method="finetune",
        until=1,
        shared_start=False,
        analyse=False,
        evaluate_every=None,
        checkpoint_every=None,
    )
    stopping = [observer for observer in observers if observer.stops]
    if folder is None or learner.ranks.count > 1:  # several processes make it together
        state = _trained(plain, stopping)
    else:
        given = json.dumps(plain.to_dict(), sort_keys=True).encode()
        name = f"seed{config.seed}-{hashlib.blake2b(given, digest_size=6).hexdigest()}"
        path = folder / f"{name}.safetensors"
        with cache.alone(path, "starts", "Choose another folder for what is compared."):
            if not path.exists():
                checkpoint.save(path, _trained(plain, stopping))
            state = checkpoint.load(path)
    learner.model.load_state_dict(state["model"])
    learner.meter.load_state_dict(state["meter"])
    learner.updates = state["updates"]


def _trained(plain: Config, observers: Sequence[Observer]) -> dict[str, Any]:
    from holdfast.run import Stopped, build

    learner, stream = build(plain)
    try:
        learner.learn(stream, observers)
    except Stopped as error:
        raise Stopped("Stopped in the first experience, which is to be trained anew.") from error
    return {
        "model": learner.model.state_dict(),
        "meter": learner.meter.state_dict(),
        "updates": learner.updates,
    }
