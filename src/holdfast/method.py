"""Methods: what is done around an ordinary training loop so that a model keeps what it knew.

A `Method` overrides only the points of the step that it needs:

    setup(learner)                        once, before the first experience
    expand(learner, experience)           grow with an experience's classes; freeze, add parameters
    inherit(learner)                      once, if the model comes knowing something: keep that too
    begin(learner, experience)            before an experience is trained on
    phases(learner)                       how often an experience is gone through, and how
    turn(learner)                         between two of these
    select(learner, table)                choose what to train on
    epoch_rows(learner, table, epoch)     which of its rows an epoch goes through, None: all
    fit(learner, table)                   instead of gradient training, where it answers True
    batch(learner, batch)                 mix in, relabel
    answer(learner, batch)                the forward pass itself, in training and in use
    logits(learner, batch, outputs)       mask or correct what the training loss sees
    loss(learner, batch, outputs, loss)   add or replace terms; store with this pass's outputs
    gradients(learner)                    project, mask, rescale
    step(learner)                         after the optimizer
    end(learner, experience)              consolidate, store, align
    release(learner)                      take hooks off the model, if training fails before `end`
    renew(learner)                        make anew what was computed from weights that have moved
    predict(learner, batch, outputs)      route, mask, replace
    serving(learner)                      around use: another adapter, averaged weights

`batch`, `logits` and `loss` run once per forward pass, `gradients` and `step` once per update:
under gradient accumulation these differ. `expand` must depend on the experience's description
alone (never on data, weights or chance), because it is replayed when a checkpoint is restored.
`setup` is repeated then too, so expensive preparation belongs in the first `begin`; `select` must
be repeatable from the method's own state, and `phases` from its arguments and the experience.

The first rows of a batch are always those that the stream brought, in order; they are also in
`learner.incoming`, as they came. What other methods mix in comes after them. A method that gives up
some of the stream's rows sets `learner.incoming` to those that remain. `logits` and `loss`
are given the batch that the model saw, augmented, so that a teacher can be shown the same.
Where outputs depend on more than the inputs (on the task: other weights, other gates), `answer`
makes the forward pass in place of the learner; `learner.model.training` tells training from use,
and rows of several tasks may come in one batch. Who calls the model without the learner, to
estimate a Fisher information or to distil, has it as it stands: as the task at hand has it.
At test time, when predictions count while the model learns, `learner.outputs` are what the latest
pass answered; a method that answers otherwise puts its own answer there, in `loss`.

Who moves the weights outside of training steps, once other methods have taken what they keep of
them (class means, say), calls `renew` of all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from holdfast.data import Batch, Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.memory.discriminant import Discriminant
from holdfast.memory.prototypes import Prototypes
from holdfast.memory.remembers import Remembers
from holdfast.memory.ridge import RandomRidge
from holdfast.models.frozen import Frozen, Passed
from holdfast.models.norms import affine
from holdfast.stream import Experience, Stream

if TYPE_CHECKING:
    from holdfast.learner import Learner
    from holdfast.optim.schedules import Schedule

Family = Literal[
    "bound",
    "replay",
    "penalty",
    "distillation",
    "projection",
    "isolation",
    "prototype",
    "correction",
    "sparse",
    "adapter",
    "selection",
    "schedule",
    "unlearning",
    "editing",
    "test-time",
]
Need = Literal[
    "new classes",
    "features",
    "linear head",
    "past data",
    "boundaries",
    "labels",
    "transformer blocks",
    "adapters",
    "norm layers",
    "retain set",
    "refusal set",
]
Kept = Literal["examples", "outputs", "model", "parameters", "prototypes"]


KINDS: dict[str, str] = {
    "class": "class-incremental",
    "task": "task-incremental",
    "domain": "domain-incremental",
    "text": "language",
}
"""Kinds of streams, in words."""

ALL_KINDS = frozenset(KINDS)


@dataclass(frozen=True)
class Phase:
    """One way of going through an experience; most methods have a single, plain one.

    Every phase begins with a fresh optimizer (or goes on with the old one, where the learner keeps
    it), asks `select` what to train on, and follows the schedule of learning rates from its start.

    Attributes:
        epochs: Times; None: as many as the learner makes.
        rate: Factor on the learning rate.
        schedule: Of the learning rate; None: the learner's.
        batch_size: Examples that a batch brings; None: as many as the learner's.
        repeats: Updates made on each batch, one after another (`learner.again` counts them).
    """

    epochs: int | None = None
    rate: float = 1.0
    schedule: Schedule | None = None
    batch_size: int | None = None
    repeats: int = 1


@dataclass(frozen=True)
class Tags:
    """What a catalogue must know of a method, in a form that a program can filter.

    Attributes:
        family: How the method works.
        title: Title of the publication.
        source: Authors and year.
        scenarios: Kinds of streams that it can serve.
        needs: What it cannot do without: `"new classes"` (experiences that add classes),
            `"features"` (a model split into backbone and head), `"linear head"`, `"past data"`
            (all earlier experiences at hand), `"boundaries"`, `"labels"`, `"transformer blocks"`,
            `"adapters"` (weights beside frozen ones, which it brings itself), `"norm layers"`
            (normalisation with scales and shifts), `"retain set"` and `"refusal set"` (what an
            unlearning request brings beside what is to be forgotten).
        keeps: What it stores of the past.
    """

    family: Family
    title: str
    source: str
    scenarios: frozenset[str] = frozenset({"class", "task", "domain"})
    needs: frozenset[Need] = field(default_factory=frozenset)
    keeps: frozenset[Kept] = field(default_factory=frozenset)


class Method(Remembers):
    """Base of all methods; every hook does nothing here.

    What a method remembers is module state: buffers, submodules, and the plain attributes named in
    `remembers`. Constructor parameters are kept under their own names. Random choices come from
    `learner.generator`.
    """

    tags: ClassVar[Tags] = Tags("bound", "Plain training", "", scenarios=ALL_KINDS)
    replaces_loss: ClassVar[bool] = False
    """Whether `loss` drops the loss it is given, so that nothing may be added before it."""
    reads_outputs: ClassVar[bool] = True
    """Whether `loss` looks at the outputs: a trainer that makes none must then make them for it."""
    shares_passes: ClassVar[bool] = True
    """Whether several processes may each pass their part of a batch: not where it looks at what
    happens inside the model then, or where the rows of a batch must be together in it."""
    replaces_training: ClassVar[bool] = False
    """Whether `fit` always answers True, so that what acts during training steps never would."""
    fills: ClassVar[type[nn.Module] | None] = None
    """Kind of head that it fills in by itself, if the model has one."""
    works_inside: ClassVar[bool] = False
    """Whether what it does is done in the backbone, so that a frozen one leaves it nothing."""
    chooses_weights: ClassVar[bool] = False
    """Whether it decides which of the model's own weights are trained, which adapters freeze."""

    starts_plain: bool = False
    """Whether its first experience is plain training, and all that it keeps of it is taken at the
    end: it can then start from a model that has been through that experience already."""

    size_known: ClassVar[bool] = True
    """Whether all that it deploys, examples apart, is there once `expand` has been called, so that
    a protocol of equal memory can tell its size before it is trained."""

    takes_unlabelled: ClassVar[bool] = False
    """Whether it is shown a stream's examples without labels too, whose `y` is -100."""

    answers_by_copies: ClassVar[bool] = False
    """Whether it answers with other weights than those that are trained: with averages of them."""

    def __init__(self) -> None:  # without it a method's signature would be nn.Module's *args
        super().__init__()

    def setup(self, learner: Learner) -> None: ...

    def expand(self, learner: Learner, experience: Experience) -> None: ...

    def inherit(self, learner: Learner) -> None: ...

    def begin(self, learner: Learner, experience: Experience) -> None: ...

    def phases(self, learner: Learner) -> Sequence[Phase]:
        return (Phase(),)

    def turn(self, learner: Learner) -> None: ...

    def select(self, learner: Learner, table: Table) -> Table:
        return table

    def epoch_rows(self, learner: Learner, table: Table, epoch: int) -> Tensor | None:
        return None

    def fit(self, learner: Learner, table: Table) -> bool:
        return False

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        return batch

    def answer(self, learner: Learner, batch: Batch) -> Tensor:
        return learner.objective.forward(learner.model, batch)

    def logits(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        return outputs

    def loss(self, learner: Learner, batch: Batch, outputs: Tensor, loss: Tensor) -> Tensor:
        return loss

    def gradients(self, learner: Learner) -> None: ...

    def step(self, learner: Learner) -> None: ...

    def end(self, learner: Learner, experience: Experience) -> None: ...

    def release(self, learner: Learner) -> None: ...

    def renew(self, learner: Learner) -> None: ...

    def predict(self, learner: Learner, batch: Batch, outputs: Tensor) -> Tensor:
        return outputs

    def serving(self, learner: Learner) -> AbstractContextManager[None]:
        return nullcontext()

    def parts(self) -> Iterator[Method]:
        """The methods that this one stands for, in order: itself, unless it is a chain."""
        yield self

    def overrides(self, hook: str) -> bool:
        """Whether this method does something at `hook`."""
        return getattr(type(self), hook) is not getattr(Method, hook)

    def refusal(self, stream: Stream, model: nn.Module) -> str | None:
        """Why this method cannot serve `stream` with `model`, as a sentence; None if it can."""
        name, needs = type(self).__name__, self.tags.needs
        if stream.scenario not in self.tags.scenarios:
            served = " and ".join(KINDS[kind] for kind in KINDS if kind in self.tags.scenarios)
            return f"{name} serves {served} streams; {stream.name!r} is {KINDS[stream.scenario]}."
        all_at_once = len(stream) > 1 and len(stream.seen_until(0)) == stream.classes
        if "new classes" in needs and all_at_once:
            return (
                f"{name} acts when classes are added, and all {stream.classes} classes of "
                f"{stream.name!r} are there from the first experience."
            )
        if "boundaries" in needs and not stream.boundaries:
            return f"{name} must know where experiences end; {stream.name!r} does not tell."
        if "labels" in needs and not stream.labelled:
            return f"{name} learns from labels; {stream.name!r} has none."
        for role in ("retain", "refusal"):
            lacking = [e.name for e in stream.experiences if role not in e.sets]
            if f"{role} set" in needs and lacking:
                return (
                    f"{name} needs a {role} set beside what is to be forgotten, and "
                    f"{lacking[0] or stream.name!r} has none: give one as sets[{role!r}]."
                )
        if "features" in needs and not hasattr(model, "features"):
            return (
                f"{name} works on features, and {type(model).__name__} has none: give a "
                "holdfast.models.Classifier(backbone, head)."
            )
        if "linear head" in needs and not hasattr(getattr(model, "head", None), "weight"):
            return (
                f"{name} works on the weights of a linear head; the head of "
                f"{type(model).__name__} has no `weight`."
            )
        if "norm layers" in needs and not affine(model):
            return (
                f"{name} adapts the scales and shifts of normalisation layers, and "
                f"{type(model).__name__} has none; cotta and source take any model."
            )
        return None

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments as they stand, from which an equal method can be built."""
        parameters = inspect.signature(type(self)).parameters.values()
        named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return {name: getattr(self, name) for name in named}


STEPWISE = ("batch", "logits", "loss", "gradients", "step")
"""The hooks of a training step."""


class Chain(Method):
    """Methods at work together, each hook in the order given. Built by `chain`."""

    def __init__(self, *methods: Method) -> None:
        super().__init__()
        self.methods = nn.ModuleList(methods)

    def parts(self) -> Iterator[Method]:
        for method in self.methods:
            assert isinstance(method, Method)
            yield from method.parts()

    def arguments(self) -> dict[str, Any]:
        raise UsageError("A chain has no arguments of its own; ask its parts().")


def chain(*methods: Method) -> Method:
    """Combine methods: at every hook they act in the order given.

    Args:
        methods: One or more methods; chains are flattened.

    Raises:
        UsageError: If two of them replace gradient training (`fit`), decide the phases of an
            experience (`phases`) or the rows of an epoch (`epoch_rows`), decide the prediction
            (`answer`, `predict`) or bring adapters, if one chooses among weights that another
            freezes, if one acts during training steps and another makes none, if one drops what
            those before it add to the loss, or if one object is given twice.

    Example:
        >>> from holdfast.methods import ER, WA
        >>> [type(part).__name__ for part in chain(ER(capacity=200), WA()).parts()]
        ['ER', 'WA']
    """
    flat = [part for method in methods for part in method.parts()]
    if not flat:
        raise UsageError("chain() needs at least one method.")
    if len({id(part) for part in flat}) < len(flat):
        raise UsageError("chain() was given one method object twice; give two objects.")
    for hooks, what in (
        (("fit",), "replace gradient training"),
        (("phases",), "decide how often an experience is gone through"),
        (("epoch_rows",), "choose the rows of an epoch"),
        (("answer", "predict"), "decide the prediction"),
    ):
        rivals = [type(part).__name__ for part in flat if any(map(part.overrides, hooks))]
        if len(rivals) > 1:
            raise UsageError(f"{' and '.join(rivals)} cannot be chained: both {what}.")
    adapting = [type(part).__name__ for part in flat if "adapters" in part.tags.needs]
    choosing = [type(part).__name__ for part in flat if part.chooses_weights]
    if len(adapting) > 1:
        raise UsageError(f"{' and '.join(adapting)} cannot be chained: both bring an adapter.")
    if adapting and choosing:
        raise UsageError(
            f"{choosing[0]} chooses which of the model's weights are trained, and {adapting[0]} "
            "freezes all of them: they cannot be chained."
        )
    for place, part in enumerate(flat):
        idle = [type(p).__name__ for p in flat if p is not part and any(map(p.overrides, STEPWISE))]
        if part.replaces_training and idle:
            raise UsageError(
                f"{idle[0]} acts during training steps, and {type(part).__name__} makes none: they "
                "cannot be chained."
            )
        dropped = [type(p).__name__ for p in flat[:place] if p.overrides("loss")]
        if part.replaces_loss and dropped:
            name = type(part).__name__
            raise UsageError(
                f"{name} replaces the loss, and would drop what {dropped[0]} adds to it: chain "
                f"{name} before {dropped[0]}."
            )
    return flat[0] if len(flat) == 1 else Chain(*flat)


FILLED: dict[type, tuple[str, str, str]] = {
    Prototypes: ("prototype", "class means", "ncm"),
    Discriminant: ("discriminant", "class means and a covariance", "slda"),
    RandomRidge: ("ridge", "sums of random features", "ranpac"),
}
"""Heads that a method fills in without training: their names, what they hold, and which does."""


def refuse_unfit(method: Method, stream: Stream, model: nn.Module) -> None:
    """Raise `StreamRefused` with the first reason why `method` cannot serve `stream`."""
    trained = not any(part.replaces_training for part in method.parts())
    filled = [part.fills for part in method.parts() if part.fills is not None]
    head = type(getattr(model, "head", None))
    if head in FILLED and head not in filled and (trained or filled):
        kind, holds, filler = FILLED[head]
        raise StreamRefused(
            f"A {kind} head holds {holds} and is not trained: use the method {filler}, which "
            "fills it, or another head."
        )
    if isinstance(getattr(model, "backbone", None), Frozen | Passed):
        inside = {"transformer blocks", "adapters", "norm layers"}
        for part in method.parts():
            if part.works_inside or part.tags.needs & inside:
                raise StreamRefused(
                    f"{type(part).__name__} works inside the backbone, and this one is frozen: "
                    "have it trained, or use a method of heads and features, such as er, ewc, ncm, "
                    "slda or ranpac."
                )
    for part in method.parts():
        reason = part.refusal(stream, model)
        if reason:
            raise StreamRefused(reason)
