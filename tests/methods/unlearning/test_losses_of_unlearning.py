"""Losses that unlearn, against closed forms and ten-line references."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from holdfast import catalogue
from holdfast.errors import StreamRefused, UsageError
from holdfast.learner import Learner, Observer
from holdfast.memory.requests import REFUSAL, RETAIN
from holdfast.testing import check_method
from holdfast.testing.trials import small_llama, small_stream


def first_loss(spec, model=None, **options):
    """The loss and the gradients of a method's first pass, on the whole forget set at once."""
    stream = small_stream("text")
    kept = {}

    class Look(Observer):
        def on_step(self, learner):
            learner.enough = True

    learner = Learner(
        model or small_llama(),
        catalogue.build(spec),
        optimizer=partial(torch.optim.SGD, lr=0.0),
        batch_size=40,
        pretrained=True,
        **options,
    )
    update = learner.update

    def watched(*passes):
        found = update(*passes)
        kept["loss"] = found
        kept["gradients"] = [p.grad.clone() for p in learner.parameters if p.grad is not None]
        return found

    learner.update = watched
    learner.learn(one(stream), [Look()])
    return kept["loss"], kept["gradients"], learner


def one(stream):
    from dataclasses import replace

    return replace(stream, experiences=stream.experiences[:1])


def logits_and_labels(model, table):
    rows = table.columns
    outputs = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    return outputs[:, :-1], rows["labels"][:, 1:]


def answer_nll(model, table):
    """Sum over the labelled tokens of minus log p, row by row."""
    logits, labels = logits_and_labels(model, table)
    found = []
    for row, wanted in zip(logits, labels, strict=True):
        there = wanted != -100
        found.append(F.cross_entropy(row[there], wanted[there], reduction="sum"))
    return torch.stack(found)


def other_model():
    return small_llama(seed=11)


@pytest.fixture
def tables():
    experience = small_stream("text")[0]
    return experience.train, experience.sets[RETAIN], experience.sets[REFUSAL]


def moved_by(spec, before, after, batch, **options):
    """The loss of a method whose reference is `before` while the model is `after`."""
    learner = Learner(before, catalogue.build(spec), batch_size=40, pretrained=True, **options)
    stream = one(small_stream("text"))
    learner.start(stream)
    learner.begin(stream[0])
    learner.model.load_state_dict(after.state_dict())
    learner.model.train()
    learner.incoming = batch
    shown = batch
    for mix in learner._batch:
        shown = mix(learner, shown)
    outputs = learner.objective.forward(learner.model, shown)
    loss = learner.objective.loss(outputs, shown)
    for term in learner._loss:
        loss = term(learner, shown, outputs, loss)
    learner._call("release")
    return loss


def test_ga_climbs_the_mean_loss_of_a_token(tables):
    loss, gradients, _ = first_loss("ga")
    model = small_llama()
    logits, labels = logits_and_labels(model, tables[0])
    expected = -F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-6)


def test_npo_is_its_closed_form(tables):
    before, after = small_llama(), other_model()
    with torch.no_grad():
        drift = answer_nll(after, tables[0]) - answer_nll(before, tables[0])
    for beta in (0.05, 1.0):
        found = moved_by(f"npo(beta={beta})", small_llama(), after, tables[0].columns)
        expected = 2 / beta * torch.log1p(torch.exp(-beta * drift)).mean()
        assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_npos_gradient_is_that_of_ascent_times_its_weights(tables):
    """W_i = 2 pi^beta / (pi^beta + pi_ref^beta), example by example."""
    beta, after = 0.3, other_model()
    with torch.no_grad():
        now, then = answer_nll(after, tables[0]), answer_nll(small_llama(), tables[0])
        likely, was = torch.exp(-beta * now.double()), torch.exp(-beta * then.double())
        weights = (2 * likely / (likely + was)).float()
    model = other_model()
    (-(weights * answer_nll(model, tables[0])).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    learner_model = small_llama()
    loss = moved_by(f"npo(beta={beta})", learner_model, after, tables[0].columns)
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in learner_model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weights, weights[0], atol=1e-3)


def test_as_beta_goes_to_0_npo_becomes_ascent(tables):
    model = other_model()
    (-answer_nll(model, tables[0]).mean()).backward()
    ascent = torch.cat([p.grad.flatten() for p in model.parameters()])
    apart = []
    for beta in (1.0, 0.1, 1e-5):
        before = small_llama()
        moved_by(f"npo(beta={beta})", before, other_model(), tables[0].columns).backward()
        found = torch.cat([p.grad.flatten() for p in before.parameters()])
        apart.append(float((found - ascent).norm() / ascent.norm()))
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 1e-3


