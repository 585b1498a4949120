"""Spec strings say what they mean, survive a round trip, and are refused with a sentence."""

from __future__ import annotations

import keyword
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.spec import Spec, bind, parse, parse_one

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}(\+\+)?", fullmatch=True)
keys = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda key: not keyword.iskeyword(key)
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
)
values = leaves | st.lists(leaves, max_size=3)


specs = st.builds(
    Spec,
    name=names,
    positional=st.lists(values, max_size=2).map(tuple),
    named=st.dictionaries(keys, values, max_size=3),
)


@given(st.lists(specs, min_size=1, max_size=3))
def test_specs_survive_being_written_and_read(written: list[Spec]) -> None:
    assert parse("+".join(str(spec) for spec in written)) == written


def test_names_may_hold_hyphens_digits_and_two_pluses() -> None:
    assert [s.name for s in parse("der++(alpha=0.2)+wa + split-digits")] == [
        "der++",
        "wa",
        "split-digits",
    ]


def test_words_are_strings_and_true_false_none_are_not() -> None:
    spec = parse_one("er(ring, storage=herding, a=true, b=False, c=none, d='none')")
    assert spec.positional == ("ring",)
    assert spec.named == {"storage": "herding", "a": True, "b": False, "c": None, "d": "none"}


def test_words_that_python_keeps_for_itself_are_words() -> None:
    (spec,) = parse("split-digits(scenario=class, limit=60, of=[class, in, none])")
    assert spec.named == {"scenario": "class", "limit": 60, "of": ["class", "in", None]}
    assert parse(str(spec)) == [spec]
    with pytest.raises(UsageError, match="Cannot read the arguments"):
        parse("a(class=3)")


def test_fractions_are_numbers() -> None:
    spec = parse_one("dmt(k=1/256, share=-1/4, both=[1])")
    assert spec.named == {"k": 1 / 256, "share": -0.25, "both": [1]}
    assert parse_one(str(spec)) == spec


@pytest.mark.parametrize("text", ["1/0", "1/word", "'a'/2", "true/2", f"{10**400}/1"])
def test_what_is_no_fraction_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a number, a word"):
        parse(f"dmt(k={text})")


def test_brackets_and_pluses_inside_strings_do_not_count() -> None:
    spec = parse_one("split(path='a)+b(', sizes=[1, (2)])")
    assert spec.named == {"path": "a)+b(", "sizes": [1, 2]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Cannot read '' at ''; accepted: name"),
        ("(3)", r"Cannot read '\(3\)' at '\(3\)'; accepted: name"),
        ("er+", r"Cannot read 'er\+' at ''"),
        ("er wa", "Cannot read 'er wa' at 'wa'; expected '\\+' or the end"),
        ("er(200", r"A bracket in 'er\(200' is not closed"),
        ("er(capacity=)", r"Cannot read the arguments \(capacity=\) in"),
        ("er(f(2))", r"'f\(2\)' in 'er\(f\(2\)\)' is neither a number, a word, a list"),
        ("er(capacity=1, capacity=2)", "gives 'capacity' twice"),
        ("er(**{'a': 1})", "is not read; accepted: key=value"),
        ("er(a={[1]: 2})", "is neither a number, a word"),
        ("er(a=1\0)", "Cannot read the arguments"),
    ],
)
def test_what_cannot_be_read_is_refused_naming_the_place(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(text)


@pytest.mark.parametrize("text", ["er(*[1, 2])", "er(x for x in y)", "er(1)(2)"])
def test_other_python_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_but_never_crashes(text: str) -> None:
    with suppress(UsageError):
        assert parse(text)


@given(st.text(alphabet="ab=,()[]{}'\"+*.1- \n\\#", max_size=14))
def test_any_arguments_are_read_or_refused_but_never_crash(text: str) -> None:
    with suppress(UsageError):
        assert parse(f"er({text})")


def test_quotes_may_be_escaped_inside_strings() -> None:
    spec = Spec("split", (), {"path": "'\"(\\"})
    assert parse(str(spec)) == [spec]


def test_one_spec_is_accepted_where_one_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"'er\+wa' names 2 things; one is accepted here"):
        parse_one("er+wa")


def build(capacity: int = 200, rate: float = 0.1, name: str = "a", flag: bool = False, free=None):
    return capacity, rate, name, flag, free


def test_arguments_are_bound_by_place_and_name() -> None:
    assert bind(parse_one("er(5, rate=0.5)"), build, "method") == {"capacity": 5, "rate": 0.5}


def test_a_whole_number_will_do_for_a_float() -> None:
    bound = bind(parse_one("er(rate=1)"), build, "method")
    assert bound == {"rate": 1.0}
    assert isinstance(bound["rate"], float)


def test_none_is_accepted_anywhere_and_anything_where_the_default_is_none() -> None:
    assert bind(parse_one("er(capacity=none, free=[1])"), build, "method") == {
        "capacity": None,
        "free": [1],
    }


def test_none_is_a_word_where_a_parameter_is_a_word_and_cannot_be_nothing() -> None:
    def align(how: str = "mean_norm", clip: str | None = "wide") -> None: ...

    assert bind(parse_one("wa(how=none, clip=none)"), align, "method") == {
        "how": "none",
        "clip": None,
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("er(capasity=3)", r"no argument 'capasity' of method 'er'\. Did you mean 'capacity'\?"),
        ("er(1, capacity=3)", "method 'er' was given 'capacity' twice"),
        ("er(1, 2, a, true, 4, 5)", "takes 5 arguments; 6 were given"),
        (
            "er(capacity=0.5)",
            r"capacity of method 'er' must be a whole number \(default 200\); given: 0.5",
        ),
        ("er(capacity=true)", "must be a whole number"),
        ("er(flag=1)", r"flag of method 'er' must be true or false \(default False\); given: 1"),
        ("er(rate=high)", "must be a number .* given: 'high'"),
        ("er(name=3)", "must be a word"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        bind(parse_one(text), build, "method")


def test_a_method_without_arguments_says_so() -> None:
    with pytest.raises(UsageError, match="method 'wa' takes 0 arguments; 1 were given"):
        bind(parse_one("wa(1)"), lambda: None, "method")
    with pytest.raises(UsageError, match=r"Accepted: \(none\)"):
        bind(parse_one("wa(a=1)"), lambda: None, "method")
