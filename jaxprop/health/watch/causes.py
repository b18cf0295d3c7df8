"""The most likely cause of a symptom, and the line of the configuration that removes it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxprop.health.watch.detectors import Symptom
from jaxprop.health.watch.reading import RECURRENT, Reading, Trail

RECENT = 400  # steps for which evidence counts, such as a rise of the rate
EARLY = 300  # steps within which a missing warmup or a bad initialization shows
START = ("overshoot", "update_ratio", "loss_start", "adam_lag", "gradient_spike", "layer_spike", "nonfinite")
SUDDEN = ("gradient_spike", "layer_spike", "loss_jump")


class Case(NamedTuple):
    """A symptom and the evidence for its cause."""

    symptom: Symptom
    reading: Reading
    trail: Trail

    @property
    def kind(self) -> str:
        return self.symptom.kind

    @property
    def age(self) -> int:
        return self.reading.step - self.trail.start

    def seen(self, name: str, default: float = 0.0) -> float:
        return self.trail.get(name, default)

    def recent(self, name: str, steps: int = RECENT) -> bool:
        return self.reading.step - self.trail.seen_at.get(name, -(10**9)) <= steps


def _no_loss_scaling(c: Case) -> bool:
    unscaled = c.reading.scale == 1
    return unscaled and (c.kind in ("flushed", "zero_gradient") or c.seen("flushed") > 0.05)


def _rate_too_high(c: Case) -> bool:
    jumped = c.trail.jumped_at >= 0 and c.reading.step - c.trail.jumped_at <= 100
    return c.recent("rise") or jumped or (c.trail.warming and c.age > 20 and c.kind in START)


def _calm(c: Case) -> bool:
    return c.seen("loss_ratio", 1.0) < 1.1


def _nan_batch(c: Case) -> bool:
    return c.kind == "nonfinite" and c.seen("z") < 3 and c.seen("loss_ratio", 1.0) < 1.1 and c.seen("loss_z") < 6


def _recurrence(c: Case) -> bool:
    if not c.trail.recurrent:
        return False
    through_time = c.kind in ("exploding", "saturated") or (c.kind in START and c.seen("recurrence") > 0.6)
    moved = c.kind in ("gradient_spike", "layer_spike") and bool(RECURRENT.search(c.symptom.layer or ""))
    return through_time or (moved and c.seen("loss_z") < 6)


def _cold(c: Case) -> bool:
    return c.age <= EARLY and not c.trail.first < 0.5 * c.trail.rate


def _no_warmup(c: Case) -> bool:
    return _cold(c) and c.kind in START


def _killed_by_cold_start(c: Case) -> bool:
    damage = ("dead", "saturated", "attention", "entropy", "output", "output_trend", "output_drift")
    return c.kind in damage and _cold(c) and c.seen("ratio_peak") > 0.03


def _sudden_input(c: Case) -> bool:
    """A single bad batch: the outputs jumped with the loss, or the loss was normal again two steps later."""
    if c.kind not in SUDDEN or not _calm(c):
        return False
    if c.kind == "loss_jump":
        return c.seen("jump_output") > 6 or c.seen("stayed") == 0
    return c.seen("output_z") > 6 or c.seen("loss_z") < 6


def _label_shift(c: Case) -> bool:
    if c.kind in SUDDEN:
        return c.seen("loss_z") > 6 or c.seen("stayed") > 0
    return c.kind in ("loss_rise", "adam_lag", "gradient_trend")


def _is(*kinds: str) -> Callable[[Case], bool]:
    return lambda c: c.kind in kinds


def _start_off(c: Case) -> bool:
    return (
        c.age <= EARLY
        and c.kind in (*START, "exploding")
        and (c.seen("init") > 1.5 or c.seen("init_scale") > 0 or c.seen("init_output") > 0)
    )


# The first test that holds names the cause. Causes that are observed directly come before circumstantial ones.
TESTS: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("no_loss_scaling", _no_loss_scaling),
    ("no_warmup", _killed_by_cold_start),
    ("dead_relu", lambda c: c.kind == "dead" or (c.kind in ("frozen", "zero_gradient") and c.seen("dead") > 0.5)),
    ("frozen_layer", _is("frozen")),
    ("bad_init", _is("init", "init_scale", "init_output")),
    ("adam_eps", _is("tiny_second_moment", "damped")),
    ("rate_too_high", _rate_too_high),
    ("nan_batch", _nan_batch),
    ("post_norm", _is("depth_tilt")),
    ("exploding_recurrence", _recurrence),
    ("vanishing", _is("vanishing", "saturated", "zero_gradient")),
    ("logit_drift", _is("output", "output_trend", "output_drift", "attention", "entropy")),
    ("bad_init", _start_off),
    ("post_norm", lambda c: c.trail.attention and c.age <= EARLY and c.kind in START and c.seen("tilt_start") > 0.5),
    ("bad_init", _is("exploding")),
    ("no_warmup", _no_warmup),
    ("adam_eps", lambda c: c.seen("tiny_second_moment") > 0.5),
    ("bad_batch", _sudden_input),
    ("label_shift", _label_shift),
    ("bad_batch", _is(*SUDDEN)),
)


def number(x: float) -> str:
    """Returns a number with two significant digits, as it is written in a configuration.

    Example:
      >>> number(0.00123), number(34.0)
      ('0.0012', '34')
    """
    return f"{float(f'{x:.2g}'):g}"


def _lower(c: Case) -> str:
    rate, rise = c.trail.rate, max(c.seen("rise", 1.0), 2.0)
    return f"optimizer.lr={number(rate / rise)}" if math.isfinite(rate) and rate > 0 else "optimizer.lr=0.0003"


def _clip(c: Case) -> str:
    level = c.seen("grad_level")
    return f"optimizer.grad_clip={{norm: {number(2 * level) if level > 0 else '1.0'}}}"


def _fixed(line: str) -> Callable[[Case], str]:
    return lambda _: line


_warmup = _fixed("optimizer.schedule={name: warmup_cosine, warmup_steps: 100}")


CAUSES: dict[str, Callable[[Case], str]] = {
    "rate_too_high": _lower,
    "no_warmup": _warmup,
    "vanishing": _fixed("model.activation=relu"),
    "exploding_recurrence": _clip,
    "post_norm": _warmup,
    "no_loss_scaling": _fixed("precision.loss_scale=32768"),
    "bad_batch": _clip,
    "nan_batch": _fixed("health.on_alert=[skip]"),
    "label_shift": _fixed("health.on_alert=[rollback, stop]"),
    "dead_relu": _fixed("model.activation=gelu"),
    "adam_eps": _fixed("optimizer.eps=1e-8"),
    "logit_drift": _fixed("task.loss={name: softmax_cross_entropy, z_loss: 0.0001}"),
    "frozen_layer": _fixed("optimizer.groups=[]"),
    "bad_init": _fixed("model.init=lecun_normal"),
    "unstable": _lower,
}


def likeliest(symptom: Symptom, reading: Reading, trail: Trail) -> tuple[str, str, dict[str, float | str]]:
    """Returns the key of the cause in `CAUSES`, the line of the configuration to change, and the evidence."""
    case = Case(symptom, reading, trail)
    cause = next((name for name, test in TESTS if test(case)), "unstable")
    evidence: dict[str, float | str] = {
        name: float(f"{value:.4g}")
        for name, value in trail.seen.items()
        if math.isfinite(value) and reading.step - trail.seen_at[name] <= RECENT
    }
    if math.isfinite(trail.rate):
        evidence["learning_rate"] = float(f"{trail.rate:.4g}")
    return cause, CAUSES[cause](case), evidence
