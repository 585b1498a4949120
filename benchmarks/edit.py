"""A thousand facts edited one after another, with four editors, one of them in two modes.

    python benchmarks/edit.py [--edits 1000] [--methods wise,wise_retrieve,...] [--out runs/edit]

HOLDFAST_DATA names the folder with CounterFact. A small Llama is first taught the original facts,
in both wordings, and the neighbours' facts (once; it is kept). Then every fact is given
CounterFact's new target, in sequence, and all edits so far are measured after 1, 10, 100 and 1000:
reliability, generalization to the other wording, and locality on the neighbours' facts, which no
editor is shown. What is in --out is not run again; what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.language.fields import Sample
    from holdfast.language.requests import Request

EDITORS = {
    "wise": "wise(lr=3.0, steps=20, prefixes=2, shard=50, merge=100)",
    "wise_retrieve": "wise(mode=retrieve, lr=3.0, steps=20, prefixes=2, shard=5, merge=10)",
    "grace": "grace(steps=30, lr=10.0, radius=20.0)",
    "memit": "memit(at=last, layer=2, layers=1, known=20.0, steps=8, lr=10.0, clamp=4.0, "
    "prefixes=1)",
    "ft_l": "ft_l(lr=0.01)",
}
"""Settings chosen on the last 20 facts alone; more of them, `rome` say, may be added.

Shards are as small as the matrix is: the paper's 500 edits have 12 million entries, five here have
5,000. Facts are looked up at the prompt's last token, since no single token of a subject decides
what so small a model answers.
"""

SHARES = ("reliability", "generalization", "locality", "score", "exact")


def taught(requests: list[Request]) -> dict[str, list[Sample]]:
    """What the model is taught: facts, the same in other words, and the neighbours' facts."""
    from holdfast.language.fields import Sample

    return {
        "facts": [Sample(prompt=r.prompt, answer=r.original.strip()) for r in requests],
        "the same in other words": [
            Sample(prompt=r.rephrase, answer=r.original.strip()) for r in requests
        ],
        "neighbours' facts": [
            Sample(prompt=r.locality, answer=r.locality_answer.strip()) for r in requests
        ],
    }


def base(requests: list[Request], out: Path) -> Path:
    """A folder with a model that knows the originals; says how many of them."""
    from holdfast.checkpoint import write_atomically
    from holdfast.models import knowing

    parts = taught(requests)
    every = [sample for row in zip(*parts.values(), strict=True) for sample in row]
    unique = {(sample.prompt, sample.answer): sample for sample in every}
    told = "\n".join(f"{sample.prompt} {sample.answer}." for sample in unique.values())
    write_atomically(out / "known.txt", told.encode())
    loaded = knowing.model_of(
        list(unique.values()),
        width=96,
        epochs=26,
        lr=4e-3,
        batch_size=24,
        wanted=0.98,
        pretrained=False,
        vocabulary=4096,
    )
    for name, samples in parts.items():
        share = knowing.exact_match(loaded.model, loaded.tokenizer, samples)
        print(f"The model knows {100 * share:.1f} % of {len(samples)} {name}, word for word.")
    return loaded.path


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
            past=(str(out / "known.txt"),),
            device="cpu",
            no_fluency=True,
            keep_checkpoints=1,
            checkpoint_every=max(1, edits // 4),
        )
        edit(config, folder, resume=(folder / "config.json").exists())
    found: dict[str, Any] = json.loads((folder / "edit.json").read_text())
    return found


def routed(folder: Path, edits_a_memory: int) -> str:
    """How often the router finds an edit's own memory, and what is told with that one alone."""
    from dataclasses import replace

    import numpy as np

    from holdfast.edit import edits_in
    from holdfast.language.checkpoints import load
    from holdfast.language.editing import Measure
    from holdfast.language.reading import prompted
    from holdfast.models.beside import beside
    from holdfast.models.side_memory import SideMemory

    loaded = load(folder)
    memory = beside(loaded.model)
    assert isinstance(memory, SideMemory)
    kept, least = memory.kept, memory.least
    assert kept is not None
    assert least is not None
    asked = [replace(r, locality="", locality_answer="") for r in edits_in(folder)]
    measure = Measure(loaded.model, loaded.tokenizer, asked, fluency=False)
    found, alone = [], []
    for own in range(len(kept)):
        rows = range(own * edits_a_memory, min(len(asked), (own + 1) * edits_a_memory))
        memory.kept, memory.least = kept, least
        for row in rows:
            question = measure.asked[row]
            assert question is not None
            prompted(loaded.model, [question])
            found.append(memory.passing.chosen is not None and int(memory.passing.chosen) == own)
        memory.kept, memory.least = kept[own : own + 1], least[own : own + 1]
        told = measure.of(loaded.model, rows)
        alone.append((told.reliability, told.generalization))
    reliability, generalization = np.mean(alone, 0)
    return (
        f"wise_retrieve: the router finds {100 * np.mean(found):.1f} % of the edits' own memories; "
        f"with those alone reliability is {100 * reliability:.1f} and generalization "
        f"{100 * generalization:.1f} %."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--methods", default=",".join(EDITORS), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/edit"))
    given = parser.parse_args()
    names = given.methods.split(",")
    strange = [name for name in names if name not in EDITORS]
    if strange:
        parser.error(f"no editor {strange[0]!r}; accepted: {', '.join(EDITORS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from holdfast.streams.language.edits import read_edits
    from holdfast.streams.sources import data_file

    torch.set_num_threads(1)
    requests = read_edits(data_file("counterfact/edits.jsonl.gz"), given.edits, bad=[])
    given.out.mkdir(parents=True, exist_ok=True)
    model = base(requests, given.out)
    header = ("editor", "edits", "reliability", "generalization", "locality", "mean", "exact")
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header), flush=True)
    costs, measures = [], {}
    for name in names:
        found = run(name, model, given.edits, given.out)
        for point in found["points"]:
            cells = [f"{100 * point[share]:.1f}" for share in SHARES]
            print(f"| {name} | {point['edits']} | " + " | ".join(cells) + " |", flush=True)
        measures = found["measures"]
        kept = found["points"][-1]["bytes"]
        cells = [f"{found['edits_per_second']:.1f}", f"{kept:,}", f"{found['bytes_per_edit']:,.0f}"]
        costs.append(f"| `{found['config']['method']}` | " + " | ".join(cells) + " |")
    print("\nSequential; all edits so far, measured after the last; shares in percent.")
    for share in SHARES:
        print(f"{share if share != 'score' else 'mean'}: {measures[share]}.")
    header = ("editor", "edits a second", "bytes kept at the end", "more bytes for each edit")
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    print("\n".join(costs))
    if "wise_retrieve" in names and given.edits >= 20:
        print("\n" + routed(given.out / f"wise_retrieve-{given.edits}" / "model", 10))


if __name__ == "__main__":
    main()
