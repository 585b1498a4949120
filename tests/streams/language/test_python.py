"""Python's own text: documentation and code, with nothing in common."""

from __future__ import annotations

import ast

from holdfast.streams.language import python


def test_a_file_is_divided_into_its_docstrings_and_a_program_without_them() -> None:
    text = (
        '"""Module."""\n\nimport os\n\n\nclass A:\n    """Class\n    of two lines."""\n\n'
        '    def f(self):\n        """Alone."""\n\n    def g(self):\n        return "kept"\n'
    )
    docs, code = python._divided(text)
    assert docs.split("\n\n") == ["Module.", "Class\nof two lines.", "Alone."]
    assert not any(word in code for word in ("Module", "lines", "Alone"))
    tree = ast.parse(code)
    assert [type(n).__name__ for n in tree.body] == ["Import", "ClassDef"]
    assert 'return "kept"' in code


def test_the_two_domains_share_no_docstring_and_a_tenth_of_each_is_held_out() -> None:
    docs, code = python.documentation(), python.source()
    assert any(d.name == "topic assert" for d in docs)
    assert any(d.name == "json/decoder.py" for d in code)
    said = next(d for d in docs if d.name == "docstrings of json/decoder.py").text
    written = next(d for d in code if d.name == "json/decoder.py").text
    assert "Simple JSON" in said
    assert "Simple JSON" not in written
    assert "class JSONDecoder" in written
    assert "class JSONDecoder" not in said
    for documents in (docs, code):
        share = sum(d.held_out for d in documents) / len(documents)
        assert 0.05 < share < 0.16
    assert not any("/test" in d.name or d.name.startswith("test") for d in code)


def test_the_digest_is_of_this_python() -> None:
    assert python.digest() == python.digest()
    assert len(python.digest()) == 32
