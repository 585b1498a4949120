"""CoTTA: its steps against the equations written out, and each part on its own."""

import copy

import pytest
import torch
from torch import nn

from holdfast.errors import UsageError
from holdfast.methods import CoTTA
from holdfast.models.norms import use_batch_statistics


def noisy(x, generator):
    """A view without images' cost."""
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def by_hand(model, batches, *, alpha, threshold, views, symmetric=False, lr=1e-3):
    """The equations, without any putting back."""
    student = copy.deepcopy(model).train()
    use_batch_statistics(student)
    teacher, source = copy.deepcopy(student).eval(), copy.deepcopy(student).eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    answers, gates = [], []
    for x in batches:
        with torch.no_grad():
            sure = source(x).softmax(1).max(1).values.mean()
            gates.append(bool(sure < threshold))
            y = teacher(x)
            if gates[-1]:
                y = torch.stack([teacher(noisy(x, generator)) for _ in range(views)]).mean(0)
        z = student(x)
        loss = -(y.softmax(1) * z.log_softmax(1)).sum(1).mean()
        if symmetric:
            loss = loss / 2 - (z.softmax(1) * y.log_softmax(1)).sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.copy_(alpha * slow + (1 - alpha) * fast)
        answers.append(y)
    return student, teacher, answers, gates


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_answers_student_and_teacher_follow_the_equations(
    model, batches, adapter, threshold, symmetric
):
    options = {"alpha": 0.9, "threshold": threshold, "views": 3, "symmetric": symmetric}
    cotta = adapter(CoTTA(restore=0.0, view=noisy, lr=1e-3, **options))
    with torch.no_grad():
        ours = [cotta.predict(x) for x in batches]
    student, teacher, theirs, _ = by_hand(model, batches, **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for found, expected in ((cotta.model, student), (cotta.method.teacher.model, teacher)):
        for a, b in zip(found.parameters(), expected.parameters(), strict=True):
            # Adam's first steps take the sign of a gradient, which rounding can turn.
            assert (a - b).abs().mean() < 2e-5


def test_the_source_alone_decides_by_batch_whether_views_are_averaged(model, batches, adapter):
    source = copy.deepcopy(model)
    use_batch_statistics(source)
    with torch.no_grad():
        sure = [float(source(x).softmax(1).max(1).values.mean()) for x in batches]
    threshold = sum(sorted(sure)[1:3]) / 2  # two batches on either side
    seen = []

    def view(x, generator):
        seen.append(len(seen))
        return x

    cotta = adapter(CoTTA(threshold=threshold, views=5, lr=0.05, view=view))
    counts = []
    for x in batches:
        before = len(seen)
        cotta.predict(x)
        counts.append(len(seen) - before)
    assert counts == [5 if s < threshold else 0 for s in sure]
    assert cotta.method.report()["averaged"] == 0.5
    assert cotta.method.report()["confidence"] == pytest.approx(sum(sure) / 4, abs=1e-5)


def test_all_parameters_adapt_and_with_norms_only_scales_and_shifts(batches, adapter):
    def moved(**options):
        cotta = adapter(CoTTA(restore=0.0, views=0, lr=0.01, **options))
        before = None
        for x in batches:
            before = before or copy.deepcopy(dict(cotta.model.named_parameters()))
            cotta.predict(x)
        now = dict(cotta.model.named_parameters())
        return {name for name in now if not torch.equal(now[name], before[name])}

    assert len(moved()) == 8
    assert len(moved(adapts="norms")) == 4


def test_putting_everything_back_leaves_the_source_and_nothing_back_none_of_it(batches, adapter):
    back = adapter(CoTTA(restore=1.0, views=0, lr=0.01))
    away = adapter(CoTTA(restore=0.0, views=0, lr=0.01))
    for x in batches:
        back.predict(x)
        away.predict(x)
    assert back.distance() == 0.0
    assert away.distance() > 0
    source = dict(back.method.source.model.named_parameters())
    assert all(torch.equal(p, source[n]) for n, p in back.model.named_parameters())


def test_some_entries_of_every_tensor_are_the_sources_after_a_step(adapter):
    torch.manual_seed(0)
    from holdfast.adapt import TestTimeAdapter

    wide = nn.Sequential(nn.Flatten(), nn.Linear(48, 200), nn.ReLU(), nn.Linear(200, 5))
    cotta = TestTimeAdapter(wide, CoTTA(restore=0.2, views=0, lr=0.01))
    cotta.predict(torch.rand(16, 3, 4, 4))
    source = dict(cotta.method.source.model.named_parameters())
    for name in ("1.weight", "3.weight"):
        same = (dict(wide.named_parameters())[name] == source[name]).float().mean()
        # Entries of dead units have no gradient, and so stay the source's in any case.
        assert 0.15 < float(same) < 0.45


def test_the_students_answers_may_count_instead(model, batches, adapter):
    options = {"alpha": 0.9, "threshold": 0.0, "views": 0}
    cotta = adapter(CoTTA(restore=0.0, answers="student", lr=0.01, **options))
    cotta.predict(batches[0])
    now = copy.deepcopy(cotta.model).train()
    answer = cotta.predict(batches[1])
    torch.testing.assert_close(answer, now(batches[1]).detach())


def test_afterwards_the_teacher_answers_and_nothing_changes(batches, adapter):
    cotta = adapter(CoTTA(lr=0.05, alpha=0.5, views=2))
    for x in batches:
        cotta.predict(x)
    before = copy.deepcopy(cotta.state_dict())
    answer = cotta.answer(batches[0])
    torch.testing.assert_close(answer, cotta.method.teacher.model(batches[0]))
    after = cotta.state_dict()
    assert all(torch.equal(after["model"][n], v) for n, v in before["model"].items())
    assert torch.equal(after["generator"], before["generator"])


def test_inputs_that_are_no_images_need_a_view_of_their_own():
    from holdfast.adapt import TestTimeAdapter

    net = nn.Sequential(nn.Linear(6, 4))
    with pytest.raises(UsageError, match=r"shape \(6,\): give a `view` of your own, or views=0"):
        TestTimeAdapter(net, CoTTA(threshold=2.0)).predict(torch.rand(3, 6))
    adapter = TestTimeAdapter(net, CoTTA(threshold=2.0, view=noisy))
    assert adapter.predict(torch.rand(3, 6)).shape == (3, 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"alpha": 1.5}, "alpha must be from 0 to 1; given: 1.5"),
        ({"restore": -0.1}, "restore must be from 0 to 1"),
        ({"views": -1}, "views must be at least 0"),
        ({"answers": "anchor"}, "answers must be one of teacher, student"),
        ({"view": 3}, "view must be a function"),
    ],
)
def test_arguments_are_checked(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        CoTTA(**arguments)
