"""The paired bootstrap: an interval for the difference of two models that were measured on the same examples. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

DRAWS = 2000  # resamples, where they are cheap
FEWEST = 200  # of which the 2.5 % quantile still is a fifth smallest value
LEVEL = 0.95
_ENTRIES = 2**22  # numbers gathered at a time


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


class Sums(NamedTuple):
    """A figure of totals that add up over examples.

    Args:
      values: pytree of arrays `[N, ...]`, what each example adds.
      finish: `total -> figure`, of the sums over examples.
      quotient: whether values are `(sum [N], count [N])` and the figure is their quotient, which is then computed for
        all resamples at once.
    """

    values: Any
    finish: Callable[[Any], float]
    quotient: bool = False


class Gathered(NamedTuple):
    """A figure that does not add up over examples.

    Args:
      values: pytree of arrays `[N, ...]`, an entry an example.
      finish: `values -> figure`.
    """

    values: Any
    finish: Callable[[Any], float]


Figure = Sums | Gathered


def paired_interval(
    first: Figure,
    second: Figure,
    *,
    sign: float = 1.0,
    seed: int = 0,
    draws: int = DRAWS,
    seconds: float = 20.0,
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
      draws: largest R.
      seconds: after which no further resample is drawn, once there are `FEWEST`; only looked at where they are computed
        one by one.
      level: share of the resamples in the interval.

    Returns:
      The interval; NaN where a figure is NaN on the examples as they are. Resamples on which a figure is NaN, such as
      those without any object, are left out.

    Example:
      >>> hits = np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4)
      >>> perfect = np.ones(4), np.ones(4)
      >>> mean = lambda total: float(total[0] / total[1])
      >>> paired_interval(Sums(hits, mean, True), Sums(perfect, mean, True)).difference
      0.25

    Reference:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for BLEU, Koehn, Statistical
      Significance Tests for Machine Translation Evaluation, 2004.
    """
    length = len(jax.tree.leaves(first.values)[0])
    assert length == len(jax.tree.leaves(second.values)[0])
    whole = np.arange(length)
    difference = sign * (_figure(second, whole) - _figure(first, whole))
    if not np.isfinite(difference):
        return Interval(float("nan"), float("nan"), float("nan"), 0, level)
    rng = np.random.default_rng(seed)
    if isinstance(first, Sums) and isinstance(second, Sums):
        found = sign * _of_sums(first, second, rng, length, draws)
    else:
        found = sign * _one_by_one(first, second, rng, length, draws, seconds)
    found = found[np.isfinite(found)]
    if not len(found):
        return Interval(difference, float("nan"), float("nan"), 0, level)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference), float(low), float(high), len(found), level)


def _figure(figure: Figure, chosen: np.ndarray) -> float:
    if isinstance(figure, Gathered):
        return float(figure.finish(jax.tree.map(lambda x: x[chosen], figure.values)))
    return float(figure.finish(jax.tree.map(lambda x: x[chosen].sum(0), figure.values)))


def _of_sums(first: Sums, second: Sums, rng: np.random.Generator, length: int, draws: int) -> np.ndarray:
    """Differences of figures whose totals are summed for many resamples at a time."""
    trees = [jax.tree.flatten(one.values) for one in (first, second)]
    flat = np.concatenate([leaf.reshape(length, -1) for leaves, _ in trees for leaf in leaves], 1)  # [N, K]
    totals = np.empty((draws, flat.shape[1]))
    step = max(1, _ENTRIES // max(flat.size, 1))
    for at in range(0, draws, step):
        rows = rng.integers(0, length, (min(step, draws - at), length))
        totals[at : at + step] = flat[rows].sum(1)
    width = flat.shape[1] // 2
    return _finished(second, trees[1], totals[:, width:]) - _finished(first, trees[0], totals[:, :width])


def _finished(figure: Sums, tree: tuple[list[np.ndarray], Any], totals: np.ndarray) -> np.ndarray:
    if figure.quotient:
        with np.errstate(divide="ignore", invalid="ignore"):
            return totals[:, 0] / totals[:, 1]
    leaves, structure = tree
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
    return np.array(
        [
            figure.finish(
                jax.tree.unflatten(
                    structure,
                    [part.reshape(leaf.shape[1:]) for part, leaf in zip(np.split(row, ends), leaves, strict=True)],
                )
            )
            for row in totals
        ]
    )


def _one_by_one(
    first: Figure, second: Figure, rng: np.random.Generator, length: int, draws: int, seconds: float
) -> np.ndarray:
    found: list[float] = []
    began = time.perf_counter()
    for drawn in range(draws):
        if drawn >= FEWEST and time.perf_counter() - began > seconds:
            break
        chosen = rng.integers(0, length, length)
        found.append(_figure(second, chosen) - _figure(first, chosen))
    return np.array(found)
