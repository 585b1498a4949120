"""What attaching costs a Trainer, and what a Trainer costs beside our own loop.

    python benchmarks/attach.py [--quick] [--json FILE]

`nothing`: a Trainer with `attach(trainer, [])` by one without. `hooks`: with a method that has all
hooks of a step and does nothing in them. `learner`: our loop by a Trainer on the same batches. Both
sides of a pair do the same arithmetic: after the first block their weights are the same, to
rounding (rounding grows with the hundreds of updates that follow). Blocks of a few
updates take turns in one process, in changing order, so that whatever else the machine does meets
both; figures are medians over pairs of neighbouring blocks, of all seconds and of processor
seconds. The latter hardly feel a busy machine, and are what is held against the target.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

TARGETS = {"nothing": 1.01, "hooks": 1.02, "learner": 1.00}
UPDATES, ROWS, WIDTH = 12, 4, 64


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=WIDTH,
        )
    )


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 512, (UPDATES * ROWS, WIDTH), generator=generator)


def with_trainer(methods: Any = None) -> tuple[Any, Callable[[], None]]:
    """A model, and a block of its training by a Trainer."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    import holdfast

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def log(self, *args: Any, **kwargs: Any) -> None: ...

    trainer = InOrder(
        model(),
        TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=ROWS,
            num_train_epochs=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            optim="adamw_torch",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows()],
    )
    if methods is not None:
        holdfast.attach(trainer, methods)
    return trainer.model, lambda: trainer.train() and None


def all_hooks() -> Any:
    """A method that is there at every moment of a step, and does nothing."""
    from holdfast.method import ALL_KINDS, Method, Tags

    class Idle(Method):
        tags = Tags("bound", "", "", scenarios=ALL_KINDS)
        reads_outputs = False

        def batch(self, learner: Any, batch: Any) -> Any:
            return batch

        def loss(self, learner: Any, batch: Any, outputs: Any, loss: Any) -> Any:
            return loss

        def gradients(self, learner: Any) -> None: ...

        def step(self, learner: Any) -> None: ...

    return Idle()


def with_learner() -> tuple[Any, Callable[[], None]]:
    """A model, and a block of its training by our own loop."""
    from holdfast import Learner
    from holdfast.data import Table
    from holdfast.stream import Experience, Stream

    ids = rows()
    table = Table({"input_ids": ids, "labels": ids})
    stream = Stream("rows", [Experience(0, table, table.take(slice(0, 1)), ())], "text", 0, ())
    learner = Learner(
        model(),
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0),
        optimizer_state="keep",
        batch_size=ROWS,
        clip=1.0,
        pretrained=True,
    )
    learner.start(stream)

    def block() -> None:
        learner.begin(stream[0])
        assert learner.batches is not None
        learner.batches.order = torch.arange(len(table))
        learner.train()
        learner.check_losses()

    return learner.model, block


def compare(one: Any, other: Any, pairs: int) -> dict[str, Any]:
    """Median ratio of the seconds of `other` by those of `one`, blocks taking turns."""
    (first, run_first), (second, run_second) = one, other
    wall: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for run in (run_first, run_second):  # once to warm up
        run()
    with torch.no_grad():
        parameters = zip(first.parameters(), second.parameters(), strict=True)
        apart = max(float((a - b).abs().max()) for a, b in parameters)
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            start, used = time.perf_counter(), time.process_time()
            (run_first, run_second)[side]()
            wall[side].append(time.perf_counter() - start)
            processor[side].append(time.process_time() - used)
    found: dict[str, Any] = {"weights apart": apart}
    for name, spent in (("wall", wall), ("processor", processor)):
        ratios = sorted(b / a for a, b in zip(*spent, strict=True))
        found[name] = {
            "ratio": statistics.median(ratios),
            "quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
            "milliseconds an update": [1000 * statistics.median(s) / UPDATES for s in spent],
        }
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="a third of the pairs")
    arguments.add_argument("--json", type=Path, help="write the figures here too")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    pairs = 10 if given.quick else 30
    found = {
        "nothing": compare(with_trainer(), with_trainer([]), pairs),
        "hooks": compare(with_trainer(), with_trainer(all_hooks()), pairs),
        "learner": compare(with_trainer(), with_learner(), pairs),
    }
    missed = []
    for name, figures in found.items():
        used = figures["processor"]
        theirs, ours = used["milliseconds an update"]
        print(
            f"{name:8} processor {used['ratio']:.3f} (quartiles {used['quartiles'][0]:.3f} to "
            f"{used['quartiles'][1]:.3f}; target at most {TARGETS[name]:.2f}), wall "
            f"{figures['wall']['ratio']:.3f}; {ours:.2f} against {theirs:.2f} ms an update; "
            f"weights apart {figures['weights apart']:.1e}"
        )
        if used["ratio"] > TARGETS[name] or figures["weights apart"] > 1e-3:
            missed.append(name)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
