"""Statistics that the early warning keeps: running scales, means and trends, and their JSON encoding. Pure."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import deque
from typing import Any

import numpy as np

MAD = 1.4826  # ratio of the standard deviation to the median absolute deviation of a normal distribution


def median(values: np.ndarray) -> float:
    """Returns the median of a vector without NaN; ten times as fast as `np.median` for short vectors.

    Example:
      >>> median(np.array([3.0, 1.0, 2.0])), median(np.array([4.0, 1.0]))
      (2.0, 2.5)
    """
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half]) if len(values) % 2 else float(ordered[half - 1] + ordered[half]) / 2


@functools.lru_cache(maxsize=4)
def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, 1)


@dataclasses.dataclass
class LogEma:
    """Running mean and scale of `log x`, for z-scores that are robust to outliers.

    z = (log x - mu) / max(sigma, floor);  mu <- a mu + (1 - a) w, w = log x winsorised at `winsor` scales

    z is 0 for the first `arm` values; then mean and scale start from their median and median absolute deviation.

    Example:
      >>> history = LogEma()
      >>> for x in [1.0, 1.1] * 50: history.feed(x, 0.98, 100, 0.02, 3.0)
      >>> round(history.z(1.05, 0.02)), history.z(5.0, 0.02) > 5
      (0, True)
    """

    first: list[float] = dataclasses.field(default_factory=list)
    armed: bool = False
    mean: float = 0.0
    variance: float = 0.0

    def z(self, x: float, floor: float) -> float:
        """Returns the z-score of `log x`; 0 while not armed."""
        if not self.armed or not x > 0:
            return 0.0
        return (math.log(x) - self.mean) / max(math.sqrt(self.variance), floor)

    def feed(self, x: float, alpha: float, arm: int, floor: float, winsor: float) -> None:
        """Takes in a finite value; values that are not positive are ignored."""
        if not x > 0:
            return
        y = math.log(x)
        if not self.armed:
            self.first.append(y)
            if len(self.first) >= arm:
                values = np.asarray(self.first)
                self.mean = median(values)
                self.variance = (MAD * median(np.abs(values - self.mean))) ** 2
                self.armed, self.first = True, []
            return
        reach = winsor * max(math.sqrt(self.variance), floor)
        d = min(max(y - self.mean, -reach), reach)
        self.variance = alpha * (self.variance + (1 - alpha) * d * d)
        self.mean += (1 - alpha) * d


@dataclasses.dataclass
class LayerEma:
    """`LogEma` of one value per layer; a layer whose value is 0 or not finite is not updated."""

    first: list[list[float]] = dataclasses.field(default_factory=list)
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None

    def deviation(self, y: np.ndarray) -> np.ndarray | None:
        """Returns `y - mean` of each layer for `y = log x`, `[L]`, or None while not armed."""
        return None if self.mean is None else y - self.mean

    def scale(self, floor: float) -> np.ndarray:
        assert self.variance is not None
        return np.maximum(np.sqrt(self.variance), floor)

    def feed(self, y: np.ndarray, alpha: float, arm: int, floor: float, winsor: float) -> None:
        """Takes in `y = log x`, `[L]`; entries that are not finite are ignored."""
        if self.mean is None or self.variance is None:
            self.first.append(y.tolist())
            if len(self.first) >= arm:
                # the mean of a layer without any gradient so far stays NaN, so that it has no history
                columns = [column[np.isfinite(column)] for column in np.asarray(self.first).T]
                self.mean = np.asarray([median(column) if len(column) else math.nan for column in columns])
                spreads = zip(columns, self.mean, strict=True)
                self.variance = np.asarray([(MAD * median(abs(c - mu))) ** 2 if len(c) else 0.0 for c, mu in spreads])
                self.first = []
            return
        reach = winsor * self.scale(floor)
        d = np.minimum(np.maximum(y - self.mean, -reach), reach)
        d[~np.isfinite(y - self.mean)] = 0.0
        self.variance = alpha * (self.variance + (1 - alpha) * d * d)
        self.mean = self.mean + (1 - alpha) * d


@dataclasses.dataclass
class Means:
    """Fast and slow moving average of a value, and its noise from successive differences, which ignore a drift.

    Each average is the plain mean of all values while they are fewer than its length.

    Example:
      >>> means = Means()
      >>> for x in [2.0, 4.0] * 50: means.feed(x, 20, 400)
      >>> round(means.slow, 6), round(means.noise, 1)
      (3.0, 1.4)
    """

    count: int = 0
    fast: float = 0.0
    slow: float = 0.0
    last: float = 0.0
    squares: float = 0.0

    @property
    def noise(self) -> float:
        """Standard deviation of the value around its drift."""
        return math.sqrt(self.squares / 2)

    def feed(self, x: float, fast: int, slow: int) -> None:
        """Takes in a finite value, clipped to 6 standard deviations around the fast mean once there is a history."""
        if self.count >= fast:
            reach = 6 * self.noise + 1e-3 * abs(self.fast)
            x = min(max(x, self.fast - reach), self.fast + reach)
        self.count += 1
        if self.count > 1:
            weight = 1 / min(self.count - 1, 4 * fast)
            self.squares += weight * ((x - self.last) ** 2 - self.squares)
        self.fast += (x - self.fast) / min(self.count, fast)
        self.slow += (x - self.slow) / min(self.count, slow)
        self.last = x


@dataclasses.dataclass
class Trend:
    """Theil-Sen line through the last points of a value.

    slope = median over pairs i < j of (y_j - y_i) / (t_j - t_i)

    Example:
      >>> trend = Trend(deque(maxlen=60), deque(maxlen=60))
      >>> for t in range(60): trend.feed(t, 10.0 + 0.5 * t)
      >>> trend.fit()
      (0.5, 39.5, 1.0)

    Reference:
      Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, 1968.
    """

    steps: deque[int]
    values: deque[float]

    def feed(self, step: int, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)

    def clear(self) -> None:
        self.steps.clear()
        self.values.clear()

    @property
    def full(self) -> bool:
        return len(self.values) == self.values.maxlen

    @property
    def lowest(self) -> int:
        """Step of the smallest value, at which a rise begins."""
        return self.steps[min(range(len(self.values)), key=self.values.__getitem__)]

    def fit(self) -> tuple[float, float, float]:
        """Returns the slope a step, the line's value at the last point, and Kendall's tau."""
        t, y = np.asarray(self.steps, float), np.asarray(self.values)
        i, j = _pairs(len(t))
        rise = y[j] - y[i]
        slope = median(rise / (t[j] - t[i]))
        return slope, median(y - slope * (t - t[-1])), float(np.sign(rise).mean())


def encode(value: Any) -> Any:
    """Converts dataclasses, arrays, deques, dicts and their contents to JSON values; `decode` restores them exactly.

    Example:
      >>> decode(None, encode({"x": math.inf, "y": np.arange(2)}))
      {'x': inf, 'y': array([0, 1])}
    """
    if dataclasses.is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return {"array": value.dtype.name, "values": encode(value.tolist())}
    if isinstance(value, deque):
        return {"deque": value.maxlen, "values": encode(list(value))}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def decode(into: Any, value: Any) -> Any:
    """Converts the JSON values of `encode` back; a dataclass is filled in place, in the object `into`."""
    if dataclasses.is_dataclass(into):
        for field in dataclasses.fields(into):
            if field.name in value:  # an earlier version may not have kept it
                setattr(into, field.name, decode(getattr(into, field.name), value[field.name]))
        return into
    if isinstance(value, list):
        return [decode(None, item) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.asarray(decode(None, value["values"]), value["array"])
    if "deque" in value:
        return deque(decode(None, value["values"]), value["deque"])
    if "dict" in value:
        return {decode(None, key): decode(None, item) for key, item in value["dict"]}
    if "tuple" in value:
        return tuple(decode(None, item) for item in value["tuple"])
    return float(value["float"])
