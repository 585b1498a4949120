"""A closer look at a class-incremental run: all classes at once, class means, errors, the head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner, Observer
from holdfast.memory.buffer import Buffer
from holdfast.memory.prototypes import Prototypes
from holdfast.memory.shares import Shares
from holdfast.stream import Stream


class Analysis(Observer):
    """Notes, after every experience, what the matrix of scores does not show.

    `seen_accuracy`: accuracy on the test examples of all classes so far together, so that classes
    weigh alike even where experiences bring unlike numbers of them. `nearest_mean_accuracy`: of
    the class whose exemplars' mean feature, of unit length, is nearest, where the method keeps
    examples of every class so far. After the last experience also `confusion`: how many test
    examples of class i (row) were taken for class j; and `row_norms`: the lengths of the rows of a
    head that has weights.
    """

    @staticmethod
    def refuse(stream: Stream) -> None:
        """Raise `UsageError` for a stream that is not class-incremental."""
        if stream.scenario != "class" or stream.tests:
            raise UsageError(
                "analyse looks at confusions of classes that arrive in turn; "
                f"{stream.name!r} is no such stream."
            )

    def on_experience(self, learner: Learner) -> None:
        stream, experience = learner.stream, learner.experience
        assert stream is not None
        tests = [stream[index].test for index in range(experience.index + 1)]
        table = Table.concat([test.to(learner.device) for test in tests])
        with learner.serving(), undisturbed(learner.model, learner.method, device=learner.device):
            predicted = torch.cat(
                [learner.predict(b)[:, : learner.known].argmax(1) for b in table.chunks(1024)]
            )
        y = table["y"]
        found: dict[str, Any] = {"seen_accuracy": _share(predicted == y)}
        means = exemplar_means(learner)
        if means is not None:
            nearest = means(F.normalize(learner.features(table))).argmax(1)
            found["nearest_mean_accuracy"] = _share(nearest == y)
        if experience.index + 1 == len(stream):
            known = learner.known
            pairs = (y * known + predicted).bincount(minlength=known * known)
            found["confusion"] = pairs.view(known, known).tolist()
            weight = getattr(getattr(learner.model, "head", None), "weight", None)
            if isinstance(weight, Tensor):
                found["row_norms"] = weight.detach().norm(dim=1).tolist()
        learner.note(**{"experience": experience.index, **found})


def exemplar_means(learner: Learner) -> Prototypes | None:
    """Mean unit features of the examples that the method keeps; None without some of each class."""
    if not hasattr(learner.model, "features"):
        return None
    stores = [_examples(part) for part in learner.method.modules()]
    tables = [Table({"x": held["x"], "y": held["y"]}) for held in stores if held and "y" in held]
    if not tables:
        return None
    table = Table.concat(tables)
    present = set(table["y"].unique().tolist())
    if not set(range(learner.known)) <= present:
        return None
    features = F.normalize(learner.features(table))
    means = Prototypes(features.shape[1], learner.known, normalise=True).to(learner.device)
    means.add(features, table["y"])
    return means


def _examples(part: nn.Module) -> Table | None:
    """What a store of examples holds; None of what is no such store, or empty."""
    if isinstance(part, Buffer):
        return part.table()
    if isinstance(part, Shares) and len(part):
        rows = {name: column.flatten(0, 1) for name, column in part.held.items()}
        return Table(rows).where(part.weights.flatten() > 0)
    return None


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
