"""Tasks with labels by name, at any level."""

from __future__ import annotations

import pytest

from holdfast.errors import UsageError
from holdfast.streams.language.labelled import OWN, labelled


@pytest.mark.parametrize("name", OWN)
def test_tasks_of_pythons_own_text_have_levels(name: str) -> None:
    bare, told = labelled(name, 0), labelled(name, 2)
    assert len(bare.train) == len(told.train) > 50
    assert str(told.train[0].prompt).endswith(str(bare.train[0].prompt))
    assert ", ".join(told.labels) in str(told.train[0].prompt)
    assert not any(label in str(bare.train[0].prompt).split()[:2] for label in bare.labels)


def test_test_prompts_may_be_others() -> None:
    task = labelled("returns", 0, 1)
    assert "Does this function" not in str(task.train[0].prompt)
    assert str(task.test[0].prompt).startswith("Does this function return a value?")


@pytest.mark.data
@pytest.mark.parametrize(("name", "labels"), [("trec", 6), ("clinc", 10), ("agnews", 4)])
def test_tasks_of_the_data_folder_have_their_labels(name: str, labels: int) -> None:
    task = labelled(name, 2, 3)
    assert len(task.labels) == labels
    assert {str(s.answer) for s in task.test} <= set(task.labels)


def test_a_task_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no task 'trecc'\. Did you mean 'trec'"):
        labelled("trecc", 2)
