"""What merging two checkpoints costs: memory by one model's size, time by reading and writing.

    python benchmarks/merge.py [--quick] [--json FILE]

A base and two models tuned from it, random Llamas of 106 million weights in float32 (with --quick:
of 13 million), are written to disk. Each rule then merges the two in a process of its own. Memory
is the largest resident set of that process less what it had after importing everything; time is
the wall time of the merge, from the call until the folder stands, by that of reading the same files
and writing as many bytes as the merged model has, brought to the disk as well. Both alternate, and
files are in the page cache for both. The figures are medians over the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RULES = (
    "average",
    "task_arithmetic(scale=0.4)",
    "slerp(t=0.5)",
    "dare(drop=0.5)",
    "ties(density=0.2)",
    "breadcrumbs",
    "neuron_fusion(share=0.2, rest=0.3)",
)
RUNS, BUFFER = 3, 2**22


def make(folder: Path, seed: int, quick: bool) -> int:
    """A random Llama in a folder; answers with its number of weights."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    width, rows = (256, 8000) if quick else (768, 32000)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=width, intermediate_size=8 * width // 3, num_attention_heads=8,
        num_key_value_heads=4, num_hidden_layers=12, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def resident() -> int:
    """Bytes of this process that are in memory at their most, from Linux's own books."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def child(rule: str, folder: Path, out: Path) -> None:
    """One merge, in this process; prints its seconds and bytes."""
    import torch

    from holdfast.merge import build, merge
    from holdfast.merge.plan import prepare

    torch.set_num_threads(1)
    made = build(rule)
    models: list[Path] = [folder / "one", folder / "two"]
    if made.most == 1:
        models = models[:1]
    base = folder / "base" if made.of_changes else None
    prepare(models, made, base=base).inputs.skeleton()  # imports what reading models takes
    before = resident()
    begun = time.perf_counter()
    merge(models, out, rule=made, base=base)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "bytes": resident() - before}))


def plainly(read: list[Path], out: Path, size: int) -> float:
    """Seconds for reading files and writing `size` bytes, without looking at them."""
    buffer = bytearray(BUFFER)
    view = memoryview(buffer)
    begun = time.perf_counter()
    left = size
    with out.open("wb") as target:
        for path in read:
            with path.open("rb", buffering=0) as source:
                while count := source.readinto(buffer):
                    if left:
                        target.write(view[: min(count, left)])
                        left -= min(count, left)
        target.flush()
        os.fsync(target.fileno())
    seconds = time.perf_counter() - begun
    out.unlink()
    return seconds


def measure(rule: str, folder: Path, size: int, runs: int) -> dict[str, Any]:
    from holdfast.merge import build

    made = build(rule)
    names = ["base"] if made.of_changes else []
    names += ["one"] if made.most == 1 else ["one", "two"]
    read = [folder / name / "model.safetensors" for name in names]
    merging, plain, held = [], [], []
    for run in range(runs):
        plain.append(plainly(read, folder / "plain.bin", size))
        out = folder / f"out-{run}"
        command = [sys.executable, __file__, "--child", rule, str(folder), str(out)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(said.splitlines()[-1])
        merging.append(found["seconds"])
        held.append(found["bytes"])
        subprocess.run(["rm", "-r", str(out)], check=True)
    return {
        "seconds": statistics.median(merging),
        "plain": statistics.median(plain),
        "ratio": statistics.median(m / p for m, p in zip(merging, plain, strict=True)),
        "memory": max(held) / size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small models, one run; no evidence")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--rule", action="append", help="this one only; may be given again")
    parser.add_argument(
        "--child", nargs=3, metavar=("RULE", "FOLDER", "OUT"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]), Path(given.child[2]))
        return 0
    results = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        folder = Path(place)
        for seed, name in enumerate(("base", "one", "two")):
            weights = make(folder / name, seed, given.quick)
        size = (folder / "one" / "model.safetensors").stat().st_size
        print(f"two models of {weights / 1e6:.0f} million weights, {size / 1e6:.0f} MB each")
        print(f"{'rule':<36} {'seconds':>8} {'read+write':>11} {'ratio':>6} {'memory / model':>15}")
        for rule in given.rule or RULES:
            found = results[rule] = measure(rule, folder, size, 1 if given.quick else RUNS)
            print(
                f"{rule:<36} {found['seconds']:>8.2f} {found['plain']:>11.2f} "
                f"{found['ratio']:>6.2f} {found['memory']:>15.2f}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps({"bytes": size, "rules": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
