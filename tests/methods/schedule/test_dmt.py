"""DMT."""

import pytest
import torch

from holdfast import catalogue
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import DMT
from holdfast.testing import CHECKS, check_method, small_stream
from holdfast.testing.trials import small_llama


def trained_on(watching, learned, stream, **arguments):
    """Ids of the training rows of every experience, and the learner."""
    seen = []

    def select(self, learner, table):
        seen.append(sorted(table["id"].tolist()))
        return table

    learner = learned(stream, chain(DMT(**arguments), watching(select=select)))
    return seen, learner


@pytest.mark.parametrize("check", CHECKS)
def test_the_contract_is_kept(check):
    check_method(lambda: DMT(k=0.25), only=[check])


def test_special_sets_come_first_together_and_a_share_of_each_with_the_last(
    numbered, learned, watching
):
    seen, learner = trained_on(watching, learned, numbered("domain"), k=1 / 4)
    assert seen[0] == [*range(40), *range(1000, 1040)]
    assert seen[1] == []
    own, share = set(range(2000, 2040)), set(seen[2]) - set(range(2000, 2040))
    assert own <= set(seen[2])
    assert [len([i for i in share if low <= i < low + 40]) for low in (0, 1000)] == [10, 10]
    assert learner.record.steps == [16, 0, 12]  # 80 and 60 rows, 10 a batch, 2 epochs
    assert learner.record.matrix[0] == learner.record.matrix[1]


def test_without_a_share_the_last_stage_is_the_general_set_alone(numbered, learned, watching):
    seen, _ = trained_on(watching, learned, numbered("domain"), k=0)
    assert seen[2] == [*range(2000, 2040)]


def test_smaller_shares_are_parts_of_larger_ones(numbered, learned, watching):
    shares = [
        set(trained_on(watching, learned, numbered("domain"), k=k)[0][2]) for k in (1 / 20, 1 / 4)
    ]
    assert shares[0] < shares[1]


def test_each_stage_begins_with_a_fresh_optimizer(numbered, learned, watching):
    momentum = []

    def batch(self, learner, batch):
        if learner.step == 0:
            momentum.append(len(learner.optimizer.state))
        return batch

    learned(
        numbered("domain"),
        chain(DMT(), watching(batch=batch)),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        optimizer_state="keep",
    )
    assert momentum == [0, 0]


def test_each_stage_has_a_whole_schedule(numbered, learned, watching):
    rates = {0: [], 2: []}

    def step(self, learner):
        rates[learner.index].append(learner.optimizer.param_groups[0]["lr"])

    learned(
        numbered("domain"),
        chain(DMT(), watching(step=step)),
        schedule=lambda epoch, epochs: 1 - epoch / epochs,
        lr=0.1,
    )
    assert rates[0][0] == rates[2][0] == 0.1
    assert rates[0][-1] == rates[2][-1] == 0.05


def test_a_growing_head_has_room_for_all_classes_at_once(numbered, learned):
    learner = learned(numbered("class"), DMT(k=0.5), head="growing")
    assert learner.model.head.weight.shape[0] == 6
    assert len(learner.record.matrix) == 3


def test_what_each_stage_took_is_noted():
    stream = small_stream("text")
    learner = Learner(small_llama(), DMT(k=1 / 4), batch_size=8, pretrained=True)
    notes = learner.learn(stream).notes
    assert [(n["examples"], n["updates"], n["epochs"]) for n in notes] == [(80, 10, 1), (60, 8, 1)]
    labels = [e.train["labels"] for e in stream.experiences[:2]]
    assert notes[0]["tokens"] == sum(int((part != -100).sum()) for part in labels)


def test_fractions_may_be_written_as_such():
    assert catalogue.build("dmt(k=1/256)").k == 1 / 256
    with pytest.raises(UsageError, match="between 0 and 1"):
        DMT(k=-0.1)


def test_another_trainer_is_told_to_make_the_stages_itself(tmp_path):
    from transformers import Trainer, TrainingArguments

    from holdfast import attach

    columns = small_stream("text")[0].train
    rows = [{name: columns[name][i] for name in ("input_ids", "labels")} for i in range(8)]
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, max_steps=1)
    trainer = Trainer(small_llama(), arguments, train_dataset=rows)
    attach(trainer, DMT())
    with pytest.raises(UsageError, match=r"composition\.stages"):
        trainer.train()
