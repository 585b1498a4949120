"""Saving: a model, or its adapter, as an ordinary folder, written wholly or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.errors import CheckpointError, UsageError
from holdfast.language import edited
from holdfast.language.quiet import quietly
from holdfast.language.weights import first_line


def save(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    replace: bool = False,
    further: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a model, or of a `PeftModel` the adapter in use, and the tokenizer into a folder.

    It is an ordinary one, which `from_pretrained` loads; a memory beside the model is written into
    files of its own (see `holdfast.language.edited`). Everything is written beside
    `folder`, brought to the disk, and then renamed, so that `folder` is never half written.

    Args:
        model: A transformers model or a `PeftModel`.
        tokenizer: Its tokenizer.
        folder: Where to; it must not exist yet, or be empty.
        replace: Whether an older checkpoint there may be replaced, with all files of its folder.
        further: Contents of further files, by name.

    Returns:
        The folder.

    Raises:
        UsageError: If something is there and may not be replaced, or is not a checkpoint.
        CheckpointError: If it cannot be written; what was there before is untouched.
    """
    with written_wholly(folder, replace=replace) as new, quietly():
        if hasattr(model, "peft_config"):
            _save_adapter(model, new)
        else:
            model.save_pretrained(new)
            edited.write(model, new)
        tokenizer.save_pretrained(new)
        for name, content in (further or {}).items():
            (new / name).write_bytes(content)
    return Path(folder).resolve()


@contextmanager
def written_wholly(folder: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder that stands at `folder` if all went well, and vanishes if not.

    It lies beside `folder`, is brought to the disk, and then renamed.

    Args:
        folder: Where to; it must not exist yet, or be empty.
        replace: As of `save`.

    Raises:
        UsageError: As `save`.
        CheckpointError: As `save`.
    """
    target = Path(folder).resolve()
    refuse_overwriting(target, replace)
    new = target.with_name(f".{target.name}.new-{uuid.uuid4().hex}")
    old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex}")
    try:
        new.mkdir(parents=True)
        yield new
        for path in (*new.rglob("*"), new):
            _sync(path)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        _sync(target.parent)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Cannot write {folder}: {first_line(error)} What was there before is untouched."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def refuse_overwriting(target: Path, replace: bool) -> None:
    """Raise `UsageError` unless a new folder may stand at `target`."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file; accepted: a folder that does not exist yet.")
    if not any(target.iterdir()):
        return
    if not replace:
        raise UsageError(f"{target} is not empty, and replace=True was not given.")
    if not any((target / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UsageError(f"{target} is not replaced: it holds something else than a checkpoint.")


def _save_adapter(model: Any, folder: Path) -> None:
    """The adapter in use, in `folder` itself whatever its name."""
    active = list(model.active_adapters)
    if len(active) != 1:
        raise UsageError(
            f"One adapter is saved at a time; in use are {len(active)}: {', '.join(active)}. "
            "Choose one with model.set_adapter(name)."
        )
    # Left to itself, it may ask a server whether the embedding has grown.
    model.save_pretrained(
        folder, selected_adapters=active, save_embedding_layers=_embedding_trained(model)
    )
    if active[0] != "default":
        for file in (folder / active[0]).iterdir():
            file.rename(folder / file.name)
        (folder / active[0]).rmdir()


def _embedding_trained(model: Any) -> bool:
    embedding = model.get_input_embeddings()
    return any(parameter.requires_grad for parameter in embedding.parameters())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
