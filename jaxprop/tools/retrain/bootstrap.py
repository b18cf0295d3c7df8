"""The paired bootstrap: an interval for the difference of two models that were measured on the same examples. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

DRAWS = 2000  # resamples, where they are cheap
SOME = 1000  # where each takes milliseconds
FEWEST = 200  # where each takes a fraction of a second; the 2.5 % quantile still has four below it
LEVEL = 0.95
_ENTRIES = 2**22  # numbers that are held at a time


class Interval(NamedTuple):
    """The difference of two figures, and where it would lie on other samples of as many examples.

    Args:
      difference: on the examples as they are; positive where the second model is better.
      low, high: bounds of the interval.
      draws: number of resamples that they are quantiles of.
      level: share of the resamples in the interval.
    """

    difference: float
    low: float
    high: float
    draws: int
    level: float = LEVEL


class Quotient(NamedTuple):
    """A figure that is a sum over examples by another one.

    Args:
      total, by: what each example adds to both, `[N]`.
    """

    total: np.ndarray
    by: np.ndarray


class Weighted(NamedTuple):
    """Any figure of examples that are each counted some times.

    Args:
      length: N.
      of: `weights -> figure`, weights integers `[N]`.
      draws: largest number of resamples. It does not depend on the time, so that a decision can be repeated.
    """

    length: int
    of: Callable[[np.ndarray], float]
    draws: int = SOME


Figure = Quotient | Weighted


def gathered(values: Any, finish: Callable[[Any], float]) -> Weighted:
    """Returns a figure of rows, which are repeated as often as their weights say.

    Args:
      values: pytree of arrays `[N, ...]`.
      finish: `values -> figure`.

    Example:
      >>> gathered(np.array([1.0, 5.0]), np.median).of(np.array([2, 0])).item()
      1.0
    """

    def of(weights: np.ndarray) -> float:
        chosen = np.repeat(np.arange(len(weights)), weights)
        return finish(jax.tree.map(lambda x: x[chosen], values))

    return Weighted(len(jax.tree.leaves(values)[0]), of, FEWEST)


def paired_interval(
    first: Figure,
    second: Figure,
    *,
    sign: float = 1.0,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """Returns the percentile interval of the difference of two figures under the paired bootstrap.

    Of the N examples, N are drawn with replacement, the same for both models, and both figures are computed of these:

        d_r = sign (f(second, i_r) - f(first, i_r)),   i_r ~ uniform on {1..N}^N,   r = 1..R

    The interval reaches from the (1 - level) / 2 quantile of the d_r to the (1 + level) / 2 quantile. Drawing examples
    for both models at once leaves out what makes an example hard for either, so that small differences show.

    Args:
      first, second: the figure of each model, of the same examples in the same order.
      sign: 1 where larger figures are better, -1 where smaller ones are.
      seed: of the resamples.
      draws: R, or fewer where a figure says so.
      level: share of the resamples in the interval.

    Returns:
      The interval; NaN where a figure is NaN on the examples as they are. Resamples on which a figure is NaN, such as
      those without any object, are left out.

    Example:
      >>> ones = np.ones(4)
      >>> paired_interval(Quotient(np.array([1.0, 0.0, 1.0, 1.0]), ones), Quotient(ones, ones)).difference
      0.25

    Reference:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for BLEU, Koehn, Statistical
      Significance Tests for Machine Translation Evaluation, 2004.
    """
    length = _length(first)
    assert length == _length(second)
    whole = np.ones((1, length), np.int64)
    difference = sign * float((_figures(second, whole) - _figures(first, whole))[0])
    if not np.isfinite(difference):
        return Interval(float("nan"), float("nan"), float("nan"), 0, level)
    rng = np.random.default_rng(seed)
    draws = min(draws, *(one.draws if isinstance(one, Weighted) else draws for one in (first, second)))
    step = max(1, _ENTRIES // length)
    found: list[np.ndarray] = []
    for done in range(0, draws, step):
        weights = _weights(rng, min(step, draws - done), length)
        found.append(sign * (_figures(second, weights) - _figures(first, weights)))
    every = np.concatenate(found)
    every = every[np.isfinite(every)]
    if not len(every):
        return Interval(difference, float("nan"), float("nan"), 0, level)
    low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
    return Interval(difference, float(low), float(high), len(every), level)


def _length(figure: Figure) -> int:
    return len(figure.total) if isinstance(figure, Quotient) else figure.length


def _weights(rng: np.random.Generator, draws: int, length: int) -> np.ndarray:
    """How often each example is drawn in each resample, int64 `[draws, length]`."""
    rows = rng.integers(0, length, (draws, length))
    flat = (rows + length * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * length).reshape(draws, length)


def _figures(figure: Figure, weights: np.ndarray) -> np.ndarray:
    """The figure of each row of weights."""
    if isinstance(figure, Quotient):
        with np.errstate(divide="ignore", invalid="ignore"):
            return (weights @ figure.total) / (weights @ figure.by)
    return np.array([float(figure.of(row)) for row in weights])
