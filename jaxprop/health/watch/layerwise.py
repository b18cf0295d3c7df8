"""Detectors that need rows or full records: updates, Adam, depth, activations, precision. Pure."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

from jaxprop.health.watch.alerts import WatchConfig
from jaxprop.health.watch.detectors import Symptom, graded, strictness
from jaxprop.health.watch.history import MAD, median
from jaxprop.health.watch.reading import (
    EMBEDDING,
    RECURRENT,
    Reading,
    Rows,
    Trail,
    after_recurrence,
)

LAG_SHARE, LAG_ARMED = 0.5, 3  # of a full record in the average of Adam's lag; records before it is judged
STILL_STEPS = 20  # steps without a gradient in a row after which a layer has none
LARGE_INPUTS, ALL_SATURATED = 5.0, 0.9  # RMS of the first activation, or share of it, that scaled inputs do not reach
DEAD_SHARE = 0.1  # of a full record in the average share of dead units that a sudden death stands out from
FIRST_RECORD = 10  # step in which the command line has its first full record after that of step 1
FIRST = 3  # records whose gradients are those of the start
SMALL = 64  # number of parameters below which the statistics of a layer are too noisy


def weighted(values: np.ndarray, sizes: np.ndarray) -> float:
    """Mean weighted by the layers' sizes, over the layers that have a value; NaN if none has.

    Example:
      >>> weighted(np.array([1.0, np.nan, 4.0]), np.array([2.0, 9.0, 1.0]))
      2.0
    """
    known = np.isfinite(values)
    total = float(sizes[known].sum())
    return float(values[known] @ sizes[known]) / total if total else math.nan


def worst(values: np.ndarray) -> tuple[int, float]:
    """Index and value of the largest finite entry; the value is NaN if there is none."""
    ranked = np.where(np.isfinite(values), values, -math.inf)
    i = int(ranked.argmax()) if len(ranked) else 0
    return (i, float(values[i])) if len(ranked) and ranked[i] > -math.inf else (0, math.nan)


def moving(shares: np.ndarray, rows: Rows) -> np.ndarray:
    """Shares of entries by layer, as shares of those with a gradient; NaN where next to none has one.

    Entries without a gradient, such as the rows of tokens that are not in the batch, have no second moment. As many of
    them as there can be are taken to be among those counted.
    """
    with_gradient = 1 - np.minimum(rows.zero_fraction, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.maximum(shares - rows.zero_fraction, 0) / with_gradient
        return np.where(with_gradient > 0.01, share, math.nan)


@dataclasses.dataclass
class AdamLag:
    """Gradients that outgrow Adam's second moment, over all layers or in one."""

    detail: ClassVar[str] = "full"
    kinds: ClassVar[tuple[str, ...]] = ("adam_lag",)
    all: float = 1.0
    layers: np.ndarray | None = None
    count: int = 0
    high: int = 0

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        assert r.rows is not None
        rows = r.rows
        if not r.fed or not np.isfinite(rows.adam_lag).any():
            return []
        total = math.sqrt(weighted(rows.adam_lag**2, rows.sizes))
        trail.adam = True
        self.count += 1
        self.all += LAG_SHARE * (min(total, 10.0) - self.all)
        lags = np.minimum(rows.adam_lag, 10.0)
        self.layers = lags if self.layers is None else self.layers + LAG_SHARE * (lags - self.layers)
        i, one = worst(np.where(rows.sizes >= SMALL, self.layers, math.nan))
        trail.note(r.step, lag=self.all, lag_layer=one if math.isfinite(one) else 0.0)
        self.high = (self.high or r.step) if self.all > 1.5 else 0
        if self.count < LAG_ARMED or r.step - trail.start < config.arm:
            return []
        strict = strictness(r, trail, config)
        value = max(self.all, one / config.lag_layer)
        severity = graded(value, config.lag * strict, config.lag_act * strict)
        if severity is None:
            return []
        return [Symptom("adam_lag", r.layer(i), severity, value, config.lag, self.high or r.step)]


