"""Scores of single examples."""

import pytest
import torch

from holdfast.data import Table
from holdfast.errors import DataError, UsageError
from holdfast.language.example_scores import ExampleScores, load, save, score, tabled
from holdfast.language.objective import CausalLM
from holdfast.language.selection import select
from holdfast.testing.trials import small_llama, small_stream


@pytest.fixture
def table():
    return small_stream("text")[0].train


def columns(scores):
    return {
        name: getattr(scores, name)
        for name in ("id", "embedding", "head", "loss", "error", "length", "content")
    }


def test_scores_do_not_depend_on_how_many_examples_are_scored_at_once(table):
    model = small_llama()
    at_once, one_by_one = score(model, table), score(model, table, tokens=1)
    for name, values in columns(at_once).items():
        if values.is_floating_point():
            torch.testing.assert_close(
                values, columns(one_by_one)[name], rtol=1e-4, atol=1e-6, msg=name
            )
        else:
            assert torch.equal(values, columns(one_by_one)[name])


def test_losses_and_lengths_are_those_of_the_objective(table):
    model = small_llama().eval()
    scores = score(model, table)
    batch = table[:]
    with torch.no_grad():
        expected = CausalLM().losses(CausalLM().forward(model, batch), batch)
    torch.testing.assert_close(scores.loss.float(), expected)
    assert scores.length.tolist() == [max(0, n - 1) for n in table["length"].tolist()]


def test_scoring_leaves_the_model_as_it_was(table):
    model = small_llama().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chance = torch.get_rng_state()
    score(model, table)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(chance, torch.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_is_kept_is_seven_numbers_an_example(table):
    signals, marks = score(small_llama(), table).tensors()
    assert signals.numel() + marks.numel() == 7 * len(table)


def test_rows_of_lists_are_scored_as_their_table_is(table):
    rows = [
        {
            "input_ids": table["input_ids"][i, : table["length"][i]].tolist(),
            "labels": table["labels"][i, : table["length"][i]].tolist(),
            "id": 100 + i,
        }
        for i in range(6)
    ]
    model = small_llama()
    scores, expected = score(model, rows), score(model, table.take(slice(0, 6)))
    torch.testing.assert_close(scores.head, expected.head)
    assert torch.equal(scores.content, expected.content)
    assert scores.id.tolist() == [100, 101, 102, 103, 104, 105]


def test_a_data_set_of_hugging_face_is_scored():
    from datasets import Dataset

    data = Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9]], "labels": [[-100, 6, 7], [8, 9]]})
    assert score(small_llama(), data).length.tolist() == [2, 1]


def test_examples_that_are_repeated_are_counted(table):
    rows = torch.tensor([0, 1, 0, 2, 1, 0])
    assert score(small_llama(), table.take(rows)).duplicates == 3
    assert score(small_llama(), table.take(rows[:2])).duplicates == 0


def test_an_encoder_decoder_model_is_scored():
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=40,
            d_model=16,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            d_kv=8,
            decoder_start_token_id=0,
        )
    )
    rows = [
        {"input_ids": [5, 6, 7], "labels": [3, 1]},
        {"input_ids": [9, 4], "labels": [2, 4, 5, 1]},
    ]
    scores = score(model, rows)
    assert scores.length.tolist() == [2, 4]
    assert bool((scores.embedding > 0).all())


def test_a_selection_is_taken_to_another_model_by_ids(table, tmp_path):
    named = table.with_columns(id=torch.arange(len(table)) * 10)
    scores = score(small_llama(), named)
    rows = select(scores, 0.25)
    save(tmp_path / "selection.json", scores, rows, model="small", seed=0)
    kept = load(tmp_path / "selection.json")
    assert kept.provenance == {"model": "small", "seed": 0}
    for name, values in columns(scores).items():
        assert torch.equal(columns(kept.scores)[name], values), name
    backwards = named.take(torch.arange(len(table) - 1, -1, -1))
    chosen = backwards.take(kept.rows(backwards))
    assert sorted(chosen["id"].tolist()) == (rows * 10).tolist()


def test_a_selection_does_not_fit_a_table_without_its_examples(table, tmp_path):
    scores = score(small_llama(), table)
    save(tmp_path / "selection.json", scores, torch.tensor([3, 39]))
    kept = load(tmp_path / "selection.json")
    with pytest.raises(DataError, match=r"1 of 2 selected examples are not in .* \(first: id 39\)"):
        kept.rows(table.take(slice(0, 20)))


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "another"}'])
def test_other_files_are_no_selections(content, tmp_path):
    (tmp_path / "selection.json").write_text(content)
    with pytest.raises(UsageError, match=r"cannot be read as a selection|is not a selection"):
        load(tmp_path / "selection.json")


def test_rows_that_lack_a_column_are_named():
    with pytest.raises(DataError, match="Example 1 has no labels; it has: input_ids"):
        tabled([{"input_ids": [1], "labels": [1]}, {"input_ids": [1]}])
    with pytest.raises(DataError, match="no examples"):
        tabled([])


def test_scores_survive_as_tensors(table):
    scores = score(small_llama(), table)
    again = ExampleScores.of_tensors(*scores.tensors())
    assert all(torch.equal(columns(again)[name], v) for name, v in columns(scores).items())


def test_a_table_on_its_own_needs_no_length(table):
    bare = Table({name: table[name][:4, :9] for name in ("input_ids", "labels")})
    assert len(score(small_llama(), bare)) == 4
