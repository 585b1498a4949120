"""Text metrics: one score per prediction, from 0 (worst) to 1 (best).

Publications that write ROUGE, BLEU, SARI and edit similarity on a scale of 100 mean 100 times
these. An empty prediction scores 0, and the mean is over all items. Where an item has several
references, the best counts; BLEU and SARI use them together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import UsageError, unknown
from holdfast.language.sari import sari as sari_of_one
from holdfast.spec import bind, parse

Scores = NDArray[np.float64]
References = Sequence[str | Sequence[str]]
"""One reference an item, or several."""


def exact_match(
    predictions: Sequence[str],
    references: References,
    *,
    case: bool = True,
    whitespace: bool = False,
    first: int | None = None,
) -> Scores:
    """1 where the prediction is the reference.

    Args:
        predictions: Texts.
        references: As many.
        case: Whether letters' case counts.
        whitespace: Whether spaces count: if not, outer ones go and inner runs become one space.
        first: Compare so many characters only (ScienceQA's answer letter before its rationale).

    Example:
        >>> exact_match([" B  or not", ""], ["B or not", ""]).tolist()
        [1.0, 0.0]
    """

    def plain(text: str) -> str:
        text = text if whitespace else " ".join(text.split())
        return (text if case else text.casefold())[:first]

    return _scored(predictions, references, lambda p, r: float(plain(p) == plain(r)))


def number_match(predictions: Sequence[str], references: References) -> Scores:
    """1 where the final number is that of the reference, as GSM8K is scored.

    Example:
        >>> number_match(["so 9 * 2 = $18.00."], ["... #### 18"]).tolist()
        [1.0]
    """

    def same(prediction: str, reference: str) -> float:
        wanted = final_number(reference)
        return float(wanted is not None and final_number(prediction) == wanted)

    return _scored(predictions, references, same)


_NUMBER = re.compile(r"(?:(?<![\w)])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
"""A sign after a number or a bracket is a minus between two."""


def final_number(text: str) -> Decimal | None:
    """The number after the last `####`, or else the last number in the text; None without one.

    Thousands may be set apart by commas.

    Example:
        >>> final_number("48/2 = 24, and 24 + 48 = 1,072.50 dollars"), final_number("none")
        (Decimal('1072.50'), None)
    """
    _, marked, answer = text.rpartition("####")
    found = _NUMBER.findall(answer if marked else text)
    if not found:
        return None
    return Decimal((found[0] if marked else found[-1]).replace(",", ""))


def rouge_l(
    predictions: Sequence[str],
    references: References,
    *,
    stemmed: bool = False,
    recall: bool = False,
) -> Scores:
    """F-measure of the longest common subsequence of words, by the `rouge-score` package.

    The package's word splitting drops all letters but a to z; texts with others are therefore split
    at whatever is neither a letter nor a digit.

    Args:
        predictions: Texts.
        references: As many.
        stemmed: Whether words are reduced to their stems, which serves English only.
        recall: The share of the reference's words that are found, in place of the F-measure.

    Source: Lin, "ROUGE: a package for automatic evaluation of summaries" (2004).
    """
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    class Words:
        """The package's words where it can read them, else runs of letters and digits."""

        english = DefaultTokenizer(stemmed)

        def tokenize(self, text: str) -> list[str]:
            if stemmed or text.isascii():
                words: list[str] = self.english.tokenize(text)
                return words
            return re.findall(r"[^\W_]+", text.lower())

    scorer, what = RougeScorer(["rougeL"], tokenizer=Words()), "recall" if recall else "fmeasure"
    return _scored(
        predictions, references, lambda p, r: float(getattr(scorer.score(r, p)["rougeL"], what))
    )


def bleu(predictions: Sequence[str], references: References, *, order: int = 4) -> Scores:
    """Sentence BLEU up to n-grams of `order`, by sacrebleu (13a words, smoothed exponentially).

    Texts shorter than the order are scored by the n-grams that they have.

    Args:
        predictions: Texts.
        references: As many; several of an item are used together.
        order: 1 for BLEU-1, 4 for BLEU-4.

    Source: Papineni et al., "BLEU: a method for automatic evaluation of machine translation"
    (2002); Post, "A call for clarity in reporting BLEU scores" (2018).
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(max_ngram_order=order, effective_order=True)
    wanted = _aligned(predictions, references)
    return np.array(
        [
            metric.sentence_score(p, list(r)).score / 100 if p.strip() else 0.0
            for p, r in zip(predictions, wanted, strict=True)
        ]
    )


def edit_similarity(
    predictions: Sequence[str], references: References, *, placeholders: bool = False
) -> Scores:
    """How little must be inserted and deleted to make one text the other, by rapidfuzz's ratio.

    Args:
        predictions: Texts.
        references: As many.
        placeholders: Put literals back where Py150 has placeholders: `<STR_LIT:x>` and
            `<NUM_LIT:x>` become x, without a value `""` and 0; `<EOL>` a line's end.

    Source: Lu et al., "CodeXGLUE" (2021): 100 times this is its edit similarity.

    Example:
        >>> edit_similarity(["x = 1"], ["x = <NUM_LIT:1>"], placeholders=True).tolist()
        [1.0]
    """
    from rapidfuzz import fuzz

    shown = with_literals if placeholders else str
    return _scored(predictions, references, lambda p, r: fuzz.ratio(shown(p), shown(r)) / 100)


def with_literals(code: str) -> str:
    """Py150's code with its placeholders replaced by the literals they stand for.

    Example:
        >>> with_literals("f(<STR_LIT:utf-8>, <NUM_LIT>)<EOL>")
        'f("utf-8", 0)\\n'
    """
    code = re.sub(r"<STR_LIT(?::([^>]*))?>", lambda m: f'"{m[1] or ""}"', code)
    code = re.sub(r"<NUM_LIT(?::([^>]*))?>", lambda m: m[1] or "0", code)
    code = re.sub(r"<CHAR_LIT(?::([^>]*))?>", lambda m: f"'{m[1] or ''}'", code)
    return code.replace("<EOL>", "\n")


def sari(predictions: Sequence[str], references: References, *, sources: Sequence[str]) -> Scores:
    """How well texts were simplified: see `holdfast.language.sari`.

    Args:
        predictions: Texts.
        references: As many, each one or several.
        sources: As many: what was to be simplified.
    """
    wanted = _aligned(predictions, references)
    if len(sources) != len(predictions):
        raise UsageError(
            f"SARI needs one source per prediction; given: {len(sources)} for {len(predictions)}."
        )
    return np.array(
        [
            sari_of_one(s, p, r) if p.strip() else 0.0
            for s, p, r in zip(sources, predictions, wanted, strict=True)
        ]
    )


def f1(predictions: Sequence[Any], references: Sequence[Any], average: str = "macro") -> float:
    """F1 over a whole set of predicted labels, by scikit-learn.

    Args:
        predictions: Labels, as texts or numbers.
        references: As many.
        average: `"macro"` (classes weigh equally), `"micro"` or `"weighted"`.
    """
    from sklearn.metrics import f1_score

    _aligned(predictions, references)
    return float(f1_score(references, predictions, average=average, zero_division=0))


def matthews(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Matthews correlation of a whole set of predicted labels, from -1 to 1, by scikit-learn."""
    from sklearn.metrics import matthews_corrcoef

    _aligned(predictions, references)
    return float(matthews_corrcoef(references, predictions))


METRICS: dict[str, Callable[..., Scores]] = {
    "exact_match": exact_match,
    "number_match": number_match,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "sari": sari,
    "edit_similarity": edit_similarity,
}
"""The metrics that score single predictions."""


def score(
    metric: str,
    predictions: Sequence[str],
    references: References,
    sources: Sequence[str] | None = None,
) -> Scores:
    """Scores by a metric given as a spec string.

    Args:
        metric: A name of `METRICS`, with arguments if any.
        predictions: Texts.
        references: As many.
        sources: What the predictions were made from; SARI needs them.

    Raises:
        UsageError: If there is no such metric or argument, or if the lists differ in length.

    Example:
        >>> score("exact_match(case=false)", ["Yes"], ["yes"]).tolist()
        [1.0]
    """
    function, arguments = _bound(metric)
    if function is sari:
        if sources is None:
            raise UsageError("SARI compares with what was simplified, so it needs the sources.")
        arguments = {**arguments, "sources": sources}
    return function(predictions, references, **arguments)


def check(metric: str) -> None:
    """Raise `UsageError` unless `metric` is one that `score` knows."""
    _bound(metric)


def _bound(metric: str) -> tuple[Callable[..., Scores], dict[str, Any]]:
    specs = parse(metric)
    if len(specs) != 1:
        raise UsageError(f"One metric is asked for; given: {metric!r}.")
    if specs[0].name not in METRICS:
        raise unknown("metric", specs[0].name, METRICS)
    if specs[0].positional:
        raise UsageError(
            f"Arguments of a metric are given by name, as in bleu(order=1): {metric!r}."
        )
    return METRICS[specs[0].name], bind(specs[0], METRICS[specs[0].name], "metric")


def _scored(
    predictions: Sequence[str], references: References, pair: Callable[[str, str], float]
) -> Scores:
    wanted = _aligned(predictions, references)
    return np.array(
        [
            max(pair(p, one) for one in r) if p.strip() else 0.0
            for p, r in zip(predictions, wanted, strict=True)
        ],
        dtype=np.float64,
    )


def _aligned(predictions: Sequence[Any], references: Sequence[Any]) -> list[Sequence[Any]]:
    """The references of each item as a list, if there are as many as predictions."""
    if len(predictions) != len(references):
        raise UsageError(
            "There must be a reference for every prediction; given: "
            f"{len(predictions)} predictions and {len(references)} references."
        )
    wanted = [[r] if isinstance(r, str) or not isinstance(r, Sequence) else r for r in references]
    if not all(wanted):
        raise UsageError("An item has an empty list of references; at least one is needed.")
    return wanted