@dataclasses.dataclass
class Updates:
    """Updates that are too large for the weights or the loss, too small, or exactly zero; and zero gradients."""

    detail: ClassVar[str] = "rows"
    kinds: ClassVar[tuple[str, ...]] = ("update_ratio", "overshoot", "frozen", "zero_gradient", "damped")
    ratio: float = 0.0
    count: int = 0
    settled: bool = False
    high: int = 0
    overshot: int = 0
    unmoved: np.ndarray | None = None
    ungraded: np.ndarray | None = None
    zeros: int = 0
    damped: int = 0

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        assert r.rows is not None
        if not r.fed:
            return []
        self._count_still(r, trail)
        if r.tiny is None:
            return []
        found = [
            self._ratio(r, trail, config), self._overshoot(r, trail, config), self._damped(r, trail, config),
            *self._still(r, trail, config),
        ]  # fmt: skip
        return [symptom for symptom in found if symptom is not None]

    def _ratio(self, r: Reading, trail: Trail, config: WatchConfig) -> Symptom | None:
        assert r.rows is not None
        moved = (r.rows.update_norm > 0) & (r.rows.param_norm > 0) & (r.rows.sizes >= SMALL)
        ratio = median(r.rows.ratio[moved]) if moved.any() else 0.0
        if not math.isfinite(ratio) or r.step == trail.start:
            return None  # Adam's first update is as large as the rate, whatever the gradient is
        self.count += 1
        self.ratio += (ratio - self.ratio) / min(self.count, 5)
        trail.note(r.step, update_ratio=self.ratio)
        self.high = (self.high or r.step) if self.ratio > config.ratio / 2 else 0
        limit = config.ratio
        if r.step - trail.start <= config.cold:
            limit = config.ratio_start
            trail.note(r.step, ratio_peak=max(self.ratio, trail.get("ratio_peak")))
        # After the first steps, a rate that has started at its full value and one in a warmup differ clearly.
        late = FIRST_RECORD - 1 <= r.step - trail.start <= 2 * FIRST_RECORD
        cold = late and not self.settled and trail.first > 0.5 * r.rate
        self.settled = self.settled or late
        limit = config.ratio_cold if cold else limit
        severity = graded(self.ratio, limit, config.ratio_act) if self.count >= 3 or cold else None
        if severity is None:
            return None
        i, _ = worst(np.where(moved, r.rows.ratio, math.nan))
        return Symptom("update_ratio", r.layer(i), severity, self.ratio, limit, self.high or r.step)

    def _damped(self, r: Reading, trail: Trail, config: WatchConfig) -> Symptom | None:
        """In Adam's first step every |dw| equals the learning rate, unless epsilon dominates.

        Which group a layer belongs to is not known here, so the lowest rate of all groups counts.
        """
        rows = r.rows
        assert rows is not None
        if self.count > 3 or r.step - trail.start > 9 or not r.lowest > 0:
            return None
        usable = np.isfinite(rows.adam_lag) & (rows.sizes >= SMALL) & (rows.zero_fraction < 0.9)
        # This does not hold for optimizers with ||dw|| = rate ||w||, such as LAMB.
        usable &= np.abs(rows.ratio / r.lowest - 1) > 0.05
        if not usable.any():
            return None
        size = rows.update_norm[usable] / np.sqrt(rows.sizes[usable] * (1 - rows.zero_fraction[usable]))
        share = median(size) / r.lowest
        limit = config.damped if r.step == 1 else config.damped_later
        self.damped = self.damped + 1 if share < limit else 0
        if not self.damped or (r.step > 1 and self.damped < 2):
            return None
        trail.note(r.step, damped=share)
        return Symptom("damped", None, "advice", share, limit, trail.start)

    def _overshoot(self, r: Reading, trail: Trail, config: WatchConfig) -> Symptom | None:
        """The first-order decrease of the loss is at most ||dw|| ||g||, which cannot reasonably exceed the loss."""
        if r.step - trail.start > config.arm:
            return None
        value = r.update_norm * r.grad_norm / max(abs(r.loss), 1e-3)
        self.overshot = self.overshot + 1 if value > config.overshoot else 0
        if self.overshot < 2:
            return None
        assert r.rows is not None
        trail.note(r.step, overshoot=value)
        i, _ = worst(r.rows.log_grad)
        return Symptom("overshoot", r.layer(i), "advice", value, config.overshoot, r.step - 1)

    def _count_still(self, r: Reading, trail: Trail) -> None:
        """Counts steps in which a layer has no gradient, and full records in which it has no update."""
        rows = r.rows
        assert rows is not None
        if self.ungraded is None or self.unmoved is None or len(self.ungraded) != len(rows.sizes):
            self.ungraded, self.unmoved = np.zeros(len(rows.sizes), np.int64), np.zeros(len(rows.sizes), np.int64)
        self.ungraded = np.where(rows.grad_norm == 0, self.ungraded + 1, 0)
        if (rows.update_norm > 0).any():
            self.unmoved = np.where(rows.update_norm == 0, self.unmoved + 1, 0)
        trail.still(r.step, self.ungraded)

    def _still(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        """Judged in full records only, which show what has stopped the gradient."""
        rows = r.rows
        assert rows is not None
        assert self.ungraded is not None
        assert self.unmoved is not None
        if not len(rows.sizes):
            return []
        zero = median(rows.zero_fraction)
        self.zeros = self.zeros + 1 if zero > 0.9 else 0
        trail.note(r.step, zero_fraction=zero)
        found = []
        without = float((self.ungraded >= STILL_STEPS).mean())
        if without >= 0.5:
            found.append(Symptom("zero_gradient", None, "act", without, 0.5, r.step - int(self.ungraded.max()) + 1))
        elif self.zeros >= 3:
            found.append(Symptom("zero_gradient", None, "advice", zero, 0.9, r.step - 2))
        still = (self.unmoved >= config.frozen) | (self.ungraded >= STILL_STEPS)
        if still.any() and not still.all():
            i = int(np.argmax(np.where(still, np.maximum(self.unmoved * STILL_STEPS, self.ungraded), 0)))
            trail.note(r.step, frozen_layers=float(still.sum()), frozen_gradient=float(self.ungraded[i] > 0))
            value = max(float(self.unmoved[i]), float(self.ungraded[i]))
            limit = config.frozen if self.ungraded[i] < STILL_STEPS else STILL_STEPS
            found.append(Symptom("frozen", r.layer(i), "advice", value, limit, r.step - int(self.ungraded[i])))
        return found


@dataclasses.dataclass
class Start:
    """A layer whose initial weights, or the ratio of gradient to weights, are out of scale.

    The weights and the inputs are those of the first full record, the gradients those of the first three records with
    rows, judged in the first full record that comes after them. A kernel that preserves the scale of its inputs has an
    RMS of about 1 / sqrt(inputs). In a network that is invariant to the scale of a layer, ||g|| is proportional to
    1 / ||w||, so that a layer which starts s times too large differs by s^-2 in ||g|| / ||w||. A gradient that explodes
    through time is large in the recurrent layer and before it, not after it: what lies before may be small by nature,
    such as embeddings, and queries of an attention that is still uniform.
    """

    detail: ClassVar[str] = "rows"
    kinds: ClassVar[tuple[str, ...]] = ("init", "init_scale", "exploding")
    sums: np.ndarray | None = None
    count: int = 0
    looked: bool = False
    from_zero: np.ndarray | None = None
    done: bool = False

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        rows = r.rows
        assert rows is not None
        self.done = self.done or r.step - trail.start > config.arm
        if self.done or not r.fed:
            return []
        if self.count < FIRST:
            logs = rows.log_grad / math.log(10)
            self.sums = logs if self.sums is None else self.sums + logs
            self.count += 1
        if r.tiny is None:
            return []
        if not self.looked:
            self.looked = True
            # At zero by intention, as the scale that ends a residual block: it is what its updates have made of it.
            self.from_zero = rows.param_norm <= 1.01 * rows.update_norm * (r.step - trail.start + 1)
            self._inputs(r, trail)
            scale = self._scale(r, trail, config)
            if scale is not None:
                self.done = True
                trail.note(r.step, init_scale=scale.value)
                return [scale]
        if self.count < FIRST:
            return []
        self.done = True
        assert self.sums is not None
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.sums / self.count - np.log10(rows.param_norm)
        explodes = self._through_time(r, trail, config, mean)
        if explodes is not None:
            return [explodes]
        assert self.from_zero is not None
        usable = np.isfinite(mean) & (rows.sizes >= SMALL) & ~self.from_zero
        if usable.sum() < 3:
            return []
        off = np.where(usable, mean, math.nan) - median(mean[usable])
        # The weights of embeddings are large and few of them are read, so that their ratio is small by nature.
        natural = (off < 0) & np.array([EMBEDDING.search(name) is not None for name in r.names])
        i, value = worst(np.where(natural, math.nan, np.abs(off)))
        others = np.delete(off, i)[np.delete(usable, i)]  # the spread of few layers is that of the one which is off
        spread = MAD * median(np.abs(others - median(others)))
        trail.note(r.step, init=value, init_first=float(i == 0))
        if value < max(config.init, 4 * spread):
            return []
        return [Symptom("init", r.layer(i), "advice", value, max(config.init, 4 * spread), trail.start)]

    def _inputs(self, r: Reading, trail: Trail) -> None:
        """Notes the scale of the inputs, as the first activation shows it, while its layer has hardly moved."""
        rows = r.rows
        if rows is None or r.taps is None or not len(r.tapped):
            return
        if RECURRENT.search(r.tapped[0][0]) and r.step > trail.start:
            return  # by then its own kernel may have saturated it
        if any(EMBEDDING.search(name) for name in r.names) or any(kind == "attention" for _, kind in r.tapped):
            return  # tokens have no scale
        moved = rows.update_norm[0] * (r.step - trail.start + 1) > rows.param_norm[0] / 2
        rms, saturated = float(r.taps["rms"][0]), float(r.taps["saturated"][0])
        if not moved and (rms > LARGE_INPUTS or saturated > ALL_SATURATED):
            trail.note(r.step, inputs=max(rms, LARGE_INPUTS))

    def _scale(self, r: Reading, trail: Trail, config: WatchConfig) -> Symptom | None:
        """The kernel whose RMS differs most from 1 / sqrt(inputs), in decades.

        Frameworks differ in which axis holds the inputs, so the axis with the smaller deviation is used; an embedding
        has one input at a time. The possible effect of the first updates is subtracted. Zero kernels are intended.
        """
        rows = r.rows
        if rows is None or len(r.fans) != len(rows.sizes):
            return None
        moved = rows.update_norm * (r.step - trail.start + 1)
        fans = np.asarray(r.fans, np.float64).reshape(-1, 2)
        usable = (fans.prod(1) > 0) & (rows.param_norm > moved) & (rows.sizes >= SMALL)
        inputs = np.where([EMBEDDING.search(name) is not None for name in r.names], 1.0, fans.min(1))
        root = np.sqrt(rows.sizes)
        with np.errstate(divide="ignore", invalid="ignore"):
            large = np.log10((rows.param_norm - moved) / root * np.sqrt(inputs))
            small = -np.log10((rows.param_norm + moved) / root * np.sqrt(fans.max(1)))
        for off, limit in ((large, config.init_large), (small, config.init_small)):
            i, value = worst(np.where(usable, off, math.nan))
            if value > limit:
                return Symptom("init_scale", r.layer(i), "advice", value, limit, r.step)
        return None

    def _through_time(self, r: Reading, trail: Trail, config: WatchConfig, mean: np.ndarray) -> Symptom | None:
        """Decades by which ||g|| / ||w|| of a recurrent layer exceeds the smallest of the layers after it."""
        trail.recurrent = trail.recurrent or any(RECURRENT.search(name) for name in r.names)
        at = [i for i, name in enumerate(r.names) if RECURRENT.search(name)] if trail.recurrent else []
        after = after_recurrence(r.names)
        if not at or not after or trail.get("init_output"):
            return None
        i, value = worst(np.where(np.isin(np.arange(len(mean)), at), mean, math.nan))
        value -= float(mean[after].min())
        trail.note(r.step, recurrence=value)
        if not math.isfinite(value) or value < config.recurrence:
            return None
        return Symptom("exploding", r.layer(i), "advice", value, config.recurrence, trail.start)


@dataclasses.dataclass
class Activations:
    """Dead units, saturation and attention, by tap."""

    detail: ClassVar[str] = "full"
    kinds: ClassVar[tuple[str, ...]] = ("dead", "saturated", "attention", "entropy")
    streaks: dict[str, int] = dataclasses.field(default_factory=dict)
    since: dict[str, int] = dataclasses.field(default_factory=dict)
    first: dict[str, float] = dataclasses.field(default_factory=dict)
    usual: np.ndarray | None = None

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        taps = r.taps
        if taps is None or not r.finite:
            return []
        trail.recurrent = trail.recurrent or any(RECURRENT.search(name) for name in r.names)
        entropy = -taps["attention_entropy"]
        early = r.step - trail.start <= config.arm
        saturated = config.saturated if early else config.saturated_late
        found = [
            self._over(r, trail, "dead", taps["dead"], config.dead, config.dead_act, 2)
            or self._over(r, trail, "dead", taps["dead"], config.dead_long, math.inf, 20, "dead_long"),
            self._over(r, trail, "saturated", taps["saturated"], saturated, config.saturated_act, 2),
            self._over(r, trail, "attention", taps["attention_max"], config.attention, math.inf, 2),
            self._over(r, trail, "entropy", entropy, -config.entropy, math.inf, 3),
        ]
        return [symptom for symptom in found if symptom is not None]

    def _over(
        self,
        r: Reading,
        trail: Trail,
        kind: str,
        values: np.ndarray,
        advice: float,
        act: float,
        persist: int,
        key: str = "",
    ) -> Symptom | None:
        """A symptom if the worst tap exceeds `advice` in `persist` records, one fewer if it has grown by half of it."""
        i, value = worst(values)
        if math.isnan(value):
            return None
        trail.note(r.step, **{kind: value})
        key = key or kind
        first = self.first.setdefault(key, value)
        if kind == "dead":
            usual = values if self.usual is None or len(self.usual) != len(values) else self.usual
            trail.note(r.step, dead_grown=worst(values - usual)[1])
            self.usual = usual + DEAD_SHARE * (values - usual)
        if value <= advice:
            self.streaks[key], self.since[key] = 0, 0
            return None
        self.streaks[key] = self.streaks.get(key, 0) + 1
        self.since[key] = self.since.get(key) or r.step
        grown = value - first > abs(advice) / 2
        if self.streaks[key] < persist - grown:
            return None
        severity = "act" if value > act else "advice"
        return Symptom(kind, r.layer_of_tap(i), severity, abs(value), abs(advice), self.since[key])


@dataclasses.dataclass
class Numbers:
    """Gradients and updates lost to the number format, and second moments below Adam's epsilon."""

    detail: ClassVar[str] = "full"
    kinds: ClassVar[tuple[str, ...]] = ("flushed", "swallowed", "tiny_second_moment")
    tiny: int = 0
    swallowing: int = 0

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if r.rows is None or not r.fed:
            return []
        found, rows = [], r.rows
        if r.flushed is not None and math.isfinite(share := weighted(r.flushed, rows.sizes)):
            trail.note(r.step, flushed=share)
            severity = graded(share, config.flushed, config.flushed_act)
            if severity:
                layer = r.layer(worst(r.flushed)[0])
                found.append(Symptom("flushed", layer, severity, share, config.flushed, r.step))
        if r.swallowed is not None and math.isfinite(share := weighted(r.swallowed, rows.sizes)):
            trail.note(r.step, swallowed=share)
            self.swallowing = self.swallowing + 1 if share > config.swallowed else 0
            if self.swallowing >= 2:
                layer = r.layer(worst(r.swallowed)[0])
                found.append(Symptom("swallowed", layer, "advice", share, config.swallowed, r.step))
        if r.tiny is not None:
            tiny = moving(r.tiny, rows)
            share = weighted(tiny, rows.sizes)
            if math.isfinite(share):
                trail.note(r.step, tiny_second_moment=share)
                self.tiny = self.tiny + 1 if share > config.tiny else 0
                if self.tiny >= 2:
                    layer = r.layer(worst(tiny)[0])
                    found.append(Symptom("tiny_second_moment", layer, "advice", share, config.tiny, r.step))
        return found
