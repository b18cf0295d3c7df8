"""Statistics of the ratio of two times, of which each has its samples in rounds.

What disturbs a measurement only ever adds time, and it comes in stretches: another process runs for milliseconds or
for minutes. So the time compared is the *undisturbed* one: within a round the time that a tenth of the samples stay
below, and over the rounds the one that a quarter of these stay below. All samples stand in the document, and the ratio
of the medians is given beside it, because a slowdown of only some steps is seen there alone.

The interval takes in the scatter within rounds (samples are drawn anew) and between rounds (rounds are drawn anew) of
both sides. It cannot take in what changed between the two documents. For that there is a *floor* below which
nothing is called a difference: what the same program has differed by within one document, between its earlier and
its later rounds and between its even and its odd ones; and what other processes can have added, by the core that
they had or by what they share with the cores beside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from jaxprop.bench.samples import Rounds

WITHIN, BETWEEN = 0.10, 0.25  # quantiles within a round, and over the rounds
MOST_WAITED = 0.95
BESIDE = 0.3  # slowdown by a process on a neighbouring core, which shares caches or even arithmetic units
DRAWS = 400  # of the bootstrap; the error of a standard error is 4 % then
LEAST = 1e-6  # relative error of a time, which no clock undercuts
FREEDOM = 10.0  # degrees of freedom of a scatter that is known beforehand


class Known(NamedTuple):
    """What is known beforehand of equal programs, from scripts/bench_compare.py.

    Args:
      floor: relative difference that is none.
      scatter: standard deviation of the logarithm of the time, from process to process: memory lies elsewhere.
    """

    floor: float
    scatter: float


HOST = Known(floor=0.05, scatter=0.022)  # a CPU, whose clock and caches are also those of all that runs beside
OTHER = Known(floor=0.02, scatter=0.01)


class Side(NamedTuple):
    """One side of a comparison.

    Args:
      seconds: the undisturbed time of one call.
      median: of all samples.
      error: standard error of the logarithm of `seconds`.
      rounds: how many there are.
      again: relative difference of the program to itself: of halves of its rounds (A/A).
      waited: seconds for which it waited for a core that another process had, for each second of measuring.
      others: seconds of other processes on all cores, for each second of measuring.
      processes: in how many processes it was measured.
    """

    seconds: float
    median: float
    error: float
    rounds: int
    again: float
    waited: float = 0.0
    others: float = 0.0
    processes: int = 1


class Ratio(NamedTuple):
    """Time of the second side relative to the first.

    Args:
      ratio: of the undisturbed times.
      low, high: interval of 95 %.
      median: ratio of the medians of all samples.
      floor: relative difference below which nothing is called one.
      p: how likely a difference from the floor at least as large as this one is, if there is none.
    """

    ratio: float
    low: float
    high: float
    median: float
    floor: float
    p: float


def undisturbed(rounds: Rounds) -> float:
    """Time of one call when nothing else disturbs it.

    Args:
      rounds: seconds of one call, at least one round and one sample in each.

    Example:
      >>> undisturbed([[1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
      1.0
    """
    return float(np.quantile([np.quantile(one, WITHIN) for one in rounds], BETWEEN))


def side(rounds: Rounds, waited: float = 0.0, others: float = 0.0) -> Side:
    """Describes one side.

    Args:
      rounds: seconds of one call, at least two rounds, positive.
      waited, others: for each second of measuring, as `Side` has them; 0 where they are not known.

    Example:
      >>> side([[1.0, 1.1], [1.0, 1.1]]).rounds
      2
    """
    seconds = undisturbed(rounds)
    return Side(
        seconds=seconds,
        median=float(np.median(np.concatenate([np.asarray(one) for one in rounds]))),
        error=max(_error(rounds), LEAST),
        rounds=len(rounds),
        again=_again(rounds),
        waited=waited,
        others=others,
    )


def side_of_processes(processes: Sequence[Rounds], scatter: float, waited: float = 0.0, others: float = 0.0) -> Side:
    """Describes one side that several processes have measured.

    The time is the geometric mean of the processes' undisturbed times; its error is that of a mean of so many. Few
    processes tell little of how far they scatter, so it is at least what is known of equal ones.

    Args:
      processes: rounds of each, at least two processes.
      scatter: standard deviation of the logarithm of equal processes' times.
      waited, others: as in `side`.

    Example:
      >>> found = side_of_processes([[[1.0, 1.1]] * 2, [[1.1, 1.2]] * 2], scatter=0.02)
      >>> found.processes, round(found.seconds, 3)
      (2, 1.059)
    """
    logs = np.log([undisturbed(rounds) for rounds in processes])
    # A process with a single round tells nothing of its own error; how far the processes differ holds that, too.
    within = float(np.mean([_error(rounds) ** 2 if len(rounds) > 1 else LEAST**2 for rounds in processes]))
    between = max(scatter, float(np.std(logs, ddof=1))) ** 2
    count = len(processes)
    return Side(
        seconds=float(np.exp(logs.mean())),
        median=float(np.median(np.concatenate([np.asarray(one) for rounds in processes for one in rounds]))),
        error=math.sqrt((within + between) / count),
        rounds=sum(map(len, processes)),
        again=0.0,
        waited=waited,
        others=others,
        processes=count,
    )


def ratio(first: Side, second: Side, floor: float = OTHER.floor) -> Ratio:
    """Compares two sides.

    Args:
      first, second: of the same work.
      floor: relative difference that is none, however small the noise of both sides is.

    Example:
      >>> a, b = side([[1.0, 1.01]] * 5), side([[1.5, 1.51]] * 5)
      >>> found = ratio(a, b)
      >>> round(found.ratio, 2), found.p < 0.01
      (1.5, True)

    Reference:
      Kalibera and Jones, Rigorous benchmarking in reasonable time, 2013; Welch, 1947.
    """
    log = math.log(second.seconds / first.seconds)
    variance = first.error**2 + second.error**2
    error = math.sqrt(variance)
    freedom = variance**2 / sum(one.error**4 / (one.rounds - 1) for one in (first, second))
    reach = float(stdtrit(freedom, 0.975)) * error
    apart = min(first.processes, second.processes) > 1
    if apart:
        freedom = max(FREEDOM, first.processes + second.processes - 2.0)
        reach = float(stdtrit(freedom, 0.975)) * error
    floor = max(floor, first.again, second.again, _disturbance(first, second))
    # Between single processes, whose scatter is not in the error, only what lies beyond the floor counts.
    beyond = max(abs(log) - math.log1p(floor), 0.0)
    if apart and beyond > 0:
        beyond = abs(log)
    return Ratio(
        ratio=math.exp(log),
        low=math.exp(log - reach),
        high=math.exp(log + reach),
        median=second.median / first.median,
        floor=floor,
        p=2 * float(stdtr(freedom, -beyond / error)),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts probabilities, so that the one of any false alarm among all is what each is compared with.

    Args:
      p: one a row.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]

    Reference:
      Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def _error(rounds: Rounds) -> float:
    """Standard error of the logarithm of the undisturbed time, by drawing rounds anew and samples anew within each."""
    count = len(rounds)
    draws = np.empty((DRAWS, count))
    for i, one in enumerate(rounds):
        samples = np.sort(np.asarray(one, float))
        # The quantile of samples drawn anew, from a quantile of ranks: the order of the drawn ranks is that of samples.
        draws[:, i] = samples[_drawn_ranks(len(samples), i)]
    chosen = np.random.default_rng(0).integers(0, count, (DRAWS, count))
    times = np.quantile(np.take_along_axis(draws, chosen, 1), BETWEEN, axis=1)
    # Rounds drawn from so few scatter less than the rounds themselves do.
    return float(np.std(np.log(times), ddof=1)) * math.sqrt(count / (count - 1))


@lru_cache(maxsize=256)
def _drawn_ranks(count: int, seed: int) -> np.ndarray:
    """Ranks of the low quantile of as many samples drawn anew, once a draw."""
    ranks = np.sort(np.random.default_rng(seed + 1).integers(0, count, (DRAWS, count)), axis=1)
    return ranks[:, round(WITHIN * (count - 1))]


def _disturbance(first: Side, second: Side) -> float:
    """The relative difference that other processes can have made.

    All of the waiting can be in one of the two times. A core beside is slowed down alike in both as far as its
    neighbours were equally busy.
    """
    waiting = max(1 / (1 - min(one.waited, MOST_WAITED)) - 1 for one in (first, second))
    return max(waiting, BESIDE * min(abs(first.others - second.others), 1.0))


def _again(rounds: Rounds) -> float:
    """The larger of two differences of the program to itself: of its earlier to its later rounds, of even to odd."""
    half = len(rounds) // 2
    pairs = ((rounds[:half], rounds[half:]), (rounds[::2], rounds[1::2]))
    return max(_distance(undisturbed(one), undisturbed(other)) for one, other in pairs)


def _distance(one: float, other: float) -> float:
    return max(one, other) / min(one, other) - 1
