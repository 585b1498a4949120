"""A run's folder: begun once, gone on with exactly, and refused when it is not what was asked."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from holdfast import catalogue, checkpoint, run
from holdfast.config import Config
from holdfast.errors import CheckpointError, Diverged, RunError, StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.run import Stopped
from holdfast.store import Result
from holdfast.stream import Stream

TINY = Config(
    "split-digits",
    "er(capacity=20)",
    model="mlp(width=16)",
    batch_size=64,
    evaluate_every=3,
    checkpoint_every=2,
)


def kept(result: Result | dict[str, Any]) -> dict[str, Any]:
    """A result without what no two runs share: time, memory and when it was."""
    state = result.to_dict() if isinstance(result, Result) else dict(result)
    cost = {k: v for k, v in state["cost"].items() if k not in ("seconds", "peak_memory_bytes")}
    rest = {k: v for k, v in state.items() if k not in ("cost", "environment")}
    return {**rest, "cost": cost}


def last_state(folder: Path) -> dict[str, Any]:
    """All tensors of the last checkpoint, bit by bit: weights, memories, moments, chance."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    with safe_open(newest, framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


class StopAt(Observer):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step(self, learner: Learner) -> None:
        if learner.meter.steps == self.steps:
            raise Stopped("Stopped.")


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return kept(run.run(TINY))


def test_a_folder_changes_nothing_in_the_result(tmp_path: Path, whole: dict[str, Any]) -> None:
    assert kept(run.run(TINY, tmp_path / "run")) == whole


def test_a_finished_folder_holds_its_configuration_and_result(tmp_path: Path) -> None:
    result = run.run(TINY, tmp_path)
    assert Config.read(tmp_path / "config.json") == TINY
    assert run.read_result(tmp_path) == result
    assert run.run(TINY, tmp_path, resume=True) == result
    assert result.config["model"] == "mlp(width=16)"
    assert result.environment["torch"] == torch.__version__


def test_the_model_is_recorded_when_none_was_named(tmp_path: Path) -> None:
    result = run.run(Config("split-digits", "finetune", batch_size=256))
    assert result.config["model"] == "mlp"


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_newest_checkpoints_stay(tmp_path: Path, keep: int) -> None:
    run.run(replace(TINY, keep_checkpoints=keep), tmp_path)
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert len(files) == keep
    numbers = [int(file.stem) for file in files]
    assert numbers == list(range(numbers[-1] - keep + 1, numbers[-1] + 1))
    assert checkpoint.load(files[-1])["learner"]["index"] == 5


@pytest.mark.parametrize("steps", [1, 6, 13])
def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, whole: dict[str, Any], steps: int
) -> None:
    with pytest.raises(Stopped):
        run.run(TINY, tmp_path, observers=[StopAt(steps)])
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert checkpoint.load(newest)["learner"]["meter"]["steps"] == steps
    assert not (tmp_path / "result.json").exists()
    assert kept(run.run(TINY, tmp_path, resume=True)) == whole


_KILLED_AGAIN_AND_AGAIN = """
import json, os, signal, sys
from pathlib import Path
from holdfast.config import Config
from holdfast.learner import Observer
from holdfast.run import run

class KillAfter(Observer):
    def __init__(self, moments):
        self.left = moments
    def on_step(self, learner):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    on_experience = on_step

for name, (config, kills) in json.load(sys.stdin).items():
    folder, config = Path(sys.argv[1], name), Config.from_dict(config)
    run(config, folder.with_name(f"{name}-whole"))  # imports what a fork then need not
    for moments in kills:
        child = os.fork()
        if child == 0:
            begun = (folder / "config.json").exists()
            run(config, folder, resume=begun, observers=[KillAfter(moments)])
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL, name
    run(config, folder, resume=True)
"""


def killed_and_whole(
    folder: Path, methods: Sequence[str], kills: int
) -> Iterator[tuple[str, Result, Result]]:
    """Each method's result after that many kills, and without any.

    A run has 25 steps and 5 ends of experiences, or only these where nothing is trained by steps.
    """
    draw = random.Random(0)
    asked = {}
    for method in methods:
        config = replace(TINY, method=method, optimizer_state="keep", momentum=0.9, lr=0.01)
        most = 1 if catalogue.build(method).replaces_training else 6
        asked[method] = [config.to_dict(), [draw.randint(1, most) for _ in range(kills)]]
    subprocess.run(
        [sys.executable, "-c", _KILLED_AGAIN_AND_AGAIN, str(folder)],
        input=json.dumps(asked).encode(),
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # forks are safe with one thread
    )
    for method in methods:
        assert not list((folder / method / "checkpoints").glob(".*"))
        assert last_state(folder / method) == last_state(folder / f"{method}-whole"), method
        yield method, run.read_result(folder / method), run.read_result(folder / f"{method}-whole")


