"""Derivatives by differences: bounds that hold, and kinks that are told from curvature, wherever they lie."""

import numpy as np
import pytest

from jaxprop.tools.gradcheck import differences

EPS = 1.1e-16
SMOOTH = {
    "exp": (np.exp, 1.0),
    "sine, steep": (lambda x: np.sin(30 * x), 30.0),
    "polynomial": (lambda x: 1 + 2 * x + 3 * x**2 + 4 * x**3 + 5 * x**4, 2.0),
    "straight": (lambda x: 7 - 2 * x, -2.0),
    "constant": (lambda x: 0 * x + 3, 0.0),
    "even": (np.cosh, 0.0),
}


def at(function, step, noise):
    h = step * differences.STEPS
    return differences.level(step, function(np.float64(0)), function(h), function(-h), noise)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("share", differences.LEVELS)
def test_the_bound_holds_for_smooth_functions(name, share):
    function, slope = SMOOTH[name]
    found = at(function, share * differences.best_step(EPS), 8 * EPS)
    assert found.clean
    assert not found.kink
    assert abs(found.value - slope) <= found.bound <= 1e-5


@pytest.mark.parametrize("jump", [1e-6, 1.0, -1.0])
def test_a_kink_anywhere_within_the_steps_is_not_mistaken_for_a_derivative(jump):
    step = 1e-4
    accused = []
    for at_step in np.linspace(-1.2, 1.2, 481):
        found = at(lambda x, d=at_step * step: np.sin(x) + jump * np.maximum(x - d, 0), step, 4 * EPS)
        slope = 1.0 + (jump if at_step < 0 else 0.0)
        if found.clean and abs(found.value - slope) > found.bound:
            accused.append(float(at_step))
    assert accused == []


def test_a_jump_is_not_clean():
    assert not at(lambda x: np.where(x > 0, 1.0, 0.0) + x, 1e-4, EPS).clean


def test_what_is_not_finite_is_not_clean():
    with np.errstate(invalid="ignore"):
        assert not at(np.sqrt, 1e-4, EPS).clean


@pytest.mark.parametrize("size", [1e-16, 1e-9, 1e-3])
def test_noise_is_measured_on_top_of_a_line_and_a_curve(size):
    x = 1e-10 * np.arange(400)
    values = 2 + 3 * x + x**2 + size * np.random.default_rng(0).normal(size=400)
    assert differences.noise_of(values) == pytest.approx(max(size, 1.7e-16), rel=0.5)


def test_noise_of_many_functions_at_once():
    values = np.random.default_rng(0).normal(size=(500, 3)) * [1, 10, 100]
    np.testing.assert_allclose(differences.noise_of(values), [1, 10, 100], rtol=0.15)
