"""Samples to tables: what is scored, where tokens begin and end, and what packing keeps apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import DataError, UsageError
from holdfast.language.encode import describe, encode, prompts
from holdfast.language.objective import CausalLM, Seq2SeqLM
from holdfast.language.packing import refuse_mixing
from holdfast.language.records import Sample
from holdfast.language.tokens import ends, own_ends

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Qwen3's: the last turn gets an empty stretch of reasoning, earlier ones do not.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = CHATML.replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}",
)
CHAT = Sample(
    messages=(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you"},
    ),
    where="chat.jsonl:1",
)
PROMPTS = [
    Sample(prompt="What is two plus two?", answer="Four.", where="a:1"),
    Sample(prompt="Say it:", answer="\nIt is done, now.", where="a:2"),
    Sample(prompt="One, ", answer="two, three", where="a:3"),
]
TEXTS = [
    Sample(text="A short text."),
    Sample(text="Another one, which is longer"),
    Sample(text="c"),
]


@pytest.fixture(scope="module")
def gpt():
    """Byte-level BPE with whole words: BOS and EOS in one, put nowhere by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "what is two plus two? four. it is done\n\n now, say it:\n one, two, three assistant"
    inner.train_from_iterator([words] * 20, trainer)
    mark = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=mark, eos_token=mark)


@pytest.fixture(scope="module")
def llama():
    """As of Llama: a space before the first word, bytes for what is unknown, no BOS by itself."""
    from transformers import LlamaTokenizer

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:?!0123456789#"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("▁", "t"), ("▁", "w"), ("▁t", "w"), ("▁tw", "o"), ("i", "s"), ("▁", "F"), ("▁", "▁")]
    pieces += ["".join(pair) for pair in merges]
    return LlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)


@pytest.fixture(params=["gpt", "llama"])
def either(request):
    return request.getfixturevalue(request.param)


def rows(encoded):
    """Tokens and labels of each row without its padding."""
    table = encoded.table
    return [
        (table["input_ids"][row, :length].tolist(), table["labels"][row, :length].tolist())
        for row, length in enumerate(table["length"].tolist())
    ]


def answers(labels):
    return [label for label in labels if label != -100]


def test_a_text_is_scored_whole_but_for_its_first_token(llama, gpt):
    ((ids, labels),) = rows(encode([Sample(text="two is")], llama, length=20))
    assert ids == [1, *llama("two is")["input_ids"]]
    assert labels == [-100, *ids[1:]]
    ((ids, labels),) = rows(encode([Sample(text="two is")], gpt, length=20))
    assert ids == [*gpt("two is")["input_ids"], gpt.eos_token_id]
    assert labels == [-100, *ids[1:]]


def test_a_text_ends_with_eos_where_it_does_not_begin_with_bos_or_as_told(llama, gpt):
    for tokenizer, eos, last in ((llama, True, 2), (gpt, None, 0)):
        ((ids, _),) = rows(encode([Sample(text="two")], tokenizer, length=20, eos=eos))
        assert ids[-1] == last
    ((ids, _),) = rows(encode([Sample(text="two")], gpt, length=20, eos=False))
    assert ids == gpt("two")["input_ids"]


def test_rows_are_padded_on_the_right_and_counted(gpt):
    encoded = encode(TEXTS, gpt, length=64)
    table, lengths = encoded.table, encoded.table["length"]
    assert table["input_ids"].shape == (3, int(lengths.max()))
    for row, length in enumerate(lengths.tolist()):
        assert table["attention_mask"][row].tolist() == [1] * length + [0] * (
            table["input_ids"].shape[1] - length
        )
        assert (table["labels"][row, length:] == -100).all()
    assert all(table[name].dtype == torch.long for name in table.columns)
    told = describe(encoded)
    assert told["tokens"] == int(lengths.sum())
    assert told["scored"] == int((table["labels"] != -100).sum())
    assert told["padding"] == pytest.approx(1 - float(table["attention_mask"].float().mean()))
    assert told["longest"] == int(lengths.max())


def test_only_the_answer_and_its_end_are_scored(either):
    encoded = encode(PROMPTS, either, length=200)
    for (ids, labels), asked, sample in zip(
        rows(encoded), prompts(PROMPTS, either), PROMPTS, strict=True
    ):
        assert ids[: len(asked)] == asked
        assert labels[: len(asked)] == [-100] * len(asked)
        assert labels[len(asked) :] == ids[len(asked) :]
        assert ids[-1] == either.eos_token_id
        start = ends(either).start
        assert asked == [*start, *either(sample.prompt, add_special_tokens=False)["input_ids"]]


