"""What pages on one piece of work say alike: what was asked for, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.settings import Settings


def given(settings: Settings) -> list[tuple[str, Any]]:
    """The settings that were given or that say something, by name."""
    return [(n, value) for n, value in settings.to_dict().items() if value not in (None, [], False)]


def costs(cost: Mapping[str, float]) -> list[tuple[str, str]]:
    """What a record of training cost, as it is shown."""
    return [
        ("updates", f"{cost['steps']:,.0f}"),
        ("seconds of training", f"{cost['seconds']:,.1f}"),
        ("floating-point operations", f"{cost['flops']:.3g}"),
        ("peak memory", f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB"),
        ("kept by the method", f"{cost['method_bytes'] / 2**20:,.1f} MiB"),
    ]
