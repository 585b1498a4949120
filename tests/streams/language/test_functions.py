"""Tasks on the standard library's functions."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from holdfast import streams
from holdfast.streams.language import functions, python

TEXT = '''
class A:
    def f(self, x):
        """Add one.

        More."""
        y = x

        return y + 1

    async def g(self):
        pass
        pass


def short(): return 1
'''


def test_functions_are_taken_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(TEXT)
    first, second = functions._functions("json/a.py", file)
    assert first.lines == ("def f(self, x):", "    y = x", "    return y + 1")
    assert (first.package, first.summary, first.returns) == ("json", "Add one.", True)
    assert (second.summary, second.returns) == ("", False)


def test_labels_are_balanced_and_no_file_is_on_both_sides() -> None:
    tasks = {task.name: task for task in functions.tasks()}
    assert list(tasks) == ["package", "completion", "returns", "summary"]
    for name in ("package", "returns"):
        task = tasks[name]
        for part in (task.train, task.test):
            counts = {label: sum(s.answer == label for s in part) for label in task.labels}
            assert len(set(counts.values())) == 1
            assert min(counts.values()) >= 5
    for task in tasks.values():
        files = [{s.where.rpartition(":")[0] for s in part} for part in (task.train, task.test)]
        assert not files[0] & files[1]
        assert all(python.held_out(name) for name in files[1])


def test_no_answer_is_in_its_prompt_but_as_one_of_the_labels() -> None:
    for task in functions.tasks():
        if not task.labels:
            shared = sum(str(s.answer) in str(s.prompt) for s in task.train) / len(task.train)
            assert shared < 0.1, task.name


def test_answers_about_returning_are_those_of_the_syntax_tree() -> None:
    task = functions.tasks()[2]
    for sample in list(task.test)[:20]:
        code = str(sample.prompt).partition("\n")[2].rpartition("\nAnswer:")[0]
        try:
            tree = ast.parse(code)
        except SyntaxError:  # a line was cut
            continue
        found = any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(tree))
        assert ("yes" if found else "no") == sample.answer


def test_the_stream_needs_no_data(tokenizer: Any) -> None:
    stream = streams.build("python-tasks(limit=8, test_limit=4)", tokenizer=tokenizer)
    assert [e.name for e in stream] == ["package", "completion", "returns", "summary"]
    assert [len(e.train) for e in stream] == [8] * 4
