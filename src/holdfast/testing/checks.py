"""The checks of the contract, each a promise that a method makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError, unknown
from holdfast.evaluation import TestSets
from holdfast.method import KINDS, Method, chain
from holdfast.stream import Experience, Stream
from holdfast.streams.source import class_incremental
from holdfast.testing.comparison import ContractError, copied, equal, holds_tensor, require_same
from holdfast.testing.trials import (
    Factory,
    cached_digits,
    first_classes,
    learner_for,
    run,
    run_keeping_states,
    runs_or_refuses,
    served_streams,
    small_stream,
    some_rows,
    tried,
)


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
        UsageError: If there is no check of a name given.

    Example:
        >>> from holdfast.methods import ER
        >>> check_method(ER, only=["determinism"])
        ['determinism']
    """
    names = list(CHECKS) if only is None else list(only)
    for name in names:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
        CHECKS[name](make)
    return names


def check_determinism(make: Factory) -> None:
    """Two runs with one seed end with the same bits."""
    for stream in served_streams(make):
        require_same(
            run(make, stream), run(make, stream), f"Two runs on {stream.name} with one seed"
        )


def check_exact_resume(make: Factory) -> None:
    """A run restored from a checkpoint at any step ends with the bits of one never stopped."""
    for stream in served_streams(make):
        for head in (
            ("full", "growing") if stream.classes and stream.scenario != "domain" else ("full",)
        ):
            whole, states = run_keeping_states(make, stream, head)
            for at, state in states:
                learner = learner_for(make, stream, head)
                learner.restore(stream, state)
                what = f"A run on {stream.name} ({head} head) resumed at {at}"
                tried(partial(learner.learn, stream), f"{what} fails")
                require_same(whole, learner, what)


def check_state_dict(make: Factory) -> None:
    """What a method remembers is in its state dict, and loading it into a new one is exact."""
    for stream in served_streams(make):
        learner = run(make, stream, counting=True)  # once, that operations can be counted
        saved = {k: copied(v) for k, v in learner.method.state_dict().items()}
        other = learner_for(make, stream)
        other.start(stream)
        for experience in stream:
            other.expand(experience)
        load = partial(other.method.load_state_dict, saved)
        tried(load, "A new method does not take the state dict of one that has learned")
        loaded = other.method.state_dict()
        if set(loaded) != set(saved) or not all(equal(loaded[k], saved[k]) for k in saved):
            raise ContractError("Loading a method's state dict into a new method changes it.")


def check_device(make: Factory) -> None:
    """All remembered tensors are module state, so that `.to(device)` moves them."""
    stream = served_streams(make)[0]
    learner = run(make, stream)
    for part in learner.method.modules():
        own = {k: v for k, v in vars(part).items() if k not in ("_buffers", "_parameters")}
        stray = [name for name, value in own.items() if holds_tensor(value)]
        if stray:
            raise ContractError(
                f"{type(part).__name__} keeps tensors in plain attributes ({', '.join(stray)}): "
                "register them as buffers, or they neither move with .to() nor are saved."
            )
    if torch.cuda.is_available():
        on_gpu = learner_for(make, stream, device="cuda")
        on_gpu.learn(stream)
        for name, value in on_gpu.method.state_dict().items():
            if isinstance(value, Tensor) and value.device.type != "cuda":
                raise ContractError(f"{name} stays on {value.device} when the learner is on CUDA.")


def check_chaining(make: Factory) -> None:
    """A method works after `er`, or is refused with a sentence."""
    from holdfast.methods import ER

    def chained() -> Method:
        return chain(ER(capacity=20), make())

    for stream in served_streams(make):
        try:
            chained()
        except UsageError:
            continue
        first = tried(partial(run, chained, stream), f"After er, {stream.name} is not learned")
        require_same(first, run(chained, stream), f"Two runs of er + method on {stream.name}")


def check_one_class_experiences(make: Factory) -> None:
    """An experience may bring a single class."""
    three = class_incremental(first_classes(cached_digits(), 3), 3, seed=None, name="one-class")
    small = [
        replace(e, train=some_rows(e.train, 0, 20), test=some_rows(e.test, 0, 10)) for e in three
    ]
    runs_or_refuses(make, replace(three, experiences=small))


def check_one_example_experiences(make: Factory) -> None:
    """An experience may bring a single example."""
    for stream in (small_stream(), small_stream("text")):
        single = replace(stream[1], train=stream[1].train.take(slice(0, 1)))
        if stream.classes:
            single = replace(single, classes=(int(single.train["y"][0]),))
        runs_or_refuses(make, replace(stream, experiences=[stream[0], single, stream[2]]))


def check_last_batch_of_one(make: Factory) -> None:
    """The last batch of an epoch may hold a single example."""
    for stream in served_streams(make, per_experience=17):
        attempt = partial(run, make, stream, batch_size=8)
        tried(attempt, f"{stream.name} with last batches of one is not learned")


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
    runs_or_refuses(make, replace(stream, experiences=[first, second, back, beside]))


def check_evaluation_without_side_effects(make: Factory) -> None:
    """Evaluating at every step changes nothing in what is learned."""
    for stream in served_streams(make):
        plain, watched = run(make, stream), run(make, stream, evaluate_every=1)
        watched.record.curve = []
        require_same(
            plain, watched, f"Runs on {stream.name} with and without evaluation at every step"
        )
        examples = TestSets(stream).table.columns
        assert isinstance(watched.test_sets, TestSets)
        if not all(torch.equal(watched.test_sets.table[k], v) for k, v in examples.items()):
            raise ContractError(f"Prediction changes the test examples of {stream.name}.")


def check_refusal(make: Factory) -> None:
    """A stream or a model of a kind that the tags exclude is refused with a sentence."""
    tags = [part.tags for part in make().parts()]
    stream = served_streams(make)[0]

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
        (
            "streams without a retain set",
            replace(stream, experiences=[replace(e, sets={}) for e in stream]),
            None,
            needed("retain set"),
        ),
    ]
    if stream.classes:
        headless = nn.Sequential(nn.Flatten(), nn.Linear(stream.shape[-1] ** 2, stream.classes))
        cases.append(("models without features", stream, headless, needed("features")))
        cases.append(("models without a linear head", stream, headless, needed("linear head")))
        cases.append(("models without norm layers", stream, headless, needed("norm layers")))
    else:
        blockless = nn.Sequential(nn.Embedding(256, 8), nn.Linear(8, 256))
        needs_blocks = needed("transformer blocks") or needed("adapters")
        cases.append(("models without transformer blocks", stream, blockless, needs_blocks))
    for scenario, words in KINDS.items():
        excluded = any(scenario not in part.scenarios for part in tags)
        excluded |= scenario == "domain" and needed("new classes")
        cases.append((f"{words} streams", small_stream(scenario), None, excluded))
    for what, asked, model, excluded in cases:
        learner = learner_for(make, asked, model=model)
        try:
            tried(partial(learner.start, asked), f"On {what} the method fails")
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