def test_at_the_first_step_npo_is_ascent_for_every_beta(tables):
    """W is 1 where the model is its reference."""
    model = small_llama()
    (-answer_nll(model, tables[0]).mean()).backward()
    for spec in ("npo(beta=0.1)", "npo(beta=2, reference=model)"):
        _, gradients, _ = first_loss(spec)
        for found, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-5)


def test_dpo_is_its_closed_form(tables):
    forget, _, refusal = tables
    after, beta = other_model(), 0.2
    with torch.no_grad():
        wanted = answer_nll(small_llama(), refusal) - answer_nll(after, refusal)
        unwanted = answer_nll(small_llama(), forget) - answer_nll(after, forget)
    expected = 2 / beta * F.softplus(-beta * (wanted - unwanted)).mean()
    for spec in (f"dpo(beta={beta})", f"dpo(beta={beta}, reference=model)"):
        found = moved_by(spec, small_llama(), after, forget.columns)
        assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_every_row_meets_its_own_refusal_in_whatever_order_it_comes(tables):
    forget, _, refusal = tables
    from holdfast.memory.requests import Refusals

    stream = one(small_stream("text"))
    learner = Learner(small_llama(), catalogue.build("dpo"), pretrained=True)
    learner.start(stream)
    learner.expand(stream[0])
    refusals = Refusals()
    refusals.begin(learner, stream[0])
    order = torch.tensor([7, 3, 39, 0])
    learner.incoming = forget[order]
    found = refusals.of(learner)
    width = found["input_ids"].shape[1]
    assert torch.equal(found["input_ids"], refusal[order]["input_ids"][:, :width])


@pytest.mark.parametrize("link", ["sigmoid", "log_sigmoid"])
def test_kto_is_its_closed_form(tables, link):
    forget, _, refusal = tables
    after, beta = other_model(), 0.1
    with torch.no_grad():
        moved = (
            (answer_nll(small_llama(), refusal) - answer_nll(after, refusal)).mean().clamp(min=0)
        )
        ratio = answer_nll(small_llama(), forget) - answer_nll(after, forget)
    value = torch.sigmoid(beta * (moved - ratio))
    value = value if link == "sigmoid" else value.log()
    found = moved_by(f"kto(beta={beta}, link={link})", small_llama(), after, forget.columns)
    assert float(found) == pytest.approx(float(2 / beta * (1 - value).mean()), rel=1e-4)


def test_ktos_descent_makes_the_answer_less_likely(tables):
    """The sign that its reference code leaves in doubt."""
    model = small_llama()
    before = answer_nll(model, tables[0]).mean().detach()
    stream = one(small_stream("text"))
    learner = Learner(
        model,
        catalogue.build("kto"),
        pretrained=True,
        batch_size=40,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        epochs=3,
    )
    learner.learn(stream)
    assert answer_nll(model, tables[0]).mean() > before + 0.1


def test_simnpo_is_its_closed_form(tables):
    with torch.no_grad():
        nll = answer_nll(small_llama(), tables[0])
    length = (tables[0]["labels"][:, 1:] != -100).sum(1)
    scaled = torch.sigmoid(2.0 * (nll / length - 5.5))
    expected = -0.25 * (2 / 2.0) * scaled.log().mean()
    loss, _, _ = first_loss("simnpo(beta=2, delta=5.5, weight=0.25)")
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_undial_distils_the_teacher_with_the_right_tokens_lowered(tables):
    forget, after = tables[0], other_model()
    with torch.no_grad():
        told, labels = logits_and_labels(small_llama(), forget)
        said, _ = logits_and_labels(after, forget)
    total, count = 0.0, 0
    for row in range(len(labels)):
        for place in range(labels.shape[1]):
            token = int(labels[row, place])
            if token == -100:
                continue
            target = told[row, place].clone()
            target[token] -= 10
            total -= float((target.softmax(0) * said[row, place].log_softmax(0)).sum())
            count += 1
    found = moved_by("undial", small_llama(), after, forget.columns)
    assert float(found) == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ("wga(beta=2)", lambda p: p**2),
        ("wga(beta=0)", lambda p: p**0),
        ("satimp(saturation=3, importance=2)", lambda p: p**3 * (1 - p) ** 2),
    ],
)
def test_weighted_ascents_weigh_tokens_by_their_probability(tables, spec, share):
    model = small_llama()
    logits, labels = logits_and_labels(model, tables[0])
    asked = labels != -100
    chance = logits.softmax(-1)[asked].gather(1, labels[asked][:, None])[:, 0]
    expected = (share(chance.detach()) * chance.log()).mean()
    loss, gradients, _ = first_loss(spec)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)
    expected.backward()
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-7)


