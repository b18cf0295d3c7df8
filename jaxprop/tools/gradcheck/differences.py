"""Central differences of a scalar function of one variable, with what rounding and truncation make of them. No jax.

Steps come in fours of h, each a ladder h, h/2, h/4; two levels of Richardson extrapolation give a derivative and what
it may still be off by.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS = np.array([1.0, 0.5, 0.25])  # of a level's h
LEVELS = (1 / 8, 1 / 64, 1 / 512, 1.0)  # of the h that balances rounding and truncation, in the order they are tried
SAFETY = 32.0  # standard deviations of rounding that count as possible
_FOURTH = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
_FOURTH_VARIANCE = 70.0  # of the fourth difference of white noise: the sum of the squared coefficients


class Difference(NamedTuple):
    """A derivative by differences at one level; arrays, one value a function.

    Args:
      value: the derivative.
      bound: what truncation and rounding may make of it.
      clean: whether the function looks differentiable within this level's steps.
      kink: whether its one-sided derivatives differ at the point itself, or as near as can be told.
    """

    value: np.ndarray
    bound: np.ndarray
    clean: np.ndarray
    kink: np.ndarray


def noise_of(values: np.ndarray) -> np.ndarray:
    """Standard deviation of the rounding in values at equidistant points, by their fourth differences.

        sigma^2 = mean((Delta^4 f)^2) / 70

    Args:
      values: `[n, ...]`, n >= 6, at points so near to one another that all else is a straight line.

    Returns:
      `[...]`.

    Example:
      >>> line = np.arange(200.0)
      >>> bool(noise_of(line) < 1e-9), bool(0.8 < noise_of(line + np.random.default_rng(0).normal(size=200)) < 1.2)
      (True, True)

    Reference:
      Moré and Wild, Estimating Computational Noise, SIAM J. Sci. Comput. 33, 2011.
    """
    n = len(values) - len(_FOURTH) + 1
    fourth = sum(weight * values[i : i + n] for i, weight in enumerate(_FOURTH))
    return np.sqrt(np.mean(np.square(fourth), axis=0) / _FOURTH_VARIANCE)


def best_step(relative_noise: float) -> float:
    """Step that balances the rounding of a value against the truncation of fourth-order differences, eps^(1/5).

    Example:
      >>> round(best_step(1e-15), 6)
      0.001
    """
    return relative_noise**0.2


def level(step: float, centre: float, above: np.ndarray, below: np.ndarray, noise: float) -> Difference:
    """Central differences at h, h/2, h/4, extrapolated twice.

        D(h) = (f(h) - f(-h)) / 2h,   R(h) = (4 D(h/2) - D(h)) / 3,   bound = |R(h/2) - R(h)| + rounding

    A kink is what does not shrink as it should: for a smooth function D(h/2) - D(h) falls to a quarter with each
    halving, and the difference of the one-sided derivatives, extrapolated to 0, to an eighth; both double, or stay,
    where a kink lies within the steps.

    Args:
      step: h.
      centre: f(0).
      above, below: f at `+h * STEPS` and `-h * STEPS`, `[..., 3]`.
      noise: standard deviation of the rounding of one value.

    Returns:
      Derivatives and bounds, `[...]`.

    Example:
      >>> h = 1e-3 * STEPS
      >>> smooth = level(1e-3, 1.0, np.exp(h), np.exp(-h), 1e-16)
      >>> bool(abs(smooth.value - 1) <= smooth.bound < 1e-10), bool(smooth.clean), bool(smooth.kink)
      (True, True, False)
      >>> relu = level(1e-3, 0.0, h, 0 * h, 1e-16)
      >>> bool(relu.clean), bool(relu.kink)
      (False, True)

    Reference:
      Richardson, The Approximate Arithmetical Solution by Finite Differences, 1911.
    """
    h = step * STEPS
    rounding = SAFETY * noise / h[-1]
    central = (above - below) / (2 * h)
    richardson = (4 * central[..., 1:] - central[..., :-1]) / 3
    sides = (above + below - 2 * centre) / h  # right derivative less left one, h f'' where there is no kink
    jump = 2 * sides[..., 1:] - sides[..., :-1]
    change = np.abs(np.diff(central))
    # Rounding of four values, not of one, is in a jump; and two in a derivative.
    straight = change[..., 1] <= change[..., 0] / 2 + 2 * rounding
    no_jump = np.abs(jump[..., 1]) <= np.abs(jump[..., 0]) / 4 + 8 * rounding
    kink = np.abs(jump[..., 1]) > np.abs(np.diff(jump)[..., 0]) + 8 * rounding
    bound = np.abs(np.diff(richardson)[..., 0]) + 2 * rounding
    finite = np.isfinite(above).all(-1) & np.isfinite(below).all(-1)
    return Difference(richardson[..., 1], bound, finite & straight & no_jump, kink | ~finite)
