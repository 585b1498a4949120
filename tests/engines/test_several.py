"""Methods where two processes train one model together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from several_processes import learn

pytestmark = pytest.mark.system

PROCESSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind, started once for all tests."""
    folder = tmp_path_factory.mktemp("several")
    script = str(Path(__file__).parent / "several_processes.py")
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    done = subprocess.run(
        [sys.executable, *launch, script, str(folder)],
        capture_output=True,
        text=True,
        timeout=500,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What every process found."""
    texts = [(folder / f"found-{i}.json").read_text() for i in range(PROCESSES)]
    return [json.loads(text) for text in texts]


def test_two_processes_train_as_one_would_on_all_rows(found: Any, tmp_path: Path) -> None:
    """The same four rows an update: the penalty counts once, and both draw the same half."""
    one = learn("pull", tmp_path)
    first, second = (process["pull"] for process in found)
    assert (one["processes"], first["processes"]) == (1, 2)
    assert first["trained"] == second["trained"] == one["trained"]
    assert one["updates"] == first["updates"] == 8
    assert first["weights"] == second["weights"]
    for name, weight in one["weights"].items():
        here = torch.tensor(first["weights"][name])
        torch.testing.assert_close(here, torch.tensor(weight), atol=1e-5, rtol=1e-4)


def test_each_process_keeps_its_own_memory_and_gets_it_back(found: Any, folder: Path) -> None:
    whole = [process["replay"] for process in found]
    assert whole[0]["stored"] != whole[1]["stored"]
    kept = {file.name for file in (folder / "replay" / "checkpoint-1").glob("holdfast*")}
    assert kept == {"holdfast.safetensors", "holdfast-1.safetensors"}
    for mine, other in zip((process["resumed"] for process in found), whole, strict=True):
        assert mine == other


def test_processes_that_drift_apart_are_told(found: Any) -> None:
    assert all("drifted apart" in process["astray"]["error"] for process in found)
    assert all(not process[name]["error"] for process in found for name in ("pull", "replay"))


def test_a_checkpoint_of_two_processes_is_not_one_of_one(folder: Path, tmp_path: Path) -> None:
    alone = learn("pull", tmp_path, folder / "pull" / "checkpoint-1")
    assert alone["error"].endswith("of other processes: 2; given now: 1.")
