"""From the key `schedule` of an optimizer to a learning rate over the updates of a run. Pure."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprop.config.schema import schedules as sections
from jaxprop.errors import ConfigError
from jaxprop.types import Schedule


def make_schedule(section: sections.Schedule, lr: float, steps: int, where: str = "optimizer") -> float | Schedule:
    """Makes the learning rate over the updates of a run, with optax's schedules.

    Args:
      section: the `schedule` section.
      lr: the rate that the schedule shapes; a scalar array where a program is compiled for many rates.
      steps: updates the run makes; the length of a schedule that states none.
      where: the section that has the schedule, for messages.

    Returns:
      `lr` where the rate is constant, else a function of the number of updates made so far.

    Raises:
      ConfigError: the schedule's phases do not fit its length.

    Example:
      >>> rate = make_schedule(sections.Linear(name="linear", end_scale=0.5), 0.1, steps=100)
      >>> round(float(rate(50)), 6)
      0.075
    """
    problem = section.problem(steps)
    if problem:
        raise ConfigError(f"{where}.schedule: {problem}")
    return _shape(section, lr, getattr(section, "steps", None) or steps)


def is_fixed(value: Any) -> bool:
    """Whether a value is known when a step is traced; one that differs between the lanes of a program is not.

    Example:
      >>> is_fixed(0.1), is_fixed(None), is_fixed(jnp.float32(0.1))
      (True, True, False)
    """
    return not isinstance(value, jax.Array)


def _shape(section: sections.Schedule, lr: float, length: int) -> float | Schedule:
    match section:
        case sections.Linear(end_scale=end):
            return optax.linear_schedule(lr, lr * end, length)
        case sections.Cosine(end_scale=end):
            return optax.cosine_decay_schedule(lr, length, alpha=end)
        case sections.WarmupCosine(start_scale=start, end_scale=end, warmup_steps=warmup):
            # As optax.warmup_cosine_decay_schedule, which asks whether the rate is 0: that of a lane is not known here.
            rise, fall = optax.linear_schedule(lr * start, lr, warmup), length - warmup
            return optax.join_schedules([rise, optax.cosine_decay_schedule(lr, fall, alpha=end)], [warmup])
        case sections.WarmupStableDecay():
            return _warmup_stable_decay(section, lr, length)
        case sections.Exponential(decay_rate=rate, staircase=staircase, end_scale=end):
            steps = section.decay_steps or length
            return optax.exponential_decay(lr, steps, rate, staircase=staircase, end_value=lr * end)
        case sections.Piecewise(boundaries=boundaries, scales=scales):
            return optax.piecewise_constant_schedule(lr, dict(zip(boundaries, scales, strict=True)))
        case sections.CosineRestarts():
            return _cosine_restarts(section, lr, length)
        case sections.OneCycle(peak_fraction=peak, div_factor=div, final_div_factor=final_div):
            return optax.cosine_onecycle_schedule(length, lr, peak, div, final_div)
    assert isinstance(section, sections.Constant), section
    return lr


def _warmup_stable_decay(section: sections.WarmupStableDecay, lr: float, length: int) -> Schedule:
    warmup, decay_steps, end = section.warmup_steps, section.decay_steps, section.end_scale
    rise = optax.linear_schedule(lr * section.start_scale, lr, warmup)
    if section.shape == "linear":
        fall = optax.linear_schedule(lr, lr * end, decay_steps)
    else:
        fall = optax.cosine_decay_schedule(lr, decay_steps, alpha=end)
    return optax.join_schedules([rise, optax.constant_schedule(lr), fall], [warmup, length - decay_steps])


def _cosine_restarts(section: sections.CosineRestarts, lr: float, length: int) -> Schedule:
    """The cycles of a run of `length` steps; the last of them goes on where a run is longer."""
    starts, cycle = [0], float(section.period)
    while starts[-1] + round(cycle) < length - section.warmup_steps:
        starts.append(starts[-1] + round(cycle))
        cycle *= section.factor
    ends = np.array([*starts[1:], starts[-1] + round(cycle)])

    def cycles(step: Any) -> jax.Array:
        which = jnp.searchsorted(jnp.asarray(starts), step, side="right") - 1
        first, last = jnp.asarray(starts)[which], jnp.asarray(ends)[which]
        done = jnp.clip((step - first) / (last - first), 0, 1)
        cosine = section.end_scale + (1 - section.end_scale) * (1 + jnp.cos(jnp.pi * done)) / 2
        return lr * section.decay**which * cosine

    if not section.warmup_steps:
        return cycles
    return optax.join_schedules([optax.linear_schedule(0.0, lr, section.warmup_steps), cycles], [section.warmup_steps])


def as_float32(rate: float | Schedule) -> Schedule:
    """Returns a rate as a function of the number of updates, whose values are float32."""

    def schedule(step: Any) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integer counts with floats
            return jnp.asarray(rate(step) if callable(rate) else rate, jnp.float32)

    return schedule
