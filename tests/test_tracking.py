"""What a tracker is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import tracking
from holdfast.config import Config
from holdfast.errors import UsageError
from holdfast.run import run

CONFIG = Config(
    "split-digits(limit=60, test_limit=20)",
    "er(capacity=20)",
    model="mlp(width=8)",
    epochs=30,
    batch_size=16,
    evaluate_every=50,
    evaluate_subset=10,
)


def test_tensorboard_holds_losses_rates_scores_and_costs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observers = tracking.tracked("tensorboard", CONFIG, tmp_path)
    result = run(CONFIG, tmp_path / "run", observers=observers)
    (folder,) = [
        p.parent for p in (tmp_path / "tracking").rglob("events*") if "hparams" not in str(p)
    ][:1]
    held = EventAccumulator(str(folder)).Reload()
    told = {
        name: [(e.step, e.value) for e in held.Scalars(name)] for name in held.Tags()["scalars"]
    }
    steps = result.record.steps  # 4 batches an epoch, 30 epochs
    assert steps == [120] * 5
    # Losses are looked at every 50 steps, and at the end of an experience.
    assert {(step, round(value, 6)) for step, value in told["train/rate"]} == {
        (120 * e + s, 0.01) for e in range(5) for s in (50, 100, 120)
    }
    assert all(0 < value < 5 for _, value in told["train/loss"])
    matrix, names = result.record.matrix, result.record.names
    at_ends = {step: value for step, value in told[f"test/{names[1]}"] if step % 120 == 0}
    assert at_ends == {120 * (i + 1): pytest.approx(row[1]) for i, row in enumerate(matrix)}
    average = dict(told["test/average"])
    assert average[600] == pytest.approx(sum(matrix[-1]) / 5)
    assert {120 * e + s for e in range(5) for s in (50, 100)} <= set(average)
    assert told["cost/steps"][-1][1] == 600


def test_a_tracker_that_does_not_exist_or_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        tracking.check("tensorbord")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="Tracking with wandb needs its package"):
        tracking.check("wandb")