def test_rmu_steers_one_block_and_moves_three_matrices(tables):
    forget = tables[0]
    loss, _, learner = first_loss("rmu(layer=1, steering=3, alpha=0)")
    u = learner.method.direction
    assert float(u.norm()) == pytest.approx(1, rel=1e-5)
    assert bool((u >= 0).all())
    seen = []
    model = small_llama()
    hook = model.model.layers[1].register_forward_hook(
        lambda _, given, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    model(input_ids=forget["input_ids"], attention_mask=forget["attention_mask"])
    hook.remove()
    answers = forget["labels"] != -100
    expected = (seen[0][answers] - 3 * u).square().mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert [name for name, _ in learner.named] == [
        f"model.layers.{block}.mlp.down_proj.weight" for block in (0, 1)
    ]


def test_rmu_holds_what_is_kept_where_it_was(tables):
    """At the first step nothing has moved; after, the distance counts."""
    assert float(first_loss("rmu(weight=0)")[0]) == pytest.approx(0, abs=1e-9)
    found = moved_by("rmu(weight=0, update=all)", small_llama(), other_model(), tables[0].columns)
    assert float(found) > 1e-6


def test_idk_trains_on_refusals_and_what_is_kept_in_one_pass(tables):
    _, retain, refusal = tables
    loss, _, _ = first_loss("idk(retain=false)")
    nll = answer_nll(small_llama(), refusal).sum()
    asked = (refusal["labels"][:, 1:] != -100).sum()
    assert float(loss) == pytest.approx(float(nll / asked), rel=1e-4)
    with_retain, _, _ = first_loss("idk")
    chance = torch.Generator().manual_seed(0)
    torch.randperm(40, generator=chance)  # the order of the epoch
    drawn = retain[torch.randint(len(retain), (40,), generator=chance)]
    nll = nll + answer_nll(small_llama(), type(retain)(drawn)).sum()
    asked = asked + (drawn["labels"][:, 1:] != -100).sum()
    assert float(with_retain) == pytest.approx(float(nll / asked), rel=1e-4)


def test_retain_adds_the_loss_of_as_many_rows_of_the_retain_set(tables):
    retain = tables[1]
    alone, _, _ = first_loss("ga")
    both, _, _ = first_loss("ga+retain(weight=0.5)")
    chance = torch.Generator().manual_seed(0)
    torch.randperm(40, generator=chance)
    drawn = type(retain)(retain[torch.randint(len(retain), (40,), generator=chance)])
    logits, labels = logits_and_labels(small_llama(), drawn)
    kept = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert float(both - alone) == pytest.approx(0.5 * float(kept), rel=1e-4)


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_retain_kl_is_the_divergence_from_the_model_as_it_was(tables, positions):
    forget, retain, _ = tables
    after = other_model()
    spec = f"ga(weight=0)+retain_kl(mask_positions={positions})"
    found = moved_by(spec, small_llama(), after, forget.columns)
    chance = torch.Generator().manual_seed(0)  # `moved_by` draws no order
    drawn = type(retain)(retain[torch.randint(len(retain), (40,), generator=chance)])
    with torch.no_grad():
        rows = {name: drawn[name] for name in ("input_ids", "attention_mask")}
        width = int(drawn["length"].max())
        rows = {name: column[:, :width] for name, column in rows.items()}
        now = after(**rows).logits.log_softmax(-1)
        then = small_llama()(**rows).logits.log_softmax(-1)
    apart = (then.exp() * (then - now)).sum(-1)
    answered = (drawn["labels"][:, :width] != -100)[:, 1:]
    expected = apart.mean() if positions == "all" else apart[:, :-1][answered].mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_anchored_at_retain_an_epoch_goes_once_through_the_retain_set():
    learner = Learner(
        small_llama(), catalogue.build("ga+retain(anchor=retain)"), batch_size=5, pretrained=True
    )
    stream = one(small_stream("text"))
    rows = []
    part = list(learner.method.parts())[1]
    draw = part.retained.draw

    def counted(given, count):
        drawn = draw(given, count)
        rows.append(drawn["input_ids"][:, :9])
        return drawn

    part.retained.draw = counted
    learner.learn(stream)
    retain = stream[0].sets[RETAIN]
    assert sum(map(len, rows)) == len(retain) == 12
    seen = torch.cat(rows)
    expected = retain["input_ids"][:, :9]
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, expected.tolist()))


def test_the_reference_is_the_model_before_the_first_step_and_stays(tables):
    stream = one(small_stream("text"))
    method = catalogue.build("npo(reference=model)")
    cached = catalogue.build("npo")
    for each in (method, cached):
        learner = Learner(
            small_llama(), each, optimizer=partial(torch.optim.SGD, lr=0.05), batch_size=16,
            epochs=2, pretrained=True,
        )  # fmt: skip
        learner.learn(stream)
        expected = -answer_nll(small_llama(), tables[0])
        found = each.before.of(learner, tables[0].columns)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)
        assert float((answer_nll(learner.model, tables[0]) + expected).abs().max()) > 1


