"""A call of `trainer.train()` as methods know it: an experience, and the stream it belongs to."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from holdfast.data import Batch, Table, concat
from holdfast.engines.rows import rows_of
from holdfast.errors import UsageError


class Stage:
    """One call of `trainer.train()`, with the attributes of an `Experience`.

    Its tables are read when first asked for, through the trainer's own collator. Where several
    processes train together, each reads its own share of the rows.

    Args:
        trainer: Whose data are read.
        index: Place among the calls, from 0.
    """

    classes: tuple[int, ...] = ()

    def __init__(self, trainer: Any, index: int) -> None:
        self._trainer = trainer
        self.index, self.name, self.sets = index, f"stage {index + 1}", dict[str, Table]()

    @cached_property
    def train(self) -> Table:
        """The training examples of this stage."""
        return read(self._trainer, self._trainer.train_dataset)

    @cached_property
    def test(self) -> Table:
        """The trainer's evaluation examples.

        Raises:
            UsageError: If it has none, or several sets.
        """
        given = self._trainer.eval_dataset
        if given is None or isinstance(given, dict):
            raise UsageError(
                "A method asks for held-out examples: give the trainer one `eval_dataset`."
            )
        return read(self._trainer, given)

    def forget_tables(self) -> None:
        """Let go of the tables, which only the stage at hand needs."""
        for name in ("train", "test"):
            self.__dict__.pop(name, None)


def read(trainer: Any, dataset: Any, rows: int = 64) -> Table:
    """This process's share of a data set as a table, in order, through the trainer's collator.

    Raises:
        UsageError: If the data set has no length, no rows, or rows of a kind unknown here.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UsageError(
            "A method looks at all training examples, and an iterable data set has no end that "
            "could be known: give the trainer a data set with a length."
        )
    count, own = trainer.accelerator.num_processes, trainer.accelerator.process_index
    chosen = list(range(len(dataset)))[own::count]
    if not chosen:
        raise UsageError("A method looks at all training examples, and the data set has none.")
    dataset, collate = without_unused(trainer, dataset)
    batches: list[Batch] = []
    for start in range(0, len(chosen), rows):
        inputs = collate([dataset[i] for i in chosen[start : start + rows]])
        batch, _ = rows_of(inputs, pairs=compares(trainer))
        if not batch:
            raise UsageError(
                "A method looks at all training examples, and knows them by a column 'input_ids' "
                f"or 'labels'; this trainer's batches have {', '.join(inputs)}."
            )
        batches.append(batch)
    return Table(concat(batches[0], *batches[1:]))


def compares(trainer: Any) -> bool:
    """Whether the trainer learns from pairs of a chosen and a rejected answer."""
    return any(cls.__name__ == "DPOTrainer" for cls in type(trainer).__mro__)


def without_unused(trainer: Any, dataset: Any) -> tuple[Any, Any]:
    """The data set and the collator with columns dropped that the model does not take."""
    import datasets

    if isinstance(dataset, datasets.Dataset):
        return trainer._remove_unused_columns(
            dataset, description="training"
        ), trainer.data_collator
    collate = trainer._get_collator_with_removed_columns(trainer.data_collator, "training")
    return dataset, collate


def choose(dataset: Any, rows: Tensor) -> Any:
    """The rows of a data set, in the order given."""
    import datasets

    if isinstance(dataset, datasets.Dataset):
        return dataset.select(rows.tolist())
    return torch.utils.data.Subset(dataset, rows.tolist())
