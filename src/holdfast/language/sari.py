"""SARI, the measure of text simplification, which no kept library offers without a download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np


def sari(source: str, prediction: str, references: Sequence[str]) -> float:
    """How well words were kept, added and deleted when a text was simplified, from 0 to 1.

    The mean over n-grams of 1 to 4 words of three numbers: F1 of what was kept, F1 of what was
    added, precision of what was deleted; counts of the source and the prediction are multiplied by
    the number of references. Words are sacrebleu's (13a), in lower case.

    Args:
        source: What was to be simplified.
        prediction: What was made of it.
        references: What might have been, one or more.

    Source: Xu et al., "Optimizing statistical machine translation for text simplification" (2016).
    Differs from the authors' first code, as later implementations do: recall of what was kept
    divides by all that should have been kept, and 0/0 is 1 (nothing to do, nothing done).

    Example:
        >>> source = "About 95 species are currently accepted ."
        >>> wanted = ["About 95 species are currently known .",
        ...           "About 95 species are now accepted .", "95 species are now accepted ."]
        >>> round(sari(source, "About 95 you now get in .", wanted), 4)
        0.2695
    """
    words, made = _words(source), _words(prediction)
    wanted = [_words(reference) for reference in references]
    return float(np.mean([_operations(n, words, made, wanted) for n in range(1, 5)]))


def _operations(
    n: int, source: list[str], made: list[str], wanted: Sequence[list[str]]
) -> tuple[float, float, float]:
    """F1 of keeping, F1 of adding, precision of deleting, for n-grams."""
    of_source = Counter({gram: len(wanted) * c for gram, c in _grams(source, n).items()})
    of_made = Counter({gram: len(wanted) * c for gram, c in _grams(made, n).items()})
    of_wanted = Counter[Any]()
    for words in wanted:
        of_wanted.update(_grams(words, n))

    kept, should_keep = of_source & of_made, of_source & of_wanted
    rightly = kept & of_wanted
    keep = _f1(
        _share(sum(count / kept[gram] for gram, count in rightly.items()), len(kept)),
        _share(rightly.total(), should_keep.total()),
    )
    deleted = of_source - of_made
    rightly = deleted - of_wanted
    delete = _share(sum(count / deleted[gram] for gram, count in rightly.items()), len(deleted))
    added, should_add = set(of_made) - set(of_source), set(of_wanted) - set(of_source)
    good = len(added & set(of_wanted))
    return keep, _f1(_share(good, len(added)), _share(good, len(should_add))), delete


def _grams(words: list[str], n: int) -> Counter[Any]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@lru_cache(1)
def _splitter() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    split: Callable[[str], str] = Tokenizer13a()
    return split


def _words(text: str) -> list[str]:
    return _splitter()(text.lower()).split()
