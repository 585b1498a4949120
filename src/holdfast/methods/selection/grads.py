"""GrADS: gradients tell which examples to fine-tune on."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import UsageError, at_least, unknown
from holdfast.language import example_scores, selection
from holdfast.language.example_scores import ExampleScores, asked, fingerprints
from holdfast.language.objective import CausalLM
from holdfast.method import Method, Tags
from holdfast.models import adapters
from holdfast.optim.example_gradients import Ends, Norms, lacking
from holdfast.stream import Experience, Stream

if TYPE_CHECKING:
    from holdfast.learner import Learner

MODES = ("snapshot", "online")
EQUAL = ("epochs", "steps")


class GrADS(Method):
    """GrADS: fine-tune on the examples whose gradients are large, but not unusually so.

    Before an experience, a copy of the model is trained on all of it for an epoch. Each example is
    then scored by the norms of its own gradient at the input embedding and at the output head, and
    the density of these scores over the set says which are typical and which are noise (see
    `holdfast.language.selection`). The model itself, at its original weights, is then trained on
    the chosen examples alone.

    Scores and choices of every experience are kept; `scores` and `chosen` answer with them, and
    `save` writes them to a file that other models can use.

    Args:
        budget: Share of the examples to choose, above 0 and at most 1; None: as many as the
            density says.
        rule: `"grads"`, or a baseline: `"topk_magnitude"`, `"density"`, `"stratified"`,
            `"random"`, `"loss"`, `"el2n"`.
        preliminary_epochs: Of the copy; 0: scores are of the model as it comes.
        mode: `"snapshot"`: scored in a pass of their own after the preliminary training;
            `"online"`: at no cost, in its last epoch, each example when it is trained on.
        equal: What the main training has in common with one on all examples: `"epochs"`, hence
            fewer updates; or `"steps"`: the chosen ones are repeated to as many rows.
        lora_rank: Train adapters of this rank in place of the copy's weights; 0: the weights.
        signal: One number of the two norms: `"mean"` of the standardised logarithms, `"product"`,
            `"embedding"`, `"head"`, or `"both"` (density in the plane of the two).
        kappa: Share of the largest density below which an example is taken for noise.
        regress_length: Whether what the number of tokens explains of the score is taken away.
        distinct: Whether repetitions of an example come after all others.
        seed: Of the preliminary training and of the rules that draw.

    Raises:
        UsageError: If an argument is out of range.

    Source:
        "Learn More, Forget Less: A Gradient-Aware Data Selection Approach for LLM" (2025).
    """

    tags = Tags(
        family="selection",
        title="Learn More, Forget Less: A Gradient-Aware Data Selection Approach for LLM",
        source="2025",
        scenarios=frozenset({"text"}),
        needs=frozenset({"boundaries", "labels"}),
    )

    def __init__(
        self,
        budget: float | None = None,
        rule: str = "grads",
        preliminary_epochs: int = 1,
        mode: str = "snapshot",
        equal: str = "epochs",
        lora_rank: int = 0,
        signal: str = "mean",
        kappa: float = 0.05,
        regress_length: bool = False,
        distinct: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(0, preliminary_epochs=preliminary_epochs, lora_rank=lora_rank)
        if budget is not None and not 0 < budget <= 1:
            raise UsageError(f"budget must be above 0 and at most 1; given: {budget}.")
        for kind, given, accepted in (
            ("rule", rule, selection.RULES),
            ("mode", mode, MODES),
            ("way of being equal", equal, EQUAL),
            ("signal", signal, selection.SIGNALS),
        ):
            if given not in accepted:
                raise unknown(kind, given, accepted)
        if mode == "online" and not preliminary_epochs:
            raise UsageError(
                "mode='online' scores examples while they are trained on: preliminary_epochs must "
                "be at least 1."
            )
        self.budget, self.rule = budget, rule
        self.preliminary_epochs, self.mode, self.equal = preliminary_epochs, mode, equal
        self.lora_rank, self.signal, self.kappa = lora_rank, signal, kappa
        self.regress_length, self.distinct, self.seed = regress_length, distinct, seed

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        return super().refusal(stream, model) or lacking(model)

    def select(self, learner: Learner, table: Table) -> Table:
        index = learner.index
        if not len(table):  # another method has nothing trained here
            return table
        if self._held("chosen", index) is None:
            scores = self._scored(learner, table)
            self._keep(index, scores)
            self._note(learner, scores)
        rows = self.chosen(index)
        if self.equal == "steps":
            rows = rows.repeat(-(-len(table) // len(rows)))[: len(table)]
        return table.take(rows.to(table.device))

    def scores(self, index: int) -> ExampleScores:
        """The scores of the examples of experience `index`."""
        return ExampleScores.of_tensors(*(self._of(name, index) for name in ("signals", "marks")))

    def chosen(self, index: int) -> Tensor:
        """The rows of experience `index` that were chosen."""
        return self._of("chosen", index)

    def save(self, path: str | Path, index: int, **provenance: str | float | None) -> None:
        """Write scores and choice of experience `index`, for other models to use (`load`)."""
        example_scores.save(
            path, self.scores(index), self.chosen(index), **self.arguments(), **provenance
        )

    def _keep(self, index: int, scores: ExampleScores) -> None:
        rows = selection.select(
            scores,
            self.budget,
            self.rule,
            signal=self.signal,
            kappa=self.kappa,
            regress_length=self.regress_length,
            distinct=self.distinct,
            seed=self.seed + index,
        )
        signals, marks = scores.tensors()
        for name, tensor in (("signals", signals), ("marks", marks), ("chosen", rows)):
            self.register_buffer(f"{name}_{index}", tensor)

    def _note(self, learner: Learner, scores: ExampleScores) -> None:
        found = selection.landscape(
            scores, signal=self.signal, kappa=self.kappa, regress_length=self.regress_length
        )
        learner.note(
            examples=len(scores),
            chosen=len(self.chosen(learner.index)),
            self_chosen=int(found.inside.sum()),
            duplicates=scores.duplicates,
            length_correlation=_known(found.length_correlation),
            mode=found.mode,
            cutoff=found.cutoff,
        )

    def _scored(self, learner: Learner, table: Table) -> ExampleScores:
        from holdfast.learner import Learner as Own

        objective = learner.objective
        assert isinstance(objective, CausalLM)
        if isinstance(learner, Own):
            return learner.meter.counted(lambda: self._warmed_up(learner, objective, table))
        if self.preliminary_epochs:
            raise UsageError(
                "GrADS trains a copy of the model first, which it can in holdfast's own loop: in "
                "another trainer choose the data before, by holdfast.language.example_scores and "
                "selection, or give preliminary_epochs=0."
            )
        return example_scores.score(learner.model, table, objective)

    def _warmed_up(self, learner: Learner, objective: CausalLM, table: Table) -> ExampleScores:
        if not self.preliminary_epochs:
            return example_scores.score(learner.model, table, objective)
        table = table.to(learner.device)
        online = _Online(len(table)) if self.mode == "online" else None
        model = self._trained_copy(learner, table, online)
        if online is None:
            return example_scores.score(model, table, objective)
        return online.scores(table)

    def _trained_copy(self, learner: Learner, table: Table, online: _Online | None) -> Any:
        """A copy of the model after the preliminary epochs; the model itself is not touched."""
        from holdfast.learner import Learner as Preliminary

        model = deepcopy(learner.model)
        if self.lora_rank:
            model = _with_adapters(model, self.lora_rank, self.seed + learner.index)
        # what other methods keep (a teacher, a penalty) is no matter of the copy
        trainer = Preliminary(
            model,
            online,
            optimizer=learner.make_optimizer,
            objective=learner.objective,
            epochs=self.preliminary_epochs,
            batch_size=learner.batch_size,
            accumulate=learner.accumulate,
            clip=learner.clip,
            precision=learner.precision,
            schedule=learner.schedule,
            seed=self.seed + learner.index,
            device=learner.device,
        )
        places = torch.arange(len(table), device=table.device)
        experience = Experience(0, table.with_columns(place=places), table.take(slice(0, 1)), ())
        trainer.start(Stream("preliminary", [experience], "text", 0, ()))
        with trainer.chance.mine():
            trainer.begin(experience)
            trainer.train()
        trainer.check_losses()
        if online is not None:
            online.close()
        learner.note(preliminary_steps=trainer.step)
        return model

    def _held(self, name: str, index: int) -> Tensor | None:
        return self._buffers.get(f"{name}_{index}")

    def _of(self, name: str, index: int) -> Tensor:
        held = self._held(name, index)
        if held is None:
            raise UsageError(f"GrADS has chosen nothing yet in experience {index}.")
        return held


class _Online(Method):
    """Scores every example in the backward pass of the step in which it is trained on.

    A later epoch's scores replace an earlier one's.
    """

    tags = Tags("selection", "", "", scenarios=frozenset({"text"}))

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.examples = examples

    def setup(self, learner: Learner) -> None:
        self.ends = Ends(learner.model)
        self.ends.__enter__()
        shape = (self.examples, 4)
        self.register_buffer("signals", torch.zeros(shape, dtype=torch.double))
        self.register_buffer("marks", torch.zeros((self.examples, 2), dtype=torch.long))
        self.to(learner.device)

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        objective: Any = learner.objective
        signals, marks = self.get_buffer("signals"), self.get_buffer("marks")
        length, place = asked(objective, batch), batch["place"]
        losses = objective.losses(outputs.detach(), batch)
        marks[place] = torch.stack([length, fingerprints(batch)], 1)

        def then(norms: Norms, share: Tensor) -> None:
            # What is descended is a mean over the batch's tokens: an example's own mean has
            # 1 / (its share of the tokens) times that gradient.
            own = share * length.clamp(min=1) / objective.weight(batch)
            found = [norms.embedding / own, norms.head / own, losses, norms.error / own]
            signals[place] = torch.stack(found, 1).to(signals.dtype)

        self.ends.watch(loss, then)
        return loss

    def close(self) -> None:
        """Look on no more."""
        self.ends.__exit__()

    def scores(self, table: Table) -> ExampleScores:
        names = table["id"] if "id" in table else torch.arange(len(table))
        marks = torch.cat([names.cpu()[:, None], self.get_buffer("marks").cpu()], 1)
        return ExampleScores.of_tensors(self.get_buffer("signals"), marks)


def _with_adapters(model: Any, rank: int, seed: int) -> Any:
    from peft import PeftModel

    if isinstance(model, PeftModel):
        raise UsageError("The model has adapters already, which are what is trained: lora_rank=0.")
    return adapters.adapted(model, rank, 2.0 * rank, 0.0, "all-linear", seed)


def _known(value: float) -> float | None:
    return None if value != value else value
