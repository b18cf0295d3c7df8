"""The detector of gradients that vanish or explode over the depth of a network, or over time. Pure."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jaxprop.health.watch.alerts import WatchConfig
from jaxprop.health.watch.detectors import Symptom, graded
from jaxprop.health.watch.reading import Reading, Trail, depth_order, grown_before


@functools.lru_cache(maxsize=16)
def _depth(names: tuple[str, ...], kinds: tuple[str, ...]) -> list[int]:
    """Taps to compare over depth: a family of at least 4 layers if there is one, otherwise all on the main path."""
    family = depth_order(names)
    if len(family) >= 4:
        return family
    return [i for i, kind in enumerate(kinds) if kind not in ("output", "attention")]


@dataclasses.dataclass
class Depth:
    """Change of the gradient from the last tap to the first, in decades; without taps, over one family of layers.

    Where the taps are stretches of time, fewer examples reach the late ones, so that gradients are smaller there by
    nature. They explode only where those of the parameters do, too.
    """

    detail: ClassVar[str] = "full"
    kinds: ClassVar[tuple[str, ...]] = ("vanishing", "exploding", "depth_tilt")
    records: int = 0
    streak: int = 0
    since: int = 0

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if not r.fed:
            return []
        labels, values, through_time = self._path(r)
        keep = np.isfinite(values) & (values > 0)
        if keep.sum() < 4:
            return []
        y = np.log10(values[keep])
        x = np.arange(len(values), dtype=float)[keep]
        x -= x.mean()
        slope = float(x @ y) / float(x @ x)
        tilt = slope * (len(values) - 1)
        spread = float(np.std(y))
        fit = abs(slope) * float(np.std(x)) / spread if spread > 0 else 0.0
        self.records += 1
        trail.note(r.step, tilt=tilt, tilt_fit=fit)
        if self.records == 1:
            trail.note(r.step, tilt_start=tilt)
        trail.attention = trail.attention or any(kind == "attention" for _, kind in r.tapped)
        kind = "vanishing" if tilt > 0 else "exploding"
        severity = graded(abs(tilt), config.tilt, config.tilt_act) if fit > 0.7 else None
        if kind == "exploding" and through_time and not grown_before(r) > config.recurrence:
            severity = None
        self.streak = self.streak + 1 if severity else 0
        self.since = (self.since or r.step) if severity else 0
        if severity and self.streak >= 2:
            severity = (
                "advice" if kind == "vanishing" else severity
            )  # vanishing gradients stop learning, but do no damage
            return [Symptom(kind, labels(0), severity, abs(tilt), config.tilt, self.since)]
        early = trail.attention and self.records <= 3
        if early and tilt > config.post_norm and fit > 0.7:
            return [Symptom("depth_tilt", labels(-1), "advice", tilt, config.post_norm, trail.start)]
        return []

    def _path(self, r: Reading) -> tuple[Callable[[int], str | None], np.ndarray, bool]:
        if r.taps is not None:
            at = _depth(tuple(name for name, _ in r.tapped), tuple(kind for _, kind in r.tapped))
            through_time = any(r.tapped[i][0].endswith("]") for i in at)
            return (lambda i: r.layer_of_tap(at[i])), r.taps["grad_rms"][at], through_time
        if r.rows is None:
            return (lambda _: None), np.zeros(0), False
        at = depth_order(r.names)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (lambda i: r.layer(at[i])), (r.rows.grad_norm / np.sqrt(r.rows.sizes))[at], False
