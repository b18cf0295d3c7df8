"""Ratios of rates and initial values by the width, as the table of the paper has them."""

import pytest

from jaxprop.core.jaxprs.roles import Axes
from jaxprop.errors import ConfigError
from jaxprop.train.mup import Growth, growths, init_factor, rate_factor


def grown(shape, base, summed, *, tied=False, spread=None):
    rest = frozenset(range(len(shape))) - summed if spread is None else spread
    return growths(["w"], [shape], [base], [Axes(frozenset(summed), frozenset(rest))], tied=tied)[0]


# Yang et al., table 3, with fan_in and fan_out 4 times those of the base model.
TABLE = {
    "kernel on inputs": ((10, 256), (10, 64), {0}, 1, 1, 4),
    "bias": ((256,), (64,), set(), 1, 1, 4),
    "hidden kernel": ((256, 256), (64, 64), {0}, 1 / 2, 1 / 4, 1),
    "hidden kernel of Equinox": ((256, 256), (64, 64), {1}, 1 / 2, 1 / 4, 1),
    "output kernel": ((256, 10), (64, 10), {0}, 1 / 4, 1 / 4, 1 / 4),
    "output bias": ((10,), (10,), set(), 1, 1, 1),
    "table of tokens": ((1000, 256), (1000, 64), {0}, 1, 1, 4),
    "convolution": ((3, 3, 256, 256), (3, 3, 64, 64), {0, 1, 2}, 1 / 2, 1 / 4, 1),
    "heads of attention": ((256, 16, 16), (64, 4, 16), {0}, 1 / 2, 1 / 4, 1),
    "a wider end": ((256, 128), (64, 64), {0}, 1 / 2, 1 / 4, 2 / 4),
}


@pytest.mark.parametrize("kind", TABLE)
def test_factors_of_each_kind_of_parameter(kind):
    shape, base, summed, init, adam, sgd = TABLE[kind]
    growth = grown(shape, base, frozenset(summed))
    found = init_factor(growth), rate_factor(growth, adam=True), rate_factor(growth, adam=False)
    assert found == pytest.approx((init, adam, sgd))


def test_a_tied_table_is_as_one_that_is_looked_up():
    both = frozenset({0, 1})
    assert grown((1000, 256), (1000, 64), both, tied=True, spread=both) == Growth(1.0, 4.0)
    with pytest.raises(ConfigError, match=r"w is used along axis 1 both .* model\.tie_embeddings=false"):
        grown((1000, 256), (1000, 64), both, spread=both)


def test_a_base_model_of_another_form_is_refused():
    with pytest.raises(ConfigError, match="w has 2 axes, and 1 in the base model"):
        grown((4, 4), (4,), frozenset({0}))
