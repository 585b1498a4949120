"""Arms x seeds in processes: what is done stays done, and failures are heard."""

import io
import json
import sys

import pytest

from holdfast.errors import RunError, UsageError
from holdfast.studies import runner, stability_gap, worker
from holdfast.studies.runner import Cell, run_cells

SETTINGS = stability_gap.arms("quick")["finetune, class"]


def cell(seed=0, **changes):
    return Cell("stability-gap", "finetune, class", seed, {**SETTINGS, **changes})


def test_a_finished_run_is_not_done_again(tmp_path, monkeypatch):
    first = run_cells([cell()], tmp_path, jobs=1)
    monkeypatch.setattr(runner, "_Worker", None)  # whoever starts a worker now fails
    told = []
    again = run_cells([cell()], tmp_path, jobs=1, done=told.append)
    assert again == first
    assert told == [cell()]


def test_a_result_of_other_settings_is_refused(tmp_path):
    content = {**cell(epochs=9).to_dict(), "measured": {}}
    (tmp_path / cell().file).write_text(json.dumps(content))
    with pytest.raises(UsageError, match="other settings"):
        run_cells([cell()], tmp_path, jobs=1)


def test_a_damaged_result_is_refused(tmp_path):
    (tmp_path / cell().file).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        run_cells([cell()], tmp_path, jobs=1)


def test_a_run_that_fails_is_named_with_its_reason(tmp_path):
    with pytest.raises(RunError, match=r"'finetune, class' with seed 0: .*no stream"):
        run_cells([cell(stream="split-nothing")], tmp_path, jobs=1)


def test_a_process_that_cannot_start_is_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(RunError, match="nonexistent"):
        run_cells([cell()], tmp_path, jobs=1)


def test_no_jobs_are_refused(tmp_path):
    with pytest.raises(UsageError, match="jobs"):
        run_cells([cell()], tmp_path, jobs=0)


def test_arms_that_differ_in_signs_alone_have_files_of_their_own():
    files = {Cell("s", arm, 0, {}).file for arm in ("KD + WA", "KD - WA", "KD, WA")}
    assert len(files) == 3


def test_a_worker_answers_every_request_also_after_one_that_fails():
    bad = {**cell().to_dict(), "study": "nothing"}
    requests = "\n".join(json.dumps(request) for request in (bad, cell().to_dict()))
    answers = io.BytesIO()
    worker.serve(io.BytesIO(requests.encode()), answers)
    failed, done = map(json.loads, answers.getvalue().splitlines())
    assert "no study 'nothing'" in failed["error"]
    assert 0 <= done["measured"]["accuracy"] <= 1
