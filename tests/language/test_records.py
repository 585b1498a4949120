"""Files to samples: every format, every name of a field, every fault with its line."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import DataError, UsageError
from holdfast.language.fields import detect
from holdfast.language.records import Sample, overlap, read, stream

ROWS = [{"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_csv(path):
    path.write_text("prompt,answer\n" + "".join(f"{r['prompt']},{r['answer']}\n" for r in ROWS))


def write_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)


def write_saved(path):
    pytest.importorskip("datasets").Dataset.from_list(ROWS).save_to_disk(path)


WRITERS = {
    "a.jsonl": lambda path: lines(path, ROWS),
    "a.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("\n".join(map(json.dumps, ROWS)).encode())
    ),
    "a.json": lambda path: path.write_text(json.dumps(ROWS)),
    "a.csv": write_csv,
    "a.parquet": write_parquet,
    "saved": write_saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_samples_in_order(tmp_path, name):
    WRITERS[name](tmp_path / name)
    samples = read(tmp_path / name)
    assert [(s.prompt, s.answer) for s in samples] == [(r["prompt"], r["answer"]) for r in ROWS]
    assert samples.kind == "prompt"
    assert all(name in sample.where for sample in samples)


def test_plain_files_are_one_text_each_and_a_folder_is_read_by_name(tmp_path):
    (tmp_path / "b.txt").write_text("second\nfile")
    (tmp_path / "a.md").write_text("# first")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"fourth"))
    (tmp_path / "b.z.py").write_text("third = 3")
    (tmp_path / "README.md").write_text("about these")
    (tmp_path / "table.xls").write_text("not read")
    assert [s.text for s in read(tmp_path)] == ["# first", "second\nfile", "third = 3", "fourth"]


def test_several_paths_are_read_one_after_another(tmp_path):
    one, two = lines(tmp_path / "1.jsonl", ROWS[:1]), lines(tmp_path / "2.jsonl", ROWS[1:])
    assert [s.answer for s in read([two, one])] == ["2", "3", "1"]


@pytest.mark.parametrize(
    ("record", "prompt", "answer"),
    [
        ({"prompt": "p", "completion": "a"}, "p", "a"),
        ({"question": "p", "answer": "a"}, "p", "a"),
        ({"instruction": "do", "input": "this", "output": "a"}, "do\nthis", "a"),
        ({"instruction": "do", "input": "", "output": "a"}, "do", "a"),
        ({"query": "p", "response": "a"}, "p", "a"),
        ({"src": "p", "target": "a"}, "p", "a"),
        ({"text": "p", "label": "a"}, "p", "a"),
        ({"prompt": "p", "answer": 7}, "p", "7"),
        ({"id": 3, "question": "p", "choices": ["x", "a"], "answer": 1}, "p", "a"),
        ({"question": "p", "choices": {"text": ["x", "a"]}, "answer": "a"}, "p", "a"),
    ],
)
def test_prompts_and_answers_are_found_under_their_usual_names(tmp_path, record, prompt, answer):
    (sample,) = read(lines(tmp_path / "a.jsonl", [record]))
    assert (sample.prompt, sample.answer) == (prompt, answer)
    assert sample.choices == (("x", "a") if "choices" in record else ())


@pytest.mark.parametrize(
    "record",
    [{"text": "t"}, {"content": "t"}, {"text": "t", "label": 3}, {"title": "x", "text": "t"}],
)
def test_a_text_without_an_answer_in_words_is_a_text(tmp_path, record):
    (sample,) = read(lines(tmp_path / "a.jsonl", [record]))
    assert (sample.kind, sample.text) == ("text", "t")


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "h"}, {"text": "i"}]},
                {"role": "assistant", "content": "yes"},
            ]
        },
    ],
)
def test_chats_are_read_as_turns_with_role_and_content(tmp_path, record):
    (sample,) = read(lines(tmp_path / "a.jsonl", [record]))
    assert sample.kind == "chat"
    assert sample.messages == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes"},
    )


def test_given_fields_are_used_whatever_the_usual_names(tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"task": "p", "reply": "a", "text": "other"}])
    assert read(file, fields="prompt=task,answer=reply")[0].prompt == "p"
    assert read(file, fields={"text": "reply"})[0].text == "a"


def test_fields_that_leave_open_which_is_meant_are_refused(tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"text": "p", "target": "t", "label": "a"}])
    with pytest.raises(DataError, match=r"a\.jsonl:1 has the fields 'target' and 'label'"):
        read(file)
    assert read(file, fields="prompt=text,answer=label")[0].answer == "a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("prompt", "Cannot read fields 'prompt'"),
        ("prompt=q", "do not make a sample"),
        ("text=t,prompt=q,answer=a", "do not make a sample"),
        ("promt=q,answer=a", "Did you mean 'prompt'"),
    ],
)
def test_fields_that_make_no_sample_are_refused(tmp_path, fields, message):
    with pytest.raises(UsageError, match=message):
        read(lines(tmp_path / "a.jsonl", ROWS), fields=fields)


FAULTS = {
    "{not json": "is not JSON",
    '["a", "list"]': r"is not a record with named fields, but \['a', 'list'\]",
    '{"prompt": "p"}': "has no 'answer'; it has 'prompt'",
    '{"prompt": "p", "answer": null}': "has no 'answer'",
    '{"prompt": "  ", "answer": "a"}': "'prompt' is empty",
    '{"prompt": "p", "answer": ["a"]}': r"'answer' must be a text; it is \['a'\]",
    '{"prompt": "p", "answer": true}': "'answer' must be a text; it is True",
    "\\xff": "is not UTF-8: byte 0xff at position 0",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_line_is_named_or_with_skip_bad_listed(tmp_path, fault):
    file = tmp_path / "new.jsonl"
    good = [json.dumps(row).encode() for row in ROWS]
    bad = b"\xff" if fault == "\\xff" else fault.encode()
    file.write_bytes(b"\n".join([good[0], b"", bad, *good[1:]]))  # an empty line is no record
    with pytest.raises(DataError, match=rf"new\.jsonl:3.*{FAULTS[fault]}"):
        read(file)
    samples = read(file, skip_bad=True)
    assert [sample.answer for sample in samples] == ["1", "2", "3"]
    assert [bad.where for bad in samples.bad] == [f"{file}:3"]
    assert str(file) in samples.bad[0].why


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must be a list of messages"),
        ("hi", "must be a list of messages"),
        ([{"role": "user", "content": "hi"}], "no message of the assistant"),
        ([{"role": "usr", "content": "hi"}], "no role 'usr'"),
        ([{"role": "assistant", "content": ""}], "message 1: 'content' is empty"),
        ([{"role": "assistant"}], "message 1 has no 'content'"),
        ([{"role": "assistant", "content": [{"type": "image"}]}], "only text is read"),
    ],
)
def test_a_bad_chat_is_said_to_be_so(tmp_path, messages, message):
    with pytest.raises(DataError, match=rf"a\.jsonl:1.*{message}|{message}.*a\.jsonl:1"):
        read(lines(tmp_path / "a.jsonl", [{"messages": messages}]))


def test_unknown_fields_are_refused_with_what_was_found_and_what_is_accepted(tmp_path):
    with pytest.raises(
        DataError, match=r"a\.jsonl:1 has the fields 'premise', 'hypothesis'; accep"
    ):
        read(lines(tmp_path / "a.jsonl", [{"premise": "p", "hypothesis": "h"}]))
    with pytest.raises(DataError, match="has no field 'reply'; it has 'prompt', 'answer'"):
        read(lines(tmp_path / "a.jsonl", ROWS), fields="prompt=prompt,answer=reply")


def test_an_answer_beyond_the_choices_is_refused(tmp_path):
    record = {"question": "p", "choices": ["x", "y"], "answer": 2}
    with pytest.raises(DataError, match="'answer' is 2, but there are 2 choices, counted from 0"):
        read(lines(tmp_path / "a.jsonl", [record]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.docx", b"x", r"ends in '\.docx'; accepted: \.jsonl"),
        ("a", b"x", "ends in 'nothing known'"),
        ("a.txt", b"ab\xe9", "is not UTF-8: byte 0xe9 at position 2"),
        ("a.csv", b"text\n\xe9", "is not UTF-8"),
        ("a.csv", b"prompt,answer\n1,2,3\n", r"a\.csv:2 does not have 2 fields"),
        ("a.json", b'{"text": "t"}', "holds dict; accepted: a list of records"),
        ("a.json", b'{"text": 1}\n{"text": 2}', r"is not JSON.*\.jsonl"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "t"}' * 99, mtime=0)[:-9], "cannot be read"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.parquet", b"not parquet", "is not a Parquet file"),
        ("a.txt", b" \n", "'text' is empty"),
        ("a.jsonl", b"\n\n", "There is no sample"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match=r"There is no file or folder .*gone"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="has no file that can be read"):
        read(tmp_path)
    with pytest.raises(DataError, match="No file was given"):
        read([])


def test_samples_of_several_kinds_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("plain")
    lines(tmp_path / "b.jsonl", ROWS)
    with pytest.raises(DataError, match=r"b\.jsonl:1 is a prompt, but .*a\.txt:1 is a text"):
        read(tmp_path)


def test_where_all_records_are_bad_the_first_reason_is_given(tmp_path):
    with pytest.raises(DataError, match=r"the first of 2 bad records: .*a\.jsonl:1 has the fields"):
        read(lines(tmp_path / "a.jsonl", [{"x": 1}] * 2), skip_bad=True)


def test_streaming_reads_no_further_than_it_is_asked(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]) + "\nbroken")
    samples = stream(file)
    assert [next(samples).answer, next(samples).answer] == ["1", "2"]
    with pytest.raises(DataError, match=r"a\.jsonl:3"):
        next(samples)
    assert len(read(file, limit=2)) == 2


def test_a_slice_of_samples_is_samples(tmp_path):
    part = read(lines(tmp_path / "a.jsonl", ROWS))[1:]
    assert part.kind == "prompt"
    assert [sample.answer for sample in part] == ["2", "3"]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1))
def test_any_text_comes_back_as_it_was_written(tmp_path_factory, texts):
    file = lines(tmp_path_factory.mktemp("any") / "a.jsonl", [{"text": text} for text in texts])
    assert [sample.text for sample in read(file)] == texts


def test_overlap_counts_the_samples_that_are_in_both():
    mine = [
        Sample(text="Once  Upon\n"),
        Sample(text="a time"),
        Sample(text="a time"),
        Sample(text="x"),
    ]
    theirs = [Sample(text="once upon"), Sample(text="A TIME")]
    assert overlap(mine, theirs) == 3
    assert overlap(theirs, mine) == 2
    assert overlap([Sample(prompt="a", answer="b")], [Sample(prompt="a", answer="c")]) == 0


def test_a_sample_is_exactly_one_thing():
    for given_ in (
        {},
        {"prompt": "p"},
        {"text": "t", "prompt": "p", "answer": "a"},
        {"answer": "a"},
    ):
        with pytest.raises(UsageError, match="exactly one"):
            Sample(**given_)


def test_detection_looks_at_names_only_where_a_record_has_names():
    with pytest.raises(DataError, match="here:1 is not a record"):
        detect(3, None, "here:1")


@pytest.mark.data
def test_real_files_of_questions_and_novels_are_read(data_folder):
    assert len(read(data_folder / "gsm8k" / "train.jsonl.gz")) == 7473
    assert read(data_folder / "corpora" / "german_novels.jsonl.gz").kind == "text"
