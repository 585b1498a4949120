"""Scores of single training examples: what each would teach a language model, in a few numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.checkpoint import write_atomically
from holdfast.data import Batch, Table, padded
from holdfast.errors import DataError, UsageError, at_least
from holdfast.evaluation import undisturbed
from holdfast.language.objective import IGNORED, CausalLM, objective_of
from holdfast.optim.example_gradients import Ends

FORMAT = "holdfast example selection 1"

_MARKS = ("id", "length", "content")
_SIGNALS = ("embedding", "head", "loss", "error")


@dataclass(frozen=True)
class ExampleScores:
    """One number an example, each; on the CPU.

    Attributes:
        id: Of the example: the data's `id` column, or its row.
        embedding: Norm of the gradient of its mean token loss by the input embedding.
        head: The same by the weight of the output head.
        loss: Its mean token loss in nats.
        error: Mean over its labelled tokens of |softmax - one-hot| (as EL2N).
        length: Its labelled tokens.
        content: A fingerprint of its tokens and labels, the same for examples that are equal.
    """

    id: Int[Tensor, " examples"]
    embedding: Float[Tensor, " examples"]
    head: Float[Tensor, " examples"]
    loss: Float[Tensor, " examples"]
    error: Float[Tensor, " examples"]
    length: Int[Tensor, " examples"]
    content: Int[Tensor, " examples"]

    def __len__(self) -> int:
        return len(self.id)

    @property
    def duplicates(self) -> int:
        """How many examples are repetitions of earlier ones."""
        return len(self) - len(self.content.unique())

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All of them as `(signals, marks)`, float64 and int64, (examples, columns)."""
        signals = torch.stack([getattr(self, name) for name in _SIGNALS], 1)
        return signals, torch.stack([getattr(self, name) for name in _MARKS], 1)

    @staticmethod
    def of_tensors(signals: Tensor, marks: Tensor) -> ExampleScores:
        """From what `tensors` answered."""
        columns = dict(zip(_SIGNALS, signals.cpu().unbind(1), strict=True))
        columns |= dict(zip(_MARKS, marks.cpu().unbind(1), strict=True))
        return ExampleScores(**columns)


