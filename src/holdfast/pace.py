"""How a model meets what arrives at test time; nothing here imports PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.settings import Settings, setting


@dataclass(frozen=True)
class Pace(Settings):
    """How a model meets what arrives.

    Attributes:
        batch_size: Images asked about at once.
        steps: Updates with each batch.
        reset: When everything is set back to the source: `never`, with each `domain` (which no
            method is told of otherwise), or with each `batch`.
        limit: Images of each domain; None: all.
        in_order: Whether images come in the order of the files, and not shuffled within a domain.
        seed: Of all random choices.
    """

    called: ClassVar[str] = "adaptation"

    batch_size: int = setting(64, "Images asked about at once.", least=1)
    steps: int = setting(1, "Updates with each batch.", least=1)
    reset: str = setting(
        "never",
        "When to set back to the source: never, domain or batch.",
        choices=("never", "domain", "batch"),
    )
    limit: int | None = setting(None, "Images of each domain (default: all).", least=1)
    in_order: bool = setting(False, "Take images in the order of the files, not shuffled.")
    seed: int = setting(0, "Seed of all random choices.", least=0, below=2**63)
