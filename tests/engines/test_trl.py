"""Methods inside TRL's trainers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_methods import Pull
from small_trainers import distance, texts, tiny_llama, weights, words

from holdfast import attach
from holdfast.engines.rows import rows_of
from holdfast.method import Method, chain
from holdfast.methods import ER, EWC, L2, LwF

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ROUNDING = 2e-5
KINDS = ("text", "answers", "packed", "preferences")
METHODS: dict[str, Callable[[], Method]] = {
    "er": lambda: ER(capacity=6),
    "l2": lambda: L2(0.5),
    "lwf": LwF,
    "ewc": lambda: EWC(5.0),
    "all": lambda: chain(ER(capacity=6), LwF(), L2(0.1)),
}


def sentences(rows: int, *columns: str, seed: int = 0) -> Any:
    import datasets

    draw = random.Random(seed)

    def some() -> str:
        return " ".join(f"w{draw.randrange(36)}" for _ in range(draw.randrange(3, 8)))

    parts = [{column: some() for column in columns} for _ in range(rows)]
    return datasets.Dataset.from_list(parts)


def build(kind: str, folder: Path, model: Any = None, **arguments: Any) -> Any:
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        **arguments,
    }
    model = model or tiny_llama()
    if kind == "preferences":
        return DPOTrainer(
            model,
            tiny_llama(seed=1),
            args=DPOConfig(**settings),
            train_dataset=sentences(12, "prompt", "chosen", "rejected"),
            processing_class=words(),
        )
    columns = ("prompt", "completion") if kind == "answers" else ("text",)
    if kind == "packed":
        settings |= {"packing": True, "max_length": 16}
    return SFTTrainer(
        model,
        args=SFTConfig(**settings),
        train_dataset=sentences(12, *columns),
        processing_class=words(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_of_weight_zero_changes_nothing(kind: str, tmp_path: Path) -> None:
    models = []
    for methods in ([], [Pull(0.0)]):
        trainer = build(kind, tmp_path, gradient_accumulation_steps=3)
        attach(trainer, methods)
        trainer.train()
        models.append(weights(trainer.model))
    assert distance(models[0], weights(tiny_llama())) > 0.005
    assert distance(*models) < ROUNDING


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if kind == "text" or name == "all" else pytest.mark.slow)
        for kind in KINDS
        for name in METHODS
    ],
)
def test_methods_act_in_every_kind_of_trainer(name: str, kind: str, tmp_path: Path) -> None:
    plain, trainer = build(kind, tmp_path), build(kind, tmp_path)
    bridge = attach(trainer, METHODS[name]())
    for one in (plain, trainer):
        torch.manual_seed(0)
        for _ in range(2):
            one.train()
    assert bridge.index == 2
    apart = distance(weights(plain.model), weights(trainer.model))
    assert 1e-5 < apart < 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_penalty_counts_once_per_update(kind: str, accumulate: int, tmp_path: Path) -> None:
    """With a learning rate of one and SGD, the penalty's part of a step is strength times w."""
    steps, start = [], weights(tiny_llama())
    for strength in (0.0, 2.0):
        trainer = build(
            kind,
            tmp_path,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            max_steps=1,
            gradient_accumulation_steps=accumulate,
        )
        attach(trainer, Pull(strength))
        trainer.train()
        now = weights(trainer.model)
        steps.append({name: start[name] - now[name] for name in now})
    part = {name: steps[1][name] - steps[0][name] for name in start}
    assert distance(part, {name: 2.0 * w for name, w in start.items()}) < 1e-5


@pytest.mark.parametrize("kind", ["text", "preferences"])
def test_the_teacher_is_the_model_as_it_came_though_trl_changed_its_forward(
    kind: str, tmp_path: Path
) -> None:
    method = LwF()
    trainer = build(kind, tmp_path)
    attach(trainer, method)
    teachers = []
    take = method.inherit

    def inherit(learner: Any) -> None:
        take(learner)
        teachers.append(method.teacher.model)

    method.inherit = inherit  # type: ignore[method-assign]
    trainer.train()
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        now, then = trainer.model(input_ids=ids).logits, teachers[0](input_ids=ids).logits
        came = tiny_llama().eval()(input_ids=ids).logits  # type: ignore[operator]
    assert torch.allclose(then, came, atol=1e-6)
    assert not torch.allclose(now, came, atol=1e-2)


