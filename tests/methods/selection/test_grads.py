"""GrADS."""

from functools import partial

import pytest
import torch

from holdfast.errors import StreamRefused, UsageError
from holdfast.language.example_scores import load, score
from holdfast.language.selection import RULES, select
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import GrADS
from holdfast.testing import CHECKS, check_method
from holdfast.testing.trials import small_llama, small_stream


def learner_of(method, model=None, **options):
    options = {"batch_size": 8, "epochs": 1, "seed": 0, **options}
    return Learner(
        model or small_llama(),
        method,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        pretrained=True,
        **options,
    )


def begun(method, **options):
    """A learner at the beginning of a stream's first experience."""
    stream = small_stream("text")
    learner = learner_of(method, **options)
    learner.start(stream)
    with learner.chance.mine():
        learner.begin(stream[0])
    return learner, stream


@pytest.mark.parametrize("check", CHECKS)
def test_the_contract_is_kept(check):
    check_method(partial(GrADS, budget=0.4), only=[check])


@pytest.mark.parametrize("check", ["exact_resume", "last_batch_of_one"])
def test_the_contract_is_kept_when_scoring_online(check):
    check_method(partial(GrADS, mode="online", rule="stratified"), only=[check])


def test_training_is_on_the_chosen_examples_from_the_original_weights():
    method, model = GrADS(budget=0.25), small_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner, stream = begun(method, model=model)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(
        learner.batches.table["input_ids"], stream[0].train["input_ids"][method.chosen(0)]
    )
    assert len(method.chosen(0)) == 10


def test_scores_are_those_of_a_copy_after_an_epoch_of_the_same_training():
    method = GrADS(seed=5)
    _, stream = begun(method)
    copy = learner_of(None, seed=5)
    alone = type(stream)("alone", [stream[0]], "text", 0, ())
    copy.learn(alone)
    expected = score(copy.model, stream[0].train)
    torch.testing.assert_close(method.scores(0).head, expected.head)
    torch.testing.assert_close(method.scores(0).embedding, expected.embedding)
    raw = score(small_llama(), stream[0].train)
    assert not torch.allclose(raw.head, expected.head, rtol=0.01)


def test_without_preliminary_epochs_scores_are_of_the_model_as_it_comes():
    method = GrADS(preliminary_epochs=0)
    _, stream = begun(method)
    torch.testing.assert_close(method.scores(0).head, score(small_llama(), stream[0].train).head)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_scores_online_are_those_of_the_model_at_the_step_of_the_example(accumulate):
    method, rate = GrADS(mode="online"), 0.0
    stream = small_stream("text")
    learner = Learner(
        small_llama(),
        method,
        optimizer=partial(torch.optim.SGD, lr=rate),  # so that every step sees the same model
        batch_size=6,
        accumulate=accumulate,
        pretrained=True,
    )
    learner.start(stream)
    learner.begin(stream[0])
    expected = score(small_llama(), stream[0].train)
    found = method.scores(0)
    for name in ("embedding", "head", "loss", "error"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-5
        )
    assert torch.equal(found.content, expected.content)
    assert torch.equal(found.length, expected.length)


def test_scores_online_move_with_the_model():
    online, still = GrADS(mode="online"), GrADS(preliminary_epochs=0)
    begun(online)
    begun(still)
    gap = (online.scores(0).loss - still.scores(0).loss).abs()
    assert float(gap.max()) > 0.05


def test_adapters_may_stand_in_for_the_copys_weights():
    full, light = GrADS(), GrADS(lora_rank=2)
    learner, _ = begun(light)
    begun(full)
    assert not any("lora" in name for name, _ in learner.model.named_parameters())
    assert not torch.equal(full.scores(0).head, light.scores(0).head)


def test_as_many_steps_are_made_as_on_all_examples_on_request():
    stream = small_stream("text")
    steps = {}
    for equal in ("epochs", "steps"):
        method = GrADS(budget=0.3, equal=equal)
        steps[equal] = learner_of(method).learn(stream).steps
    assert steps == {"epochs": [2, 2, 2], "steps": [5, 5, 5]}
    counts = torch.bincount(method.chosen(2).repeat(4)[:40])
    assert set(counts[counts > 0].tolist()) <= {3, 4}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_chooses_as_the_function_does(rule):
    method = GrADS(budget=0.3, rule=rule, preliminary_epochs=0, seed=4)
    begun(method)
    assert torch.equal(method.chosen(0), select(method.scores(0), 0.3, rule, seed=4))


