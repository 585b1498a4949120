"""TRACE: eight unlike tasks in one format, read strictly from the benchmark's own folders.

Every task is a folder with `train.json`, `eval.json` and `test.json`, each a list of `{"prompt",
"answer"}`; folders may be called `NAME`, `NAME_500` or `NAME_5000` by the size of the release. A
ninth folder, Lima, holds general instructions, from which replay draws.

Source: Wang et al., "TRACE: a comprehensive benchmark for continual learning in large language
models" (2023); formats, metrics and epochs as in its official code.

Differs from the paper: answers are written greedily, not sampled at temperature 0.1, so that they
repeat; demonstrations stand before the whole prompt, not after its instruction; and batches are
padded on the right, as everywhere here, which a causal model cannot tell
from padding on the left under a mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.language.encode import encode
from holdfast.language.fields import Sample
from holdfast.stream import Stream
from holdfast.streams.language.rationales import with_rationales
from holdfast.streams.language.tasks import Task, shortened, text_tasks

PARTS = ("train", "eval", "test")
SIZES = (500, 5000)
GENERAL = "Lima"


@dataclass(frozen=True)
class TraceTask:
    """One task of TRACE.

    Attributes:
        metric: Its own.
        epochs: As the paper trains it.
        labels: Its answers, where they are few.
    """

    metric: str
    epochs: int
    labels: tuple[str, ...] = ()


TASKS: dict[str, TraceTask] = {
    "C-STANCE": TraceTask("exact_match", 5, ("A", "B", "C")),
    "FOMC": TraceTask("exact_match", 3, ("A", "B", "C")),
    "MeetingBank": TraceTask("rouge_l", 7),
    "Py150": TraceTask("edit_similarity(placeholders=true)", 5),
    "ScienceQA": TraceTask("exact_match(first=1)", 3),
    "NumGLUE-cm": TraceTask("exact_match", 5),
    "NumGLUE-ds": TraceTask("exact_match", 5),
    "20Minuten": TraceTask("sari", 7),
}
"""In the paper's order."""


@dataclass(frozen=True)
class Benchmark:
    """What is in TRACE's folders.

    Attributes:
        size: Of the release, 500 or 5000; None where folders do not say.
        parts: Task, then `train`, `eval` or `test`, to samples.
        general: The training examples of Lima; empty where the folder is absent.
    """

    size: int | None
    parts: dict[str, dict[str, tuple[Sample, ...]]]
    general: tuple[Sample, ...]


def read(path: Path, size: int | None = None) -> Benchmark:
    """Read TRACE's folders; every fault is reported at once.

    Args:
        path: The folder that holds them.
        size: 500 or 5000; None: whichever release is there.

    Raises:
        UsageError: If the size is none of the two.
        DataError: If the folder, a task or a file is missing, or if entries have no prompt or no
            answer: with all of them named.
    """
    if size is not None and size not in SIZES:
        raise UsageError(f"size must be 500 or 5000; given: {size!r}.")
    if not path.is_dir():
        raise DataError(f"There is no folder {path}; it should hold TRACE's tasks.")
    sizes = [size] if size is not None else [s for s in SIZES if (path / f"FOMC_{s}").is_dir()]
    if len(sizes) > 1:
        raise DataError(f"{path} holds TRACE in both sizes; say which: size=500 or size=5000.")
    release = sizes[0] if sizes else None
    faults: list[str] = []
    parts: dict[str, dict[str, tuple[Sample, ...]]] = {}
    for task in TASKS:
        folder = _folder(path, task, release)
        if folder is None:
            faults.append(f"no folder {task}{f'_{release}' if release else ''}")
            continue
        parts[task] = {part: _samples(folder / f"{part}.json", faults) for part in PARTS}
    lima = _folder(path, GENERAL, release)
    general = _samples(lima / "train.json", faults) if lima is not None else ()
    if faults:
        shown = "; ".join(faults[:12])
        more = f"; and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise DataError(f"{path} is not the whole of TRACE: {shown}{more}.")
    return Benchmark(release, parts, general)


