"""Probes: every number against one computed example by example, without batches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DataError, UsageError
from holdfast.language.fields import Sample
from holdfast.language.generate import generate
from holdfast.language.probe import ProbeSet, calibration, measure

TEXTS = ["once upon a time", "ab", "the 3 quick brown foxes ? yes", "x : y : z"]


def logprobs(model, ids):
    """Log-probabilities of each token after the first, for one row without padding."""
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return found[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].double()


def asked(count, **changed):
    samples = [Sample(prompt=f"{i % 10} ab {'x' * (i % 4)} ?", answer="yes") for i in range(count)]
    return ProbeSet("asked", samples, **changed)


def test_plain_text_is_measured_token_by_token(make_llama, tokenizer):
    model = make_llama()
    probe = ProbeSet("texts", [Sample(text=text, where=text[:2]) for text in TEXTS])
    found = measure(model, tokenizer, probe, batch_tokens=40)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    expected = [-float(logprobs(model, row).sum()) for row in rows]
    assert found.nll == pytest.approx(expected, rel=1e-5)
    assert found.tokens.tolist() == [len(row) - 1 for row in rows]
    assert found.loss == pytest.approx(sum(expected) / sum(len(row) - 1 for row in rows), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    size = sum(len(text.encode()) for text in TEXTS)
    assert found.bits_per_byte == pytest.approx(sum(expected) / size / math.log(2), rel=1e-5)
    assert found.where == [text[:2] for text in TEXTS]
    assert found.kind == "text"
    assert found.score is None


def test_the_loss_is_that_of_transformers(make_llama, tokenizer):
    model = make_llama()
    ids = torch.tensor([tokenizer(TEXTS[2])["input_ids"]])
    found = measure(model, tokenizer, ProbeSet("one", [Sample(text=TEXTS[2])]))
    assert found.loss == pytest.approx(float(model(ids, labels=ids).loss.detach()), rel=1e-5)


def test_a_long_text_becomes_pieces_in_which_every_token_is_asked_once(make_llama, tokenizer):
    model = make_llama()
    text = "abcdefghij" * 20
    row = tokenizer(text)["input_ids"]
    found = measure(model, tokenizer, ProbeSet("long", [Sample(text=text)]), length=24)
    assert found.tokens.sum() == len(row) - 1 == 200
    assert found.sizes.sum() == 200
    pieces = [row[start : start + 24] for start in range(0, len(row) - 1, 23)]
    expected = [-float(logprobs(model, piece).sum()) for piece in pieces]
    assert found.nll == pytest.approx(expected, rel=1e-5)


def test_pieces_are_no_longer_than_the_models_context(make_llama, tokenizer):
    probe = ProbeSet("long", [Sample(text="abcdefghij" * 20)])
    assert measure(make_llama(), tokenizer, probe, length=4096).tokens.max() == 63


def test_an_answer_is_right_exactly_if_greedy_generation_would_begin_with_it(make_llama, tokenizer):
    model = make_llama()
    prompts = [f"{i} is" for i in range(10)]
    greedy = generate(model, tokenizer, prompts, max_new_tokens=3)
    # Every second question is given the answer that the model itself would give.
    answers = [text if i % 2 else "zq" for i, text in enumerate(greedy)]
    samples = [Sample(prompt=p, answer=a) for p, a in zip(prompts, answers, strict=True)]
    found = measure(model, tokenizer, ProbeSet("asked", samples))
    expected = [float(g.startswith(a)) for g, a in zip(greedy, answers, strict=True)]
    assert 0 < sum(expected) < 10
    assert found.scores.tolist() == expected
    assert found.metric == "exact match"
    for i, text in enumerate(greedy):
        if expected[i]:
            assert found.answers[i] == answers[i]
            assert found.confidence[i] == pytest.approx(math.exp(-found.nll[i]), rel=1e-5)
        else:
            agreed = 0
            while text[agreed] == answers[i][agreed]:
                agreed += 1
            assert found.answers[i] == f"{text[: agreed + 1]}…"
            assert found.confidence[i] >= math.exp(-found.nll[i])


def test_the_end_token_is_asked_for_on_request(make_llama, tokenizer):
    model = make_llama()
    prompt = "ab"
    greedy = generate(model, tokenizer, [prompt], max_new_tokens=3)[0]
    probe = ProbeSet("asked", [Sample(prompt=prompt, answer=greedy)])
    assert measure(model, tokenizer, probe).scores.tolist() == [1]
    ended = measure(model, tokenizer, probe, end=True)
    assert ended.scores.tolist() == [0]  # three tokens were not its end
    assert ended.tokens.tolist() == [4]


def test_of_choices_the_likeliest_is_taken(make_llama, tokenizer):
    model = make_llama()
    choices = ("yes", "no", "perhaps", "q")
    samples = [
        Sample(prompt=f"{i} is it ?", answer=choices[i % 4], choices=choices) for i in range(12)
    ]
    found = measure(model, tokenizer, ProbeSet("choices", samples), batch_tokens=64)
    for i, sample in enumerate(samples):
        prompt = tokenizer(sample.prompt)["input_ids"]
        sums = []
        for choice in choices:
            ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
            sums.append(float(logprobs(model, prompt + ids)[-len(ids) :].sum()))
        best = int(np.argmax(sums))
        fair = int(np.argmax([s / len(c) for s, c in zip(sums, choices, strict=True)]))
        assert found.answers[i] == choices[best]
        assert found.expected[i] == sample.answer
        assert found.scores[i] == (best == i % 4)
        assert found.normalised[i] == (fair == i % 4)
        assert found.nll[i] == pytest.approx(-sums[i % 4], rel=1e-4)
        shares = np.exp(sums) / np.exp(sums).sum()
        assert found.confidence[i] == pytest.approx(shares.max(), rel=1e-4)
    assert found.metric == "accuracy"


def test_a_choice_may_be_named_by_its_letter(make_llama, tokenizer):
    named = [Sample(prompt="a ?", answer="B", choices=("yes", "no"))]
    plain = [Sample(prompt="a ?", answer="no", choices=("yes", "no"))]
    found = [measure(make_llama(), tokenizer, ProbeSet("c", s)) for s in (named, plain)]
    assert found[0].nll == pytest.approx(found[1].nll)
    stray = [Sample(prompt="a ?", answer="maybe", choices=("yes", "no"), where="c.jsonl:3")]
    with pytest.raises(DataError, match=r"c.jsonl:3: the answer 'maybe' is none of its choices"):
        measure(make_llama(), tokenizer, ProbeSet("c", stray))


def test_the_last_turn_of_a_chat_is_the_answer(make_llama, tokenizer):
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    model = make_llama()
    turns = ({"role": "user", "content": "ab"}, {"role": "assistant", "content": "yes"})
    found = measure(model, chatty, ProbeSet("chat", [Sample(messages=turns)]))
    ids = chatty("u:aba:yes", add_special_tokens=False)["input_ids"]
    assert found.tokens.tolist() == [3]
    assert found.nll[0] == pytest.approx(-float(logprobs(model, ids)[-3:].sum()), rel=1e-5)
    with pytest.raises(UsageError, match="no chat template"):
        measure(model, tokenizer, ProbeSet("chat", [Sample(messages=turns)]))


def test_generated_answers_are_scored_by_the_metric(make_llama, tokenizer):
    model = make_llama()
    probe = asked(5, metric="edit_similarity")
    found = measure(model, tokenizer, probe, max_new_tokens=6)
    prompts = [sample.prompt for sample in probe.samples]
    assert found.answers == generate(model, tokenizer, prompts, max_new_tokens=6)
    for score, answer in zip(found.scores, found.answers, strict=True):
        common = longest_common_subsequence(answer, "yes")
        assert score == pytest.approx(2 * common / (len(answer) + 3))
    assert found.kind == "generated"
    assert found.nll == pytest.approx(measure(model, tokenizer, asked(5)).nll)


def longest_common_subsequence(a, b):
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common_subsequence(a[1:], b[1:])
    return max(longest_common_subsequence(a[1:], b), longest_common_subsequence(a, b[1:]))


def test_a_sequence_to_sequence_model_reads_answers_in_its_decoder(make_t5, tokenizer):
    model = make_t5()
    probe = asked(6)
    found = measure(model, tokenizer, probe, batch_tokens=32)
    for i, sample in enumerate(probe.samples):
        source, labels = tokenizer(sample.prompt)["input_ids"], tokenizer("yes")["input_ids"]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([source]), labels=torch.tensor([labels])).loss
        assert found.nll[i] == pytest.approx(len(labels) * float(loss), rel=1e-4)
    with pytest.raises(UsageError, match="sequence-to-sequence"):
        measure(model, tokenizer, ProbeSet("t", [Sample(text="ab")]))


@pytest.mark.parametrize("budget", [1, 50, 100_000])
def test_the_size_of_batches_and_blocks_changes_nothing(make_llama, tokenizer, monkeypatch, budget):
    from holdfast.language import probe as module

    model = make_llama()
    whole = measure(model, tokenizer, asked(30))
    monkeypatch.setattr(module, "BLOCK", 7)
    parts = measure(model, tokenizer, asked(30), batch_tokens=budget)
    assert parts.nll == pytest.approx(whole.nll, rel=1e-5)
    assert parts.scores.tolist() == whole.scores.tolist()
    assert parts.answers == whole.answers


def test_a_file_is_read_in_blocks_as_it_is_needed(make_llama, tokenizer, tmp_path, monkeypatch):
    from holdfast.language import probe as module

    monkeypatch.setattr(module, "BLOCK", 4)
    lines = [json.dumps({"prompt": "ab ?", "answer": "yes"}) for _ in range(6)]
    path = tmp_path / "facts.v2.jsonl"
    path.write_text("\n".join([*lines, "{not json"]), "utf-8")
    probe = ProbeSet.read(path)
    assert probe.name == "facts"
    passes = []
    model = make_llama()
    model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(DataError, match=r"facts.v2.jsonl:7"):
        measure(model, tokenizer, probe)
    assert passes, "the first block was measured before the last line was read"


def test_the_model_is_left_as_it_was(make_llama, tokenizer):
    model = make_llama(attention_dropout=0.5).train()
    state = torch.get_rng_state()
    first = measure(model, tokenizer, asked(3))
    assert first.nll == pytest.approx(measure(model.eval(), tokenizer, asked(3)).nll)
    assert torch.equal(torch.get_rng_state(), state)
    model.train()
    measure(model, tokenizer, asked(3))
    assert all(part.training for part in model.modules())
    assert all(weight.grad is None for weight in model.parameters())


def test_sets_that_cannot_be_measured_are_refused(make_llama, tokenizer):
    model = make_llama()
    with pytest.raises(DataError, match="The probe set none is empty"):
        measure(model, tokenizer, ProbeSet("none", []))
    mixed = [Sample(prompt="a", answer="b"), Sample(text="c", where="m.jsonl:2")]
    with pytest.raises(DataError, match=r"mixes kinds: m\.jsonl:2"):
        measure(model, tokenizer, ProbeSet("m", mixed))
    long = [Sample(prompt="a" * 62, answer="bcd", where="l.jsonl:1")]
    with pytest.raises(DataError, match=r"l\.jsonl:1"):
        measure(model, tokenizer, ProbeSet("l", long))
    with pytest.raises(UsageError, match="plain text, which has no answers"):
        measure(model, tokenizer, ProbeSet("t", [Sample(text="a b")], "rouge_l"))
    with pytest.raises(UsageError, match="Did you mean 'rouge_l'"):
        measure(model, tokenizer, asked(2, metric="rouge"))


def test_calibration_of_cases_worked_by_hand():
    assert calibration([0.9] * 10, [1] * 9 + [0]) == pytest.approx(0)  # ties stay together
    assert calibration([1.0, 1.0], [0, 0]) == 1
    # Two bins of two: |0.25 - 0.5| and |0.8 - 1|.
    assert calibration([0.9, 0.2, 0.7, 0.3], [1, 0, 1, 1], bins=2) == pytest.approx(0.225)
    with pytest.raises(UsageError, match="equally long"):
        calibration([0.5], [])


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20)
)
def test_calibration_lies_between_the_overall_gap_and_one(pairs, bins):
    confidence, right = zip(*pairs, strict=True)
    found = calibration(confidence, right, bins)
    overall = abs(np.mean(confidence) - np.mean(right))
    assert overall - 1e-9 <= found <= 1


@pytest.mark.data
def test_the_real_model_knows_stories_better_than_shakespeare(stories, data_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(stories)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    story = "Once upon a time, there was a little girl named Lily. She loved to play with her toys."
    told = measure(model, tokenizer, ProbeSet("story", [Sample(text=story)]))
    assert told.tokens[0] == len(tokenizer(story, add_special_tokens=False)["input_ids"])
    play = ProbeSet.read(data_folder / "corpora" / "tinyshakespeare.txt.gz")
    first = next(iter(play.samples))
    heard = measure(
        model, tokenizer, ProbeSet("play", [Sample(text=str(first.text)[:4000])]), length=256
    )
    assert told.loss < 1.5 < heard.loss
