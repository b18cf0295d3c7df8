"""The detector of a loss scale that does not settle. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from typing import ClassVar

from jaxprop.health.watch.alerts import WatchConfig
from jaxprop.health.watch.detectors import Symptom
from jaxprop.health.watch.reading import Reading, Trail

WINDOW = 200  # steps over which halvings are counted; a scale that has settled doubles in 2,000, and then halves once


@dataclasses.dataclass
class LossScale:
    """A loss scale that falls and falls, or that has no further to fall while steps overflow all the same.

    Each overflow asks for a halving, and each doubling takes one back; what is left of the last steps is counted. The
    scale's way down from its first value, in the first steps, is not; but there it must not reach its end.

    Args:
      scaled: a scale has been seen, so that a scale of 1 is the end of its range.
      last: the scale of the newest record.
      asked: step and number of each halving, 1, or doubling, -1.
      began: the first record.
    """

    detail: ClassVar[str] = "lean"
    kinds: ClassVar[tuple[str, ...]] = ("loss_scale",)
    scaled: bool = False
    last: float = 0.0
    began: int = 0
    asked: deque[list[int]] = dataclasses.field(default_factory=lambda: deque(maxlen=WINDOW))

    def scan(self, r: Reading, trail: Trail, config: WatchConfig) -> list[Symptom]:
        if not math.isfinite(r.scale):
            return []
        self.began = self.began or r.step
        self.scaled = self.scaled or r.scale != 1
        overflow = not r.finite and math.isfinite(r.loss)
        at_end = overflow and r.scale <= 1
        if r.scale > self.last > 0:
            self.asked.append([r.step, -1])
        if overflow and (at_end or r.step - self.began >= config.grace):
            self.asked.append([r.step, 1])
        self.last = r.scale
        while self.asked and self.asked[0][0] <= r.step - WINDOW:
            self.asked.popleft()
        halvings = sum(number for _, number in self.asked)
        trail.note(r.step, halvings=halvings)
        if not self.scaled or not overflow or halvings < config.halvings:
            return []
        return [Symptom("loss_scale", None, "act", halvings, config.halvings, self.asked[0][0])]
