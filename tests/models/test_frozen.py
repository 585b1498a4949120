"""Frozen backbones, and streams of their features."""

import multiprocessing
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import nn

from holdfast import models, streams
from holdfast.config import Config
from holdfast.data import View
from holdfast.errors import HoldfastError, StreamRefused, UsageError
from holdfast.learner import Learner
from holdfast.methods import ER, NCM, SCR, GDumb, ICaRL, PackNet
from holdfast.models import Classifier, GrowingHead, featurised, frozen
from holdfast.models.frozen import Passed
from holdfast.models.norms import use_batch_statistics
from holdfast.run import build, run
from holdfast.stream import Experience, Experiences, TestSet
from holdfast.testing import small_stream


class Counting(nn.Module):
    """A backbone that counts the rows that it is asked for."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return self.net(x.float())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    return tmp_path / "features"


def counting(seed=0):
    torch.manual_seed(seed)
    return Classifier(Counting(), GrowingHead(6))


def rows_of(stream):
    return sum(len(e.train) + len(e.test) + sum(map(len, e.sets.values())) for e in stream)


def test_a_frozen_backbone_is_never_changed_by_training():
    model = frozen(counting())
    before = {name: held.clone() for name, held in model.backbone.state_dict().items()}
    Learner(model, ER(capacity=10), epochs=2).learn(small_stream())
    after = model.backbone.state_dict()
    assert all(torch.equal(after[name], held) for name, held in before.items())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert model.train().head.training
    assert not any(part.training for part in model.backbone.modules())


@pytest.mark.parametrize(
    ("make", "scenario"), [(ICaRL, "class"), (NCM, "task"), (ER, "class"), (ER, "domain")]
)
def test_learning_kept_features_is_learning_with_a_frozen_backbone(make, scenario):
    stream = small_stream(scenario)
    kept, passed = counting(), counting()
    light, features = featurised(kept, stream, keep=False)
    light = Learner(light, make(), epochs=3, seed=2)
    whole = Learner(frozen(passed), make(), epochs=3, seed=2)
    assert light.learn(features).matrix == whole.learn(stream).matrix
    for mine, theirs in zip(kept.head.parameters(), passed.head.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_every_row_is_passed_once_however_often_it_is_learned_and_scored():
    stream, model = small_stream(), counting()
    light, features = featurised(model, stream, keep=False)
    Learner(light, ER(capacity=20), epochs=5, evaluate_every=2).learn(features)
    assert model.backbone.rows == rows_of(stream)


def test_the_classifier_that_was_given_answers_to_inputs_afterwards():
    stream, model = small_stream(), counting()
    light, features = featurised(model, stream, keep=False)
    learner = Learner(light, epochs=5)
    learner.learn(features)
    model.eval()
    with torch.no_grad():
        right = (model(stream[2].test["x"]).argmax(1) == stream[2].test["y"]).float().mean()
    assert float(right) == pytest.approx(learner.record.matrix[2][2])
    assert float(right) > 0.5


def test_all_other_columns_sets_and_test_sets_stay():
    stream = small_stream("task")
    stream = replace(stream, tests=(TestSet("all", stream[0].test),), past=stream[1].train)
    model = counting()
    _, features = featurised(model, stream, keep=False)
    expected = frozen(model).backbone
    for raw, made in zip(stream, features, strict=True):
        assert torch.equal(made.train["y"], raw.train["y"])
        assert torch.equal(made.train["task"], raw.train["task"])
        assert (made.index, made.name, made.classes) == (raw.index, raw.name, raw.classes)
        torch.testing.assert_close(made.test["x"], expected(raw.test["x"]))
    torch.testing.assert_close(features.tests[0].table["x"], expected(stream[0].test["x"]))
    torch.testing.assert_close(features.past["x"], expected(stream[1].train["x"]))
    with_sets = small_stream("class")
    _, features = featurised(model, with_sets, keep=False)
    retained = features[1].sets["retain"]["x"]
    torch.testing.assert_close(retained, expected(with_sets[1].sets["retain"]["x"]))


@pytest.mark.parametrize("lazily", [False, True])
def test_views_of_one_table_share_its_features_and_rows_that_none_has_are_not_passed(lazily):
    first = small_stream()[0]
    rows = [torch.tensor([3, 3, 9]), torch.tensor([9, 20])]
    column = [torch.zeros(3), torch.ones(2)]
    experiences = [
        Experience(i, View(first.train, r, own={"at": column[i]}), first.test, (0, 1))
        for i, r in enumerate(rows)
    ]
    given = Experiences(2, experiences.__getitem__) if lazily else experiences
    stream = replace(small_stream(), experiences=given)
    model = counting()
    _, features = featurised(model, stream, keep=False)
    assert model.backbone.rows == 3 + len(first.test)
    expected = frozen(model).backbone
    for made, raw in zip(features, experiences, strict=True):
        assert isinstance(made.train, View)
        assert torch.equal(made.train["at"], raw.train["at"])
        assert torch.equal(made.train["y"], raw.train["y"])
        torch.testing.assert_close(made.train["x"], expected(raw.train["x"]))
    assert features[0].train.whole is features[1].train.whole
    assert isinstance(features.experiences, Experiences) == lazily


def test_views_with_inputs_of_their_own_are_passed_as_they_are():
    first = small_stream()[0]
    turned = View(first.train, torch.arange(10)).with_columns(x=first.train["x"][:10].flip(3))
    stream = replace(small_stream(), experiences=[replace(first, train=turned, sets={})])
    model = counting()
    _, features = featurised(model, stream, keep=False)
    expected = frozen(model).backbone(turned["x"])
    torch.testing.assert_close(features[0].train["x"], expected)


def test_what_was_kept_serves_again_also_in_another_order_of_classes(cache):
    sizes = "split-digits(order=seed)"
    first = counting()
    _, features = featurised(first, streams.build(sizes, seed=0))
    files = {path.name for path in cache.glob("*.safetensors")}
    assert first.backbone.rows == 1797
    again = counting()
    _, same = featurised(again, streams.build(sizes, seed=0))
    assert again.backbone.rows <= 8 * len(files)  # looked at, not computed
    assert torch.equal(same[3].train["x"], features[3].train["x"])
    assert same.costs == features.costs
    other = counting(seed=1)
    _, different = featurised(other, streams.build(sizes, seed=0))
    assert other.backbone.rows == 1797
    assert not torch.equal(different[3].train["x"], features[3].train["x"])


def test_large_classes_are_kept_apart(cache, monkeypatch):
    monkeypatch.setattr(import_module("holdfast.models.frozen"), "ROWS", 20)
    stream = streams.build("split-digits", seed=0)
    model = counting()
    _, features = featurised(model, stream)
    expected = frozen(model).backbone
    torch.testing.assert_close(features[2].train["x"], expected(stream[2].train["x"]))
    again = counting()
    other = streams.build("split-digits(experiences=2)", seed=5)
    _, features = featurised(again, other)
    assert again.backbone.rows <= 8 * len(list(cache.glob("*.safetensors")))
    torch.testing.assert_close(features[1].train["x"], expected(other[1].train["x"]))


def test_what_was_damaged_or_belongs_to_another_network_is_computed_again(cache):
    stream = small_stream()
    _, features = featurised(counting(), stream)
    for path in cache.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    model = counting()
    _, again = featurised(model, stream)
    assert model.backbone.rows == rows_of(stream)
    assert torch.equal(again[1].train["x"], features[1].train["x"])

    class Doubled(Counting):
        def forward(self, x):
            return 2 * super().forward(x)

        def __repr__(self):
            return repr(model.backbone)

    alike = counting()
    alike.backbone.__class__ = Doubled
    Doubled.__name__ = "Counting"
    _, doubled = featurised(alike, stream)
    torch.testing.assert_close(doubled[1].train["x"], 2 * features[1].train["x"])


def _pass(queue):
    model = counting()
    featurised(model, small_stream())
    queue.put(model.backbone.rows)


def test_of_two_processes_at_once_one_computes():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_pass, args=(queue,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    rows = sum(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    tables = 3 * 3  # of each experience: training, test and retain set
    assert rows == rows_of(small_stream()) + 8 * tables


def test_a_run_says_what_its_features_took():
    config = Config("split-digits", "ncm", model="mlp(width=8)", backbone="cached")
    first, again = run(config).record, run(config).record
    assert first.cost["feature_bytes"] == 1797 * 8 * 4
    assert first.cost["feature_seconds"] == again.cost["feature_seconds"] > 0
    assert first.matrix == again.matrix
    assert "feature_bytes" not in run(replace(config, backbone="frozen")).record.cost


def test_a_run_with_kept_features_ends_as_one_with_a_frozen_backbone():
    config = Config("split-digits(limit=60)", "er(capacity=50)", model="mlp(width=8)")
    frozen_run = run(replace(config, backbone="frozen")).record
    kept = run(replace(config, backbone="cached")).record
    trained = run(config).record
    assert kept.matrix == frozen_run.matrix != trained.matrix
    assert kept.cost["flops"] < frozen_run.cost["flops"] < trained.cost["flops"]


def test_a_killed_run_goes_on_exactly(tmp_path):
    from holdfast.learner import Observer
    from holdfast.run import Stopped

    class Stop(Observer):
        def on_step(self, learner):
            if (learner.index, learner.step) == (2, 3):
                raise Stopped("here")

    config = Config("split-digits(limit=60)", "er", model="mlp(width=8)", backbone="cached")
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", observers=[Stop()])
    assert run(config, tmp_path / "run", resume=True).record.matrix == run(config).record.matrix


def test_the_model_of_a_run_with_kept_features_is_whole_when_it_is_loaded(tmp_path):
    from holdfast.adaptation import of_folder

    config = Config("split-digits(limit=60)", "er", model="mlp(width=8)", backbone="cached")
    record = run(config, tmp_path / "run").record
    source = of_folder(tmp_path / "run")
    test = build(config)[1], streams.build("split-digits(limit=60)", seed=0)[4].test
    with torch.no_grad():
        right = (source.model.eval()(test[1]["x"]).argmax(1) == test[1]["y"]).float().mean()
    assert float(right) == pytest.approx(record.matrix[-1][-1])


@pytest.mark.parametrize("method", [PackNet(), SCR()])
@pytest.mark.parametrize("cached", [False, True])
def test_methods_that_work_inside_the_backbone_are_refused(method, cached):
    stream = small_stream("task")
    model = models.build("mlp(width=8)", stream, seed=0)
    if cached:
        model, stream = featurised(model, stream, keep=False)
    learner = Learner(model if cached else frozen(model), method)
    with pytest.raises(StreamRefused, match="works inside the backbone, and this one is frozen"):
        learner.learn(stream)


def test_a_run_is_refused_before_anything_is_passed(cache):
    config = Config("split-digits(scenario=task)", "packnet", model="mlp", backbone="cached")
    with pytest.raises(StreamRefused, match="works inside the backbone"):
        run(config)
    assert not cache.exists()


def test_an_augmentation_of_inputs_is_refused_where_they_are_features():
    with pytest.raises(UsageError, match=r"augment=flip changes inputs: .* backbone=frozen"):
        Config("split-digits", "er", augment="flip", backbone="cached")
    light, features = featurised(counting(), small_stream(), keep=False)
    with pytest.raises(UsageError, match="An augmentation changes inputs"):
        Learner(light, augment=lambda x: x).learn(features)


def test_mirroring_of_exemplars_is_refused_where_inputs_are_no_images():
    light, features = featurised(counting(), small_stream(), keep=False)
    with pytest.raises(StreamRefused, match="ICaRL mirrors images"):
        Learner(light, ICaRL(mirror=True)).learn(features)


def test_language_scorers_and_answers_by_the_batch_are_refused():
    with pytest.raises(UsageError, match="is language"):
        featurised(counting(), small_stream("text"))
    with pytest.raises(UsageError, match="backbone is for classifiers"):
        run(Config("docs-code", "finetune", backbone="cached"))
    with pytest.raises(UsageError, match="scored in a way of its own"):
        featurised(counting(), replace(small_stream(), scorer=object()))
    model = counting()
    use_batch_statistics(model)
    with pytest.raises(UsageError, match="goes by the batch at hand"):
        featurised(model, small_stream())


def test_a_model_drawn_anew_keeps_its_frozen_backbone():
    model = frozen(models.build("mlp(width=8)", small_stream(), seed=0))
    before = {name: held.clone() for name, held in model.backbone.state_dict().items()}
    head = model.head.weight.clone()
    Learner(model, GDumb(capacity=10, epochs=1)).learn(small_stream())
    assert all(torch.equal(model.backbone.state_dict()[n], held) for n, held in before.items())
    assert not torch.equal(model.head.weight, head)


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(HoldfastError, match="Set HOLDFAST_CACHE to a folder"):
        featurised(counting(), small_stream())


def test_freezing_twice_is_freezing_once():
    model = frozen(counting())
    assert frozen(model).backbone is model.backbone
    assert isinstance(featurised(model, small_stream(), keep=False)[0].backbone, Passed)
