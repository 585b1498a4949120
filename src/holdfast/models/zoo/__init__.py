"""The zoo: small pre-trained models, each made once by a recorded recipe, then kept.

Language models (`holdfast.models.zoo.language`) that know Python's documentation, and backbones
for images (`holdfast.models.zoo.pictures`) that know one of the data sets. What is kept lies under
`HOLDFAST_CACHE` (or `~/.cache/holdfast`) in `zoo`, named after its recipe, the data it learned and
the versions that decide its bits.
"""

from holdfast.cache import VARIABLE, alone, whole
from holdfast.language.checkpoints import load
from holdfast.models.zoo.language import (
    BEGIN,
    END,
    FAMILIES,
    PAD,
    SIZES,
    Recipe,
    WarmCosine,
    byte_pairs,
    folder,
    place,
    pretrain,
    recipe,
    small_gpt2,
    small_llama,
    spoken,
    tokenizer,
    untrained,
)

__all__ = [
    "BEGIN",
    "END",
    "FAMILIES",
    "PAD",
    "SIZES",
    "VARIABLE",
    "Recipe",
    "WarmCosine",
    "alone",
    "byte_pairs",
    "folder",
    "load",
    "place",
    "pretrain",
    "recipe",
    "small_gpt2",
    "small_llama",
    "spoken",
    "tokenizer",
    "untrained",
    "whole",
]
