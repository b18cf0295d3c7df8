"""Detectors that need only a record's scalars: finiteness, gradient norms, loss, learning rate, outputs. Pure.

A detector has the `kinds` of symptoms that it reports, the least `detail` of the records that it reads (`lean`, `rows`
or `full`), and a method `scan` that returns the symptoms in one record.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxprop.health.watch.advice import COLD
from jaxprop.health.watch.alerts import WatchConfig
from jaxprop.health.watch.history import LayerEma, LogEma, Means, Trend
from jaxprop.health.watch.reading import NAN, Reading, Trail
from jaxprop.health.watch.schedule import Pace, rate_rise

QUICK = 0.9  # decay of the histories in a grace period
EVERY_TREND = 10  # steps between fits of a trend
STEADY = 0.8  # Kendall's tau above which a trend is certain
OUTPUTS = 12  # full records, at most, that a trend of the outputs is fitted to
FEWEST, SPAN = 5, 110  # of them, and steps between the first and the last, that it needs
FAST_OUTPUTS, SLOW_OUTPUTS = 3, 40  # full records that outputs are averaged over
WAIT = 3  # records in which a jump of the loss shows whether it stays
FALLING, LOWEST = 0.95, 1.02  # fast over slow mean of a loss that falls, and over its lowest level
LEARNT = 0.3  # fast over slow mean of a loss that falls to nothing, as of data that are known by heart
SMALL_SHARE = 0.1  # of the first gradients, below which a trend of the gradient is none
FADES = 3.0  # factor by which the damage of a bad batch is smaller than the batch's own loss
EXPLODED = 100.0  # factor by which losses have grown that are out of control, over their lowest or their first
OVERFLOWS = 8  # consecutive non-finite gradients that are normal while a loss scale comes down


class Symptom(NamedTuple):
    """A sign of trouble that a detector sees in a record; `Watch` gives an alert when it first occurs.

    Args:
      kind, layer, severity, value, threshold, since: as in `Alert`.
    """

    kind: str
    layer: str | None
    severity: str
    value: float
    threshold: float
    since: int


def graded(value: float, advice: float, act: float) -> str | None:
    """Returns `act`, `advice` or None for a value and its two thresholds; None for NaN.

    Example:
      >>> graded(0.6, 0.5, 0.9), graded(float("nan"), 0.5, 0.9)
      ('advice', None)
    """
    return "act" if value > act else "advice" if value > advice else None


def strictness(r: Reading, trail: Trail, config: WatchConfig) -> float:
    """Returns the factor on sensitive thresholds, which is larger in a grace period."""
    return config.grace_factor if trail.grace(r.step) else 1.0


def long_enough(trend: Trend) -> bool:
    """Whether points of full records, whatever their interval, are enough for a trend."""
    return len(trend.values) >= FEWEST and trend.steps[-1] - trend.steps[0] >= SPAN


def _trend(step: int) -> Trend:
    return Trend(deque(maxlen=step), deque(maxlen=step))


@dataclasses.dataclass
class NonFinite:
    """Non-finite loss or gradient; overflows under a loss scale count only after `OVERFLOWS` in a row.

    Where the losses before it have exploded, it is what they have come to, and has no cause of its own.
    """

    detail: ClassVar[str] = "lean"
    kinds: ClassVar[tuple[str, ...]] = ("nonfinite",)
    streak: int = 0
    since: int = 0
    losses: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=20))  # the latest finite ones

    def scan(self, r: Reading, trail: Trail, _: WatchConfig) -> list[Symptom]:
        if r.finite:
            self.streak = 0
            self.losses.append(r.loss)
            return []
        if not self.streak:
            self.since = r.step
            trail.note(r.step, exploded=self._growth(trail))
        self.streak += 1
        overflow = math.isfinite(r.loss) and r.scale > 1
        trail.note(r.step, nonfinite_loss=not math.isfinite(r.loss))
        if overflow and self.streak <= OVERFLOWS:
            return []
        count = 1.0 if r.rows is None else max(float(np.nansum(r.rows.nonfinite)), 1.0)
        return [Symptom("nonfinite", self._layer(r), "act", count, 0.0, self.since)]

    def _growth(self, trail: Trail) -> float:
        """The last finite loss over the lowest of the latest, where it was out of control; else 0.

        One huge loss late in a run may be of a bad batch, so that the losses have to have risen in two records; in the
        first steps an explosion may take just one.
        """
        losses, first = list(self.losses), abs(trail.get("first_loss"))
        if len(losses) < 2:
            return 0.0
        base = max(abs(min(losses)), 1e-3 * first, 1e-12)
        rises = len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]
        early = trail.step - trail.start <= COLD
        out = losses[-1] > EXPLODED * base and losses[-1] > EXPLODED / 10 * first
        return losses[-1] / base if out and (rises or early) else 0.0

    def _layer(self, r: Reading) -> str | None:
        """The layer nearest the loss with non-finite gradients, which the backward pass reached first."""
        if r.rows is None or not r.rows.nonfinite.any():
            return None
        bad = np.flatnonzero(r.rows.nonfinite > 0)
        if len(bad) == len(r.names) and len(bad) > 1 and not math.isfinite(r.loss):
            return None  # the forward pass failed, so all gradients are non-finite
        return r.layer(int(bad[-1]))


@dataclasses.dataclass
class Held:
    """A sudden rise, held back for three records: it passes after a bad batch, and stays after a shift of the data.

    Args:
      since: step of the rise, 0 while there is none.
      base: the usual level before it.
      first, last: how far above that level it was in its first record, and is in its newest one.
      value: its largest z-score.
      waited, stayed: records since, and those in which it was still there.
    """

    since: int = 0
    base: float = 0.0
    first: float = 0.0
    value: float = 0.0
    last: float = 0.0
    waited: int = 0
    stayed: int = 0

    def wait(self, step: int, level: float, usual: float, value: float, over: bool, stays: bool) -> bool:
        """Takes in a record's level and z-score; returns whether the wait for an earlier rise is over."""
        if not self.since:
            if over:
                self.since, self.base, self.first, self.value = step, usual, level - usual, value
                self.waited = self.stayed = 0
            return False
        self.waited += 1
        self.stayed += stays
        self.last = level - self.base if stays else 0.0
        self.value = max(self.value, value)
        return self.waited >= WAIT

    @property
    def lasts(self) -> bool:
        """Whether it is there at the end of the wait, and not only as what a far larger rise has left behind."""
        return self.last > 0 and self.first < FADES * self.last


