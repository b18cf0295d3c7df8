"""The most likely cause of a symptom. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from jaxprop.health.watch.advice import ADVICE, COLD, Plea, Setup
from jaxprop.health.watch.detectors import Symptom
from jaxprop.health.watch.reading import RECURRENT, Reading, Trail

RECENT = 400  # steps for which evidence counts, such as a rise of the rate
EARLY = 300  # steps within which damage by a cold start, or a bad initialization, shows
ALL_DEAD = 0.95  # share of dead units that lets no gradient through
ROSE = 1.5  # factor by which the first updates raised the loss
HIGH = 3.0  # factor by which a first loss is out of scale, or a later one blown up
KILLING = 0.02  # update ratio in the first steps that may have killed what is dead later
START = ("overshoot", "update_ratio", "loss_start", "adam_lag", "gradient_spike", "layer_spike")
GREY = 1.7  # growth of the updates above which it is uncertain that a hidden rate is the same
PACED = 60  # steps for which updates that have grown count as evidence of a higher rate
SLOW = ("loss_rise", "adam_lag", "gradient_trend")
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
    sign = c.kind in (*START, "zero_gradient", "tiny_second_moment", "loss_rise", "frozen")
    return c.kind == "flushed" or (c.reading.scale == 1 and (lost or (half and sign)))


def _hidden(c: Case) -> bool:
    """Whether records hold no learning rate."""
    return not math.isfinite(c.trail.rate)


def _rate_too_high(c: Case) -> bool:
    if _hidden(c):
        return c.recent("rate_grown", PACED)
    jumped = c.trail.jumped_at >= 0 and c.reading.step - c.trail.jumped_at <= 100
    # A rate that has only ever risen is higher than any that was stable; but a jump that has passed was one bad batch.
    passed = c.kind == "loss_jump" and _told(c) and c.seen("stayed") == 0
    untried = c.trail.warming and c.age > 20 and c.kind in (*START, *SUDDEN, *SLOW) and not passed
    return c.recent("rise") or jumped or untried


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


def _cold_start(c: Case) -> bool:
    """The first updates were too large, or have killed what is damaged now.

    A lower rate and a warmup both help, and which of them the run needs a search tells better than a few steps do.
    """
    large = c.seen("ratio_peak") > KILLING or c.seen("blown") > ROSE
    killed = c.kind in DAMAGE and _cold(c, EARLY) and large
    return killed or (c.kind in START and _cold(c))


def _dead_units(c: Case) -> bool:
    """Units that are dead, or that have cut off the gradient of the layers before them, which takes all of them."""
    if c.kind == "frozen":
        return c.seen("dead") > ALL_DEAD and c.seen("frozen_gradient") > 0
    return c.kind == "dead" or (c.kind == "zero_gradient" and c.seen("dead") > 0.5)


def _no_gradient(c: Case) -> bool:
    """No layer has ever had a gradient, and no dead unit explains it: the loss cannot be differentiated."""
    always = c.kind == "zero_gradient" and c.symptom.value == 1 and c.symptom.since <= c.trail.start
    return always and not _dead_units(c)


def _sudden_input(c: Case) -> bool:
    """A single bad batch: the loss was normal again three records later, or much nearer to it than at first."""
    if c.kind not in SUDDEN or not _calm(c):
        return False
    return c.seen("stayed") == 0 if _told(c) else c.seen("output_z") > 6 or c.seen("loss_z") < 6


def _told(c: Case) -> bool:
    """Whether the symptom was held back until it was known how long the jump of the loss stays."""
    return c.trail.seen_at.get("stayed") == c.reading.step and c.seen("stayed") >= 0


def _label_shift(c: Case) -> bool:
    if c.kind in SUDDEN:
        return c.seen("stayed") > 0 if _told(c) else c.seen("loss_z") > 6
    return c.kind in SLOW


def _undecided(c: Case) -> bool:
    """Whether it may as well be the learning rate, because that is hidden and updates do not show that it is the same.

    Full records alone hold the updates, so that one is needed since the trouble began.
    """
    passed = c.kind in SUDDEN and _told(c) and c.seen("stayed") == 0 and c.seen("loss_z") < 3
    if not _hidden(c) or c.kind not in (*SUDDEN, *SLOW) or passed:
        return False
    measured = c.trail.seen_at.get("pace", 0)
    return measured < (c.symptom.since or c.reading.step) or c.seen("pace") > GREY


def _is(*kinds: str) -> Callable[[Case], bool]:
    return lambda c: c.kind in kinds


def _blown(c: Case) -> bool:
    """Whether a cold start has blown up weights that were in order: the first loss was as low as it is now."""
    started_high = c.seen("first_loss") > HIGH * c.seen("loss", math.inf)
    return c.seen("blown") > HIGH and not started_high and not c.trail.first < 0.5 * c.trail.rate


def _start_off(c: Case) -> bool:
    early = c.age <= EARLY and c.kind in (*START, *DAMAGE, "exploding", "init_scale", "init_output")
    seen = c.seen("init") > 1.5 or c.seen("init_scale") > 0 or c.seen("init_output") > 0
    return early and seen and not _blown(c)


def _unscaled_inputs(c: Case) -> bool:
    """The first activation, or the first loss, is far out of scale, although the weights are not."""
    early = c.age <= EARLY and c.kind in (*START, *DAMAGE, "init_output", "init", "exploding")
    started_high = (
        c.kind in (*DAMAGE, "init_output") and c.age <= COLD and c.seen("first_loss") > HIGH * c.seen("loss", math.inf)
    )
    large = c.seen("inputs") > 0 or (started_high and not c.trail.recurrent)
    return early and large and not c.seen("init_scale")


def exploded(trail: Trail) -> bool:
    """Whether the newest step that was not finite is what exploding losses have come to."""
    return trail.get("exploded") > 0


# The first test that holds names the cause. Causes that are observed directly come before circumstantial ones. That of
# a step that is not finite is not guessed at all, as the replay of its black box finds it; but where the losses before
# it have exploded, the NaN is a consequence, and it is judged as the explosion is.
TESTS: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("loss_scale_falls", _is("loss_scale")),
    ("no_loss_scaling", _no_loss_scaling),
    ("not_finite", _is("nonfinite")),
    ("no_gradient", _no_gradient),
    ("unscaled_inputs", _unscaled_inputs),
    ("bad_init", lambda c: _start_off(c) and c.seen("init_scale") > 0),
    ("rate_too_high", lambda c: _cold_start(c) or (c.kind in ("init_scale", "init_output", "init") and _blown(c))),
    ("dead_relu", _dead_units),
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
    ("adam_eps", lambda c: c.seen("tiny_second_moment") > 0.5),
    ("rate_or_data", _undecided),
    ("logit_drift", lambda c: c.kind in SLOW and c.seen("output_growth", 1.0) > 1.3),
    ("dead_relu", lambda c: c.kind in SLOW and c.seen("dead_grown") > 0.15 and c.recent("dead_grown", 60)),
    ("bad_batch", _sudden_input),
    ("label_shift", _label_shift),
    ("bad_batch", _is(*SUDDEN)),
)


def likeliest(
    symptom: Symptom, reading: Reading, trail: Trail, setup: Setup
) -> tuple[str, str, dict[str, float | str]]:
    """Returns the key of the cause in `ADVICE`, what to change about it, and the evidence."""
    if symptom.kind == "nonfinite" and exploded(trail):
        symptom = symptom._replace(kind="loss_start")
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
