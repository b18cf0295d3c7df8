"""Patterns match as those of Python do, and stop."""

import re
import time
from functools import partial

import pytest

from jaxprop.errors import ConfigError
from jaxprop.untrusted import patterns
from jaxprop.untrusted.patterns import check, expand, fullmatch

PATHS = ("head/kernel", "layers/0/dense/bias", "a.b[c]", "", "é/w")


@pytest.mark.parametrize(
    "pattern", ["head/.*", ".*", "(?!head/).*", r"layers/(\d+)/.*", r"a\.b\[c\]", "", r"\w/w", "[^/]*/[^/]*", "HEAD/.*"]
)
def test_they_are_those_of_python(pattern):
    for path in PATHS:
        theirs, ours = re.fullmatch(pattern, path), fullmatch(pattern, path)
        assert (theirs is None) == (ours is None)
        assert theirs is None or (theirs.groups(), theirs.span()) == (ours.groups(), ours.span())
        assert theirs is None or theirs.expand(r"x\g<0>") == expand(ours, r"x\g<0>")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("(", r"missing \)"), ("[", "unterminated"), ("*", "nothing to repeat"), ("(" * 900 + ")" * 100, "missing|deeply"),
     ("a" * 1001, "1,001 characters, more than 1,000"), ("a{99999999999}", "too big"), (r"\1", "reference")],
)  # fmt: skip
def test_what_is_no_pattern(pattern, why):
    assert re.search(why, check(pattern))


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "(.|..)+[!-#]", "(a|aa|x)+[!-#]"])
@pytest.mark.timeout(30)
def test_one_that_backtracks_for_ever_is_stopped(pattern):
    began = time.thread_time()
    with pytest.raises(ConfigError, match=r"the pattern .* takes too long to match 'aaa"):
        fullmatch(pattern, "a" * 300 + "c")
    assert time.thread_time() - began < 3


def test_the_limit_is_for_all_texts_together(monkeypatch):
    """Texts on which it takes long, but not too long, are not tried one after the other without end."""
    monkeypatch.setattr(patterns, "SECONDS", 0.3)
    began, texts = time.thread_time(), (f"{'a' * (22 + i % 4)}b{i}" for i in range(10_000))
    with pytest.raises(ConfigError, match="takes too long"):
        list(map(partial(fullmatch, "(a|aa)+c"), texts))
    assert time.thread_time() - began < 5


def test_a_text_that_cannot_be_filled_in():
    with pytest.raises(ValueError, match=r"group|reference"):
        expand(fullmatch("a", "a"), r"\2")