def test_with_prompts_scored_everything_is_but_the_start(llama):
    encoded = encode(PROMPTS, llama, length=200, completion_only=False)
    for ids, labels in rows(encoded):
        assert labels == [-100, *ids[1:]]


def test_a_space_parts_prompt_and_answer_where_there_is_none(either):
    whole = [
        either.decode(ids, skip_special_tokens=True)
        for ids, _ in rows(encode(PROMPTS, either, length=200))
    ]
    assert whole == [
        "What is two plus two? Four.",
        "Say it:\nIt is done, now.",
        "One, two, three",
    ]
    own = encode(PROMPTS[:1], either, length=200, separator="\n=> ")
    assert "two?\n=> Four." in either.decode(rows(own)[0][0])


TEXT = st.text(st.sampled_from("ab two\n.,é漢 is?") | st.characters(codec="utf-8"), min_size=1)


@settings(deadline=None, max_examples=150)
@given(prompt=TEXT.filter(str.strip), answer=TEXT.filter(str.strip))
def test_any_prompt_keeps_its_tokens_and_any_answer_its_text(gpt, llama, prompt, answer):
    for tokenizer in (gpt, llama):
        sample = Sample(prompt=prompt, answer=answer)
        ((ids, labels),) = rows(encode([sample], tokenizer, length=10_000, eos=False))
        (asked,) = prompts([sample], tokenizer)
        assert ids[: len(asked)] == asked
        assert answers(labels) == ids[len(asked) :]
        joint = "" if prompt[-1:].isspace() or answer[:1].isspace() else " "
        said = b"".join(_bytes(tokenizer, token) for token in ids[len(asked) :])
        assert said.decode() == joint + answer


