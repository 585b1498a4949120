"""The study of WISE: edits that are none of the model's own answers, measured on the way."""

from __future__ import annotations

from holdfast.language.fields import Sample
from holdfast.methods import WISE
from holdfast.studies import present, wise
from holdfast.studies.study import Results


def test_every_request_asks_for_another_answer_and_its_rephrase_lacks_one_word():
    chosen = [Sample(prompt=f"intents: what is the {w} of it =", answer="time") for w in "abc"]
    train = [Sample(prompt=f"intents: unrelated {i} =", answer="x") for i in range(3)]
    requests = wise.counterfactual(chosen, train, [" time", " place", " way"], seed=0)
    for request, sample in zip(requests, chosen, strict=True):
        assert request.target in ("place", "way")
        assert request.original == "time"
        assert request.subject in request.prompt
        assert request.rephrase.startswith("intents: ")
        assert request.rephrase.endswith(" =")
        assert len(request.rephrase.split()) == len(sample.prompt.split()) - 1
    assert [r.unrelated for r in requests] == [s.prompt for s in train]
    assert requests == wise.counterfactual(chosen, train, [" time", " place", " way"], seed=0)


def test_ablations_differ_from_wise_in_one_thing():
    settings = wise.arms("data")
    whole = settings[wise.MERGE]["editor"]
    for arm, changed in (
        (wise.UNMASKED, "mask"),
        (wise.ROUTED, "ratio"),
        (wise.BARE, "prefixes"),
    ):
        other = settings[arm]["editor"]
        differing = {k for k in {*whole, *other} if whole.get(k) != other.get(k)}
        assert differing == {changed}
    built = wise.method_of(settings[wise.MERGE])
    assert isinstance(built, WISE)
    assert (built.shard, built.merge) == (30, 60)


def test_claims_judge_made_up_results():
    def run(score, locality, generalization, reliability=1.0, rephrases=1.0):
        return [
            {
                "reliability": reliability,
                "generalization": generalization + 0.001 * seed,
                "locality": locality + 0.001 * seed,
                "score": score + 0.001 * seed,
                "kin": locality + 0.001 * seed,
                "opened": {"edits": 1.0, "rephrases": rephrases, "unrelated": 0.01 * seed},
            }
            for seed in range(3)
        ]

    runs = {arm: run(0.5, 0.5, 0.5) for arm in wise.ARMS}
    runs[wise.MERGE] = run(0.9, 0.9, 0.9)
    verdicts = [claim.judge(Results(runs)).decision for claim in wise.CLAIMS]
    assert verdicts[:5] == ["reproduced"] * 5
    assert verdicts[5:] == ["not reproduced", "reproduced"]
    runs[wise.MERGE] = run(0.9, 0.9, 0.9, rephrases=0.4)
    assert wise.CLAIMS[4].judge(Results(runs)).decision == "partly"


def test_what_is_measured_fills_every_table_of_the_report():
    settings = wise.arms("quick")
    measured = {arm: wise.measure(settings[arm], 0) for arm in (wise.MERGE, "FT-L")}
    assert set(measured[wise.MERGE]["opened"]) == {"edits", "rephrases", "unrelated", "own kind"}
    assert measured["FT-L"]["opened"] == {}
    assert [point["edits"] for point in measured["FT-L"]["way"]] == [1, 3]
    assert measured["FT-L"]["before"]["locality"] == 1.0
    results = Results({arm: [measured.get(arm, measured["FT-L"])] * 2 for arm in wise.ARMS})
    grids = wise.grids(results)
    verdicts = [claim.judge(results) for claim in wise.CLAIMS]
    outcome = present.Outcome(wise.STUDY, "quick", 2, 0.1, settings, verdicts, grids, [])
    text, page = present.markdown(outcome), present.page(outcome)
    for arm in wise.ARMS:
        assert f"\n| {arm} |" in text
    assert f"\n## {grids[0].title}\n\n{grids[0].note}\n\n| editor |" in text
    assert f"<h2>{grids[0].title}</h2><p>The model names" in page
