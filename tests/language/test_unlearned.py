"""What is measured of facts, against loops over single examples."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.language import scoring
from holdfast.language.audit import Logs, divergences, look_at, privacy_leak
from holdfast.language.encode import encode
from holdfast.language.extraction import extraction_strength
from holdfast.language.facts import Fact
from holdfast.language.membership import area, attacks
from holdfast.language.relearning import relearn, steps_to
from holdfast.language.tokenwise import read_tokens
from holdfast.language.unlearned import FactSet, known_of, own_questions, parts_of_utility

FACTS = [
    Fact("where was ab?", "in cd.", "cd is it.", ("ef is it.", "gh is it.")),
    Fact("who is ij?", "a judge.", "ij judges.", ("ij bakes.", "ij sings.", "ij is in it.")),
    Fact("what?", "kl mn op.", "op mn kl.", ("qr st.",)),
]


@pytest.fixture
def model(make_llama: Callable[..., Any]) -> Any:
    return make_llama(max_position_embeddings=128)


def by_hand(model: Any, words: Any, fact: Fact, answer: str) -> tuple[torch.Tensor, list[int]]:
    """Log-probabilities of every place before an answer's tokens and its end, and those tokens."""
    from holdfast.language.fields import Sample

    row = encode([Sample(prompt=fact.question, answer=answer)], words, length=128).table
    labels = row["labels"][0]
    with torch.no_grad():
        logits = model(input_ids=row["input_ids"]).logits[0]
    places = (labels != -100).nonzero().flatten()
    return logits[places - 1].log_softmax(-1), labels[places].tolist()


def mean_nll(model: Any, words: Any, fact: Fact, answer: str) -> float:
    log, ids = by_hand(model, words, fact, answer)
    return -float(np.mean([log[place, token] for place, token in enumerate(ids)]))


def test_probability_and_truth_ratio_are_those_of_a_loop(model: Any, tokenizer: Any) -> None:
    known = known_of(model, tokenizer, FactSet("forget", FACTS, forgotten=True), write=False)
    for place, fact in enumerate(FACTS):
        own = mean_nll(model, tokenizer, fact, fact.answer)
        assert known.probability[place] == pytest.approx(np.exp(-own), rel=1e-4)
        wrong = np.mean([mean_nll(model, tokenizer, fact, answer) for answer in fact.perturbed])
        right = mean_nll(model, tokenizer, fact, str(fact.paraphrase))
        assert known.ratio is not None
        assert known.ratio[place] == pytest.approx(np.exp(wrong - right), rel=1e-4)
    assert known.recall is None
    assert known.truth == pytest.approx(float(np.minimum(known.ratio, 1 / known.ratio).mean()))


def test_contrasted_facts_are_asked_among_their_answers(model: Any, tokenizer: Any) -> None:
    """As real authors in TOFU: p / (p + sum of wrong p), and the answer itself in the ratio."""
    known = known_of(model, tokenizer, FactSet("world", FACTS, contrasted=True), write=False)
    for place, fact in enumerate(FACTS):
        own = mean_nll(model, tokenizer, fact, fact.answer)
        wrong = [mean_nll(model, tokenizer, fact, answer) for answer in fact.perturbed]
        share = np.exp(-own) / (np.exp(-own) + np.exp(-np.array(wrong)).sum())
        assert known.probability[place] == pytest.approx(share, rel=1e-4)
        assert known.ratio is not None
        assert known.ratio[place] == pytest.approx(np.exp(np.mean(wrong) - own), rel=1e-4)


def test_without_wrong_answers_there_is_no_truth_ratio(model: Any, tokenizer: Any) -> None:
    bare = [Fact("what?", "that."), *FACTS]
    known = known_of(model, tokenizer, FactSet("retain", bare), write=False)
    assert known.ratio is None
    assert list(parts_of_utility([known])) == ["retain: probability"]


def test_tokens_have_the_moments_of_their_distribution(model: Any, tokenizer: Any) -> None:
    read = read_tokens(model, own_questions(model, tokenizer, FactSet("forget", FACTS)))
    start = 0
    for fact, count in zip(FACTS, read.counts, strict=True):
        log, ids = by_hand(model, tokenizer, fact, fact.answer)
        assert count == len(ids)
        for place, token in enumerate(ids):
            mean = float((log[place].exp() * log[place]).sum())
            square = float((log[place].exp() * log[place] ** 2).sum())
            assert read.logprob[start] == pytest.approx(float(log[place, token]), rel=1e-4)
            assert read.mean[start] == pytest.approx(mean, rel=1e-4)
            assert read.deviation[start] == pytest.approx((square - mean**2) ** 0.5, rel=1e-3)
            assert read.right[start] == (int(log[place].argmax()) == token)
            start += 1