def score(
    model: Any,
    data: Table | Iterable[Mapping[str, Any]],
    objective: CausalLM | None = None,
    *,
    tokens: int = 4096,
) -> ExampleScores:
    """Score every example by the model as it stands: exact gradient norms at both of its ends.

    The model's mode, gradients and the state of chance are afterwards as before. Nothing is kept
    of a batch but seven numbers an example, so the data may be of any size.

    Args:
        model: A Hugging Face language model, or a PEFT model around one; trainable or frozen.
        data: A table of tokens, or rows with `input_ids` and `labels` (a `datasets.Dataset`, a
            list), in the order in which they are scored. Examples are told by a column `id` if
            there is one, else by their place.
        objective: None: the one that fits the model.
        tokens: About how many tokens a forward pass takes at once.

    Raises:
        DataError: If there are no examples, or rows lack a column.
        UsageError: If the model does not tell its embeddings.

    Example:
        >>> from holdfast.testing.trials import small_llama, small_stream
        >>> scores = score(small_llama(), small_stream("text")[0].train)
        >>> len(scores), bool((scores.embedding > 0).all())
        (40, True)
    """
    at_least(1, tokens=tokens)
    table = data if isinstance(data, Table) else tabled(data)
    objective = objective or objective_of(model)
    device = next(model.parameters()).device
    rows = max(1, tokens // table["input_ids"].shape[1])
    signals, marks = [], []
    with undisturbed(model, device=device), torch.enable_grad(), Ends(model) as ends:
        for batch in table.chunks(rows):
            batch = {name: column.to(device) for name, column in batch.items()}
            losses = objective.losses(objective.forward(model, batch), batch)
            norms = ends.norms(losses.sum())
            found = (norms.embedding, norms.head, losses.detach(), norms.error)
            signals.append(torch.stack(found, 1).double().cpu())
            marks.append(torch.stack([asked(objective, batch), fingerprints(batch)], 1).cpu())
    names = table["id"].cpu() if "id" in table else torch.arange(len(table))
    return ExampleScores.of_tensors(
        torch.cat(signals), torch.cat([names[:, None], torch.cat(marks)], 1)
    )


def asked(objective: CausalLM, batch: Batch) -> Int[Tensor, " examples"]:
    """How many tokens of each example are to be predicted."""
    _, labels = objective.asked(batch["labels"], batch)
    return (labels != IGNORED).sum(1)


def fingerprints(batch: Batch) -> Int[Tensor, " examples"]:
    """A number an example, of its tokens and labels, whatever the padding.

    Sums of tokens times fixed random numbers, modulo 2^64.

    Example:
        >>> row = torch.tensor([[5, 6, 0], [5, 6, 0], [6, 5, 0]])
        >>> mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]])
        >>> found = fingerprints({"input_ids": row, "labels": row, "attention_mask": mask})
        >>> bool(found[0] == found[1]), bool(found[0] == found[2])
        (True, False)
    """
    ids, labels = batch["input_ids"], batch["labels"]
    real = batch.get("attention_mask", torch.ones_like(ids))
    total = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    # labels of -100 and padding count nothing, so that a row may be padded to any width
    for seed, values in ((1, (ids + 1) * real), (2, labels - IGNORED)):
        draw = torch.Generator().manual_seed(seed)
        least = torch.iinfo(torch.long)
        factors = torch.randint(least.min, least.max, (values.shape[1],), generator=draw)
        total += (values * factors.to(ids.device)).sum(1)
    return total


def tabled(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A table of tokens from rows of lists of different lengths, padded on the right.

    Raises:
        DataError: If there are no rows, or one lacks `input_ids` or `labels`.

    Example:
        >>> table = tabled([{"input_ids": [5, 6], "labels": [-100, 6]},
        ...                 {"input_ids": [7, 8, 9], "labels": [-100, -100, 9]}])
        >>> table["labels"].tolist(), table["length"].tolist()
        ([[-100, 6, -100], [-100, -100, 9]], [2, 3])
    """
    given = list(rows)
    if not given:
        raise DataError("There are no examples.")
    for place, row in enumerate(given):
        lacking = [name for name in ("input_ids", "labels") if name not in row]
        if lacking:
            raise DataError(
                f"Example {place} has no {' and no '.join(lacking)}; it has: {', '.join(row)}."
            )
    columns = {name: _stacked(name, [row[name] for row in given]) for name in _TOKENS}
    lengths = torch.tensor([len(row["input_ids"]) for row in given])
    columns["attention_mask"] = (
        torch.arange(columns["input_ids"].shape[1]) < lengths[:, None]
    ).long()
    columns["length"] = lengths
    if columns["labels"].shape[1] != columns["input_ids"].shape[1]:
        columns["label_length"] = torch.tensor([len(row["labels"]) for row in given])
    if all("id" in row for row in given):
        columns["id"] = torch.tensor([int(row["id"]) for row in given])
    return Table(columns)


def save(
    path: str | Path, scores: ExampleScores, rows: Tensor, **provenance: str | float | None
) -> None:
    """Write a selection with the scores that it was made from, as JSON, for other models to use.

    Args:
        path: Of the file, written atomically.
        scores: Of all examples.
        rows: Places of the chosen ones among them, as `select` answers.
        provenance: Whatever says where it is from: `model=`, `seed=`, `rule=`, `budget=`.
    """
    content = {
        "format": FORMAT,
        "provenance": provenance,
        "duplicates": scores.duplicates,
        "examples": {f.name: getattr(scores, f.name).tolist() for f in fields(scores)},
        "selected": scores.id[rows.cpu()].tolist(),
    }
    write_atomically(Path(path), json.dumps(content).encode())


@dataclass(frozen=True)
class Kept:
    """A selection read from its file.

    Attributes:
        scores: Of all examples.
        selected: Ids of the chosen ones.
        provenance: Where it is from.
    """

    scores: ExampleScores
    selected: Int[Tensor, " chosen"]
    provenance: Mapping[str, Any]

    def rows(self, table: Table) -> Int[Tensor, " chosen"]:
        """The rows of a table that were chosen, by their ids (or places), in the table's order.

        Raises:
            DataError: If the table lacks one of them.
        """
        names = table["id"].cpu() if "id" in table else torch.arange(len(table))
        chosen = torch.isin(names, self.selected)
        if not bool(torch.isin(self.selected, names).all()):
            missing = self.selected[~torch.isin(self.selected, names)]
            raise DataError(
                f"{len(missing)} of {len(self.selected)} selected examples are not in this table "
                f"(first: id {int(missing[0])})."
            )
        return chosen.nonzero().flatten()


def load(path: str | Path) -> Kept:
    """A selection as `save` wrote it.

    Raises:
        UsageError: If the file is not one.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a selection: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path} is not a selection of examples ({FORMAT!r}).")
    columns = content["examples"]
    of = {name: torch.tensor(columns[name], dtype=torch.double) for name in _SIGNALS}
    of |= {name: torch.tensor(columns[name], dtype=torch.long) for name in _MARKS}
    selected = torch.tensor(content["selected"], dtype=torch.long)
    return Kept(ExampleScores(**of), selected, content["provenance"])


_TOKENS = ("input_ids", "labels")


def _stacked(name: str, rows: Sequence[Any]) -> Tensor:
    tensors = [torch.as_tensor(row, dtype=torch.long)[None] for row in rows]
    width = max(row.shape[1] for row in tensors)
    return torch.cat([padded(name, row, width) for row in tensors])
