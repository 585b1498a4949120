"""Fine-tune a real pre-trained Llama, and see which methods keep its stories.

    python benchmarks/stories.py DATA [--seeds 3] [--updates 300] [--out runs/stories]

DATA is the folder that HOLDFAST_DATA names. The model writes stories by itself, which serve as the
guard set; then it learns Shakespeare's plays by plain fine-tuning, at half the learning rate, and
with several methods. Each is compared with plain fine-tuning after as many updates and where both
have learned the plays equally well. `holdfast diff` judges whether plain fine-tuning's loss is more
than chance. What is in --out is not run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch

METHODS = {
    "finetune": {},
    "finetune, half rate": {"rate": 0.5},
    "hft": {"method": "hft"},
    "l2": {"method": "l2(strength=0.3)"},
    "lwf": {"method": "lwf(alpha=1.0, temperature=1.0)"},
    "ewc": {"method": "ewc(strength=100.0)"},
    "replay of its own text": {"method": "replay(source=self, fraction=0.25)"},
    "lora": {"lora": "lora(rank=8)", "rate": 10.0},
}
"""Arms: changes of the recipe. None is tuned to the others' disadvantage: one setting each."""

LENGTH, ROWS, RATE = 128, 16, 1e-3


def prepare_data(data: Path, out: Path) -> None:
    """The model's own stories, plays to learn, and another corpus, as files."""
    from holdfast.language.checkpoints import load
    from holdfast.language.generate import sample_tokens

    out.mkdir(parents=True, exist_ok=True)
    if not (out / "stories.jsonl").exists():
        loaded = load(data / "weights" / "stories260k")
        drawn = sample_tokens(loaded.model, 256, LENGTH, seed=12345, batch_size=128)
        texts = loaded.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts if text.strip())
        (out / "stories.jsonl").write_text(lines)
    plays = _text(data / "corpora" / "tinyshakespeare.txt.gz")
    (out / "plays.txt").write_text(plays[:600_000])
    (out / "plays_held_out.txt").write_text(plays[-40_000:])
    wiki = _text(data / "corpora" / "wikitext2_test.txt.gz")
    (out / "wikipedia.txt").write_text(wiki[:40_000])


def _text(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def run(job: tuple[str, int, Path, Path, int]) -> dict[str, Any]:
    """One arm under one seed: its way, and, for plain fine-tuning, what `diff` finds."""
    arm, seed, data, out, updates = job
    torch.set_num_threads(1)
    kept = out / f"{arm.replace(' ', '-').replace(',', '')}-{seed}-{updates}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    from holdfast.diff import diff
    from holdfast.finetune import build_learner
    from holdfast.language.checkpoints import save
    from holdfast.language.plan import prepare
    from holdfast.recipe import Recipe
    from holdfast.studies.controls import Watch

    changes = dict(METHODS[arm])
    recipe = Recipe(
        str(data / "weights" / "stories260k"),
        (str(out / "plays.txt"),),
        method=changes.get("method", "finetune"),
        guard=(str(out / "stories.jsonl"), str(out / "wikipedia.txt")),
        test=(str(out / "plays_held_out.txt"),),
        lora=changes.get("lora"),
        length=LENGTH,
        batch_size=ROWS,
        lr=RATE * changes.get("rate", 1.0),
        seed=seed,
    )
    plan = prepare(recipe, torch.device("cpu"))
    table = plan.stream[0].train.take(slice(0, updates * ROWS))
    experience = plan.stream.experiences[0]
    from dataclasses import replace

    stream = replace(plan.stream, experiences=[replace(experience, train=table)])
    learner = build_learner(plan)
    sets = experience.sets
    tables = {
        "new": experience.test,
        "old": sets["guard:stories"],
        "other": sets["guard:wikipedia"],
    }
    watch = Watch(tables, every=max(1, updates // 20))
    learner.start(stream)
    watch.look(learner)
    learner.learn(stream, [watch])
    found: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "way": watch.way,
        "seconds": learner.record.cost["seconds"],
        "notes": learner.record.notes,
    }
    if arm == "finetune":
        folder = out / f"model-{seed}-{updates}"
        save(learner.model, plan.loaded.tokenizer, folder, replace=True)
        verdicts = diff(recipe.model, folder, recipe.guard, weights=False).sets
        found["diff"] = {
            s.name: {
                "loss": s.loss,
                "interval": (s.judged.low, s.judged.high),
                "verdict": s.verdict,
            }
            for s in verdicts
        }
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from holdfast.studies.controls import cut_at_equal_new_loss, cut_at_equal_updates
    from holdfast.studies.study import Results, shown

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/stories"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    prepare_data(given.data, given.out)
    jobs = [
        (arm, seed, given.data, given.out, given.updates)
        for seed in range(given.seeds)
        for arm in METHODS
    ]
    with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
        done = pool.map(run, jobs, chunksize=1)
    results = Results({arm: [one for one in done if one["arm"] == arm] for arm in METHODS})
    for one in results.runs["finetune"]:
        for name, found in one["diff"].items():
            low, high = found["interval"]
            print(
                f"diff, plain fine-tuning, seed {one['seed']}, {name}: loss {found['loss'][0]:.3f} "
                f"to {found['loss'][1]:.3f} [{low:+.3f}, {high:+.3f}]: {found['verdict']}"
            )
    table = Table(title=f"{given.updates} updates on plays, {given.seeds} seeds", box=None)
    for name in (
        "method", "plays", "stories", "wikipedia",
        "forgetting cut\n(equal updates, %)", "forgetting cut\n(equal plays, %)", "seconds",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "method" else "right")
    for arm, runs in results.runs.items():
        last = [[one["way"][-1][key] for one in runs] for key in ("new", "old", "other")]
        table.add_row(
            arm,
            *(shown(values, percent=False) for values in last),
            shown(cut_at_equal_updates(results, arm, "finetune")),
            shown(cut_at_equal_new_loss(results, arm, "finetune")),
            shown([one["seconds"] for one in runs], percent=False),
        )
    first = results.runs["finetune"][0]["way"][0]
    print(
        f"Before: plays {first['new']:.3f}, stories {first['old']:.3f}, "
        f"wikipedia {first['other']:.3f}"
    )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