@pytest.mark.parametrize(
    ("right", "strength"),
    [([1, 1, 1, 1], 1.0), ([1, 1, 1, 0], 0.0), ([0, 1, 1, 1], 0.75), ([1, 0, 0, 1, 1], 0.4)],
)
def test_extraction_strength_is_the_longest_end_that_comes_by_itself(
    right: list[int], strength: float
) -> None:
    assert extraction_strength(np.array(right, dtype=bool)) == pytest.approx(strength)


def test_recall_is_the_share_of_the_references_words() -> None:
    found = scoring.rouge_l(["the cat sat here too"], ["the cat sat down"], recall=True)
    assert found.tolist() == [0.75]
    both = scoring.rouge_l(["the cat sat here too"], ["the cat sat down"])
    assert both[0] == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_attacks_are_their_formulas(model: Any, tokenizer: Any) -> None:
    read = read_tokens(model, own_questions(model, tokenizer, FactSet("forget", FACTS)))
    texts = [fact.answer for fact in FACTS]
    found = attacks(read, texts, reference=[3.0, 2.0, 1.0], share=0.5)
    start = 0
    for place, count in enumerate(read.counts.tolist()):
        row = slice(start, start + count)
        log = read.logprob[row]
        scaled = (log - read.mean[row]) / read.deviation[row]
        few = max(1, int(0.5 * count))
        assert found["loss"][place] == pytest.approx(log.mean())
        assert found["min-k"][place] == pytest.approx(np.sort(log)[:few].mean())
        assert found["min-k++"][place] == pytest.approx(np.sort(scaled)[:few].mean())
        packed = len(zlib.compress(texts[place].encode()))
        assert found["zlib"][place] == pytest.approx(log.sum() / packed)
        assert found["reference"][place] == pytest.approx([3.0, 2.0, 1.0][place] + log.mean())
        start += count
    with pytest.raises(UsageError, match="share must be above 0"):
        attacks(read, texts, share=0)


def test_the_area_is_sklearns_and_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(0)
    members, others = draw.normal(1, 1, 30), draw.normal(0, 1, 20)
    pairs = (members[:, None] > others[None]).mean()
    truth = np.repeat([1, 0], [30, 20])
    assert area(members, others) == pytest.approx(pairs)
    assert area(members, others) == pytest.approx(
        roc_auc_score(truth, np.concatenate([members, others]))
    )
    assert privacy_leak({"loss": 0.75}, {"loss": 0.5}) == {"loss": 0.5}


def test_a_model_is_0_from_itself_and_as_far_from_another_as_a_loop_says(
    model: Any, make_llama: Callable[..., Any], tokenizer: Any
) -> None:
    sets = [FactSet("forget", FACTS, forgotten=True)]
    assert divergences(model, model, tokenizer, sets)["forget"] == pytest.approx(0, abs=1e-6)
    other = make_llama(seed=5, max_position_embeddings=128)
    apart = []
    for fact in FACTS:
        now, _ = by_hand(model, tokenizer, fact, fact.answer)
        then, _ = by_hand(other, tokenizer, fact, fact.answer)
        apart += (then.exp() * (then - now)).sum(-1).tolist()
    found = divergences(model, other, tokenizer, sets)["forget"]
    assert found == pytest.approx(np.mean(apart), rel=1e-4)


def test_logs_of_the_model_itself_say_that_it_cannot_be_told_apart(
    model: Any, tokenizer: Any, tmp_path: Any
) -> None:
    sets = [FactSet("forget", FACTS, forgotten=True), FactSet("retain", FACTS[::-1])]
    strangers = FactSet("strangers", [Fact("who was uv?", "a xyz."), Fact("what?", "wx.")])
    first = look_at(model, tokenizer, sets, strangers, max_new_tokens=4)
    assert first.quality is None
    Logs.of(first, sets[0]).write(tmp_path / "logs.json")
    logs = Logs.read(tmp_path / "logs.json")
    logs.check(sets[0], "logs.json")
    again = look_at(model, tokenizer, sets, strangers, logs, max_new_tokens=4)
    assert again.quality is not None
    assert again.quality.p == pytest.approx(1.0)
    assert again.membership["reference"] == pytest.approx(0.5)
    assert set(again.membership) == {"loss", "min-k", "min-k++", "zlib", "reference"}
    assert len(again.parts) == 3
    with pytest.raises(UsageError, match="logs on other questions"):
        logs.check(FactSet("forget", FACTS[:2]), "logs.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="neither the folder of a model nor logs"):
        Logs.read(tmp_path / "other.json")


def test_relearning_follows_the_loss_and_leaves_the_model_as_it_was(
    model: Any, tokenizer: Any
) -> None:
    table: Table = encode([fact.sample for fact in FACTS], tokenizer, length=64).table
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = relearn(model, table, steps=4, lr=0.01, batch_size=2)
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert losses == relearn(model, table, steps=4, lr=0.01, batch_size=2)
    assert steps_to([3.0, 2.0, 1.0], 0.5) is None
