"""Prediction of tokens: the losses are transformers' own, rows and passes weigh by their tokens."""

import torch
import torch.nn.functional as F

from holdfast.data import Table
from holdfast.language.objective import CausalLM, Seq2SeqLM, objective_of
from holdfast.learner import Learner
from holdfast.optim.adamw import adamw
from holdfast.testing import small_stream
from holdfast.testing.trials import small_llama


def batch_of(rows=6):
    return next(iter(small_stream("text")[0].train.chunks(rows)))


def small_t5():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            decoder_start_token_id=0,
        )
    ).eval()  # fmt: skip


def test_the_loss_is_that_of_transformers():
    model, batch = small_llama().eval(), batch_of()
    theirs = model(**{k: v for k, v in batch.items() if k != "length"}).loss
    ours = CausalLM().loss(CausalLM().forward(model, batch), batch)
    torch.testing.assert_close(ours, theirs)


def test_an_encoder_decoders_loss_is_that_of_transformers():
    model = small_t5()
    labels = torch.tensor([[5, 6, 1, -100], [7, 1, -100, -100]])
    batch = {
        "input_ids": torch.tensor([[9, 8, 7], [3, 2, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": labels,
    }
    objective = objective_of(model)
    assert isinstance(objective, Seq2SeqLM)
    outputs = objective.forward(model, batch)
    torch.testing.assert_close(objective.loss(outputs, batch), model(**batch).loss)
    right = (outputs.argmax(-1) == labels) & (labels != -100)
    torch.testing.assert_close(
        objective.scores(outputs, batch), right.sum(1) / torch.tensor([3.0, 2.0])
    )


def test_an_examples_loss_is_the_mean_over_its_own_tokens():
    model, batch = small_llama().eval(), batch_of()
    outputs = CausalLM().forward(model, batch)
    losses = CausalLM().losses(outputs, batch)
    for row, length in enumerate(batch["length"].tolist()):
        alone = F.cross_entropy(outputs[row, : length - 1], batch["input_ids"][row, 1:length])
        torch.testing.assert_close(losses[row], alone)
    weights = batch["length"] - 1
    torch.testing.assert_close(
        CausalLM().loss(outputs, batch), (losses * weights).sum() / weights.sum()
    )
    assert int(CausalLM().weight(batch)) == int(weights.sum())


def test_values_are_averaged_over_the_positions_that_predict_a_label():
    batch = {"labels": torch.tensor([[-100, 4, -100], [-100, -100, 5]])}
    values = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    assert float(CausalLM().mean(values, batch)) == (1 + 20) / 2


def test_a_squared_norm_is_the_mean_over_the_tokens_that_are_asked_for():
    logits = torch.tensor(
        [[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]], [[0.0, 1.0], [2.0, 2.0], [9.0, 9.0]]]
    )
    labels = torch.tensor([[-100, 1, 0], [-100, -100, 0]])
    found = CausalLM().squared_norms(logits, {"labels": labels})
    assert found.tolist() == [(5 + 9) / 2, 8]


def test_drawn_labels_come_from_the_model_where_labels_are_asked_for():
    logits = torch.full((2, 3, 8), -torch.inf)
    logits[0, 0, 3], logits[0, 1, 4], logits[1, 0, 5], logits[:, 2, 0] = 0.0, 0.0, 0.0, 0.0
    logits[1, 1, 6] = 0.0
    batch = {"labels": torch.tensor([[-100, 1, 1], [-100, 1, -100]])}
    drawn = CausalLM().sampled(logits, batch, torch.Generator().manual_seed(0))
    assert drawn["labels"].tolist() == [[-100, 3, 4], [-100, 5, -100]]


def test_padding_changes_nothing():
    model, batch = small_llama().eval(), batch_of()
    wide = {
        "input_ids": F.pad(batch["input_ids"], (0, 5), value=7),
        "labels": F.pad(batch["labels"], (0, 5), value=-100),
        "attention_mask": F.pad(batch["attention_mask"], (0, 5)),
    }
    near = CausalLM().losses(CausalLM().forward(model, batch), batch)
    torch.testing.assert_close(CausalLM().losses(CausalLM().forward(model, wide), wide), near)


def test_passes_of_different_length_add_up_to_the_update_of_all_their_rows():
    """Each pass weighs as many predictions as it asks for, as in one large batch."""

    def trained(batch_size, accumulate):
        table = small_stream("text", 12)[0].train
        learner = Learner(
            small_llama(),
            optimizer=adamw(1e-2),
            batch_size=batch_size,
            accumulate=accumulate,
            clip=1.0,
        )
        learner.start(small_stream("text", 12))
        learner.begin(small_stream("text", 12)[0])
        parts = list(table.chunks(batch_size))
        for start in range(0, len(parts), accumulate):
            learner.update(*parts[start : start + accumulate])
        return torch.cat([p.detach().flatten() for p in learner.model.parameters()])

    torch.testing.assert_close(trained(12, 1), trained(5, 3), atol=2e-5, rtol=1e-4)


def test_an_update_is_transformers_trainers_arithmetic():
    """Against a bare loop: forward, token mean, clipping, AdamW."""
    stream = small_stream("text", 8)
    learner = Learner(small_llama(), optimizer=adamw(1e-2), batch_size=8, clip=0.5)
    learner.start(stream)
    learner.begin(stream[0])
    batch = next(iter(stream[0].train.chunks(8)))
    learner.update(batch)

    model = small_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    model.train()
    model(**{k: v for k, v in batch.items() if k != "length"}).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    for ours, theirs in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_bfloat16_is_for_forward_passes_only():
    stream = small_stream("text", 8)
    learner = Learner(small_llama(), precision="bfloat16", batch_size=4)
    learner.learn(stream)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}
    with learner.autocast():
        outputs = learner.objective.forward(learner.model, batch_of())
    assert outputs.dtype == torch.bfloat16
    assert learner.objective.losses(outputs, batch_of()).dtype == torch.float32


def test_losses_before_and_after_every_experience_are_recorded():
    stream = small_stream("text", 8)
    record = Learner(small_llama(), batch_size=4).learn(stream)
    rows = record.measures["loss"]
    assert len(rows) == 4
    assert all(len(row) == 3 for row in rows)
    model = small_llama().eval()
    with torch.no_grad():
        test = stream[1].test.columns
        expected = CausalLM().losses(CausalLM().forward(model, test), test).mean()
    torch.testing.assert_close(rows[0][1], float(expected), rtol=1e-5, atol=0)


def test_a_table_of_rows_of_different_length_is_cut_batch_by_batch():
    table = Table(
        {
            "input_ids": torch.tensor([[1, 2, 3, 4], [5, 0, 0, 0], [6, 7, 0, 0]]),
            "labels": torch.tensor([[1, 2, 3, 4], [5, -100, -100, -100], [6, 7, -100, -100]]),
            "length": torch.tensor([4, 1, 2]),
        }
    )
    first, second = table.chunks(2)
    assert first["input_ids"].shape == (2, 4)
    assert second["input_ids"].tolist() == [[6, 7]]
    assert second["labels"].tolist() == [[6, 7]]
