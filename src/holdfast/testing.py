"""The contract of a method, as checks that anyone can run against their own.

    from holdfast.testing import check_method

    def test_my_method_keeps_the_contract():
        check_method(MyMethod)

Every method that ships with holdfast passes all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from holdfast import checkpoint
from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.evaluation import Record, TestSets
from holdfast.learner import Learner, Observer
from holdfast.method import Method, chain
from holdfast.models import build as build_model
from holdfast.stream import Experience, Stream
from holdfast.streams.source import Source, class_incremental, domain_incremental
from holdfast.streams.sources import digits

Factory = Callable[[], Method]
Result = TypeVar("Result")


class ContractError(AssertionError):
    """A method does not keep the contract; the message says which part and how."""


def check_method(make: Factory, only: Sequence[str] | None = None) -> list[str]:
    """Run the contract's checks against a method.

    Args:
        make: The method's class, if it can be built without arguments, or any function that
            builds a new one.
        only: Names of checks (keys of `CHECKS`); None: all.

    Returns:
        The names of the checks that were run.

    Raises:
        ContractError: At the first check that fails.

    Example:
        >>> from holdfast.methods import ER
        >>> check_method(ER, only=["determinism"])
        ['determinism']
    """
    names = list(CHECKS) if only is None else list(only)
    for name in names:
        CHECKS[name](make)
    return names


def small_stream(scenario: str = "class", per_experience: int = 40) -> Stream:
    """A few real digits in three experiences: `class`, `task` or `domain`-incremental."""
    source = _digits()
    if scenario == "domain":
        domains = [
            (f"shift {k}", _some(source.train, k, per_experience), _some(source.test, k, 30))
            for k in range(3)
        ]
        return domain_incremental(source, domains, "small-domain")
    six = _first_classes(source, 6)
    stream = class_incremental(six, 3, seed=None, name=f"small-{scenario}")
    experiences = [
        replace(e, train=_some(e.train, 0, per_experience), test=_some(e.test, 0, 30))
        for e in stream
    ]
    stream = replace(stream, experiences=experiences)
    return stream.with_tasks() if scenario == "task" else stream


def check_determinism(make: Factory) -> None:
    """Two runs with one seed end with the same bits."""
    for stream in _served(make):
        _same(_run(make, stream), _run(make, stream), f"Two runs on {stream.name} with one seed")


def check_exact_resume(make: Factory) -> None:
    """A run restored from a checkpoint at any step ends with the bits of one never stopped."""
    for stream in _served(make):
        for head in ("full", "growing") if stream.scenario != "domain" else ("full",):
            whole, states = _run_keeping_states(make, stream, head)
            for at, state in states:
                learner = _learner(make, stream, head)
                learner.restore(stream, state)
                what = f"A run on {stream.name} ({head} head) resumed at {at}"
                _tried(partial(learner.learn, stream), f"{what} fails")
                _same(whole, learner, what)


def check_state_dict(make: Factory) -> None:
    """What a method remembers is in its state dict, and loading it into a new one is exact."""
    for stream in _served(make):
        learner = _run(make, stream)
        saved = {k: _copied(v) for k, v in learner.method.state_dict().items()}
        other = _learner(make, stream)
        other.start(stream)
        for experience in stream:
            other.expand(experience)
        load = partial(other.method.load_state_dict, saved)
        _tried(load, "A new method does not take the state dict of one that has learned")
        loaded = other.method.state_dict()
        if set(loaded) != set(saved) or not all(_equal(loaded[k], saved[k]) for k in saved):
            raise ContractError("Loading a method's state dict into a new method changes it.")


def check_device(make: Factory) -> None:
    """All remembered tensors are module state, so that `.to(device)` moves them."""
    stream = _served(make)[0]
    learner = _run(make, stream)
    for part in learner.method.modules():
        own = {k: v for k, v in vars(part).items() if k not in ("_buffers", "_parameters")}
        stray = [name for name, value in own.items() if _holds_tensor(value)]
        if stray:
            raise ContractError(
                f"{type(part).__name__} keeps tensors in plain attributes ({', '.join(stray)}): "
                "register them as buffers, or they neither move with .to() nor are saved."
            )
    if torch.cuda.is_available():
        on_gpu = _learner(make, stream, device="cuda")
        on_gpu.learn(stream)
        for name, value in on_gpu.method.state_dict().items():
            if isinstance(value, Tensor) and value.device.type != "cuda":
                raise ContractError(f"{name} stays on {value.device} when the learner is on CUDA.")


def check_chaining(make: Factory) -> None:
    """A method works after `er`, or is refused with a sentence."""
    from holdfast.methods import ER

    def chained() -> Method:
        return chain(ER(capacity=20), make())

    for stream in _served(make):
        try:
            chained()
        except UsageError:
            continue
        first = _tried(partial(_run, chained, stream), f"After er, {stream.name} is not learned")
        _same(first, _run(chained, stream), f"Two runs of er + method on {stream.name}")


def check_one_class_experiences(make: Factory) -> None:
    """An experience may bring a single class."""
    three = class_incremental(_first_classes(_digits(), 3), 3, seed=None, name="one-class")
    small = [replace(e, train=_some(e.train, 0, 20), test=_some(e.test, 0, 10)) for e in three]
    _runs_or_refuses(make, replace(three, experiences=small))


def check_one_example_experiences(make: Factory) -> None:
    """An experience may bring a single example."""
    stream = small_stream()
    single = replace(stream[1], train=stream[1].train.take(slice(0, 1)))
    single = replace(single, classes=(int(single.train["y"][0]),))
    _runs_or_refuses(make, replace(stream, experiences=[stream[0], single, stream[2]]))


def check_last_batch_of_one(make: Factory) -> None:
    """The last batch of an epoch may hold a single example."""
    for stream in _served(make, per_experience=17):
        run = partial(_run, make, stream, batch_size=8)
        _tried(run, f"{stream.name} with last batches of one is not learned")


def check_returning_classes(make: Factory) -> None:
    """Classes may come back in a later experience, by themselves or beside new ones."""
    stream = small_stream()
    first, second, third = stream

    def joined(index: int, name: str, *parts: Experience) -> Experience:
        return Experience(
            index,
            Table.concat([part.train for part in parts]),
            Table.concat([part.test for part in parts]),
            tuple(label for part in parts for label in part.classes),
            name,
        )

    back, beside = joined(2, "back", first, second), joined(3, "beside new ones", first, third)
    _runs_or_refuses(make, replace(stream, experiences=[first, second, back, beside]))


def check_evaluation_without_side_effects(make: Factory) -> None:
    """Evaluating at every step changes nothing in what is learned."""
    for stream in _served(make):
        plain, watched = _run(make, stream), _run(make, stream, evaluate_every=1)
        watched.record.curve = []
        _same(plain, watched, f"Runs on {stream.name} with and without evaluation at every step")
        examples = TestSets(stream).table.columns
        if not all(torch.equal(watched.test_sets.table[k], v) for k, v in examples.items()):
            raise ContractError(f"Prediction changes the test examples of {stream.name}.")


def check_refusal(make: Factory) -> None:
    """A stream or a model of a kind that the tags exclude is refused with a sentence."""
    tags = [part.tags for part in make().parts()]
    stream = _served(make)[0]
    headless = nn.Sequential(nn.Flatten(), nn.Linear(stream.shape[-1] ** 2, stream.classes))

    def needed(what: str) -> bool:
        return any(what in part.needs for part in tags)

    cases: list[tuple[str, Stream, nn.Module | None, bool]] = [
        (
            "streams without boundaries",
            replace(stream, boundaries=False),
            None,
            needed("boundaries"),
        ),
        ("streams without labels", replace(stream, labelled=False), None, needed("labels")),
        ("models without features", stream, headless, needed("features")),
        ("models without a linear head", stream, headless, needed("linear head")),
    ]
    for scenario in ("class", "task", "domain"):
        excluded = any(scenario not in part.scenarios for part in tags)
        excluded |= scenario == "domain" and needed("new classes")
        cases.append((f"{scenario}-incremental streams", small_stream(scenario), None, excluded))
    for what, asked, model, excluded in cases:
        learner = _learner(make, asked, model=model)
        try:
            _tried(partial(learner.start, asked), f"On {what} the method fails")
        except StreamRefused as refusal:
            if not str(refusal).endswith("."):
                raise ContractError(f"A refusal must be a sentence; it was {refusal!r}.") from None
        else:
            if excluded:
                raise ContractError(f"The tags exclude {what}, but one was accepted.")


def check_arguments(make: Factory) -> None:
    """Constructor arguments are kept under their own names and rebuild an equal method."""
    for part in make().parts():
        try:
            arguments = part.arguments()
        except AttributeError as error:
            raise ContractError(
                f"{type(part).__name__} must keep each constructor argument by name: {error}."
            ) from error
        again = type(part)(**arguments).arguments()
        if again != arguments:
            raise ContractError(f"{type(part).__name__} changes its arguments: {again}.")


CHECKS: dict[str, Callable[[Factory], None]] = {
    "arguments": check_arguments,
    "determinism": check_determinism,
    "exact_resume": check_exact_resume,
    "state_dict": check_state_dict,
    "device": check_device,
    "chaining": check_chaining,
    "one_class_experiences": check_one_class_experiences,
    "one_example_experiences": check_one_example_experiences,
    "last_batch_of_one": check_last_batch_of_one,
    "returning_classes": check_returning_classes,
    "evaluation_without_side_effects": check_evaluation_without_side_effects,
    "refusal": check_refusal,
}
"""The checks by name."""


def _learner(
    make: Factory,
    stream: Stream,
    head: str = "full",
    batch_size: int = 16,
    evaluate_every: int | None = None,
    device: str | None = None,
    model: nn.Module | None = None,
) -> Learner:
    return Learner(
        model or build_model("mlp(width=16, depth=1)", stream, head=head, seed=3),
        make(),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        epochs=2,
        batch_size=batch_size,
        optimizer_state="keep",
        evaluate_every=evaluate_every,
        evaluate_subset=20,
        seed=5,
        device=device,
    )


def _run(make: Factory, stream: Stream, **options: Any) -> Learner:
    learner = _learner(make, stream, **options)
    learner.learn(stream)
    return learner


def _served(make: Factory, per_experience: int = 40) -> list[Stream]:
    """The small streams that the method does not refuse."""
    served = []
    for scenario in ("class", "task", "domain"):
        stream = small_stream(scenario, per_experience)
        try:
            _learner(make, stream).start(stream)
        except StreamRefused:
            continue
        served.append(stream)
    if not served:
        raise ContractError("The method refuses class-, task- and domain-incremental streams.")
    return served


def _runs_or_refuses(make: Factory, stream: Stream) -> None:
    try:
        learner = _tried(partial(_run, make, stream), f"{stream.name} is not learned nor refused")
    except StreamRefused:
        return
    if len(learner.record.matrix) != len(stream):
        raise ContractError(f"{stream.name} has {len(stream)} experiences; rows are missing.")


def _tried(work: Callable[[], Result], complaint: str) -> Result:
    """What `work` returns; any failure but a refusal breaks the contract."""
    try:
        return work()
    except (ContractError, StreamRefused):
        raise
    except Exception as error:
        raise ContractError(f"{complaint}: {type(error).__name__}: {error}") from error


def _run_keeping_states(
    make: Factory, stream: Stream, head: str
) -> tuple[Learner, list[tuple[str, Any]]]:
    """A whole run, and checkpoints of it, written to disk and read back.

    They lie between epochs, inside the first, inside the second, and between experiences.
    """
    states: list[tuple[str, Any]] = []

    class Keep(Observer):
        def on_step(self, learner: Learner) -> None:
            if (learner.index, learner.step) in ((0, 3), (1, 1), (2, 4)):
                self.keep(learner, f"experience {learner.index}, step {learner.step}")

        def on_experience(self, learner: Learner) -> None:
            if learner.index > 1:
                self.keep(learner, f"the end of experience {learner.index - 1}")

        def keep(self, learner: Learner, at: str) -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "state.safetensors"
                checkpoint.save(path, learner.state_dict())
                states.append((at, checkpoint.load(path)))

    learner = _learner(make, stream, head)
    learner.learn(stream, [Keep()])
    return learner, states


def _same(one: Learner, other: Learner, what: str) -> None:
    for name, a, b in (
        ("weights", one.model.state_dict(), other.model.state_dict()),
        ("method state", one.method.state_dict(), other.method.state_dict()),
        ("records", _without_clock(one.record), _without_clock(other.record)),
    ):
        if set(a) != set(b):
            raise ContractError(f"{what} end with different {name}: {set(a) ^ set(b)}.")
        for key in a:
            if not _equal(a[key], b[key]):
                raise ContractError(f"{what} end with different {name}: {key}.")


def _without_clock(record: Record) -> dict[str, Any]:
    """The record less what may differ between equal runs."""
    state = record.to_dict()
    for measured in ("seconds", "peak_memory_bytes"):
        state["cost"].pop(measured, None)
    return state


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))
    return bool(_plain(a) == _plain(b))


def _bits(tensor: Tensor) -> Tensor:
    """For comparison bit by bit: NaN equals NaN."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _plain(value: Any) -> Any:
    """Tuples as lists: JSON does not tell them apart."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Table):
        return True
    if isinstance(value, Mapping):
        return any(_holds_tensor(item) for item in value.values())
    if isinstance(value, Iterable) and not isinstance(value, (str, Tensor, nn.Module)):
        return isinstance(value, Sized) and any(_holds_tensor(item) for item in value)
    return isinstance(value, Tensor)


@cache
def _digits() -> Source:
    return digits()


def _some(table: Table, part: int, rows: int) -> Table:
    """`rows` rows, spread over the table and different for every part."""
    stride = max(1, len(table) // rows)
    return table.take((torch.arange(rows) * stride + part) % len(table))


def _first_classes(source: Source, classes: int) -> Source:
    return replace(
        source,
        train=source.train.where(source.train["y"] < classes),
        test=source.test.where(source.test["y"] < classes),
        class_names=source.class_names[:classes],
    )
