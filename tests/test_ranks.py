"""Several processes learn as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holdfast import catalogue, models, streams
from holdfast.errors import CheckpointError, UsageError
from holdfast.learner import Learner
from holdfast.ranks import Ranks

SCRIPT = """
import sys, torch
from holdfast import catalogue, models, streams
from holdfast.learner import Learner

torch.set_num_threads(1)
out, batch_size, *specs = sys.argv[1:]
stream = streams.build("split-digits(limit=61, test_limit=30)", experiences=3)
found = {}
for spec in specs:
    model = models.build("mlp(width=16)", stream, head="growing", seed=0)
    learner = Learner(model, catalogue.build(spec), batch_size=int(batch_size), epochs=2, seed=1)
    record = learner.learn(stream)
    state = {**learner.model.state_dict(), **learner.method.state_dict()}
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    found[spec] = {"matrix": torch.tensor(record.matrix), **tensors}
if learner.ranks.first:
    torch.save(found, out)
"""

SPECS = ("finetune", "er(capacity=30)", "der++(capacity=30)", "ewc", "lwf", "agem(capacity=30)")


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def together(count: int, *words: str) -> None:
    """Run a Python command in so many processes that learn as one."""
    package = str(Path(__file__).parents[1] / "src")
    shared = {
        **os.environ,
        "PYTHONPATH": package,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = [process.communicate(timeout=300) for process in processes]
    assert not any(process.returncode for process in processes), ended[0][1] + ended[1][1]
    assert not any(out for out, _ in ended[1:])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What two processes of 8 examples each have learned, by method."""
    out = tmp_path_factory.mktemp("two") / "found.pt"
    together(2, "-c", SCRIPT, str(out), "8", *SPECS)
    found: dict[str, dict[str, torch.Tensor]] = torch.load(out)
    return found


@pytest.mark.system
@pytest.mark.parametrize("spec", SPECS)
def test_two_processes_learn_and_remember_what_one_does_with_twice_the_batch(
    spec: str, two: dict[str, dict[str, torch.Tensor]]
) -> None:
    stream = streams.build("split-digits(limit=61, test_limit=30)", experiences=3)
    model = models.build("mlp(width=16)", stream, head="growing", seed=0)
    learner = Learner(model, catalogue.build(spec), batch_size=16, epochs=2, seed=1)
    matrix = torch.tensor(learner.learn(stream).matrix)
    torch.testing.assert_close(two[spec]["matrix"], matrix, atol=1e-6, rtol=0)
    state = {**learner.model.state_dict(), **learner.method.state_dict()}
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    assert set(tensors) == set(two[spec]) - {"matrix"}
    for name, value in tensors.items():
        torch.testing.assert_close(
            two[spec][name], value, atol=1e-5, rtol=1e-4, equal_nan=True, msg=name
        )


@pytest.mark.system
def test_a_run_in_two_processes_is_written_once_and_goes_on_in_as_many(tmp_path: Path) -> None:
    words = ["run", "split-digits(limit=20, test_limit=10)", "er", "--epochs", "1"]
    out = tmp_path / "run"
    together(2, "-m", "holdfast", *words, "--out", str(out), "--model", "mlp(width=8)")
    assert (out / "result.json").exists()
    assert (out / "report.html").exists()
    (out / "result.json").unlink()
    newest = sorted((out / "checkpoints").glob("*.safetensors"))[-1]
    newest.unlink()
    from holdfast.run import Config, run

    config = Config.read(out / "config.json")
    with pytest.raises(CheckpointError, match=r"saved by 2 processes .* exactly with 1: launch"):
        run(config, out, resume=True)
    resumed = [*words, "--out", str(out), "--model", "mlp(width=8)", "--resume"]
    together(2, "-m", "holdfast", *resumed)
    assert (out / "result.json").exists()


def test_methods_that_look_inside_the_model_are_refused_in_several_processes() -> None:
    with pytest.raises(UsageError, match=r"MIGU looks inside the model .* 2 processes share out"):
        Ranks(2, 0).refuse_alone(catalogue.build("migu"))
    Ranks(1, 0).refuse_alone(catalogue.build("migu"))


def test_rows_are_shared_out_in_order_and_few_rows_go_to_everyone() -> None:
    batch = {"x": torch.arange(7)}
    assert [Ranks(3, rank).part(batch)["x"].tolist() for rank in range(3)] == [
        [0, 1, 2],
        [3, 4],
        [5, 6],
    ]
    few = {"x": torch.arange(2)}
    assert [Ranks(3, rank).part(few)["x"].tolist() for rank in range(3)] == [[0, 1]] * 3
