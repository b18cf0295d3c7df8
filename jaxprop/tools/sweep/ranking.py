"""Which setting is best, and whether that is more than the spread of the seeds. Loads no jax."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from jaxprop.errors import UsageError, one_of
from jaxprop.run.swept import Ended, Ranked, Verdict

__all__ = ["Ended", "Ranked", "Verdict", "rank", "verdict"]


def rank(ended: Sequence[Ended], metric: str, better: Literal["min", "max"]) -> list[Ranked]:
    """Ranks settings by the mean of a metric over seeds; those that lost runs come after those that lost fewer.

        mean = 1/n sum_i x_i,   spread^2 = sum_i (x_i - mean)^2 / (n - 1),   margin = t(0.975, n - 1) spread / sqrt(n)

    Args:
      ended: the runs.
      metric: its name.
      better: whether smaller or larger is better.

    Returns:
      The settings, the best first.

    Raises:
      UsageError: no run has such a metric.

    Example:
      >>> pairs = [(2, 0), (2, 1), (1, 0), (1, 1)]
      >>> runs = [Ended({"lr": lr}, seed, "", "completed", {"loss": lr + seed}, "", 1.0) for lr, seed in pairs]
      >>> [(one.setting, one.mean) for one in rank(runs, "loss", "min")]
      [({'lr': 1}, 1.5), ({'lr': 2}, 2.5)]

    Reference: Student, The probable error of a mean, Biometrika 6, 1908.
    """
    known = {name for one in ended for name in one.metrics}
    if known and metric not in known:
        raise UsageError(one_of(metric, sorted(known), "metric of these runs"))
    groups: dict[str, list[Ended]] = {}
    for one in ended:
        groups.setdefault(repr(sorted(one.setting.items())), []).append(one)
    found = [_ranked(runs, metric) for runs in groups.values()]
    sign = 1 if better == "min" else -1
    return sorted(found, key=lambda one: (not one.values, one.lost, sign * one.mean if one.values else 0.0))


def _ranked(runs: Sequence[Ended], metric: str) -> Ranked:
    good = sorted((run.seed, run.metrics[metric]) for run in runs if math.isfinite(run.metrics.get(metric, math.nan)))
    values = tuple(value for _, value in good)
    count = len(values)
    mean = statistics.fmean(values) if values else math.nan
    spread = statistics.stdev(values) if count > 1 else math.nan
    margin = _t(0.975, count - 1) * spread / math.sqrt(count) if count > 1 else math.nan
    return Ranked(runs[0].setting, values, tuple(seed for seed, _ in good), mean, spread, margin, len(runs) - count)


def verdict(best: Ranked, following: Ranked) -> Verdict:
    """Compares two settings by the seeds that both have, each with itself.

        d_i = x_i - y_i,   t = mean(d) / (spread(d) / sqrt(n)),   p = 2 P(T_{n-1} > |t|)

    Args:
      best, following: two settings.

    Example:
      >>> one = Ranked({}, (1.0, 2.0, 3.0), (0, 1, 2), 2.0, 1.0, 2.5, 0)
      >>> round(verdict(one, one._replace(values=(1.1, 2.2, 3.1))).p, 3)
      0.057

    Reference: Student, The probable error of a mean, Biometrika 6, 1908.
    """
    mine, theirs = (dict(zip(one.seeds, one.values, strict=True)) for one in (best, following))
    differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    mean = statistics.fmean(differences) if differences else math.nan
    if len(differences) < 2:
        return Verdict(mean, len(differences), math.nan)
    spread = statistics.stdev(differences)
    if spread == 0:
        return Verdict(mean, len(differences), 1.0 if mean == 0 else 0.0)
    t = abs(mean) / (spread / math.sqrt(len(differences)))
    return Verdict(mean, len(differences), 2 * (1 - _t_cdf(t, len(differences) - 1)))


def _t(share: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(share, freedom))


def _t_cdf(value: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.cdf(value, freedom))
