"""Weight aligning."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.data import Table
from holdfast.errors import StreamRefused, UsageError
from holdfast.method import chain
from holdfast.methods import ER, WA
from holdfast.models.aligning import align_new_rows
from holdfast.models import Classifier, GrowingHead, build
from holdfast.models.backbones import MLP
from holdfast.stream import Experience


def rows(*lengths):
    """One row a length, pointing anywhere."""
    directions = F.normalize(torch.randn(len(lengths), 5, generator=torch.manual_seed(0)))
    return directions * torch.tensor(lengths)[:, None]


def test_gamma_is_mean_old_norm_over_mean_new_norm_and_old_rows_stay():
    weight = rows(1.0, 3.0, 6.0, 2.0)
    before = weight.clone()
    assert align_new_rows(weight, [0, 1], [2, 3]) == pytest.approx(0.5)
    assert torch.equal(weight[:2], before[:2])
    torch.testing.assert_close(weight[2:], before[2:] * 0.5)


def test_one_factor_for_all_new_rows_keeps_their_ratios_unlike_unit_norm():
    aligned, unit = rows(1.0, 3.0, 6.0, 2.0), rows(1.0, 3.0, 6.0, 2.0)
    align_new_rows(aligned, [0, 1], [2, 3])
    align_new_rows(unit, [0, 1], [2, 3], how="unit_norm")
    norms = aligned.norm(dim=1)
    assert float(norms[2] / norms[3]) == pytest.approx(3.0)
    assert float(norms[2:].mean()) == pytest.approx(float(norms[:2].mean()))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))


def test_aligning_equals_multiplying_new_logits_by_gamma():
    weight, features = rows(1.0, 3.0, 6.0, 2.0), torch.rand(7, 5)
    logits = features @ weight.T
    gamma = align_new_rows(weight, [0, 1], [2, 3])
    logits[:, 2:] *= gamma
    torch.testing.assert_close(features @ weight.T, logits)


def test_the_factor_multiplies_and_none_does_nothing():
    weight, before = rows(1.0, 4.0), rows(1.0, 4.0)
    assert align_new_rows(weight, [0], [1], how="none") == pytest.approx(0.25)
    assert torch.equal(weight, before)
    align_new_rows(weight, [0], [1], factor=2.0)
    torch.testing.assert_close(weight[1], before[1] * 0.5)


def test_only_shrink_leaves_shorter_new_rows_alone():
    longer, shorter = rows(2.0, 4.0), rows(2.0, 1.0)
    align_new_rows(longer, [0], [1], only_shrink=True)
    align_new_rows(shorter, [0], [1], only_shrink=True)
    assert float(longer[1].norm()) == pytest.approx(2.0)
    assert torch.equal(shorter, rows(2.0, 1.0))


def test_rows_of_classes_still_to_come_are_not_touched():
    for how in ("mean_norm", "unit_norm"):
        weight = rows(1.0, 4.0, 7.0)
        align_new_rows(weight, [0], [1], how=how)
        assert torch.equal(weight[2], rows(1.0, 4.0, 7.0)[2])


def test_new_rows_that_are_all_zero_stay_zero():
    weight = rows(1.0, 0.0)
    assert align_new_rows(weight, [0], [1]) == 1.0
    assert not weight[1].any()


@pytest.mark.parametrize("head", ["full", "growing"])
@pytest.mark.parametrize("exemplars", [0, 30])
def test_lambda_follows_class_counts_and_distils_renormalised_old_logits_on_all_samples(
    numbered, learned, watching, head, exemplars
):
    teachers, compared = [None], []

    def loss(self, learner, batch, outputs, loss):
        old = 2 * learner.index
        share = old / (old + 2)
        total = 0.0
        for i, y in enumerate(batch["y"].tolist()):
            total -= (1 - share) * float(outputs[i].detach().log_softmax(0)[y])
            if old:
                with torch.no_grad():
                    q = (teachers[-1](batch["x"][i : i + 1])[0, :old] / 2).softmax(0)
                    total -= share * float(q @ (outputs[i, :old] / 2).log_softmax(0))
        assert float(loss.detach()) == pytest.approx(total / len(batch["y"]), rel=1e-4)
        compared.append(learner.index)
        return loss

    def end(self, learner, experience):
        teachers.append(deepcopy(learner.model))  # after the alignment: hooks act in order

    method = chain(WA(exemplars=exemplars), watching(loss=loss, end=end))
    learned(numbered(), method, head=head, epochs=1)
    assert set(compared) == {0, 1, 2}


def test_alignment_comes_once_after_training_and_never_in_the_first_experience(
    numbered, learned, watching
):
    before, compared = {}, []

    def look(self, learner, experience):
        before["weight"] = learner.model.head.weight.detach().clone()

    def check(self, learner, experience):
        weight, old = learner.model.head.weight.detach(), before["weight"]
        count = 2 * learner.index
        if not count:
            assert torch.equal(weight, old)
        else:
            norms = old.norm(dim=1)
            gamma = norms[:count].mean() / norms[count : count + 2].mean()
            torch.testing.assert_close(weight[count : count + 2], gamma * old[count : count + 2])
            assert torch.equal(weight[:count], old[:count])
            assert learner.record.notes[-1]["gamma"] == pytest.approx(float(gamma), rel=1e-5)
        compared.append(count)

    learned(numbered(), chain(watching(end=look), WA(), watching(end=check)))
    assert compared == [0, 2, 4]


def test_the_teacher_is_the_aligned_model(numbered, learned):
    learner = learned(numbered(), WA())
    x = learner.stream[0].test["x"]
    with torch.no_grad():
        assert torch.equal(learner.method.teacher.model(x), learner.model(x))
    assert learner.record.notes[-1]["gamma"] != 1


@pytest.mark.parametrize("clip", [True, False])
def test_head_weights_are_clipped_after_every_step(numbered, learned, watching, clip):
    negative = []

    def step(self, learner):
        negative.append(bool((learner.model.head.weight < 0).any()))

    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    method = chain(WA(clip_weights=clip), watching(step=step))
    learner = learned(numbered(), method, optimizer=sgd, optimizer_state="keep")
    assert negative == [not clip] * 24
    assert bool((learner.model.head.bias < 0).any()), "biases are left alone"


def test_exemplars_are_herded_within_one_budget(numbered, learned, watching):
    held, shown = [], {0: set(), 1: set(), 2: set()}

    def end(self, learner, experience):
        held.append(torch.bincount(self.wa.buffer.columns["y"]).tolist())

    def loss(self, learner, batch, outputs, loss):
        shown[learner.index].update(batch["id"].tolist())
        return loss

    wa, look = WA(exemplars=24), watching(end=end, loss=loss)
    look.wa = wa
    learned(numbered(), chain(wa, look))
    assert held == [[12] * 2, [6] * 4, [4] * 6]
    assert [len(ids) for ids in shown.values()] == [40, 64, 64]


def test_after_er_the_replayed_examples_are_distilled_too(numbered, learned, watching):
    teachers, compared = [None], []

    def loss(self, learner, batch, outputs, loss):
        if learner.index:
            count = 2 * learner.index
            share = count / (count + 2)
            with torch.no_grad():
                q = (teachers[-1](batch["x"])[:, :count] / 2).softmax(1)
            kept = -(q * (outputs[:, :count] / 2).log_softmax(1)).sum(1).mean()
            plain = F.cross_entropy(outputs, batch["y"])
            torch.testing.assert_close(loss, (1 - share) * plain + share * kept)
            compared.append(len(batch["y"]))
        return loss

    def end(self, learner, experience):
        teachers.append(deepcopy(learner.model))

    learned(numbered(), chain(ER(capacity=30), WA(), watching(loss=loss, end=end)))
    assert set(compared) == {20}


def test_alignment_alone_changes_nothing_before_the_end(numbered, learned):
    stream = replace(numbered(), experiences=numbered().experiences[:2])
    plain = learned(stream, None, head="growing")
    alone = learned(stream, WA(distil=False, clip_weights=False), head="growing")
    weight, expected = alone.model.head.weight.detach(), plain.model.head.weight.detach().clone()
    align_new_rows(expected, [0, 1], [2, 3])
    torch.testing.assert_close(weight, expected)
    assert "teacher.model.head.weight" not in alone.method.state_dict()


def test_classes_that_return_do_not_count_as_old(numbered, learned, watching):
    """Were they to, an experience of returning classes would be distilled and not learned."""
    first, second, _ = numbered()
    back = Experience(2, Table.concat([first.train, second.train]), first.test, (0, 1, 2, 3))
    stream = replace(numbered(), experiences=[first, second, back])
    compared = []

    def loss(self, learner, batch, outputs, loss):
        if learner.index == 2:
            torch.testing.assert_close(loss, F.cross_entropy(outputs, batch["y"]))
            compared.append(learner.step)
        return loss

    learned(stream, chain(WA(), watching(loss=loss)))
    assert compared


def test_a_head_without_rows_that_have_a_length_is_refused(numbered, learned):
    stream = numbered()
    for head, why in (("cosine", "blind to their length"), ("multi", "has no `weight`")):
        with pytest.raises(StreamRefused, match=why):
            learned(stream, WA(), model=build("mlp(width=4)", stream, head=head))
    with pytest.raises(StreamRefused, match="there from the first experience"):
        learned(replace(numbered("domain"), scenario="class"), WA())


def test_a_head_without_bias_serves(numbered, learned):
    model = Classifier(nn.Sequential(MLP(64, 16, 1)), GrowingHead(16, bias=False))
    stream = numbered()
    floats = [
        replace(
            e,
            train=e.train.with_columns(x=e.train["x"] / 16),
            test=e.test.with_columns(x=e.test["x"] / 16),
        )
        for e in stream
    ]
    learner = learned(replace(stream, experiences=floats), WA(), model=model)
    norms = learner.model.head.weight.detach().norm(dim=1)
    assert float(norms[:4].mean()) == pytest.approx(float(norms[4:].mean()), rel=1e-5)


@pytest.mark.parametrize("bad", [{"exemplars": -1}, {"align": "max_norm"}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(UsageError):
        WA(**bad)