@pytest.mark.system
def test_killed_at_random_steps_a_run_ends_with_the_same_result(tmp_path: Path) -> None:
    for method, killed, whole in killed_and_whole(tmp_path, ["er", "der++", "ncm"], kills=4):
        assert kept(killed) == kept(whole), method


@pytest.mark.slow
def test_every_method_survives_four_kills_with_the_same_result(
    tmp_path: Path, methods_on_digits: list[str]
) -> None:
    for method, killed, whole in killed_and_whole(tmp_path, methods_on_digits, kills=4):
        assert kept(killed) == kept(whole), method


def test_another_run_is_not_begun_in_its_folder(tmp_path: Path) -> None:
    run.run(TINY, tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(UsageError, match=r"already holds a run .*er\(capacity=20\).*--resume"):
        run.run(TINY, tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def test_other_options_are_refused_and_named(tmp_path: Path) -> None:
    run.run(TINY, tmp_path)
    with pytest.raises(UsageError, match=r"lr is the default there and 0\.2 here"):
        run.run(replace(TINY, lr=0.2), tmp_path, resume=True)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run in"):
        run.run(TINY, tmp_path / "none", resume=True)
    with pytest.raises(UsageError, match="name the folder"):
        run.run(TINY, resume=True)
    assert not (tmp_path / "none").exists()


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_named(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    with pytest.raises(Stopped):
        run.run(TINY, tmp_path, observers=[StopAt(9)])
    good, damaged = sorted((tmp_path / "checkpoints").iterdir())
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        run.run(TINY, tmp_path, resume=True)
    assert f"{damaged} is damaged" in str(refused.value)
    assert f"last good checkpoint is {good}" in str(refused.value)
    damaged.unlink()
    assert kept(run.run(TINY, tmp_path, resume=True)) == whole


def test_where_no_checkpoint_is_good_the_way_on_is_to_begin_anew(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    with pytest.raises(Stopped):
        run.run(replace(TINY, keep_checkpoints=1), tmp_path, observers=[StopAt(3)])
    (only,) = (tmp_path / "checkpoints").iterdir()
    only.write_bytes(only.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="remove it and resume again to begin anew"):
        run.run(replace(TINY, keep_checkpoints=1), tmp_path, resume=True)
    only.unlink()
    result = kept(run.run(replace(TINY, keep_checkpoints=1), tmp_path, resume=True))
    assert result["matrix"] == whole["matrix"]


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        with pytest.raises(Stopped):
            run.run(replace(TINY, seed=seed), tmp_path / name, observers=[StopAt(3)])
    newest = sorted((tmp_path / "one/checkpoints").iterdir())[-1]
    foreign = sorted((tmp_path / "two/checkpoints").iterdir())[-1]
    newest.write_bytes(foreign.read_bytes())
    with pytest.raises(CheckpointError, match="belongs to another run"):
        run.run(TINY, tmp_path / "one", resume=True)


def test_a_refused_stream_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StreamRefused):
        run.run(Config("permuted-digits", "wa"), tmp_path / "run")
    with pytest.raises(UsageError, match="Did you mean 'er'"):
        run.run(Config("split-digits", "eer"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_names_the_step_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Spoil(Observer):
        def on_step(self, learner: Learner) -> None:
            if learner.index == 1:
                next(learner.model.parameters()).data.fill_(torch.nan)

    with pytest.raises(Diverged) as stopped:
        run.run(replace(TINY, checkpoint_every=None), tmp_path, observers=[Spoil()])
    assert "step 1 of experience 1" in str(stopped.value)
    assert str(tmp_path / "checkpoints/000001.safetensors") in str(stopped.value)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with run.locked(tmp_path / "run"), pytest.raises(RunError, match="Another process"):
        run.run(TINY, tmp_path / "run")


@pytest.mark.parametrize(
    ("shape", "model"),
    [
        ((64,), "mlp"),
        ((1, 8, 8), "mlp"),
        ((1, 32, 32), "mlp"),
        ((1, 105, 105), "cnn"),
        ((3, 32, 32), "resnet18"),
    ],
)
def test_the_model_suits_the_inputs(shape: tuple[int, ...], model: str) -> None:
    assert run.default_model(Stream("any", [], "class", 2, shape)) == model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_gpu_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no CUDA device"):
        run.run(replace(TINY, device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
