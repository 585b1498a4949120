"""Plain fine-tuning: the lower bound."""

from __future__ import annotations

from holdfast.method import ALL_KINDS, Method, Tags


class Finetune(Method):
    """Plain training on each experience in turn, with nothing done against forgetting."""

    tags = Tags(
        family="bound",
        title="Sequential fine-tuning (lower bound)",
        source="",
        scenarios=ALL_KINDS,
    )
    starts_plain = True
