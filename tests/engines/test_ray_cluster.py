"""A comparison on a Ray cluster gives what processes of this machine give."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.compare import Watcher, compare, grid
from holdfast.config import Config
from holdfast.engines import ray_cluster
from holdfast.errors import RunError, UsageError
from holdfast.store import Result

BASE = Config("split-digits(limit=40, test_limit=20)", "er", model="mlp(width=8)", epochs=1)
CELLS = grid(BASE, ["er(capacity=20)", "finetune"], [0, 1])


class Finished(Watcher):
    def __init__(self) -> None:
        self.configs: list[Config] = []

    def on_finished(self, config: Config, result: Result) -> None:
        self.configs.append(config)


@pytest.mark.slow
def test_a_local_cluster_gives_the_same_bits_and_goes_on_where_a_folder_stands(
    tmp_path: Path,
) -> None:
    pytest.importorskip("ray")
    plain = compare(CELLS, tmp_path / "plain", jobs=2)
    first, second = Finished(), Finished()
    compare(CELLS[:1], tmp_path / "ray", watcher=first, ray="local", jobs=1)
    found = compare(CELLS, tmp_path / "ray", watcher=second, ray="local")
    assert first.configs == CELLS[:1]
    assert sorted(map(str, second.configs)) == sorted(map(str, CELLS[1:]))
    assert [r.record.matrix for r in found.results] == [r.record.matrix for r in plain.results]
    assert not found.failures
    refused = compare([*grid(BASE, ["wa"], [0])], tmp_path / "ray", ray="local")
    assert refused.failures == []


@pytest.mark.slow
def test_what_a_task_cannot_do_is_kept_as_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    domains = Config("permuted-digits(limit=40)", "er", model="mlp(width=8)", epochs=1)
    found = compare(grid(domains, ["icarl"], [0]), tmp_path / "out", ray="local")
    (failure,) = found.failures
    assert "ICaRL serves class-incremental and task-incremental streams" in failure.error


def test_a_cluster_that_is_not_there_and_ray_that_is_not_installed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def nobody(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(RunError, match=r"no Ray cluster at '10\.0\.0\.1:6379' .* Could not find"):
        compare(CELLS, tmp_path / "out", ray="10.0.0.1:6379")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'holdfast\[ray\]'"):
        ray_cluster.work([], "local", None, None, None, lambda config, report: None)
