"""What encoding makes of samples: a table, and what became of each sample."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from holdfast.data import Table


@dataclass(frozen=True)
class Encoded:
    """A table of tokens and what became of the samples.

    Attributes:
        table: Columns `input_ids` and `labels`; unpacked also `attention_mask` and `length`, for
            encoder-decoder models `label_length`; packed samples also `position_ids`.
        samples: Samples given.
        tokens: Tokens in the table without padding.
        scored: Tokens that are predicted.
        longest: Tokens of the longest sample, before anything was cut.
        cut: Samples that lost tokens for being too long.
        skipped: Samples left out for being too long.
        unscored: Samples left out because no token of them would be predicted.
        dropped: Tokens at the end of packed texts that do not fill a row.
        kept: The sample of each row; None where rows hold several.
        overlong: Places of the first samples that were too long.
    """

    table: Table
    samples: int
    tokens: int
    scored: int
    longest: int
    cut: int = 0
    skipped: int = 0
    unscored: int = 0
    dropped: int = 0
    kept: Int[Tensor, " rows"] | None = None
    overlong: tuple[str, ...] = ()

    @property
    def padding(self) -> float:
        """The share of `input_ids` that is padding."""
        cells: int = self.table["input_ids"].numel()
        return 1 - self.tokens / cells


def describe(encoded: Encoded) -> dict[str, float]:
    """The numbers of a dry run: rows, tokens, what is scored, padded, cut and left out."""
    return {
        "samples": encoded.samples,
        "rows": len(encoded.table),
        "tokens": encoded.tokens,
        "scored": encoded.scored,
        "longest": encoded.longest,
        "padding": encoded.padding,
        "cut": encoded.cut,
        "skipped": encoded.skipped,
        "unscored": encoded.unscored,
        "dropped": encoded.dropped,
    }
