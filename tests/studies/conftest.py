"""Tests that run a study in its quick form are marked `study`: `make test-studies` runs them."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a `trial`, or is one by its name."""
    for item in items:
        if "studies" in item.path.parts and (
            "trial" in getattr(item, "fixturenames", ()) or item.name.startswith("test_a_trial")
        ):
            item.add_marker(pytest.mark.study)
