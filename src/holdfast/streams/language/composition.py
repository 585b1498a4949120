"""What a model is fine-tuned on, and in which order: several abilities composed into stages.

Data are counted in examples. Each keeps its source and its place there, so that a loss can be told
by source and a stage be made again; smaller shares are subsets of larger ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.data import Table
from holdfast.errors import DataError, UsageError, unknown

STRATEGIES = (
    "individual",
    "multi-task",
    "sequential",
    "mixed-sequential",
    "dmt",
    "dmt-reverse",
)

IGNORED = -100


@dataclass(frozen=True)
class Stage:
    """One stage of training: a fresh optimizer and a whole schedule over one table.

    Attributes:
        name: Of what is learned.
        table: Its examples, shuffled by whoever trains; columns `source` (place in `sources`) and
            `id` (place in its source) beside those given.
        sources: Names of all sources.
        from_base: Whether it starts from the base weights; else from those of the stage before.
    """

    name: str
    table: Table
    sources: tuple[str, ...]
    from_base: bool = False

    def __iter__(self) -> Iterator[str | Table]:
        """Name and table: `for name, table in stages(...)`."""
        yield from (self.name, self.table)

    @property
    def examples(self) -> dict[str, int]:
        """Examples by source, of those that it has."""
        return self._by_source(torch.ones(len(self.table), dtype=torch.long))

    @property
    def tokens(self) -> dict[str, int]:
        """Labelled tokens by source."""
        if "labels" not in self.table:
            raise DataError("Only tables of text have tokens to count; this has no 'labels'.")
        return self._by_source((self.table["labels"] != IGNORED).sum(1))

    def _by_source(self, counts: Tensor) -> dict[str, int]:
        source = self.table["source"]
        totals = torch.zeros(len(self.sources), dtype=torch.long, device=source.device)
        totals.index_add_(0, source, counts.to(source.device))
        present = torch.bincount(source, minlength=len(self.sources)).tolist()
        named = zip(self.sources, totals.tolist(), present, strict=True)
        return {name: total for name, total, rows in named if rows}


def stages(
    strategy: str,
    specialised: Mapping[str, Table],
    general: Table,
    k: float = 1 / 256,
    seed: int = 0,
    general_name: str = "general",
) -> list[Stage]:
    """The stages of a strategy, from specialised abilities and a general one.

    With S_1 .. S_m the specialised sets and G the general one:

        individual         S_1 | ... | S_m | G     each from the base weights: one model an ability
        multi-task         S_1 + ... + S_m + G
        sequential         S_1, ..., S_m, G
        mixed-sequential   S_1 + ... + S_m, G
        dmt                S_1 + ... + S_m, G + a share k of each S
        dmt-reverse        G, S_1 + ... + S_m + a share k of G    (an ablation)

    All of them start from the same base weights, and the model is carried over where stages are
    told apart by a comma. The share is a part of what the first stage has seen: replay. k = 0 makes
    dmt mixed-sequential; k = 1 gives all of it again.

    Args:
        strategy: One of the above.
        specialised: Name to examples, in order; at least one.
        general: Examples of general ability.
        k: Share of the earlier examples in the second stage of dmt, 0 to 1.
        seed: Of the share.
        general_name: Of the general source.

    Raises:
        UsageError: If the strategy is not known, k is out of range or names clash.

    Source:
        Dong et al., "How Abilities in Large Language Models are Affected by Supervised Fine-tuning
        Data Composition" (2024).

    Example:
        >>> def text(rows):
        ...     ids = torch.arange(3 * rows).view(rows, 3)
        ...     return Table({"input_ids": ids, "labels": ids})
        >>> for name, table in stages("dmt", {"math": text(64), "code": text(32)}, text(8), k=1/16):
        ...     print(name, len(table))
        math+code 96
        general+1/16 of math+code 14
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if not specialised:
        raise UsageError("At least one specialised set is needed; none was given.")
    if general_name in specialised:
        raise UsageError(
            f"A specialised set is called {general_name!r}, as is the general one: rename one."
        )
    sources = (*specialised, general_name)
    tables = dict(zip(sources, (*specialised.values(), general), strict=True))
    marked = {name: _marked(table, sources.index(name)) for name, table in tables.items()}

    def stage(*names: str, also: tuple[str, ...] = (), from_base: bool = False) -> Stage:
        share = [subset(marked[name], k, seed, name) for name in also if k > 0]
        title = "+".join(names)
        if share:
            title += f"+{fraction_name(k)} of {'+'.join(also)}"
        parts = [marked[name] for name in names] + share
        return Stage(title, Table.concat(parts), sources, from_base)

    special = tuple(specialised)
    fraction_in_range(k)
    if strategy == "individual":
        return [stage(name, from_base=True) for name in sources]
    if strategy == "multi-task":
        return [stage(*sources, from_base=True)]
    if strategy == "sequential":
        return [stage(name, from_base=not place) for place, name in enumerate(sources)]
    if strategy == "mixed-sequential":
        return [stage(*special, from_base=True), stage(general_name)]
    if strategy == "dmt":
        return [stage(*special, from_base=True), stage(general_name, also=special)]
    return [stage(general_name, from_base=True), stage(*special, also=(general_name,))]


def subset(table: Table, fraction: float, seed: int = 0, name: str = "") -> Table:
    """A share of a table's rows, in their order; smaller shares are subsets of larger ones.

    Args:
        table: What to take from.
        fraction: Above 0 and at most 1; at least one row is taken.
        seed: Of the one permutation whose beginning is taken.
        name: Of the source; sources with different names are permuted differently.

    Example:
        >>> table = Table({"x": torch.arange(256)})
        >>> few, more = subset(table, 1 / 64), subset(table, 1 / 16)
        >>> len(few), len(more), set(few["x"].tolist()) <= set(more["x"].tolist())
        (4, 16, True)
    """
    fraction_in_range(fraction)
    if not fraction:
        raise UsageError("A subset needs a share above 0; given: 0.")
    count = max(1, round(fraction * len(table)))
    if count == len(table):
        return table
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    rows = torch.randperm(len(table), generator=generator)[:count].sort().values
    return table.take(rows.to(table.device))


def fraction_in_range(k: float) -> None:
    """Raise `UsageError` unless a share lies between 0 and 1."""
    if not 0 <= k <= 1:
        raise UsageError(f"A share of examples must lie between 0 and 1; given: {k}.")


def fraction_name(k: float) -> str:
    """A share as people say it.

    Example:
        >>> fraction_name(1 / 256), fraction_name(0.3), fraction_name(1.0)
        ('1/256', '0.3', 'all')
    """
    if k == 1:
        return "all"
    whole = round(1 / k) if k else 0
    return f"1/{whole}" if whole and abs(whole * k - 1) < 1e-9 else f"{k:g}"


def _marked(table: Table, source: int) -> Table:
    """The table with each row's source, and its place there unless it has an id."""
    device = table.device
    of = torch.full((len(table),), source, device=device)
    own = table["id"] if "id" in table else torch.arange(len(table), device=device)
    return table.with_columns(source=of, id=own)