def test_what_was_found_is_noted():
    record = learner_of(GrADS()).learn(small_stream("text"))
    notes = [note for note in record.notes if "chosen" in note]
    assert [note["experience"] for note in notes] == [0, 1, 2]
    assert all(note["chosen"] == note["self_chosen"] < note["examples"] == 40 for note in notes)
    assert all(-1 <= note["length_correlation"] <= 1 for note in notes)
    assert all(note["duplicates"] == 0 for note in notes)
    assert [n["preliminary_steps"] for n in record.notes if "preliminary_steps" in n] == [5, 5, 5]


def test_preliminary_training_counts_as_cost():
    stream = small_stream("text")
    dear = learner_of(GrADS(budget=1.0)).learn(stream).cost["flops"]
    cheap = learner_of(GrADS(budget=1.0, preliminary_epochs=0)).learn(stream).cost["flops"]
    plain = learner_of(None).learn(stream).cost["flops"]
    assert dear > 1.5 * plain
    assert dear > cheap > plain


def test_a_choice_is_written_for_other_models(tmp_path):
    method = GrADS(budget=0.25)
    learner, stream = begun(method)
    learner.train()
    method.save(tmp_path / "selection.json", 0, model="small")
    kept = load(tmp_path / "selection.json")
    assert torch.equal(kept.rows(stream[0].train), method.chosen(0))
    assert kept.provenance["model"] == "small"
    assert kept.provenance["budget"] == 0.25
    with pytest.raises(UsageError, match="chosen nothing yet in experience 2"):
        method.save(tmp_path / "selection.json", 2)


def trainer_of(folder, method):
    from transformers import Trainer, TrainingArguments

    from holdfast import attach

    columns = small_stream("text")[0].train
    rows = [
        {name: columns[name][i] for name in ("input_ids", "labels", "attention_mask")}
        for i in range(40)
    ]
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=8, report_to=[], use_cpu=True, max_steps=2
    )
    trainer = Trainer(small_llama(), arguments, train_dataset=rows)
    attach(trainer, method)
    return trainer


def test_inside_another_trainer_it_chooses_by_the_model_as_it_comes(tmp_path):
    method = GrADS(budget=0.25, preliminary_epochs=0)
    trainer_of(tmp_path, method).train()
    expected = score(small_llama(), small_stream("text")[0].train)
    torch.testing.assert_close(method.scores(0).head, expected.head)
    assert torch.equal(method.chosen(0), select(expected, 0.25))


def test_inside_another_trainer_preliminary_training_is_refused_with_the_way_to_do_it(tmp_path):
    with pytest.raises(UsageError, match="choose the data before"):
        trainer_of(tmp_path, GrADS()).train()


def test_it_chooses_from_what_others_have_chosen():
    from holdfast.methods import DMT

    stream = small_stream("text")
    method = GrADS(budget=0.5)
    learner_of(chain(DMT(k=1 / 4), method)).learn(stream)
    assert len(method.scores(0)) == 80
    assert len(method.scores(2)) == 40 + 2 * 10


def test_streams_of_other_kinds_and_other_models_are_refused():
    with pytest.raises(StreamRefused, match="GrADS serves language streams"):
        learner_of(GrADS()).start(small_stream("class"))
    bare = torch.nn.Sequential(torch.nn.Embedding(256, 8), torch.nn.Linear(8, 256))
    with pytest.raises(StreamRefused, match="does not tell by get_input_embeddings"):
        learner_of(GrADS(), model=bare).start(small_stream("text"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budget": 1.5}, "budget must be above 0 and at most 1"),
        ({"rule": "gradz"}, "Did you mean 'grads'"),
        ({"mode": "offline"}, "Did you mean 'online'"),
        ({"equal": "step"}, "Did you mean 'steps'"),
        ({"mode": "online", "preliminary_epochs": 0}, "must be at least 1"),
        ({"preliminary_epochs": -1}, "preliminary_epochs must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_named(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        GrADS(**options)
