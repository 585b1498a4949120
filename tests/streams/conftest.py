"""A tokenizer for tests, trained in a moment on the language reference alone."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.models import zoo
from holdfast.streams.language import python


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    topics = [d.text for d in python.documentation() if d.name.startswith("topic a")]
    return zoo.byte_pairs(topics, 400)
