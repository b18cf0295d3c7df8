"""The section `gradient`: its defaults are the estimators' own, and each takes its own keys alone."""

import pytest
from pydantic import ValidationError

import jaxprop
from jaxprop.config.schema.gradient import TAKES, Gradient
from jaxprop.train.estimators import BACKPROP, ESTIMATORS


def test_the_keys_of_each_estimator_are_its_settings():
    assert set(TAKES) == {BACKPROP, *ESTIMATORS}
    for name, kind in ESTIMATORS.items():
        assert {*TAKES[name], "chunk"} == set(kind._fields)


def test_nothing_is_set_by_default():
    assert Gradient().estimator == "backprop"
    assert Gradient().settings() == {}
    assert jaxprop.estimator("backprop") is None


def test_settings_are_those_of_the_estimator():
    section = Gradient(estimator="spsa", samples=6, sigma=0.1, chunk=3)
    assert jaxprop.estimator(section.estimator, **section.settings()) == jaxprop.estimator(
        "spsa", samples=6, sigma=0.1, chunk=3
    )
    assert list(section.problems()) == []


@pytest.mark.parametrize("values", [{"samples": 0}, {"sigma": 0.0}, {"population": -2}, {"shaping": "rank"}])
def test_values_out_of_range(values):
    with pytest.raises(ValidationError):
        Gradient.model_validate({"estimator": "evolution", **values})


BAD = {
    "of another": ({"estimator": "spsa", "population": 4}, "spsa has no population; remove this, or use evolution as"),
    "of none": ({"samples": 4}, "backprop has no samples; remove this, or use forward or spsa as gradient.estimator"),
    "odd": ({"estimator": "evolution", "population": 7}, "points come in pairs at opposite sides, and 7 is odd; use 8"),
    "chunk": ({"estimator": "forward", "samples": 4, "chunk": 3}, "3 does not divide gradient.samples, 4; use a divi"),
    "usual": ({"estimator": "evolution", "chunk": 5}, "5 does not divide gradient.population, 64; use a divisor of 64"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_told_with_the_fix(case):
    values, told = BAD[case]
    ((_, what),) = Gradient(**values).problems()
    assert told in what