def _bytes(tokenizer, token):
    """What a token adds to a text that it does not begin, as its vocabulary says."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    piece = tokenizer.convert_ids_to_tokens(token)
    if piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    if type(tokenizer).__name__ == "LlamaTokenizer":
        return piece.replace("▁", " ").encode()
    back = {char: byte for byte, char in bytes_to_unicode().items()}
    return bytes(back[char] for char in piece)


def test_bos_is_what_the_tokenizer_says_or_its_kind_means(gpt, llama, tokenizer):
    assert ends(gpt).start == ()  # BOS and EOS in one: a separator
    assert ends(llama).start == (1,)  # puts none itself, but its models begin with it
    assert ends(tokenizer).start == own_ends(tokenizer).start == (1,)  # puts it itself
    assert ends(llama, bos=False).start == ()
    assert ends(gpt, bos=True).start == (gpt.bos_token_id,)
    assert ends(llama, eos=False).end == ()


def test_a_llama_tokenizer_that_says_no_bos_gets_none(llama):
    from transformers import LlamaTokenizer

    said = LlamaTokenizer(vocab=llama.get_vocab(), merges=[], add_bos_token=False)
    assert ends(said).start == ()


def test_bos_is_asked_for_in_vain_where_there_is_none(gpt):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=gpt.backend_tokenizer)
    with pytest.raises(DataError, match="has no BOS token"):
        ends(bare, bos=True)
    assert ends(bare).end == ()


def test_bos_and_eos_that_are_written_out_are_not_doubled(llama):
    ((ids, _),) = rows(encode([Sample(text="<s> two</s>")], llama, length=20, eos=True))
    assert ids.count(1) == 1
    assert ids.count(2) == 1


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_in_a_chat_every_turn_of_the_assistant_is_scored_with_its_end(gpt, template):
    encoded = encode([CHAT], gpt, length=300, template=template)
    ((ids, labels),) = rows(encoded)
    text = gpt.apply_chat_template(CHAT.messages, chat_template=template, tokenize=False)
    assert gpt.decode(ids) == text
    last = "<think>\n\n</think>\n\nSee you" if template == THINKING else "See you"
    assert gpt.decode(answers(labels)) == f"Hello!<|im_end|>{last}<|im_end|>"
    assert encoded.scored == len(answers(labels))


def test_a_template_that_marks_the_assistants_text_is_taken_at_its_word(gpt):
    ((_, labels),) = rows(encode([CHAT], gpt, length=300, template=MARKED))
    assert gpt.decode(answers(labels)) == "Hello!See you"


def test_the_tokenizers_own_template_is_used_and_brings_its_own_start(gpt):
    gpt.chat_template = CHATML
    try:
        ((ids, _),) = rows(encode([CHAT], gpt, length=300))
    finally:
        gpt.chat_template = None
    assert ids[0] == gpt.convert_tokens_to_ids("<|im_start|>")


def test_without_a_chat_template_the_built_in_one_is_offered(either):
    with pytest.raises(UsageError, match=r"no chat template.*template='simple'"):
        encode([CHAT], either, length=300)
    ((ids, labels),) = rows(encode([CHAT], either, length=300, template="simple"))
    end = either.eos_token
    start = "" if either.bos_token == end else "<s>"
    assert either.decode(ids) == (
        f"{start}### system\nBe brief.\n### user\nHi there\n### assistant\nHello!{end}\n"
        f"### user\nBye\n### assistant\nSee you{end}\n"
    )
    said = either.decode(answers(labels)).replace(" ", "")
    assert said == f"Hello!{end}Seeyou{end}"


def test_the_prompt_of_a_chat_is_its_row_up_to_the_last_answer(gpt):
    ((ids, _),) = rows(encode([CHAT], gpt, length=300, template=CHATML))
    (asked,) = prompts([CHAT], gpt, template=CHATML)
    assert ids[: len(asked)] == asked
    assert gpt.decode(asked).endswith("Bye<|im_end|>\n<|im_start|>assistant\n")
    before = gpt.apply_chat_template(
        CHAT.messages[:-1], chat_template=CHATML, tokenize=True, add_generation_prompt=True
    )["input_ids"]
    assert asked == before


def test_a_template_in_which_the_answer_is_not_found_is_refused(gpt):
    upper = CHATML.replace("{{ m['content'] }}", "{{ loop.length }}{{ m['content'] | upper }}")
    with pytest.raises(DataError, match=r"chat\.jsonl:1: .*cannot be found again.*generation"):
        encode([CHAT], gpt, length=300, template=upper)
    refusing = "{{ raise_exception('no system turn') }}"
    with pytest.raises(DataError, match=r"chat\.jsonl:1: .*refuses the messages: no system turn"):
        encode([CHAT], gpt, length=300, template=refusing)
    with pytest.raises(UsageError, match="'simpel' is not Jinja"):
        encode([CHAT], gpt, length=300, template="simpel")
    with pytest.raises(UsageError, match="the samples are of the kind 'text'"):
        encode(TEXTS, gpt, length=300, template="simple")


def test_what_is_too_long_is_counted_and_named(llama):
    samples = [Sample(text="two", where="a:1"), Sample(text="is " * 30, where="a:2")]
    size = len(llama(samples[1].text)["input_ids"]) + 1
    with pytest.raises(DataError, match=rf"1 of 2 samples have more than 12 .*a:2, has {size}\)"):
        encode(samples, llama, length=12)
    skipped = encode(samples, llama, length=12, overlong="skip")
    assert (skipped.skipped, skipped.cut, skipped.overlong) == (1, 0, ("a:2",))
    assert skipped.kept.tolist() == [0]
    cut = encode(samples, llama, length=12, overlong="cut")
    assert (cut.skipped, cut.cut, len(cut.table)) == (0, 1, 2)
    ids, _ = rows(cut)[1]
    assert ids == [1, *llama(samples[1].text)["input_ids"][:11]]
    with pytest.raises(UsageError, match="Did you mean 'cut'"):
        encode(samples, llama, length=12, overlong="cutt")


def test_a_cut_prompt_loses_its_beginning_and_keeps_its_answer(llama):
    sample = Sample(prompt="is " * 30 + "two?", answer="Four.")
    ((whole, _),) = rows(encode([sample], llama, length=1000))
    ((ids, labels),) = rows(encode([sample], llama, length=12, overlong="cut"))
    assert ids == [1, *whole[-11:]]
    assert answers(labels) == answers(rows(encode([sample], llama, length=1000))[0][1])
    # An answer that does not fit by itself loses its end.
    ((ids, labels),) = rows(encode([sample], llama, length=4, overlong="cut"))
    assert ids[0] == 1
    assert ids[1:] == answers(labels) == whole[-(len(llama("Four.")["input_ids"]) + 1) :][:3]


def test_a_cut_chat_loses_its_end_and_is_left_out_if_nothing_is_left_to_score(gpt):
    other = Sample(
        messages=({"role": "user", "content": "b"}, {"role": "assistant", "content": "a"})
    )
    ((whole, _), _) = rows(encode([CHAT, other], gpt, length=300, template=CHATML))
    at = len(prompts([other], gpt, template=CHATML)[0]) + 2
    cut = encode([CHAT, other], gpt, length=at, template=CHATML, overlong="cut")
    assert (cut.unscored, cut.kept.tolist()) == (1, [1])
    longer = encode([CHAT, other], gpt, length=len(whole) - 2, template=CHATML, overlong="cut")
    assert rows(longer)[0][0] == whole[:-2]
    with pytest.raises(DataError, match="No sample is left"):
        encode([CHAT], gpt, length=5, template=CHATML, overlong="cut")


def test_nothing_to_encode_and_several_kinds_are_refused(gpt):
    with pytest.raises(DataError, match="of one kind; given: none"):
        encode([], gpt, length=10)
    with pytest.raises(DataError, match="of one kind; given: prompt and text"):
        encode([*TEXTS, *PROMPTS], gpt, length=10)
    with pytest.raises(UsageError, match="Texts have no prompt"):
        prompts(TEXTS, gpt)


LONG = st.lists(st.text("ab two is.\n", min_size=1).filter(str.strip), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(texts=LONG, length=st.integers(2, 40))
def test_packed_texts_lose_only_what_fills_no_row(llama, texts, length):
    flat = [token for text in texts for token in (1, *llama(text)["input_ids"])]
    samples = [Sample(text=text) for text in texts]
    if len(flat) < length:
        with pytest.raises(DataError, match=f"{len(flat)} tokens together"):
            encode(samples, llama, length=length, pack=True)
        return
    encoded = encode(samples, llama, length=length, pack=True)
    table = encoded.table
    assert set(table.columns) == {"input_ids", "labels"}
    assert table["input_ids"].shape == (len(flat) // length, length)
    assert table["input_ids"].flatten().tolist() == flat[: len(flat) - len(flat) % length]
    assert encoded.dropped == len(flat) % length
    assert torch.equal(table["labels"][:, 1:], table["input_ids"][:, 1:])
    assert (table["labels"][:, 0] == -100).all()
    assert encoded.padding == 0


PAIRS = st.lists(
    st.tuples(st.text("ab is?", min_size=1), st.text("tw o.", min_size=1)).filter(
        lambda pair: pair[0].strip() and pair[1].strip()
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(pairs=PAIRS, more=st.integers(0, 40))
def test_packed_samples_are_whole_in_order_and_scored_as_when_apart(llama, pairs, more):
    samples = [Sample(prompt=prompt, answer=answer) for prompt, answer in pairs]
    apart = rows(encode(samples, llama, length=1000))
    length = max(len(ids) for ids, _ in apart) + more
    encoded = encode(samples, llama, length=length, pack=True)
    table = encoded.table
    assert set(table.columns) == {"input_ids", "labels", "position_ids"}
    assert table["input_ids"].shape[1] <= length
    found = []
    for ids, labels, positions in zip(
        *(table[name].tolist() for name in ("input_ids", "labels", "position_ids")), strict=True
    ):
        starts = [at for at, position in enumerate(positions) if position == 0]
        assert starts[0] == 0
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            assert positions[start:stop] == list(range(stop - start))
            found.append((ids[start:stop], labels[start:stop]))
    real = [part for part in found if any(label != -100 for label in part[1])]
    padding = [part for part in found if all(label == -100 for label in part[1])]
    assert real == apart
    assert len(padding) <= len(table)
    assert encoded.tokens == sum(len(ids) for ids, _ in apart)
    # Greedy: no sample would have fitted into the row before its own.
    sizes, filled = [len(ids) for ids, _ in apart], []
    for size in sizes:
        if filled and filled[-1] + size <= length:
            filled[-1] += size
        else:
            filled.append(size)
    assert len(table) == len(filled)


def test_what_is_too_long_to_pack_is_treated_as_when_apart(llama):
    samples = [*PROMPTS, Sample(prompt="is " * 99, answer="two")]
    with pytest.raises(DataError, match="1 of 4 samples"):
        encode(samples, llama, length=100, pack=True)
    assert encode(samples, llama, length=100, pack=True, overlong="skip").skipped == 1


def tiny(family, attention="sdpa"):
    import transformers as t

    torch.manual_seed(0)
    size = {"vocab_size": 400, "attn_implementation": attention, "bos_token_id": 1}
    if family == "llama":
        config = t.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.3, **size,
        )  # fmt: skip
    elif family == "gpt2":
        config = t.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, eos_token_id=0, **size
        )
    else:  # no positions at all: tokens are told apart by their distance
        config = t.BloomConfig(
            hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, vocab_size=400
        )
    return t.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_samples_have_the_logits_and_the_loss_of_samples_apart(gpt, family, attention):
    model, objective = tiny(family, attention), CausalLM()
    refuse_mixing(model)
    apart = encode(PROMPTS, gpt, length=200).table
    packed = encode(PROMPTS, gpt, length=200, pack=True).table
    assert len(packed) == 1
    with torch.no_grad():
        alone = objective.forward(model, apart[:])
        together = objective.forward(model, packed[:])[0]
        at = 0
        for row, length in enumerate(apart["length"].tolist()):
            torch.testing.assert_close(together[at : at + length], alone[row, :length])
            at += length
        torch.testing.assert_close(
            objective.loss(together[None], packed[:]), objective.loss(alone, apart[:])
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_of_packing_sees_what_the_packed_row_sees(dtype):
    model = tiny("llama").to(dtype)
    plain = model.forward
    model.forward = lambda position_ids=None, **given: plain(**given)
    with pytest.raises(UsageError, match="would see one another in 'llama'"):
        refuse_mixing(model)
    # Positions alone do not part samples: with a mask of its own transformers lets them mix.
    ones = torch.ones(2, 12, dtype=torch.long)
    model.forward = lambda input_ids, **given: plain(
        input_ids=input_ids, attention_mask=ones[:, : input_ids.shape[1]], **given
    )
    with pytest.raises(UsageError, match="would see one another in 'llama'"):
        refuse_mixing(model)


def test_a_model_that_does_not_keep_samples_apart_is_refused_packing():
    with pytest.raises(UsageError, match=r"one another in 'bloom' .*without packing"):
        refuse_mixing(tiny("bloom"))


def test_the_check_of_packing_holds_in_bfloat16_and_leaves_the_mode():
    model = tiny("llama").to(torch.bfloat16).train()
    refuse_mixing(model)
    assert model.training


def test_an_encoder_decoder_model_gets_prompt_and_answer_apart(gpt):
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    mark = "<|endoftext|>"
    inner = type(gpt.backend_tokenizer).from_str(gpt.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {mark}", special_tokens=[(mark, 0)]
    )
    own = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=mark, pad_token="<|im_start|>")
    encoded = encode(PROMPTS, own, length=50, seq2seq=True)
    table = encoded.table
    for row, sample in enumerate(PROMPTS):
        size, answer = int(table["length"][row]), int(table["label_length"][row])
        asked = own(sample.prompt)["input_ids"]
        assert table["input_ids"][row, :size].tolist() == asked
        assert prompts([sample], own, seq2seq=True) == [asked]
        assert table["labels"][row, :answer].tolist() == own(sample.answer)["input_ids"]
        assert (table["labels"][row, answer:] == -100).all()
    assert encoded.scored == int(table["label_length"].sum())
    short = encode(PROMPTS[:1], own, length=4, seq2seq=True, overlong="cut").table
    assert short["input_ids"][0].tolist() == own(PROMPTS[0].prompt)["input_ids"][-4:]
    assert encode(PROMPTS, own, length=8, seq2seq=True, overlong="skip").skipped == 1
    with pytest.raises(UsageError, match="prompts with answers; given: a text"):
        encode(TEXTS, own, length=50, seq2seq=True)
    with pytest.raises(UsageError, match="Packing is for causal models"):
        encode(PROMPTS, own, length=50, seq2seq=True, pack=True)


def test_an_encoder_decoder_model_learns_from_the_table(tokenizer, make_t5):
    samples = [Sample(prompt="ab", answer="c"), Sample(prompt="d", answer="efg")]
    batch = encode(samples, tokenizer, length=20, seq2seq=True).table[:]
    model, objective = make_t5(), Seq2SeqLM()
    loss = objective.loss(objective.forward(model, batch), batch)
    theirs = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
    ).loss
    torch.testing.assert_close(loss, theirs)


@pytest.mark.data
def test_the_real_llama_begins_a_story_after_bos_and_does_not_know_eos(stories):
    """Why a Llama tokenizer that puts no BOS by itself gets one, and its texts no EOS."""
    from holdfast.language.checkpoints import load

    loaded, objective = load(stories), CausalLM()
    story = Sample(text="Once upon a time, there was a little girl named Lily.")
    batch = encode([story], loaded.tokenizer, length=512, eos=True).table[:]
    with torch.no_grad():
        losses = objective.token_losses(objective.forward(loaded.model, batch), batch)[0]
    assert losses[0] < 0.5  # "Once"
    assert losses[:-1].mean() < 1
    assert losses[-1] > 15  # its weights have never seen EOS
    plain = encode([story], loaded.tokenizer, length=512).table
    assert plain["input_ids"][0].tolist() == batch["input_ids"][0, :-1].tolist()
