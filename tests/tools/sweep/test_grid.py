"""What a sweep's words mean, and which it refuses."""

import numpy as np
import pytest

from jaxprop.errors import UsageError
from jaxprop.tools.sweep.grid import axes_of, settings, written


def values(word):
    axes, fixed, _ = axes_of([word])
    assert not fixed
    return axes[0].values


def test_ranges_have_both_ends_and_even_steps():
    rates = values("optimizer.lr=log(1e-4, 1e-1, 7)")
    assert (rates[0], rates[-1], len(rates)) == (1e-4, 1e-1, 7)
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(10) / 2, rtol=1e-4)
    assert values("model.dropout=lin(0, 0.5, 3)") == (0.0, 0.25, 0.5)
    assert values("optimizer.lr = log( 1e-2 ,1,2)") == (0.01, 1.0)


def test_lists_are_varied_and_other_values_are_not():
    assert values("model.hidden=[[64], [128, 64]]") == ([64], [128, 64])
    assert values("optimizer.momentum=[null, 0.9]") == (None, 0.9)
    assert axes_of(["run.steps=10", "optimizer={name: sgd, lr: 0.1}"]).fixed == (
        "run.steps=10",
        "optimizer={name: sgd, lr: 0.1}",
    )


def test_every_combination_is_tried_once():
    axes, _, _ = axes_of(["a=[1, 2]", "b=[x, y]"])
    assert list(settings(axes)) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("value", [0.001, 1e-7, 3, True, None, "adam", "a b", "no", "1e-3", [64, "x"], {"name": "sgd"}])
def test_what_is_written_is_read_again(value):
    axes, fixed, _ = axes_of([f"a=[{written(value)}, 77]"])
    assert not fixed
    assert axes[0].values == (value, 77)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=[]"], r"an empty list has no run; write values, as in a=\[1, 2\]"),
        (["a=log(1, 2, x)"], r"expected log\(low, high, count\), such as"),
        (["a=log(x, 2)"], r"expected log\(low, high\), such as log\(1e-4, 1e-1\)"),
        (["a=int(1.5, 2)"], r"expected int\(low, high\), such as int\(1, 8\)"),
        (["a=lin(2, 1)"], r"expected lin\(low, high\) with low < high"),
        (["a=log(0, 1)"], r"a logarithm needs low above 0; use lin\(low, high\)"),
        (["a=log(0, 1, 3)"], r"a logarithm needs low above 0; use lin"),
        (["a=lin(2, 1, 3)"], r"with low < high and a count of 2 or more"),
        (["a=lin(1, 2, 1)"], r"with low < high and a count of 2 or more"),
        (["a=lin(1, inf, 3)"], r"with low < high"),
        (["a=lin(1, 2, 1000000)"], r"1,000,000 values; at most 10,000"),
        (["a=[1, 1]"], r"1 stands there twice; --seeds N repeats each setting"),
        (["a=[1, 2]", "a=[3, 4]"], r"a is varied twice; write all of its values in one list"),
        (["a=[1, 2]", "a=3"], r"the key is varied as well; leave one of the two out"),
        (["a=[1, 2"], r"override 'a=\[1, 2'"),
    ],
)
def test_bad_words_are_told_in_a_sentence(words, message):
    with pytest.raises(UsageError, match=message) as told:
        axes_of(words)
    assert len(str(told.value).splitlines()) == 1