def test_with_a_new_adapter_the_reference_is_the_model_without_it(tables):
    stream = one(small_stream("text"))
    method = catalogue.build("lora(rank=2)+npo(reference=model)")
    learner = Learner(
        small_llama(), method, optimizer=partial(torch.optim.SGD, lr=0.5), batch_size=16,
        epochs=2, pretrained=True,
    )  # fmt: skip
    learner.learn(stream)
    reference = list(method.parts())[1].before
    assert reference.model.off
    assert reference.model.copy.model is None, "nothing is copied"
    found = reference.of(learner, tables[0].columns)
    torch.testing.assert_close(
        found, -answer_nll(small_llama(), tables[0]).detach(), rtol=1e-4, atol=1e-4
    )
    trained = [name for name, p in learner.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_what_others_mix_in_is_learned_and_not_forgotten(tables):
    """Replayed rows of the past keep their ordinary loss beside the ascent."""
    from holdfast.methods import GA

    stream = one(small_stream("text"))
    learner = Learner(small_llama(), GA(), batch_size=40, pretrained=True)
    learner.start(stream)
    learner.begin(stream[0])
    learner.incoming = tables[0].columns
    both = {name: torch.cat([tables[0][name], tables[1][name]]) for name in tables[0].columns}
    outputs = learner.objective.forward(learner.model, both)
    found = learner.method.loss(learner, both, outputs, torch.zeros(()))
    kept, away = (
        answer_nll(small_llama(), table).sum() / (table["labels"][:, 1:] != -100).sum()
        for table in (tables[1], tables[0])
    )
    assert float(found) == pytest.approx(float(kept - away), rel=1e-4)


def test_lwf_after_a_method_that_unlearns_distils_the_retain_set(tables):
    torch.manual_seed(0)
    found = moved_by("ga(weight=0)+lwf", small_llama(), small_llama(), tables[0].columns)
    chance = torch.Generator().manual_seed(0)
    drawn = type(tables[1])(tables[1][torch.randint(len(tables[1]), (40,), generator=chance)])
    with torch.no_grad():
        logits, labels = logits_and_labels(small_llama(), drawn)
        soft = (logits / 2).softmax(-1)
        entropy = -(soft * (logits / 2).log_softmax(-1)).sum(-1)
    expected = 4 * entropy[labels != -100].mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("npo(beta=0)", "beta must be above 0"),
        ("npo(reference=copy)", "reference must be scores or model"),
        ("retain(anchor=both)", "anchor must be forget or retain"),
        ("retain_kl(mask_positions=some)", "mask_positions must be answer or all"),
        ("kto(link=probit)", "link must be sigmoid or log_sigmoid"),
        ("rmu(update=some)", "update must be down or all"),
        ("retain+npo", "NPO replaces the loss, and would drop what Retain adds"),
    ],
)
def test_what_does_not_exist_is_refused(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        catalogue.build(spec)


def test_a_request_without_the_sets_that_a_method_needs_is_refused():
    from dataclasses import replace

    stream = one(small_stream("text"))
    bare = replace(stream, experiences=[replace(stream[0], sets={})])
    for spec, sentence in (
        ("npo+retain", "Retain needs a retain set"),
        ("dpo", "DPO needs a refusal set"),
        ("idk", "IDK trains on a retain set too"),
        ("ga+lwf", "A retain set is asked for"),
        ("rmu", "RMU needs a retain set"),
    ):
        with pytest.raises(UsageError, match=sentence):
            Learner(small_llama(), catalogue.build(spec), pretrained=True).start(bare)
    short = {REFUSAL: stream[0].sets[REFUSAL].take(slice(0, 3))}
    few = replace(stream, experiences=[replace(stream[0], sets=short)])
    with pytest.raises(StreamRefused, match="given: 3 for 40"):
        Learner(small_llama(), catalogue.build("dpo"), pretrained=True).start(few)


@pytest.mark.parametrize(
    "spec", ["npo", "dpo", "kto", "idk", "rmu", "undial", "retain", "lora+npo+retain_kl"]
)
@pytest.mark.parametrize("promise", ["arguments", "refusal"])
def test_the_contract_is_kept(spec, promise):
    check_method(partial(catalogue.build, spec), [promise])


@pytest.mark.parametrize("spec", ["npo", "dpo", "rmu", "retain_kl(anchor=retain)"])
def test_one_stopped_anywhere_goes_on_with_the_same_bits(spec):
    check_method(partial(catalogue.build, spec), ["exact_resume", "device"])
