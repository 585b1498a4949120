"""What a step of half fine-tuning costs, by a step of full fine-tuning.

    python benchmarks/hft.py [--quick] [--json FILE]

A Llama of 26 million weights (embeddings not counted) is trained on random tokens with AdamW, all
of it and half of it (`HFT`), with embeddings and output layer trained and frozen. A run is a block
of updates; runs of both sides take turns in one process, in changing order, so that whatever else
the machine does meets both. The figures are medians over five pairs of neighbouring runs: ratios of
processor seconds, of the whole step and of its forward pass, backward pass and optimizer, and the
bytes of gradients and of optimizer state.

By counting operations alone, half of the blocks saves a quarter of their backward pass: that of a
matrix has two products, of which the one for its own gradient is left out. That is a sixth of a
forward and a backward pass. The optimizer's work on the blocks is halved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from holdfast.methods import HFT

PARTS = ("forward", "backward", "optimizer")
PAIRS, UPDATES, ROWS, TOKENS = 5, 6, 4, 128


class Side(NamedTuple):
    """One way of training: what is trained, and a run of it that answers with seconds by part."""

    model: Any
    optimizer: torch.optim.Optimizer
    run: Callable[[int], dict[str, float]]

    def bytes(self) -> dict[str, int]:
        state = [
            value
            for entry in self.optimizer.state.values()
            for value in entry.values()
            if torch.is_tensor(value)
        ]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return {
            "trained": sum(p.numel() for p in trained),
            "gradient_bytes": sum(g.numel() * g.element_size() for g in gradients),
            "state_bytes": sum(s.numel() * s.element_size() for s in state),
        }


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            max_position_embeddings=TOKENS,
        )
    )


def full(model: Any, embeddings: str) -> Any:
    """All weights; embeddings, output layer and last norm as asked."""
    inside = {id(p) for p in model.model.layers.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(embeddings == "train" or id(parameter) in inside)
    return model


def half(model: Any, embeddings: Any) -> Any:
    HFT(embeddings=embeddings).freeze(model)
    return model


def side(model: Any) -> Side:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (ROWS, TOKENS), generator=generator)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def run(updates: int) -> dict[str, float]:
        spent = dict.fromkeys(PARTS, 0.0)
        for _ in range(updates):
            optimizer.zero_grad()
            at = [time.process_time()]
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            at.append(time.process_time())
            loss.backward()
            at.append(time.process_time())
            optimizer.step()
            at.append(time.process_time())
            for part, before, after in zip(PARTS, at[:-1], at[1:], strict=True):
                spent[part] += after - before
        return spent

    model.train()
    return Side(model, optimizer, run)


def compare(one: Side, other: Side, pairs: int, updates: int) -> dict[str, Any]:
    """Both sides in turn; medians of seconds and of ratios, by part of a step."""
    spent: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for each in (one, other):
        each.run(1)  # makes the optimizer's state
    for pair in range(pairs):
        for place in (0, 1) if pair % 2 else (1, 0):
            seconds = (one, other)[place].run(updates)
            spent[place].append({**seconds, "step": sum(seconds.values())})
    found: dict[str, Any] = {}
    for part in ("step", *PARTS):
        mine, theirs = ([run[part] for run in runs] for runs in spent)
        ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
        found[part] = {
            "full_ms": 1000 * statistics.median(mine) / updates,
            "half_ms": 1000 * statistics.median(theirs) / updates,
            "ratio": statistics.median(ratios),
            "least": ratios[0],
            "most": ratios[-1],
        }
    before, after = one.bytes(), other.bytes()
    for name, count in before.items():
        found[name] = {"full": count, "half": after[name], "ratio": after[name] / count}
    return found


def show(embeddings: str, found: dict[str, Any]) -> None:
    print(f"\nembeddings and output layer: {embeddings}")
    print(f"{'':<20} {'full':>10} {'HFT':>10} {'ratio':>7}")
    for part in ("step", *PARTS):
        f = found[part]
        print(
            f"{part + ', ms':<20} {f['full_ms']:>10.1f} {f['half_ms']:>10.1f} {f['ratio']:>7.3f}  "
            f"({f['least']:.3f} to {f['most']:.3f})"
        )
    for name, words, scale in (
        ("trained", "weights, millions", 1e6),
        ("gradient_bytes", "gradients, MiB", 2**20),
        ("state_bytes", "optimizer, MiB", 2**20),
    ):
        f = found[name]
        print(
            f"{words:<20} {f['full'] / scale:>10.1f} {f['half'] / scale:>10.1f} {f['ratio']:>7.3f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two updates a run; noisier")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = llama()
    count = sum(p.numel() for p in model.model.layers.parameters())
    print(
        f"torch {torch.__version__}; {count / 1e6:.1f} million weights in blocks, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} in all; {PAIRS} pairs of runs"
    )
    results = {}
    for embeddings in ("train", "freeze"):
        sides = [side(choose(deepcopy(model), embeddings)) for choose in (full, half)]
        results[embeddings] = compare(*sides, PAIRS, 2 if given.quick else UPDATES)
        show({"train": "trained", "freeze": "frozen"}[embeddings], results[embeddings])
    if given.json:
        given.json.write_text(json.dumps({"torch": torch.__version__, **results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