def test_distillation_under_trl_is_distillation_under_trainer(tmp_path: Path) -> None:
    """TRL makes no logits; those that are made for a method give the same gradient."""
    from transformers import Trainer, TrainingArguments

    tokens = [{"input_ids": row["input_ids"]} for row in texts(8)]
    import datasets

    data = datasets.Dataset.from_list(tokens)
    sft = build("text", tmp_path)
    sft.train_dataset = datasets.Dataset.from_list([{**r, "labels": r["input_ids"]} for r in data])
    plain = Trainer(
        tiny_llama(),
        TrainingArguments(
            output_dir=str(tmp_path),
            **{
                name: getattr(sft.args, name)
                for name in (
                    "per_device_train_batch_size",
                    "num_train_epochs",
                    "learning_rate",
                    "lr_scheduler_type",
                    "report_to",
                    "use_cpu",
                    "disable_tqdm",
                    "optim",
                    "max_grad_norm",
                )
            },
            save_strategy="no",
        ),
        train_dataset=sft.train_dataset,
        data_collator=sft.data_collator,
    )
    for trainer in (sft, plain):
        attach(trainer, [ER(capacity=4), LwF()])
        trainer.train()
    assert distance(weights(sft.model), weights(plain.model)) < ROUNDING


# Rows.


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_the_trainers_form_are_two_views_of_the_same(kind: str, tmp_path: Path) -> None:
    trainer = build(kind, tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    batch, restore = rows_of(inputs, pairs=kind == "preferences")
    back = restore(batch)
    if kind == "packed":
        lengths = batch["attention_mask"].sum(1).tolist()
        starts = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
        assert starts == [sum(lengths[:i]) for i in range(len(lengths))]
        mask = batch["attention_mask"].bool()
        for name in ("input_ids", "labels"):
            assert torch.equal(batch[name][mask], inputs[name][0])
            assert (batch[name][~mask] == (-100 if name == "labels" else 0)).all()
        return
    assert back.keys() == inputs.keys()
    for name, value in inputs.items():
        assert torch.equal(back[name], value)


def test_replayed_preferences_stay_pairs(tmp_path: Path) -> None:
    """The trainer's loss of rows replayed beside themselves is its loss of the rows."""
    trainer = build("preferences", tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    batch, restore = rows_of(inputs, pairs=True)
    twice = restore({name: torch.cat([column, column]) for name, column in batch.items()})
    assert len(twice["input_ids"]) == 2 * len(inputs["input_ids"])
    trainer.model.eval()
    once = trainer.compute_loss(trainer.model, dict(inputs))
    assert trainer.compute_loss(trainer.model, twice).item() == pytest.approx(once.item(), abs=1e-6)


def test_pairs_score_tokens_as_single_answers_do(tmp_path: Path) -> None:
    from holdfast.engines.pairs import Pairs
    from holdfast.language.objective import CausalLM

    inputs = next(iter(build("preferences", tmp_path).get_train_dataloader()))
    batch, _ = rows_of(inputs, pairs=True)
    model: Any = tiny_llama()
    pairs, single = Pairs(), CausalLM()
    outputs = pairs.forward(model, batch)
    flat = {name: column.flatten(0, 1) for name, column in batch.items()}
    flat_outputs = single.forward(model, flat)
    assert torch.allclose(outputs.flatten(0, 1), flat_outputs)
    assert torch.allclose(pairs.loss(outputs, batch), single.loss(flat_outputs, flat))
    counts = (flat["labels"][:, 1:] != -100).sum(1).view(-1, 2)
    by_answer = single.losses(flat_outputs, flat).view(-1, 2)
    expected = (by_answer * counts).sum(1) / counts.sum(1)
    assert torch.allclose(pairs.losses(outputs, batch), expected)
    assert torch.equal(pairs.loss(flat_outputs, flat), single.loss(flat_outputs, flat))
    assert torch.equal(pairs.forward(model, flat), flat_outputs)
    drawn = pairs.sampled(outputs, batch, torch.Generator().manual_seed(0))["labels"]
    assert torch.equal(drawn == -100, batch["labels"] == -100)
