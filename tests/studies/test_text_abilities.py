"""Small abilities of language from real text."""

import pytest
import torch

from holdfast.errors import DataError
from holdfast.language.fields import Sample
from holdfast.studies import text_abilities
from holdfast.studies.text_abilities import ability, corrupted, exact_match


@pytest.fixture(scope="module")
def topics():
    return ability("topics", 200, 50, seed=0, answers=6)


def test_examples_are_real_sentences_with_few_answers_and_none_is_held_out_twice(topics):
    assert len(topics.train) == 200
    assert 2 <= len(topics.answers) <= 6
    assert not {s.prompt for s in topics.train} & {s.prompt for s in topics.test}
    assert all(s.prompt.startswith("topic: ") for s in topics.train)


def test_draws_follow_the_seed(topics):
    assert ability("topics", 200, 50, seed=0, answers=6) == topics
    assert ability("topics", 200, 50, seed=1, answers=6).train != topics.train


def test_calls_are_completions_of_lines_that_the_library_has():
    from holdfast.streams.language import python

    found = ability("calls", 40, 10, seed=0)
    source = "\n".join(document.text for document in python.source())
    for sample in found.train[:10]:
        line = sample.prompt.split(" ; ")[1]
        assert f"{line}{sample.answer.strip()}(" in source


def test_a_share_of_answers_is_changed_and_told():
    samples = [Sample(prompt=str(i), answer=f" {'abc'[i % 3]}") for i in range(40)]
    changed, wrong = corrupted(samples, [" a", " b", " c"], 0.15, seed=0)
    assert sum(wrong) == 6
    differing = [a.answer != b.answer for a, b in zip(samples, changed, strict=True)]
    assert differing == wrong
    with pytest.raises(DataError, match="two or more"):
        corrupted(samples, [" a"], 0.15, seed=0)


def test_exact_match_is_what_greedy_generation_would_answer():
    from transformers import LlamaConfig, LlamaForCausalLM

    from holdfast.data import Table

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=6,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            initializer_range=1.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    prompts = torch.randint(6, (20, 3), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(prompts)
    greedy = model.generate(
        prompts, attention_mask=real, max_new_tokens=2, do_sample=False, pad_token_id=0
    )
    ids = greedy.clone()
    ids[::4, -1] = (ids[::4, -1] + 1) % 6  # a quarter has another last token
    labels = ids.clone()
    labels[:, :3] = -100
    table = Table({"input_ids": ids, "labels": labels})
    assert exact_match(model, table) == pytest.approx(0.75)


@pytest.mark.data
def test_questions_and_intents_are_read(data_folder):
    for name in ("banking", "intents", "news"):
        found = ability(name, 100, 20, seed=0, answers=4)
        assert len(found.train) == 100
        assert 2 <= len(found.answers) <= 4


def test_texts_are_full_rows_of_what_no_model_of_the_zoo_has_learned():
    from holdfast.models import zoo
    from holdfast.streams.language import python

    words = zoo.tokenizer()
    table = text_abilities.texts(python.documentation, words, 3)
    assert table["input_ids"].shape == (3, 128)
    held = "".join(d.text for d in python.documentation() if d.held_out)
    assert words.decode(table["input_ids"][1][:20], skip_special_tokens=True) in held
