"""Guard ends an experience before too much is lost, and disturbs nothing."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.evaluation import undisturbed
from holdfast.learner import Learner
from holdfast.methods import Finetune, Guard
from holdfast.stream import Experience, Stream
from holdfast.testing import check_method
from holdfast.testing.comparison import require_same
from holdfast.testing.trials import small_llama


def cycle(step, rows=24):
    """Rows that count up by `step`, from different beginnings."""
    ids = (torch.arange(rows)[:, None] * 3 + torch.arange(16) * step) % 40
    return Table({"input_ids": ids, "labels": ids})


def experience(index, step, guards):
    return Experience(index, cycle(step), cycle(step, 4), (), str(step), guards)


def stream(*experiences):
    return Stream("counting", experiences, "text", 0, (16,))


@pytest.fixture(scope="module")
def knowing():
    """The weights of a model that counts by ones."""
    learner = Learner(small_llama(), optimizer=adam(0.01), epochs=15, batch_size=8)
    learner.learn(stream(experience(0, 1, {})))
    return learner.model.state_dict()


def adam(rate):
    return partial(torch.optim.Adam, lr=rate)


def learner_for(knowing, method, **options):
    model = small_llama()
    model.load_state_dict(knowing)
    options = {
        "epochs": 6,
        "batch_size": 4,
        "optimizer": adam(0.002),
        "pretrained": True,
        **options,
    }
    return Learner(model, method, **options)


def loss_of(model, table):
    with undisturbed(model):
        return float(model(input_ids=table["input_ids"], labels=table["labels"]).loss)


def test_training_ends_where_a_loss_has_risen_too_far_and_the_last_good_weights_stay(knowing):
    given = stream(experience(0, 7, {"guard": cycle(1, 10)}))
    plain = learner_for(knowing, Finetune())
    way = []

    class Look:
        def on_step(self, learner):
            way.append(loss_of(learner.model, cycle(1, 10)))

        def on_experience(self, learner): ...

    plain.learn(given, [Look()])
    before = loss_of(learner_for(knowing, None).model, cycle(1, 10))
    over = next(t for t in range(1, 37) if t % 2 == 0 and way[t - 1] > 1.1 * before)
    assert 2 < over < 36

    guarded = learner_for(knowing, Guard(limit=0.1, every=2))
    guarded.learn(given)
    assert guarded.record.steps == [over]
    (note,) = guarded.record.notes
    assert note["guard_kept_update"] == over - 2
    assert note["guard_stopped"]
    assert loss_of(guarded.model, cycle(1, 10)) == pytest.approx(way[over - 3], rel=1e-5)
    assert note["guard_loss"] == pytest.approx(way[over - 3], rel=1e-5)


def test_looking_disturbs_nothing(knowing):
    given = stream(experience(0, 7, {"guard": cycle(1, 10)}))
    watched, plain = learner_for(knowing, Guard(limit=1e6, every=1)), learner_for(knowing, None)
    watched.learn(given)
    plain.learn(given)
    for ours, theirs in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert watched.record.matrix == plain.record.matrix


def test_any_of_several_sets_may_end_it(knowing):
    harmless = {"guard:same": cycle(7, 10)}
    assert run(knowing, harmless).record.steps == [36]
    stopped = run(knowing, {**harmless, "guard:old": cycle(1, 10), "retain": cycle(3, 4)})
    assert stopped.record.steps[0] < 36
    (note,) = stopped.record.notes
    assert {"guard_old_loss", "guard_same_loss"} <= set(note)
    assert "retain_loss" not in note


def run(knowing, guards, **arguments):
    learner = learner_for(knowing, Guard(**{"limit": 0.1, "every": 2, **arguments}))
    learner.learn(stream(experience(0, 7, guards)))
    return learner


def test_patience_looks_on_and_takes_back_what_it_waited_for(knowing):
    guards = {"guard": cycle(1, 10)}
    (at_once,), (later,) = (run(knowing, guards, patience=p).record.notes for p in (1, 3))
    assert later["guard_kept_update"] == at_once["guard_kept_update"]
    assert later["step"] == at_once["step"] + 4


def test_a_loss_that_is_over_at_the_very_end_is_taken_back_too(knowing):
    learner = run(knowing, {"guard": cycle(1, 10)}, every=1000)
    (note,) = learner.record.notes
    assert learner.record.steps == [36]
    assert note["guard_kept_update"] == 0
    for name, weight in learner.model.state_dict().items():
        assert torch.equal(weight, knowing[name])


def test_experiences_without_a_guard_set_are_learned_whole(knowing):
    learner = learner_for(knowing, Guard(limit=0.1, every=2))
    learner.learn(stream(experience(0, 7, {"guard": cycle(1, 10)}), experience(1, 5, {})))
    assert learner.record.steps[0] < learner.record.steps[1] == 36


def test_a_stream_without_any_is_refused(knowing):
    with pytest.raises(StreamRefused, match="give an experience a set named 'guard'"):
        learner_for(knowing, Guard()).learn(stream(experience(0, 7, {"retain": cycle(1)})))


def test_a_run_that_is_to_be_stopped_is_resumed_exactly(knowing):
    given = stream(
        experience(0, 7, {"guard": cycle(1, 10)}), experience(1, 5, {"guard": cycle(7, 10)})
    )
    whole, states = learner_for(knowing, Guard(limit=0.1, every=2)), []

    class Keep:
        def on_step(self, learner):
            if learner.step in (1, 2, 3, learner.step * learner.enough):
                states.append({**learner.state_dict()})
                states[-1] = copied(states[-1])

        def on_experience(self, learner):
            states.append(copied(learner.state_dict()))

    whole.learn(given, [Keep()])
    assert whole.record.steps[0] < 36
    assert len(states) > 8
    for state in states:
        again = learner_for(knowing, Guard(limit=0.1, every=2))
        again.restore(given, state)
        again.learn(given)
        require_same(whole, again, "A guarded run that was resumed")


def copied(state):
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return [copied(value) for value in state]
    return state.clone() if isinstance(state, torch.Tensor) else state


def test_the_contract_is_kept():
    check_method(
        partial(Guard, limit=0.0, every=1),
        only=["determinism", "state_dict", "device", "evaluation_without_side_effects", "refusal"],
    )


@pytest.mark.parametrize("arguments", [{"limit": -0.1}, {"every": 0}, {"patience": 0}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(UsageError):
        Guard(**arguments)


def test_numbers_of_other_kinds_of_models_are_watched_too(numbered, learned):
    given = numbered()
    guarded = replace(
        given,
        experiences=[replace(e, sets={"guard": given[0].test} if e.index else {}) for e in given],
    )
    learner = learned(guarded, Guard(limit=0.0, every=1), lr=0.5)
    stopped = [note["guard_stopped"] for note in learner.record.notes]
    assert stopped == [True, True]
