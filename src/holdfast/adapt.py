"""Test-time adaptation: a model that learns from what it is asked, without labels.

    adapter = TestTimeAdapter(model, "cotta")
    logits = adapter.predict(images)          # answers, and learns from the same pass

The method's hooks are those that a `Learner` calls, and it is a learner that calls them: each batch
is one `update` whose objective asks for nothing, so that the method's own loss is all there is.
What the learning pass answered is what is returned: there is no second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from holdfast import catalogue
from holdfast.data import Batch, Table
from holdfast.errors import DataError, UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.method import Method
from holdfast.objective import Objective
from holdfast.stream import Experience, Stream


class AtTestTime(Objective):
    """Asks nothing of a classifier: a step's loss is zero until a method adds to it.

    Per-example losses are cross-entropies under the column `y`, for what asks for them (the Fisher
    information); scores are accuracy. Outputs are logits, of plain modules and of Hugging Face's.
    """

    def forward(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        outputs = model(batch["x"])
        logits: Tensor = getattr(outputs, "logits", outputs)
        return logits

    def losses(self, outputs: Tensor, batch: Batch) -> Float[Tensor, " examples"]:
        return F.cross_entropy(outputs, batch["y"], reduction="none")

    def loss(self, outputs: Tensor, batch: Batch) -> Float[Tensor, ""]:
        return outputs.new_zeros(())

    def scores(self, outputs: Tensor, batch: Batch) -> Float[Tensor, " examples"]:
        return (outputs.argmax(1) == batch["y"]).float()

    def probabilities(self, outputs: Tensor, batch: Batch) -> Float[Tensor, "examples classes"]:
        return outputs.softmax(1)


class TestTimeAdapter:
    """A classifier that adapts to what it is asked.

    Works under the caller's `no_grad` and `inference_mode`, and wherever `predict` is called in
    place of the model. The boundary between domains is told to nobody.

    Args:
        model: From inputs to logits, or to an output with `.logits` (Hugging Face). It is changed
            in place, from the first `predict` on.
        method: Of the family test-time (`source`, `bn_adapt`, `tent`, `eata`, `cotta`), or a chain
            with one of them; an object or a spec such as `"cotta(views=8)"`.
        steps: Updates with each batch; the answer is that of the last one.
        episodic: Whether everything is set back before every batch.
        past: Inputs like those of the source, in a column `x`, for methods that ask for them.
        white: The value of white in the inputs, where they are images; None: 255 in bytes, 1 in
            floats.
        seed: Of all random choices.
        device: Where to compute; None: where the model's parameters are.

    Raises:
        UsageError: If the method is not for test time, or a number is out of range.
        StreamRefused: At the first `predict`, if the method cannot adapt this model.

    Example:
        >>> from holdfast.models import CNN
        >>> model = nn.Sequential(CNN(channels=1, width=4), nn.Linear(16, 10))
        >>> adapter = TestTimeAdapter(model, "tent(lr=0.001)")
        >>> with torch.no_grad():
        ...     adapter.predict(torch.rand(8, 1, 16, 16)).shape
        torch.Size([8, 10])
    """

    __test__ = False

    def __init__(
        self,
        model: nn.Module,
        method: Method | str,
        *,
        steps: int = 1,
        episodic: bool = False,
        past: Table | None = None,
        white: float | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        at_least(1, steps=steps)
        method = catalogue.build(method) if isinstance(method, str) else method
        if not any(part.tags.family == "test-time" for part in method.parts()):
            names = " and ".join(type(part).__name__ for part in method.parts())
            raise UsageError(
                f"{names} does not learn from inputs alone; accepted at test time: "
                "source, bn_adapt, tent, eata, cotta, or a chain with one of these."
            )
        self.steps, self.episodic, self.past, self.white = steps, episodic, past, white
        self.learner = Learner(
            model, method, objective=AtTestTime(), pretrained=True, seed=seed, device=device
        )
        self.learner.answering = True
        self.learns = True
        self._initial: dict[str, Any] = {}
        self._awaited: Mapping[str, Any] | None = None

    @property
    def model(self) -> nn.Module:
        """The model as it is now."""
        model: nn.Module = self.learner.model
        return model

    @property
    def method(self) -> Method:
        return self.learner.method

    def predict(self, x: Tensor) -> Float[Tensor, "examples classes"]:
        """The logits of a batch, from which the model learns as it gives them.

        Raises:
            DataError: If the batch is empty, or the first one holds NaN or infinity.
            StreamRefused: If the method cannot adapt this model.
            Diverged: If the loss becomes NaN or infinite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            batch = self._begun(x)
            if self.episodic:
                self.reset()
            if not self.learns:
                return self._answered(batch)
            self.model.train()
            with self.learner.chance.mine():
                for _ in range(self.steps):
                    loss = self.learner.update(batch)
                    self.learner.step += 1
                    self.learner.updates += 1
                    if self.learner.watch.add(loss):
                        self.learner.check_losses()
            return self.learner.outputs.detach()

    def answer(self, x: Tensor) -> Float[Tensor, "examples classes"]:
        """The logits of a batch as the model is now; nothing is learned or changed."""
        with torch.inference_mode(False):
            return self._answered(self._begun(x))

    def reset(self) -> None:
        """Set model, method and optimizer back to the source; random choices go on."""
        if self._initial:
            self._load(self._initial)

    def distance(self) -> float:
        """How far the trained weights are from the source's: norm of the difference by the norm."""
        if not self._initial:
            return 0.0
        moved = total = 0.0
        for name, here in self.model.named_parameters():
            there = self._initial["model"][name]
            moved += float((here.detach() - there).square().sum())
            total += float(there.square().sum())
        return (moved / total) ** 0.5 if total else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything from which an adapter of the same source model and method goes on exactly."""
        if not self._initial:
            raise UsageError("Nothing has been asked yet: there is no state before `predict`.")
        self.learner.check_losses()
        return deepcopy(
            {
                **self._state(),
                "generator": self.learner.generator.get_state(),
                "chance": self.learner.chance.state_dict(),
                "updates": self.learner.updates,
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of another adapter of the same source model and method.

        Before the first batch is known, it is kept until then.
        """
        if not self._initial:
            self._awaited = state
            return
        self._load(state)
        self.learner.generator.set_state(state["generator"])
        self.learner.chance.load_state_dict(state["chance"])
        self.learner.updates = self.learner.step = state["updates"]

    # Inside.

    def _begun(self, x: Tensor) -> Batch:
        """The batch, once the methods have been shown the first one."""
        if not len(x):
            raise DataError("There is nothing to predict: the batch is empty.")
        x = x.to(self.learner.device)
        if x.is_inference():
            x = x.clone()
        if self.learner.stream is None:
            self._start(x)
        return {"x": x}

    def _start(self, x: Tensor) -> None:
        table = Table({"x": x})
        stream = Stream(
            name="test time",
            experiences=[Experience(0, table, table, ())],
            scenario="domain",
            classes=0,
            shape=tuple(x.shape[1:]),
            white=self.white,
            boundaries=False,
            labelled=False,
            online=True,
            past=self.past,
        )
        learner = self.learner
        learner.start(stream)
        with torch.enable_grad(), learner.chance.mine():
            learner.begin(stream[0])
            fitting = [part for part in self.method.parts() if part.overrides("fit")]
            self.learns = not any(part.fit(learner, table) for part in fitting)
        self._initial = deepcopy(self._state())
        if self._awaited is not None:
            self.load_state_dict(self._awaited)
            self._awaited = None

    def _answered(self, batch: Batch) -> Tensor:
        learner = self.learner
        with learner.serving(), undisturbed(self.model, self.method, device=learner.device):
            return learner.predict(batch)

    def _state(self) -> dict[str, Any]:
        learner = self.learner
        return {
            "model": learner.model.state_dict(),
            "method": learner.method.state_dict(),
            "optimizer": learner.optimizer.state_dict() if learner.parameters else None,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        learner = self.learner
        learner.model.load_state_dict(state["model"])
        learner.method.load_state_dict(state["method"])
        learner.method.to(learner.device)
        if state["optimizer"] is not None:
            learner.optimizer.load_state_dict(deepcopy(state["optimizer"]))
