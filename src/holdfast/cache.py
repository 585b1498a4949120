"""The cache: what takes a while to make is made once, and kept where `HOLDFAST_CACHE` says."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import RunError

VARIABLE = "HOLDFAST_CACHE"
ELSEWHERE = f"Set {VARIABLE} to a folder that can be written."


def root() -> Path:
    """The folder that `HOLDFAST_CACHE` names, or `~/.cache/holdfast`."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/holdfast").expanduser()


@contextmanager
def alone(path: Path, what: str = "models", remedy: str = ELSEWHERE) -> Iterator[None]:
    """Hold the place of `path` against other processes, waiting for one that builds it.

    Args:
        path: What is going to be built.
        what: How a message calls what is kept.
        remedy: What a message says to do where the folder cannot be written.

    Raises:
        RunError: If the folder cannot be written.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f".{path.name}.lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise RunError(
            f"Cannot keep {what} in {folder}: {error.strerror or error}. {remedy}"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        lock.close()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` if all went well, and vanishes if not.

    Raises:
        RunError: If the cache cannot be written.
    """
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.rename(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"Cannot keep a model in {path}: {error.strerror or error}. {ELSEWHERE}"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
