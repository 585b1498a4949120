"""Methods inside transformers' own Trainer."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_methods import Average, First, Half, Pull, Rows, Witness
from small_trainers import build, collate, distance, texts, tiny_llama, weights

from holdfast import Learner, attach
from holdfast.catalogue import build as build_method
from holdfast.data import Table
from holdfast.errors import UsageError
from holdfast.method import Method, chain
from holdfast.methods import ER, L2, LwF, Replay
from holdfast.optim.fisher import fisher_diagonal
from holdfast.stream import Experience, Stream

ROUNDING = 2e-5


def trained(
    method: Any, folder: Path, data: Any = None, calls: int = 1, **arguments: Any
) -> tuple[Any, Any]:
    trainer = build(tiny_llama(), data or texts(12), folder, **arguments)
    bridge = attach(trainer, method)
    for _ in range(calls):
        trainer.train()
    return trainer, bridge


# The moments of a step.


def test_every_moment_comes_in_order_and_as_often_as_in_our_loop(tmp_path: Path) -> None:
    witness = Witness()
    trained(witness, tmp_path, texts(8), gradient_accumulation_steps=2, num_train_epochs=2)
    update = ["batch", "loss", "batch", "loss", "gradients", "step"]
    moments = ["setup", "expand", "inherit", "begin", *(update * 4), "end"]
    assert [what for what, *_ in witness.seen] == moments
    steps = [(epoch, step) for what, _, epoch, step in witness.seen if what == "step"]
    assert steps == [(0, 0), (0, 1), (1, 2), (1, 3)]


def test_every_call_of_train_is_the_next_experience(tmp_path: Path) -> None:
    witness = Witness()
    _, bridge = trained(witness, tmp_path, texts(4), calls=2)
    once = ["batch", "loss", "gradients", "step"] * 2
    second = ["expand", "begin", *once, "end"]
    first = ["setup", "expand", "inherit", *second[1:]]
    assert [what for what, *_ in witness.seen] == [*first, *second]
    assert [index for what, index, *_ in witness.seen if what == "end"] == [0, 1]
    assert (bridge.updates, bridge.step, bridge.index) == (4, 0, 2)


def test_evaluation_passes_are_not_training_steps(tmp_path: Path) -> None:
    witness = Witness()
    trainer = build(tiny_llama(), texts(4), tmp_path)
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 1
    trainer.eval_dataset = texts(6, seed=1)
    attach(trainer, witness)
    trainer.train()
    trainer.evaluate()
    assert sum(what == "loss" for what, *_ in witness.seen) == 2


def test_a_method_that_has_enough_ends_the_training(tmp_path: Path) -> None:
    class Once(Method):
        tags = Pull.tags

        def step(self, learner: Any) -> None:
            learner.enough = learner.step == 1

    trainer, bridge = trained(Once(), tmp_path)
    assert trainer.state.global_step == bridge.updates == 2


# Nothing that nobody asked for.


@pytest.mark.parametrize("nothing", [[], "finetune", Method()])
def test_methods_that_do_nothing_leave_the_trainer_untouched(nothing: Any, tmp_path: Path) -> None:
    plain, attached = (build(tiny_llama(), texts(4), tmp_path) for _ in range(2))
    attach(attached, nothing)
    added = {"holdfast"}
    assert vars(attached).keys() - vars(plain).keys() == added
    callbacks = [[type(c) for c in t.callback_handler.callbacks] for t in (plain, attached)]
    assert callbacks[0] == callbacks[1]


def test_a_hook_that_no_method_uses_is_not_wrapped(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    attach(trainer, Half())
    wrapped = {name for name in vars(trainer) if callable(getattr(type(trainer), name, None))}
    assert wrapped == {"train", "create_optimizer"}


# The same weights.


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        Method,
        partial(L2, 0.5),
        partial(ER, capacity=5),
        LwF,
        partial(Replay, 0.4),
        lambda: chain(ER(capacity=5), LwF(), L2(0.1)),
    ],
    ids=["none", "l2", "er", "lwf", "replay", "all"],
)
def test_our_loop_and_trainer_give_the_same_weights(
    make: Any, accumulate: int, tmp_path: Path
) -> None:
    parts = [texts(16, seed=1), texts(14, seed=2)]
    tables = [Table(collate(part)) for part in parts]
    experiences = [Experience(i, t, t, ()) for i, t in enumerate(tables)]
    stream = Stream("two", experiences, "text", 0, ())
    learner = Learner(
        tiny_llama(),
        make(),
        optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0),
        optimizer_state="keep",
        batch_size=2,
        accumulate=accumulate,
        clip=0.5,
        pretrained=True,
        seed=7,
    )
    orders: list[torch.Tensor] = []
    lay_out = learner.lay_out

    def remembering(experience: Experience) -> None:
        lay_out(experience)
        state = learner.generator.get_state()
        orders.append(torch.randperm(len(experience.train), generator=learner.generator))
        learner.generator.set_state(state)

    learner.lay_out = remembering  # type: ignore[method-assign]
    learner.learn(stream)

    model = tiny_llama()
    trainer = build(
        model, parts[0], tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=0.5
    )
    bridge = attach(trainer, make(), seed=7)
    start = weights(model)
    for part, order in zip(parts, orders, strict=True):
        torch.randperm(len(part), generator=bridge.generator)  # as our loop draws the order
        trainer.train_dataset = [part[i] for i in order.tolist()]
        trainer.train()
    assert distance(weights(model), start) > 0.05
    assert distance(weights(model), weights(learner.model)) < ROUNDING


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_penalty_counts_once_per_update(accumulate: int, tmp_path: Path) -> None:
    """By hand: the gradient of one update is that of the mean loss over its tokens, plus w."""
    data, strength = texts(6), 2.0
    model, rate = tiny_llama(), 0.1
    reference = tiny_llama()
    whole = collate(data)
    whole["labels"].masked_fill_(whole["attention_mask"] == 0, -100)
    loss = reference(**whole).loss
    loss = loss + strength / 2 * sum(p.square().sum() for p in reference.parameters())
    loss.backward()
    expected = {n: p.detach() - rate * p.grad for n, p in reference.named_parameters()}

    trainer = build(
        model,
        data,
        tmp_path,
        optim="sgd",
        learning_rate=rate,
        per_device_train_batch_size=6 // accumulate,
        gradient_accumulation_steps=accumulate,
    )
    attach(trainer, Pull(strength))
    trainer.train()
    assert trainer.state.global_step == 1
    assert distance(weights(model), expected) < 1e-6


def test_label_smoothing_and_a_loss_of_the_users_own_stay(tmp_path: Path) -> None:
    """A penalty of weight zero changes nothing, whichever way the loss is made."""

    def own(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return outputs.logits.square().sum() / num_items_in_batch

    for arguments in ({"label_smoothing_factor": 0.2}, {}):
        models = [tiny_llama(), tiny_llama()]
        for model, methods in zip(models, ([], [Pull(0.0)]), strict=True):
            trainer = build(model, texts(12), tmp_path, gradient_accumulation_steps=3, **arguments)
            if not arguments:
                trainer.compute_loss_func = own
            attach(trainer, methods)
            trainer.train()
        assert distance(*map(weights, models)) < ROUNDING


# Each hook does what it says.


def test_what_is_frozen_by_expand_has_no_place_in_the_optimizer(tmp_path: Path) -> None:
    before = weights(tiny_llama())
    trainer, bridge = trained(Half(), tmp_path)
    named = dict(trainer.model.named_parameters())
    frozen = [name for name, p in named.items() if not p.requires_grad]
    assert frozen
    assert bridge.parameters == [p for p in named.values() if p.requires_grad]
    held = sum(len(group["params"]) for group in bridge.optimizer.param_groups)
    assert held == len(bridge.parameters)
    assert all(torch.equal(named[name], before[name]) for name in frozen)


def test_another_half_is_trained_in_the_next_stage(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(8), tmp_path)
    attach(trainer, Half())
    moved = []
    for _ in range(2):
        before = weights(trainer.model)
        trainer.train()
        now = weights(trainer.model)
        moved.append({name for name in now if not torch.equal(now[name], before[name])})
        trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
        assert moved[-1] == trained
    assert moved[0] != moved[1]


@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_gradients_are_changed_before_they_are_clipped(clip: float, tmp_path: Path) -> None:
    """One update of SGD by hand: rows zeroed first, then the norm of what is left."""
    reference, rate = tiny_llama(), 0.1
    reference(**collate(texts(2))).loss.backward()
    for p in reference.parameters():
        p.grad[len(p) // 2 :] = 0
    if clip:
        torch.nn.utils.clip_grad_norm_(reference.parameters(), clip)
    expected = {n: p.detach() - rate * p.grad for n, p in reference.named_parameters()}
    trainer, _ = trained(
        Rows(), tmp_path, texts(2), optim="sgd", learning_rate=rate, max_grad_norm=clip
    )
    assert distance(weights(trainer.model), expected) < 1e-6


def test_evaluation_and_saving_happen_inside_serving(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    seen: list[dict[str, torch.Tensor]] = []

    class Looking(Pull):
        def step(self, learner: Any) -> None:
            seen.append(weights(learner.model))

    trainer = build(tiny_llama(), texts(8), tmp_path)
    attach(trainer, [Average(), Looking(0.0)])
    trainer.train()
    mean = {n: torch.stack([s[n] for s in seen]).mean(0) for n in seen[0]}
    trainer.save_model(str(tmp_path / "served"))
    served = LlamaForCausalLM.from_pretrained(tmp_path / "served")
    assert distance(weights(served), mean) < 1e-6
    assert distance(weights(trainer.model), seen[-1]) == 0
    loss = trainer.evaluate(texts(4, seed=1))["eval_loss"]
    plain = build(served, texts(4), tmp_path).evaluate(texts(4, seed=1))["eval_loss"]
    assert loss == pytest.approx(plain, abs=1e-6)
    assert distance(weights(trainer.model), seen[-1]) == 0


def test_select_chooses_from_the_training_data_of_this_stage(tmp_path: Path) -> None:
    data = texts(12)
    alone = build(tiny_llama(), data[:4], tmp_path)
    alone.train()
    trainer, bridge = trained(First(4), tmp_path, data)
    assert bridge.updates == 2
    assert trainer.train_dataset is data
    assert distance(weights(trainer.model), weights(alone.model)) == 0


def test_select_works_on_datasets_with_columns_that_the_model_does_not_take(tmp_path: Path) -> None:
    import datasets

    data = [{**row, "comment": "none"} for row in texts(6)]
    _, bridge = trained(First(2), tmp_path, datasets.Dataset.from_list(data))
    assert bridge.updates == 1


def test_the_experience_holds_the_training_rows_in_order(tmp_path: Path) -> None:
    class Look(Method):
        tags = Pull.tags

        def end(self, learner: Any, experience: Any) -> None:
            self.table = experience.train

    look = Look()
    trained(look, tmp_path, texts(70))
    whole = collate(texts(70))
    assert torch.equal(look.table["input_ids"], whole["input_ids"])
    assert torch.equal(look.table["labels"], whole["labels"])


def test_fisher_information_is_that_of_the_models_own_loss(tmp_path: Path) -> None:
    """Squares of one gradient an example, by transformers' own loss."""
    data = texts(6)
    trainer, bridge = trained(L2(), tmp_path, data)
    reference = {n: torch.zeros_like(p) for n, p in trainer.model.named_parameters()}
    trainer.model.eval()
    for row in data:
        trainer.model.zero_grad()
        trainer.model(**collate([row])).loss.backward()
        for name, parameter in trainer.model.named_parameters():
            reference[name] += parameter.grad**2 / len(data)
    table = Table(collate(data))
    found = dict(zip(reference, fisher_diagonal(bridge, table, "empirical"), strict=True))
    assert distance(found, reference) < 1e-6


