"""A thousand facts edited one after another, with five editors.

    python benchmarks/edit.py [--edits 1000] [--methods wise,grace,memit,ft_l] [--out runs/edit]

HOLDFAST_DATA names the folder with CounterFact. A small Llama of the zoo is first trained on the
original facts, in both wordings, and on the neighbours' facts, until it knows nine tenths of the
facts word for word (once; it is kept). Then every fact is given CounterFact's new target, in
sequence, and all edits so far are measured after 1, 10, 100 and 1000: reliability, generalization
to the other wording, and locality on neighbours' facts that no editor is shown. What is in --out is
not run again.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

EDITORS = {
    "wise": "wise(lr=2.0, steps=25, prefixes=4, shard=50, merge=100)",
    "wise_retrieve": "wise(mode=retrieve, lr=2.0, steps=25, prefixes=4, shard=50, merge=100)",
    "grace": "grace(steps=40)",
    "memit": "memit(steps=12, prefixes=2)",
    "rome": "rome(steps=12, prefixes=2)",
    "ft_l": "ft_l",
}
"""One setting each, none tuned to the others' disadvantage."""

DEFAULT = "wise,grace,memit,ft_l"


def base(edits: int, out: Path) -> tuple[Path, float]:
    """A folder with a model that knows the originals, and the share that it knows."""
    from holdfast.language.fields import Sample
    from holdfast.models import knowing
    from holdfast.streams.language.edits import read_edits
    from holdfast.streams.sources import data_file

    requests = read_edits(data_file("counterfact/edits.jsonl.gz"), edits, bad=[])
    facts = [Sample(prompt=r.prompt, answer=r.original.strip()) for r in requests]
    again = [Sample(prompt=r.rephrase, answer=r.original.strip()) for r in requests]
    near = [
        Sample(prompt=prompt, answer=r.locality_answer.strip())
        for r in requests
        for prompt in (r.locality,)
        if r.locality_answer.strip()
    ]
    unique = {(s.prompt, s.answer): s for s in [*facts, *again, *near]}
    loaded = knowing.model_of(list(unique.values()), width=128, epochs=60, lr=3e-3, wanted=0.95)
    return loaded.path, knowing.exact_match(loaded.model, loaded.tokenizer, facts)


def run(name: str, model: Path, edits: int, out: Path) -> dict[str, Any]:
    """One editor: all edits, unless they have been made already."""
    from holdfast.edit import edit
    from holdfast.edit_config import EditConfig
    from holdfast.streams.sources import data_file

    folder = out / f"{name}-{edits}"
    if not (folder / "edit.json").exists():
        config = EditConfig(
            str(model),
            str(data_file("counterfact/edits.jsonl.gz")),
            EDITORS[name],
            limit=edits,
            skip_bad=True,
            device="cpu",
            no_fluency=True,
            keep_checkpoints=1,
            checkpoint_every=max(1, edits // 4),
        )
        edit(config, folder, resume=(folder / "config.json").exists())
    found: dict[str, Any] = json.loads((folder / "edit.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--methods", default=DEFAULT, help=f"of {', '.join(EDITORS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/edit"))
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    model, known = base(given.edits, given.out)
    print(f"The model knows {100 * known:.1f} % of the {given.edits} facts word for word.\n")
    header = ("editor", "edits", "reliability", "generalization", "locality", "mean", "exact")
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    costs = []
    for name in given.methods.split(","):
        found = run(name, model, given.edits, given.out)
        for point in found["points"]:
            cells = [f"{100 * point[k]:.1f}" for k in (*header[2:5], "score", "exact")]
            print(f"| {name} | {point['edits']} | " + " | ".join(cells) + " |", flush=True)
        speed = found["edits_per_second"]
        costs.append(f"{name}: {speed:.2f} edits a second, {found['bytes_per_edit']:,.0f} bytes")
    print("\nSequential, all edits so far; shares in percent.")
    for name in ("reliability", "generalization", "locality"):
        print(f"{name}: {found['measures'][name]}.")
    print("Growth of what the editor keeps, for each edit:")
    print("\n".join(costs))


if __name__ == "__main__":
    main()