@dataclasses.dataclass
class LossLevel:
    """The loss above its slow mean, its lowest level, its noise, or its first values."""

    detail: ClassVar[str] = "lean"
    kinds: ClassVar[tuple[str, ...]] = ("loss_rise", "loss_jump", "loss_start")
    means: Means = dataclasses.field(default_factory=Means)
    held: Held = dataclasses.field(default_factory=Held)
    first: list[float] = dataclasses.field(default_factory=list)
    recent: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=3))
    levels: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=20))
    latest: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=20))
    rising: int = 0

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if not r.finite:
            return []
        self.latest.append(r.loss)
        means, strict = self.means, strictness(r, trail, config)
        noise = max(means.noise, 1e-3 * abs(means.fast), 1e-12)
        jump = (r.loss - means.fast) / noise if means.count else 0.0
        trail.note(r.step, loss_z=jump, loss_large=float(self._is_large(r.loss)), loss=r.loss)
        armed = means.count >= config.arm
        found = self._jump(r, trail, config, jump, strict) if armed else self._start(r, trail, config, noise)
        if r.fed:
            means.feed(r.loss, config.fast, config.slow)
            if r.step % EVERY_TREND == 0:
                self.levels.append(means.fast)
        trail.note(r.step, loss_ratio=1 + (means.fast - means.slow) / max(abs(means.slow), noise))
        return found + (self._rise(r, trail, config, noise, strict) if armed and r.fed else [])

    def _rise(self, r: Reading, trail: Trail, config: WatchConfig, noise: float, strict: float) -> list[Symptom]:
        """A rise above the slow mean, or above the lowest recent level, which reacts sooner if the loss was falling."""
        means = self.means
        rise = means.fast - means.slow
        self.rising = (self.rising or r.step) if rise > 0 else 0
        enough = rise > config.loss_noise * noise * strict
        over = trail.get("loss_ratio") - 1
        severity = graded(over, (config.loss_ratio - 1) * strict, (config.loss_ratio_act - 1) * strict)
        if enough and severity:
            severity = severity if rise > 2 * config.loss_noise * noise else "advice"
            return [Symptom("loss_rise", None, severity, 1 + over, config.loss_ratio, self.rising)]
        lowest = min(self.levels, default=means.fast)
        rise = means.fast - lowest
        ratio = 1 + rise / max(abs(lowest), noise)
        trail.note(r.step, loss_over_lowest=ratio)
        if ratio - 1 > (config.lowest_ratio - 1) * strict and rise > config.lowest_noise * noise * strict:
            at = len(self.levels) - 1 - self.levels.index(lowest)
            return [Symptom("loss_rise", None, "advice", ratio, config.lowest_ratio, r.step - EVERY_TREND * at)]
        return []

    def _jump(self, r: Reading, trail: Trail, config: WatchConfig, jump: float, strict: float) -> list[Symptom]:
        over = self._is_large(r.loss) and jump > config.loss_jump * strict
        ended = self.held.wait(r.step, r.loss, self.means.fast, jump, over, jump > config.loss_jump / 2)
        if over and self.held.since == r.step:
            trail.note(r.step, jump=jump, stayed=-1)
        if over and jump > config.loss_jump_act * strict and trail.get("output_z") > config.loss_jump:
            ended, self.held.since = True, self.held.since or r.step  # inputs far out of range: no need to wait
        if not ended:
            return []
        since, value, stayed = self.held.since, self.held.value, self.held.stayed
        self.held.since = 0
        trail.note(r.step, stayed=stayed if self.held.lasts else 0)
        if stayed < 2 and value < config.loss_once * strict:
            return []
        severity = "act" if value > config.loss_jump_act * strict and stayed > 1 else "advice"
        return [Symptom("loss_jump", None, severity, value, config.loss_jump, since)]

    def _is_large(self, loss: float) -> bool:
        """Whether a rise does harm: when the loss is near zero, a single wrong example multiplies it."""
        start = sorted(self.first)[len(self.first) // 2] if self.first else 0.0
        return loss - self.means.fast > max(0.25 * abs(self.means.fast), 0.1 * abs(start))

    def _start(self, r: Reading, trail: Trail, config: WatchConfig, noise: float) -> list[Symptom]:
        """Whether the median of the last three losses is well above the first losses."""
        if len(self.first) < 5:
            self.first.append(r.loss)
            trail.note(r.step, first_loss=self.first[0], blown=max(self.first) / max(abs(self.first[0]), 1e-12))
            return self._explosion(r)
        self.recent.append(r.loss)
        base, worst = sorted(self.first)[2], max(self.first)
        now = sorted(self.recent)[len(self.recent) // 2]
        over = 1 + (now - base) / max(abs(base), noise)
        if len(self.recent) < 3 or over < config.start_ratio or now < worst + 3 * noise:
            return []
        return [Symptom("loss_start", None, "act" if over > 2 else "advice", over, config.start_ratio, r.step - 2)]

    def _explosion(self, r: Reading) -> list[Symptom]:
        """Whether the first losses have exploded and are soon not finite; two of them, for one may be a bad batch."""
        base = max(abs(self.first[0]), 1e-12)
        grown = min(self.first[-2:]) / base
        if len(self.first) < 3 or grown < EXPLODED:
            return []
        return [Symptom("loss_start", None, "act", self.first[-1] / base, EXPLODED, r.step - 1)]

    @property
    def start_and_now(self) -> tuple[float, float]:
        """Medians of the first losses and of the latest, as they are; NaN where there are none."""
        first, latest = sorted(self.first), sorted(self.latest)
        return (first[len(first) // 2], latest[len(latest) // 2]) if first and latest else (NAN, NAN)

    def rearm(self) -> None:
        self.levels.clear()
        self.held.since = 0


@dataclasses.dataclass
class GradientNorm:
    """The gradient norm, global and of each layer, above its own log-history; and its trend.

    Gradients are heavy-tailed: one that stands out by itself, in a step whose loss is as usual, has to be larger. A
    trend is none where the loss falls, as at the end of a plateau, nor where gradients are next to nothing against
    those of the start, as in a network that has converged.
    """

    detail: ClassVar[str] = "lean"
    kinds: ClassVar[tuple[str, ...]] = ("gradient_spike", "layer_spike", "gradient_trend")
    all: LogEma = dataclasses.field(default_factory=LogEma)
    layers: LayerEma = dataclasses.field(default_factory=LayerEma)
    trend: Trend = dataclasses.field(default_factory=lambda: _trend(60))
    level: float = NAN
    start: float = 0.0
    count: int = 0
    high: int = 0
    left: float = math.inf
    held: list[Any] = dataclasses.field(default_factory=list)

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if not r.finite:
            return []
        strict, found = strictness(r, trail, config), []
        z = self.all.z(r.grad_norm, config.floor)
        self.high = (self.high or r.step) if z > 2 else 0
        trail.note(r.step, z_before=trail.get("z"), z=z)
        layer, worst, rise = self._worst(r, config)
        loss_z = trail.get("loss_z") if trail.get("loss_large") else 0.0
        alone = self.high in (0, r.step) and loss_z < 2 and trail.get("loss_ratio", 1.0) < config.loss_ratio
        strict *= config.alone if alone else 1.0
        if z > config.z * strict:
            broken = loss_z > 5 or trail.get("loss_ratio", 1.0) > config.loss_ratio
            act = (z > config.z_act * strict and loss_z > 2) or broken
            found.append(Symptom("gradient_spike", layer, "act" if act else "advice", z, config.z, self.high))
            if trail.get("stayed") == -1 and not self.held:
                self.held = list(found[0])
        elif worst > config.z_layer * strict and rise > 1.0:
            found.append(Symptom("layer_spike", layer, "advice", worst, config.z_layer, r.step))
        if trail.get("stayed") == -1:
            found = []  # told when it is known whether the jump of the loss that came with it stays
        elif self.held:
            found, self.held = [Symptom(*self.held)], []
        found += self._growth(r, trail, config)
        if r.fed:
            self._feed(r, trail, config)
        return found

    def _worst(self, r: Reading, config: WatchConfig) -> tuple[str | None, float, float]:
        """Returns the layer farthest above its history, its z-score, and the rise of its log norm."""
        if r.rows is None or (rise := self.layers.deviation(r.rows.log_grad)) is None:
            return None, 0.0, 0.0
        z = rise / np.maximum(self.layers.scale(config.floor), 0.1)
        z = np.where(np.isfinite(z), z, -math.inf)
        i = int(np.argmax(z))
        return r.layer(i), float(z[i]), float(rise[i])

    def _growth(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if r.step % EVERY_TREND == 0 and self.trend.full:
            slope, now, tau = self.trend.fit()
            grown = now - self.level
            steady = tau > 0.5 and grown > math.log(2) and slope > 0 and now > self.start + math.log(SMALL_SHARE)
            self.left = max((self.level + math.log(10) - now) / slope, 0.0) if steady else math.inf
        trail.note(r.step, grad_steps_left=self.left)
        falls = trail.get("loss_ratio", 1.0) < FALLING and trail.get("loss_over_lowest", 1.0) < LOWEST
        if self.left < config.horizon and not falls and not trail.grace(r.step):
            return [Symptom("gradient_trend", None, "advice", self.left, config.horizon, self.trend.lowest)]
        return []

    def _feed(self, r: Reading, trail: Trail, config: WatchConfig) -> None:
        alpha = QUICK if trail.grace(r.step) else config.alpha
        self.all.feed(r.grad_norm, alpha, config.arm, config.floor, config.winsor)
        if r.grad_norm > 0:
            y = math.log(r.grad_norm)
            self.trend.feed(r.step, y)
            # The level is a slow mean, because the reference of a trend must not follow the trend.
            share = 1 - QUICK if trail.grace(r.step) or not self.all.armed else 1 / config.slow
            self.level = self.level + share * (y - self.level) if math.isfinite(self.level) else y
            if not self.all.armed:
                self.count += 1
                self.start += (y - self.start) / self.count
        if r.rows is not None:
            self.layers.feed(r.rows.log_grad, alpha, config.arm_rows, config.floor, config.winsor)
        if self.all.armed:
            trail.note(r.step, grad_level=math.exp(self.all.mean))

    def rearm(self) -> None:
        self.trend.clear()
        self.held = []
        self.left, self.high = math.inf, 0


@dataclasses.dataclass
class Rate:
    """A learning rate above every rate at which this run has been stable, which is seen before it does harm."""

    detail: ClassVar[str] = "lean"
    kinds: ClassVar[tuple[str, ...]] = ("rate",)
    since: int = 0
    pace: Pace = dataclasses.field(default_factory=Pace)

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if not math.isfinite(r.rate):
            self.pace.follow(r, trail)
        rise = rate_rise(trail, r.step)
        self.since = (self.since or r.step) if rise > 1.01 else 0
        if rise > 1.3:
            trail.note(r.step, rise=rise)
        severity = graded(rise, config.rate, config.rate_act)
        return [Symptom("rate", None, severity, rise, config.rate, self.since)] if severity else []


@dataclasses.dataclass
class Output:
    """Output logits that are too large at the start, exceed a limit, approach it, or drift together."""

    detail: ClassVar[str] = "full"
    kinds: ClassVar[tuple[str, ...]] = ("output", "output_trend", "output_drift", "init_output")
    means: Means = dataclasses.field(default_factory=Means)
    trend: Trend = dataclasses.field(default_factory=lambda: _trend(OUTPUTS))
    level: Trend = dataclasses.field(default_factory=lambda: _trend(OUTPUTS))
    grown: int = 0

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if not (r.finite and math.isfinite(r.output)):
            return []
        means = self.means
        noise = max(means.noise, 1e-2 * abs(means.fast), 1e-12)
        trail.note(r.step, output=r.output, output_z=(r.output - means.fast) / noise if means.count else 0.0)
        logits, first = math.isfinite(r.logsumexp), means.count == 0  # outputs of a regression may have any size
        if r.fed:
            means.feed(r.output, FAST_OUTPUTS, SLOW_OUTPUTS)
        if not logits:
            return []
        found = []
        if first and r.step - trail.start <= config.cold and r.output > config.init_output:
            found.append(Symptom("init_output", None, "advice", r.output, config.init_output, trail.start))
            trail.note(r.step, init_output=r.output)
        if r.fed:
            self.trend.feed(r.step, r.output)
            self.level.feed(r.step, math.sqrt(max(r.logsumexp, 0.0)))
        severity = graded(means.fast, config.output, config.output_act)
        self.grown = (self.grown or r.step) if means.fast > 1.2 * means.slow else 0
        left, drift = self._left(config), self._drift()
        if severity and means.count >= FAST_OUTPUTS:
            found.append(Symptom("output", None, severity, means.fast, config.output, self.grown or r.step))
        elif left < config.horizon and not trail.grace(r.step):
            found.append(Symptom("output_trend", None, "advice", left, config.horizon, self.trend.lowest))
        if drift > config.drift and trail.get("loss_ratio", 1.0) > LEARNT:
            found.append(Symptom("output_drift", None, "advice", drift, config.drift, self.level.lowest))
        trail.note(r.step, output_steps_left=left, output_growth=means.fast / max(means.slow, 1e-12))
        return found

    def _left(self, config: WatchConfig) -> float:
        """Steps until the outputs reach their limit, by a steady trend; infinite without one."""
        if not long_enough(self.trend):
            return math.inf
        slope, now, tau = self.trend.fit()
        steady = tau > 0.5 and slope > 0 and now > config.output / 4
        return max((config.output - now) / slope, 0.0) if steady else math.inf

    def _drift(self) -> float:
        """Rise of sqrt(mean logsumexp^2) in as many steps as a trend needs; the softmax ignores it."""
        if not long_enough(self.level):
            return 0.0
        slope, _, tau = self.level.fit()
        return slope * SPAN if tau > STEADY else 0.0

    def rearm(self) -> None:
        self.trend.clear()
        self.level.clear()