def build(
    path: Path,
    tokenizer: Any,
    name: str,
    seed: int,
    *,
    size: int | None = None,
    length: int = 1024,
    answer: int = 256,
    limit: int | None = None,
    test_limit: int | None = None,
    paper_epochs: bool = True,
    shots: int = 0,
    rationales: str | None = None,
) -> Stream:
    """TRACE's eight tasks in its order; Lima, if it is there, is the stream's `past`.

    Args:
        path: The folder that holds the tasks.
        tokenizer: Of the model that is to learn.
        name: Of the stream.
        seed: Draws what `limit` keeps.
        size: Of the release, as in `read`.
        length: Most tokens of a prompt with its answer; what is longer loses its beginning.
        answer: Most tokens of a written answer.
        limit: Training examples a task; None: all.
        test_limit: Likewise, test examples.
        paper_epochs: Whether tasks are gone through 5, 3, 7, 5, 3, 5, 5 and 7 times, or as often
            as the learner says.
        shots: Solved training examples before every test prompt. With some, the scores before any
            training are those of in-context learning, the baseline without training.
        rationales: A JSONL file of rationales for the training examples
            (reasoning-augmented continual learning), as in `with_rationales`; None: bare answers.

    Raises:
        UsageError: As in `read`.
        DataError: As in `read`, or if rationales do not fit.
    """
    found = read(path, size)
    tasks = []
    for task, own in TASKS.items():
        parts = found.parts[task]
        epochs = own.epochs if paper_epochs else None
        tasks.append(Task(task, parts["train"], parts["test"], (), own.metric, answer, epochs))
    if not isinstance(shots, int) or isinstance(shots, bool) or shots < 0:
        raise UsageError(f"shots must be a whole number from 0; given: {shots!r}.")
    tasks = [with_shots(task, shots) for task in tasks]
    if rationales is not None:
        tasks = [with_rationales(task, Path(rationales)) for task in tasks]
    stream = text_tasks(
        tasks, tokenizer, name, seed,
        scoring="generate", length=length, limit=limit, test_limit=test_limit,
    )  # fmt: skip
    return replace(stream, past=_encoded(found.general, tokenizer, length))


def with_shots(task: Task, shots: int) -> Task:
    """The task with its first training examples, solved, before every test prompt."""
    shown = "".join(f"{sample.prompt} {sample.answer}\n\n" for sample in task.train[:shots])
    test = [replace(sample, prompt=shown + str(sample.prompt)) for sample in task.test]
    return replace(task, test=test)


def _encoded(samples: Sequence[Sample], tokenizer: Any, length: int) -> Table | None:
    if not samples:
        return None
    short = shortened(samples, tokenizer, length // 2)
    return encode(short, tokenizer, length=length, overlong="cut").table


def _folder(path: Path, task: str, size: int | None) -> Path | None:
    names = [f"{task}_{size}", task] if size is not None else [task]
    return next((path / name for name in names if (path / name).is_dir()), None)


def _samples(file: Path, faults: list[str]) -> tuple[Sample, ...]:
    """The entries of a file; what is wrong with it is added to `faults`."""
    short = f"{file.parent.name}/{file.name}"
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(f"no file {short}")
        return ()
    except (OSError, ValueError) as error:
        faults.append(f"{short} cannot be read ({str(error).splitlines()[0]})")
        return ()
    if not isinstance(entries, list) or not entries:
        faults.append(f"{short} is no list of entries")
        return ()
    found, bad = [], []
    for number, entry in enumerate(entries):
        prompt, answer = (
            (entry.get("prompt"), entry.get("answer")) if isinstance(entry, dict) else (None, None)
        )
        good = isinstance(prompt, str) and prompt.strip()
        if not good or not isinstance(answer, str) or not answer.strip():
            bad.append(number)
            continue
        found.append(Sample(prompt=str(prompt), answer=answer, where=f"{short}:{number}"))
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        faults.append(f"{short} has {len(bad)} entries without prompt or answer ({shown})")
    return tuple(found)
