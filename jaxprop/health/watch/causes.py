"""The most likely cause of a symptom. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxprop.health.watch.advice import ADVICE, Plea, Setup
from jaxprop.health.watch.detectors import Symptom
from jaxprop.health.watch.reading import RECURRENT, Reading, Trail

RECENT = 400  # steps for which evidence counts, such as a rise of the rate
EARLY = 300  # steps within which damage by a cold start, or a bad initialization, shows
COLD = 100  # steps within which a rate that started at its full value shows
SEVERE = 0.15  # update ratio in the first steps above which a warmup would not do
START = ("overshoot", "update_ratio", "loss_start", "adam_lag", "gradient_spike", "layer_spike")
SUDDEN = ("gradient_spike", "layer_spike", "loss_jump")
DAMAGE = ("dead", "saturated", "attention", "entropy", "output", "output_trend", "output_drift", "zero_gradient")


class Case(NamedTuple):
    """A symptom and the evidence for its cause."""

    symptom: Symptom
    reading: Reading
    trail: Trail
    setup: Setup = Setup()

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
    """What float16 flushes is measured with a loss scale only, so that float32 is never told to set one."""
    half = c.setup.get("precision.policy") == "float16"
    lost = c.seen("flushed") > 0.05 and c.recent("flushed")
    return c.kind == "flushed" or (c.reading.scale == 1 and (lost or (half and c.kind == "zero_gradient")))


def _rate_too_high(c: Case) -> bool:
    jumped = c.trail.jumped_at >= 0 and c.reading.step - c.trail.jumped_at <= 100
    return c.recent("rise") or jumped or (c.trail.warming and c.age > 20 and c.kind in START)


def _calm(c: Case) -> bool:
    return c.seen("loss_ratio", 1.0) < 1.1


def _recurrence(c: Case) -> bool:
    if not c.trail.recurrent:
        return False
    through_time = c.kind in ("exploding", "saturated") or (c.kind in START and c.seen("recurrence") > 0.6)
    moved = c.kind in ("gradient_spike", "layer_spike") and bool(RECURRENT.search(c.symptom.layer or ""))
    return through_time or (moved and c.seen("loss_z") < 6)


def _cold(c: Case, steps: int = COLD) -> bool:
    """Whether training started at the full rate not long ago."""
    return c.age <= steps and not c.trail.first < 0.5 * c.trail.rate


def _severe(c: Case) -> bool:
    """Whether the first updates were so large that the rate itself is the fault, or there is a warmup already."""
    harm = c.kind in ("loss_start", "overshoot") or c.seen("overshoot") > 0 or c.seen("loss_ratio", 1.0) > 1.5
    return harm or c.seen("ratio_peak") > SEVERE or c.setup.warms_up


def _cold_rate(c: Case) -> bool:
    started = _cold(c) and c.kind in START
    killed = c.kind in DAMAGE and _cold(c, EARLY) and c.seen("ratio_peak") > 0.03
    return (started or killed) and _severe(c)


def _no_warmup(c: Case) -> bool:
    return _cold(c) and c.kind in START


def _killed_by_cold_start(c: Case) -> bool:
    return c.kind in DAMAGE and _cold(c, EARLY) and c.seen("ratio_peak") > 0.03


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
    early = c.age <= EARLY and c.kind in (*START, "exploding", "init_output")
    return early and (c.seen("init") > 1.5 or c.seen("init_scale") > 0 or c.seen("init_output") > 0)


def _unscaled_inputs(c: Case) -> bool:
    """The first activation is far out of scale in the first full record, although its layer's weights are not."""
    early = c.age <= EARLY and c.kind in (*START, "init_output", "init", "saturated", "exploding")
    return early and c.seen("inputs") > 0 and not c.seen("init_scale")


# The first test that holds names the cause. Causes that are observed directly come before circumstantial ones. That of
# a step that is not finite is not guessed at all: the replay of its black box finds it.
TESTS: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("no_loss_scaling", _no_loss_scaling),
    ("not_finite", _is("nonfinite")),
    ("unscaled_inputs", _unscaled_inputs),
    ("rate_too_high", _cold_rate),
    ("no_warmup", _killed_by_cold_start),
    ("dead_relu", lambda c: c.kind == "dead" or (c.kind in ("frozen", "zero_gradient") and c.seen("dead") > 0.5)),
    ("frozen_layer", _is("frozen")),
    ("bad_init", _is("init", "init_scale", "init_output")),
    ("adam_eps", _is("tiny_second_moment", "damped")),
    ("rounded", _is("swallowed")),
    ("rate_too_high", _rate_too_high),
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


def likeliest(
    symptom: Symptom, reading: Reading, trail: Trail, setup: Setup = Setup()
) -> tuple[str, str, dict[str, float | str]]:
    """Returns the key of the cause in `ADVICE`, what to change about it, and the evidence."""
    case = Case(symptom, reading, trail, setup)
    cause = next((name for name, test in TESTS if test(case)), "unstable")
    since = int(symptom.since) or reading.step
    plea = Plea(symptom.kind, reading.step, since, trail, setup, reading.scale)
    evidence: dict[str, float | str] = {
        name: float(f"{value:.4g}")
        for name, value in trail.seen.items()
        if math.isfinite(value) and reading.step - trail.seen_at[name] <= RECENT
    }
    if math.isfinite(trail.rate):
        evidence["learning_rate"] = float(f"{trail.rate:.4g}")
    return cause, ADVICE[cause](plea), evidence
