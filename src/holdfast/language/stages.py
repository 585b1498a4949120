"""Training in stages: each with a fresh optimizer and a whole schedule, and what each one cost."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from holdfast.checkpoint import write_atomically
from holdfast.errors import RunError, UsageError
from holdfast.learner import Learner
from holdfast.method import Method
from holdfast.stream import Experience, Stream
from holdfast.streams.language.composition import Stage

Score = Callable[[Any], Mapping[str, float]]
"""From a model to a number for every ability."""


class StageResult(NamedTuple):
    """What a stage did, and what the model can do after it.

    Attributes:
        stage: Its name.
        examples: Rows of its table, by source.
        tokens: Labelled tokens of its table, by source.
        epochs: Times that it was gone through.
        updates: Optimizer steps that it took.
        scores: Of every ability after it.
    """

    stage: str
    examples: dict[str, int]
    tokens: dict[str, int]
    epochs: int
    updates: int
    scores: dict[str, float]


def train_stages(
    model: nn.Module,
    stages: Sequence[Stage],
    score: Score,
    *,
    method: Callable[[], Method] | None = None,
    epochs: int = 1,
    seed: int = 0,
    **options: Any,
) -> list[StageResult]:
    """Train a language model through stages, scoring every ability after each.

    The model ends as the last stage left it. Stages from the base weights begin at those that the
    model has when given.

    Args:
        model: A Hugging Face language model.
        stages: As `composition.stages` makes them.
        score: From the model to a number for every ability.
        method: Builds what keeps the model from forgetting within each stage.
        epochs: Of every stage.
        seed: Of the order of examples, by stage.
        options: Of the `Learner` of every stage: `optimizer`, `batch_size`, `schedule`, ...
    """
    base: dict[str, Tensor] = {n: t.clone() for n, t in model.state_dict().items()}
    results: list[StageResult] = []
    for place, stage in enumerate(stages):
        if stage.from_base and place:
            model.load_state_dict(base)
        learner = Learner(
            model,
            method() if method else None,
            epochs=epochs,
            seed=1000 * seed + place,
            pretrained=True,
            **options,
        )
        experience = Experience(0, stage.table, stage.table.take(slice(0, 1)), (), name=stage.name)
        stream = Stream(stage.name, [experience], "text", 0, ())
        learner.start(stream)
        with learner.chance.mine():
            learner.begin(experience)
            learner.train()
            learner.end()
        results.append(
            StageResult(
                stage.name,
                stage.examples,
                stage.tokens,
                epochs,
                learner.step,
                dict(score(model)),
            )
        )
    return results


def sweep(
    checkpoints: Mapping[str, Callable[[], nn.Module]],
    plans: Mapping[str, Sequence[Stage]],
    train: Callable[[nn.Module, Sequence[Stage]], Sequence[StageResult]],
    folder: str | Path,
) -> dict[tuple[str, str], list[StageResult]]:
    """Every plan on every checkpoint, each result kept as soon as it is there.

    What is in the folder already is not trained again, so an interrupted sweep goes on.

    Args:
        checkpoints: Name to what loads the base model (of one size or another).
        plans: Name to stages: strategies, shares k, amounts of data.
        train: Trains a model through stages, as `train_stages` does.
        folder: Where results are kept, one JSON file each.

    Raises:
        UsageError: If the folder holds a result of other examples under the same name.
        RunError: If a result cannot be read.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], list[StageResult]] = {}
    for checkpoint, load in checkpoints.items():
        for plan, stages in plans.items():
            path = home / f"{_plain(checkpoint)}-{_plain(plan)}.json"
            digest = plan_digest(stages)
            if not path.exists():
                results = train(load(), stages)
                content = {"plan": digest, "results": [r._asdict() for r in results]}
                write_atomically(path, json.dumps(content).encode())
            found[checkpoint, plan] = _kept(path, digest)
    return found


def plan_digest(stages: Sequence[Stage]) -> str:
    """A fingerprint of which examples of which sources stand in which stage."""
    digest = hashlib.blake2b(digest_size=16)
    for stage in stages:
        digest.update(f"{stage.name} {stage.from_base} {stage.sources}".encode())
        pairs = torch.stack([stage.table["source"], stage.table["id"]]).cpu().contiguous()
        digest.update(pairs.numpy().tobytes())
    return digest.hexdigest()


def _kept(path: Path, digest: str) -> list[StageResult]:
    try:
        content = json.loads(path.read_bytes())
        results = [StageResult(**result) for result in content["results"]]
        same = content["plan"] == digest
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read as a sweep's result; delete it.") from error
    if not same:
        raise UsageError(
            f"{path} holds a result of other examples; choose another folder or delete it."
        )
    return results


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-")
    return f"{plain}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"
