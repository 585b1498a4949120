"""The stability-gap study: a trial of all of it, its parts, and its verdicts both ways."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from holdfast import models, streams, studies
from holdfast.errors import UsageError
from holdfast.learner import Learner
from holdfast.method import chain
from holdfast.methods import EWC, LwF
from holdfast.studies import stability_gap
from holdfast.studies.gap_parts import Disentangled, ReplayAsPublished
from holdfast.studies.study import Results

ARMS = stability_gap.arms("quick")


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("gap")
    console = Console(file=io.StringIO(), width=80)
    verdicts = studies.run("stability-gap", 2, out, quick=True, jobs=1, console=console)
    return out, verdicts, console.file.getvalue()


def test_a_trial_says_the_rule_before_and_gives_a_verdict_for_every_claim(trial):
    out, verdicts, printed = trial
    assert [v.claim for v in verdicts] == [c.text for c in stability_gap.CLAIMS]
    rule, first = printed.index("A condition holds when"), printed.index("observed")
    assert rule < first
    assert all(len(line) <= 80 for line in printed.splitlines() if "Report" not in line)
    written = json.loads((out / "result.json").read_text())
    assert [v["decision"] for v in written["verdicts"]] == [v.decision for v in verdicts]


def test_a_trial_leaves_a_page_that_needs_nothing_else_and_pictures(trial):
    out, verdicts, _ = trial
    page = (out / "index.html").read_text()
    for verdict in verdicts:
        assert verdict.findings[0].shown in page
    assert "src=" not in page
    assert "href=" not in page
    assert sorted(p.stem for p in (out / "figures").iterdir()) == ["curves", "depth", "gradients"]
    assert "## min-ACC (%) by how often one looks" in (out / "report.md").read_text()


def test_looking_on_leaves_the_weights_bit_identical(trial):
    _, verdicts, _ = trial
    assert verdicts[-1].claim.startswith("Looking on changes nothing")
    assert verdicts[-1].decision == "reproduced"


def test_every_scenario_has_at_least_four_families():
    for scenario in stability_gap.SCENARIOS:
        methods = {arm.split(",")[0] for arm in ARMS if arm.endswith(f", {scenario}")}
        assert {"replay", "agem", "lwf", "ewc", "cumulative", "finetune"} <= methods


def run(method, evaluate_every=None, stream="split-digits(limit=100, experiences=2)"):
    built = streams.build(stream, seed=0)
    learner = Learner(
        models.build("mlp(width=16, depth=1)", built, seed=0),
        method,
        batch_size=16,
        evaluate_every=evaluate_every,
    )
    record = learner.learn(built)
    return learner, record


@pytest.mark.parametrize("build", [lambda: ReplayAsPublished(40), LwF, EWC])
def test_taking_gradients_apart_leaves_the_weights_bit_identical(build):
    plain, _ = run(build())
    watched, _ = run(chain(Disentangled(), build()), evaluate_every=1)
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_penalty_of_ewc_pulls_nowhere_at_the_first_step_and_somewhere_later():
    _, record = run(chain(Disentangled(), EWC()))
    notes = [note for note in record.notes if "stability" in note]
    assert notes[0]["step"] == 0
    assert notes[0]["stability"] < 1e-5 * notes[0]["plasticity"]
    assert notes[-1]["stability"] > 1e-2 * notes[-1]["plasticity"]


def test_the_two_gradients_of_replay_are_those_of_its_two_losses():
    class Seen(Disentangled):
        def gradients(self, learner):
            super().gradients(learner)
            if learner.index and learner.step == 3:
                self.batch_seen = self.whole, [p.grad.clone() for p in learner.parameters]
                self.weights = [p.detach().clone() for p in learner.parameters]

        def loss(self, learner, batch, outputs, loss):
            self.whole = {name: column.clone() for name, column in batch.items()}
            self.rows = learner.stream_rows
            return super().loss(learner, batch, outputs, loss)

    look = Seen(share=0.3)
    learner, record = run(chain(look, ReplayAsPublished(40)))
    batch, total = look.batch_seen
    for parameter, weight in zip(learner.parameters, look.weights, strict=True):
        parameter.data = weight
    half = len(batch["y"]) // 2
    new, old = (
        [0.3 * g for g in learner.gradient({n: c[:half] for n, c in batch.items()})],
        [0.7 * g for g in learner.gradient({n: c[half:] for n, c in batch.items()})],
    )
    for a, b, c in zip(new, old, total, strict=True):
        torch.testing.assert_close(a + b, c, rtol=1e-4, atol=1e-6)
    note = next(n for n in record.notes if n.get("step") == 3 and "stability" in n)
    for name, parts in (("plasticity", new), ("stability", old)):
        norm = torch.cat([part.flatten() for part in parts]).norm()
        assert note[name] == pytest.approx(float(norm), rel=1e-4)


def test_the_published_memory_is_filled_when_an_experience_ends_and_stays_in_balance():
    method = ReplayAsPublished(40)
    learner, _ = run(method)
    stored = method.buffer.columns["y"]
    assert torch.bincount(stored).tolist() == [4] * 10
    assert learner.stream is not None


def test_looking_more_rarely_never_finds_a_lower_minimum():
    generator = np.random.default_rng(0)
    scores, during = generator.random((60, 3)), [0] * 20 + [1] * 20 + [2] * 20
    found = stability_gap.summarised(scores, during)["min_acc_at"]
    assert found["1"] <= found["10"] <= found["None"]
    ends = scores[[39, 59], 0].min(), scores[59, 1]
    assert found["None"] == pytest.approx(np.mean(ends))
    tens = scores[[29, 39, 49, 59], 0].min(), scores[[49, 59], 1].min()
    assert found["10"] == pytest.approx(np.mean(tens))


def made(excess, shift):
    """Results by hand: every gap has this depth, every difference goes this way."""

    def one(arm, place):
        number = {"replay, SGD 0.01": -2, "replay, SGD 0.05": -1, "replay, 10 degrees": -1}
        number |= {"replay, 90 degrees": 1, "replay, SGD 0.2": 0}
        depth = 0.2 + shift * number.get(arm, 0) + 0.001 * place
        return {
            "gap": {"excess": excess + 0.001 * place, "dip": depth},
            "min_acc_at": {"None": 0.8 + excess, "1": 0.8 + 0.001 * place},
            "ratio_early": 0.6 - 3 * shift,
            "ratio_later": 0.6 + shift + 0.001 * place,
            "weights": "same" if shift > 0 or arm == "replay, class" else "other",
        }

    return Results({arm: [one(arm, place) for place in range(3)] for arm in ARMS})


@pytest.mark.parametrize(
    ("excess", "shift", "decision"), [(0.3, 0.1, "reproduced"), (0.0, -0.1, "not reproduced")]
)
def test_every_claim_can_be_reproduced_and_can_fail(excess, shift, decision):
    results = made(excess, shift)
    assert {c.text: c.judge(results).decision for c in stability_gap.CLAIMS} == {
        c.text: decision for c in stability_gap.CLAIMS
    }


def test_a_single_seed_is_refused_since_it_has_no_interval(tmp_path):
    with pytest.raises(UsageError, match="at least 2 seeds"):
        studies.run("stability-gap", 1, tmp_path, quick=True)


def test_an_unknown_study_is_told_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'stability-gap'"):
        studies.run("stabilty-gap")