@pytest.mark.parametrize("form", [lambda past: past, lambda past: Table(collate(past))])
def test_what_the_model_knows_already_can_be_given(form: Any, tmp_path: Path) -> None:
    past = texts(5, seed=9)
    trainer = build(tiny_llama(), texts(8), tmp_path)
    replay = build_method("replay(fraction=0.5, source=past)")
    bridge = attach(trainer, replay, past=form(past))
    trainer.train()
    known = {tuple(row["input_ids"]) for row in past}
    stored = bridge.stream.past
    assert stored is not None
    rows = zip(stored["input_ids"].tolist(), stored["attention_mask"].sum(1).tolist(), strict=True)
    assert {tuple(ids[:length]) for ids, length in rows} == known
    plain = build(tiny_llama(), texts(8), tmp_path)
    plain.train()
    assert distance(weights(plain.model), weights(trainer.model)) > 1e-3


def test_the_reference_gradient_of_the_bridge_leaves_gradients_alone(tmp_path: Path) -> None:
    trainer, bridge = trained(L2(), tmp_path, texts(4))
    batch = collate(texts(3))
    found = bridge.gradient(batch)
    assert all(p.grad is None for p in bridge.parameters)
    trainer.model(**batch).loss.backward()
    for gradient, parameter in zip(found, bridge.parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_changed_choice_within_an_experience_renews_the_optimizer(tmp_path: Path) -> None:
    class Switch(Method):
        tags = Half.tags

        def batch(self, learner: Any, batch: Any) -> Any:
            if learner.step in (0, 2):
                for i, parameter in enumerate(learner.model.parameters()):
                    parameter.requires_grad_(i % 2 == learner.step // 2)
                    parameter.grad = None
                learner.renew_optimizer()
                self.held = weights(learner.model)
            return batch

        def end(self, learner: Any, experience: Any) -> None:
            now = weights(learner.model)
            self.still = [torch.equal(now[name], self.held[name]) for name in now]

    switch = Switch()
    trainer, _ = trained(switch, tmp_path, texts(8), lr_scheduler_type="linear", weight_decay=0.1)
    assert switch.still == [i % 2 == 0 for i in range(len(switch.still))]
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0)


# Features of the trainer that stay.


@pytest.mark.parametrize("arguments", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_methods_act_under_mixed_precision_and_gradient_checkpointing(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    make = lambda: chain(ER(capacity=4), LwF(), L2(0.1))  # noqa: E731
    plain, _ = trained(make(), tmp_path, texts(8), calls=2)
    other, _ = trained(make(), tmp_path, texts(8), calls=2, **arguments)
    apart = distance(weights(plain.model), weights(other.model))
    assert apart < (1e-6 if "gradient_checkpointing" in arguments else 0.2)
    assert ("bf16" in arguments) == (apart > 1e-6)


def test_a_lora_adapter_is_trained_and_its_base_is_not(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    before = weights(model)
    trainer = build(model, texts(8), tmp_path)
    bridge = attach(trainer, [ER(capacity=4), LwF(), L2(0.1)])
    trainer.train()
    assert all("lora" in name for name, _ in bridge.named)
    after = weights(model)
    for name in after:
        assert torch.equal(before[name], after[name]) == ("lora_" not in name)


def test_a_method_that_wraps_the_model_is_saved_as_an_adapter(tmp_path: Path) -> None:
    """O-LoRA's adapters of two stages come back as one, and answer as the model does."""
    from peft import PeftModel

    trainer, _ = trained(build_method("o_lora(rank=2)"), tmp_path, texts(8), calls=2)
    trainer.save_model(str(tmp_path / "saved"))
    back = PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "saved")).eval()
    batch = collate(texts(4, seed=5))
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).logits
        assert not torch.allclose(tiny_llama().eval()(**batch).logits, expected, atol=1e-3)
        torch.testing.assert_close(back(**batch).logits, expected)


def test_hooks_come_off_the_model_when_training_fails(tmp_path: Path) -> None:
    class Fails(Method):
        tags = Pull.tags

        def step(self, learner: Any) -> None:
            raise RuntimeError("on purpose")

    trainer = build(tiny_llama(), texts(4), tmp_path)
    attach(trainer, chain(build_method("migu"), Fails()))
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer.train()
    assert not any(module._forward_hooks for module in trainer.model.modules())


# What cannot work is said in a sentence.


def test_only_trainers_take_methods() -> None:
    with pytest.raises(UsageError, match=r"takes a transformers\.Trainer .* given: Linear"):
        attach(torch.nn.Linear(1, 1), "l2")  # type: ignore[arg-type]


def test_methods_are_attached_once(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    attach(trainer, [])
    with pytest.raises(UsageError, match="attached already"):
        attach(trainer, "l2")


def test_methods_are_attached_before_training(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    trainer.train()
    with pytest.raises(UsageError, match=r"has made 2 updates; attach methods before"):
        attach(trainer, "l2")


def test_only_methods_are_attached(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    with pytest.raises(UsageError, match="the list holds a str"):
        attach(trainer, ["l2"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="There is no method 'l3'"):
        attach(trainer, "l3")


def test_methods_that_serve_no_text_are_refused_when_training_begins(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    attach(trainer, "agem")
    with pytest.raises(UsageError, match="AGEM serves"):
        trainer.train()


@pytest.mark.parametrize(
    ("spec", "why"), [("ncm", "NCM replaces gradient training"), ("icarl", "ICaRL decides")]
)
def test_methods_that_a_trainer_has_no_place_for_are_refused(
    spec: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why):
        attach(build(tiny_llama(), texts(4), tmp_path), spec)


def test_class_logits_are_not_changed_behind_a_trainers_back(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config: Any = tiny_llama().config
    assert isinstance(config, LlamaConfig)
    trainer = build(LlamaForSequenceClassification(config), texts(4), tmp_path)
    with pytest.raises(UsageError, match="LwF changes class logits"):
        attach(trainer, "lwf")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size trains several times"),
        ({"optim": "lomo"}, "lomo steps before Rows could act"),
    ],
)
def test_settings_under_which_methods_cannot_act_are_named(
    arguments: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why):
        attach(build(tiny_llama(), texts(4), tmp_path, **arguments), Rows())


@pytest.mark.parametrize(
    ("owner", "setting", "why"),
    [
        ("trainer", "is_fsdp_enabled", "FSDP keeps parameters in pieces"),
        ("trainer", "is_deepspeed_enabled", "DeepSpeed keeps parameters in pieces"),
        ("trainer", "model_init", "model_init makes a new model"),
        ("args", "fp16", "fp16 scales the gradients that Rows works on: use bf16"),
    ],
)
def test_places_where_methods_cannot_act_are_named(
    owner: str, setting: str, why: str, tmp_path: Path
) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    setattr(trainer if owner == "trainer" else trainer.args, setting, True)
    with pytest.raises(UsageError, match=why):
        attach(trainer, Rows())


def test_the_specs_of_the_page_can_be_attached(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text(encoding="utf-8")
    specs = re.findall(r'attach\(trainer, "([^"]+)"\)', page)
    assert len(specs) == 2
    for spec in specs:
        trained(spec, tmp_path, texts(4), calls=2)


def test_an_optimizer_made_by_the_user_may_hold_what_is_frozen(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(8), tmp_path)
    given = trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    attach(trainer, Half())
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    assert trainer.optimizer.optimizer is given
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], after[name]) != parameter.requires_grad


def test_an_optimizer_made_by_the_user_must_hold_what_is_trained(tmp_path: Path) -> None:
    trainer = build(tiny_llama(), texts(4), tmp_path)
    trainer.optimizer = torch.optim.SGD([next(trainer.model.parameters())], lr=0.1)
    attach(trainer, Half())
    with pytest.raises(UsageError, match="optimizer given to this trainer does not hold"):
        trainer.train()


def test_rows_of_an_unknown_kind_are_named(tmp_path: Path) -> None:
    def odd(rows: Any) -> Any:
        batch = collate(rows)
        return {"inputs_embeds": torch.zeros(*batch["input_ids"].shape, 16)}

    trainer = build(tiny_llama(), texts(4), tmp_path, remove_unused_columns=False)
    trainer.data_collator = odd
    attach(trainer, ER(capacity=4))
    with pytest.raises(UsageError, match="this trainer's batches have inputs_embeds"):
        trainer.train()
