"""Training that was stopped and goes on is training that never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_methods import Average, Half, Pull
from small_trainers import build, texts, tiny_llama, weights

from holdfast import attach
from holdfast.catalogue import build as spec
from holdfast.engines import saved
from holdfast.errors import CheckpointError, UsageError
from holdfast.method import Method, chain
from holdfast.methods import ER, EWC, L2, LwF

METHODS: dict[str, Callable[[], Method]] = {
    "er": lambda: ER(capacity=5),
    "l2": lambda: L2(0.5),
    "ewc": lambda: EWC(5.0),
    "lwf": LwF,
    "half": Half,
    "hft": lambda: spec("hft"),
    "hft by epoch": lambda: spec("hft(redraw=epoch)"),
    "migu": lambda: spec("migu"),
    "lora": lambda: spec("lora(rank=2)"),
    "i_lora": lambda: spec("i_lora(rank=2)"),
    "o_lora": lambda: spec("o_lora(rank=2)"),
    "replay": lambda: spec("replay(fraction=0.5)"),
    "self": lambda: spec("replay(fraction=0.5, source=self)"),
    "all": lambda: chain(ER(capacity=5), EWC(5.0), LwF(), Half()),
}

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


def new(method: Method, folder: Path, rows: int = 12, **arguments: Any) -> tuple[Any, Any]:
    model = tiny_llama(attention_dropout=0.2)  # draws from the global state, as methods do not
    trainer = build(
        model,
        texts(rows, seed=1),
        folder,
        **{
            "num_train_epochs": 2,
            "gradient_accumulation_steps": 2,
            "lr_scheduler_type": "linear",
            "max_grad_norm": 1.0,
            **SAVING,
            **arguments,
        },
    )
    return trainer, attach(trainer, method)


def same(one: Any, other: Any) -> bool:
    """Whether two state trees are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, stage: int, tmp_path: Path) -> None:
    whole, whole_bridge = new(METHODS[name](), tmp_path / "whole")
    for _ in range(stage):
        whole.train()
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-4"  # of six updates

    resumed, bridge = new(METHODS[name](), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert whole.state.global_step == resumed.state.global_step == 6
    mine, other = weights(resumed.model), weights(whole.model)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert same(saved.state(bridge), saved.state(whole_bridge))


def test_the_stage_after_a_resumed_one_is_the_same_too(tmp_path: Path) -> None:
    whole, _ = new(METHODS["all"](), tmp_path / "whole")
    whole.train()
    resumed, _ = new(METHODS["all"](), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for trainer in (whole, resumed):
        torch.manual_seed(5)  # for dropout, which a trainer does not seed anew
        trainer.train_dataset = texts(8, seed=2)
        trainer.train()
    mine, other = weights(whole.model), weights(resumed.model)
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_the_last_checkpoint_is_found_as_the_trainer_finds_it(tmp_path: Path) -> None:
    whole, _ = new(ER(capacity=5), tmp_path)
    whole.train()
    resumed, bridge = new(ER(capacity=5), tmp_path)
    resumed.train(resume_from_checkpoint=True)  # the last: nothing is left to do
    assert bridge.updates == 6
    empty, _ = new(ER(capacity=5), tmp_path / "empty")
    with pytest.raises(UsageError, match="There is no checkpoint in"):
        empty.train(resume_from_checkpoint=True)


def test_the_state_lies_in_the_trainers_folder_and_is_not_pickled(tmp_path: Path) -> None:
    from safetensors import safe_open

    trainer, _ = new(METHODS["all"](), tmp_path, save_total_limit=1)
    trainer.train()
    folders = sorted(folder.name for folder in tmp_path.glob("checkpoint-*"))
    assert folders == ["checkpoint-6"]
    with safe_open(tmp_path / "checkpoint-6" / "holdfast.safetensors", "pt") as file:
        assert any("column_input_ids" in name for name in file.keys())  # noqa: SIM118


def test_checkpoints_hold_the_weights_that_are_trained_not_those_that_serve(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    trainer, _ = new(Average(), tmp_path)
    trainer.train()
    saved = weights(LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-6"))
    now = weights(trainer.model)
    assert all(torch.equal(saved[name], now[name]) for name in now)


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    plain = build(tiny_llama(), texts(8), tmp_path / "plain", **SAVING)
    plain.train()
    trainer, _ = new(Pull(), tmp_path / "own")
    with pytest.raises(CheckpointError, match=r"There is no checkpoint at .*holdfast\.safetensors"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-2"))
    trainer, _ = new(Pull(), tmp_path / "own")
    trainer.train()
    other, _ = new(chain(L2(), Half()), tmp_path / "own")
    with pytest.raises(CheckpointError, match="of other methods: Pull; given now: L2 and Half"):
        other.train(resume_from_checkpoint=str(tmp_path / "own" / "checkpoint-2"))
