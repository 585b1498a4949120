"""What each of several processes does; started by test_several.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from small_methods import Half, Pull
from small_trainers import build, texts, tiny_llama, weights

from holdfast import attach
from holdfast.errors import HoldfastError
from holdfast.method import Method, chain
from holdfast.methods import ER, L2


class Astray(Method):
    """Changes gradients by a draw of each process's own."""

    tags = Half.tags

    def gradients(self, learner: Any) -> None:
        for p in learner.parameters:
            if p.grad is not None:
                p.grad *= 1 + torch.rand((), generator=learner.generator)


METHODS = {
    "pull": lambda: chain(Pull(2.0), Half()),
    "replay": lambda: chain(ER(capacity=6), L2(0.1), Half()),
    "astray": Astray,
}


def learn(name: str, folder: Path, resume: Path | None = None) -> dict[str, Any]:
    """Two stages, or what is left of them; four rows an update whatever the processes."""
    trainer = build(
        tiny_llama(),
        texts(16, seed=1),
        folder,
        optim="sgd",
        learning_rate=0.1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4 // int(os.environ.get("WORLD_SIZE", "1")),
        save_strategy="steps",
        save_steps=1,
    )
    bridge = attach(trainer, METHODS[name]())
    found: dict[str, Any] = {"processes": trainer.accelerator.num_processes, "error": ""}
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trainer.args.save_strategy = "no"  # the first stage's checkpoints are those to keep
        trainer.train()
    except HoldfastError as error:
        found["error"] = str(error)
    buffer = next((p.buffer for p in bridge.method.parts() if isinstance(p, ER)), None)
    return found | {
        "weights": {n: w.tolist() for n, w in weights(trainer.model).items()},
        "trained": [n for n, p in trainer.model.named_parameters() if p.requires_grad],
        "updates": bridge.updates,
        "stored": buffer.columns["input_ids"].tolist() if buffer is not None else [],
    }


def main(folder: Path) -> None:
    found = {name: learn(name, folder / name) for name in METHODS}
    found["resumed"] = learn("replay", folder / "resumed", folder / "replay" / "checkpoint-1")
    process = os.environ["RANK"]
    (folder / f"found-{process}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
