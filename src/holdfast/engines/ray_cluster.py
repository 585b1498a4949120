"""Runs of a comparison on a Ray cluster, in place of processes of this machine's own.

Every run is one task. What it gave comes back as the task's answer; its checkpoints are in the
comparison's folder, which must therefore be on a disk that all machines share, under the same name.
A run whose task is lost (its machine has gone) is begun again elsewhere, from its newest
checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.config import Config
from holdfast.errors import RunError, UsageError

LOCAL = "local"
"""As an address: a cluster of this machine alone, which ends with the comparison."""

PASSED_ON = ("HOLDFAST_DATA", "HOLDFAST_CACHE", "HF_HOME", "HF_HUB_OFFLINE")
"""Variables that say where data and models are, as they are set here."""

RETRIES = 2
"""Times that a lost task is begun again."""


def work(
    cells: Sequence[tuple[Config, Path]],
    starts: Path,
    address: str,
    jobs: int | None,
    track: str | None,
    done: Callable[[Config, dict[str, Any]], None],
) -> None:
    """Do runs on a cluster, at most `jobs` at a time; None: as many as it has room for.

    Args:
        cells: What to run, each with its folder.
        starts: Folder of the models that runs with a shared start begin from.
        address: Of the cluster, as `ray.init` takes it, or `local`.
        jobs: At most so many at once.
        track: A tracker that every run tells of itself.
        done: Is told of each run what the task answered, as soon as it has.

    Raises:
        UsageError: If Ray is not installed.
        RunError: If the cluster cannot be reached.
    """
    ray = _ray()
    with _connected(ray, address):
        on_gpu = [_on_gpu(config) for config, _ in cells]
        task = ray.remote(_one)
        waiting = list(zip(cells, on_gpu, strict=True))
        running: dict[Any, Config] = {}
        try:
            while waiting or running:
                while waiting and (jobs is None or len(running) < jobs):
                    (config, folder), gpu = waiting.pop(0)
                    placed = task.options(num_cpus=1, num_gpus=int(gpu), max_retries=RETRIES)
                    asked = {
                        "config": config.to_dict(),
                        "folder": str(folder),
                        "starts": str(starts),
                        "track": track,
                    }
                    running[placed.remote(asked)] = config
                (finished, *_), _ = ray.wait(list(running), num_returns=1)
                done(running.pop(finished), _answer(ray, finished))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _one(asked: dict[str, Any]) -> dict[str, Any]:
    """A task: one run, to its end."""
    import torch

    from holdfast.worker import answer

    torch.set_num_threads(1)
    return answer(asked, [])


def _answer(ray: Any, reference: Any) -> dict[str, Any]:
    try:
        answered: dict[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        return {"kind": "failed", "error": f"Its task was lost: {reason}", "detail": str(error)}
    return answered


def _on_gpu(config: Config) -> bool:
    return config.device == "cuda"


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Running on a Ray cluster needs its package, which is not installed: "
            "pip install 'holdfast[ray]'."
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if address == LOCAL:  # otherwise its workers give way to everything else on the machine
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(
            address=None if address == LOCAL else address,
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            include_dashboard=False if address == LOCAL else None,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"There is no Ray cluster at {address!r} to be reached: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()
