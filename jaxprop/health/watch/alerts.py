"""The alerts of the early warning, and its thresholds. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

LINE = re.compile(r"[a-z_.]+=")  # begins a line of the configuration

RECOMPILATION = "recompilation"
QUARANTINE = "quarantine"
OF_THE_LOOP = (RECOMPILATION, QUARANTINE)  # the kinds that the loop finds; they say nothing of the training's health

TITLES = {
    "nonfinite": "loss or gradient is not finite (layers)",
    "zero_gradient": "the gradient is exactly zero in nearly every parameter",
    "gradient_spike": "the gradient norm is far above its own history (z-score)",
    "layer_spike": "the gradient norm of one layer is far above its own history (z-score)",
    "gradient_trend": "the gradient norm is growing towards ten times its usual level (steps left)",
    "loss_rise": "the loss rises above its slow mean (fast mean / slow mean)",
    "loss_jump": "the loss jumps beyond its own noise (standard deviations)",
    "loss_start": "the loss rises above its first values (ratio)",
    "rate": "the learning rate is above every rate at which this run has been stable (ratio)",
    "adam_lag": "gradients outgrow Adam's second moment (lag)",
    "overshoot": "updates are too large for the loss (||dw|| ||g|| / loss)",
    "update_ratio": "updates are large relative to the weights (||dw|| / ||w||)",
    "damped": "Adam's epsilon keeps its updates far below the learning rate (rms / rate)",
    "vanishing": "gradients vanish towards the input (decades over the depth)",
    "exploding": "gradients explode towards the input (decades over the depth)",
    "depth_tilt": "gradients of an attention stack are larger near the head at the start (decades over the depth)",
    "dead": "units are dead (fraction)",
    "saturated": "activations are saturated (fraction)",
    "attention": "attention logits grow (largest)",
    "entropy": "attention collapses onto single keys (entropy / log keys)",
    "output": "the output logits grow (largest)",
    "output_trend": "the output logits grow towards their limit (steps left)",
    "output_drift": "all output logits drift together, which leaves the softmax unchanged (rise of logsumexp)",
    "flushed": "gradients are too small for float16 (fraction)",
    "loss_scale": "the loss scale falls and falls, or overflows at its smallest (net halvings in 200 steps)",
    "swallowed": "updates are too small to change the parameters (fraction)",
    "tiny_second_moment": "Adam's epsilon dominates its second moment (fraction)",
    "frozen": "the layer is not updated while others are (records)",
    "init": "||g|| / ||w|| of the layer differs from that of the others at the start (decades)",
    "init_scale": "the layer's initial weights are far from 1 / sqrt(inputs) (decades)",
    "init_output": "the first outputs are far too large (largest logit)",
    RECOMPILATION: "the train step was compiled again (seconds)",
    QUARANTINE: "a batch was left out, since it is not finite (rows)",
}


class Alert(NamedTuple):
    """One warning, given when its symptom starts.

    Args:
      step: the step at which it is given.
      kind: kind of the symptom, a key of `TITLES`.
      layer: the layer in which the symptom is strongest; None if it is unknown or concerns no single layer.
      severity: `advice`, or `act` if training is likely to fail.
      value, threshold: the measured value and the threshold that it exceeds.
      since: first step of the development that led to it; a rollback goes back to a step before.
      evidence: the numbers by which the cause was chosen.
      cause: the most likely cause, a key of `jaxprop.health.watch.advice.ADVICE`.
      fix: the line of the configuration to change, or what else to do, in words.

    Example:
      >>> Alert(7, "dead", "layers/0", "advice", 0.62, 0.5, 1, {}, "dead_relu", "model.activation=gelu").message
      'layers/0: units are dead (fraction): 0.62 against 0.5; likely dead_relu: try model.activation=gelu'
    """

    step: int
    kind: str
    layer: str | None
    severity: str
    value: float
    threshold: float
    since: int
    evidence: dict[str, float | str]
    cause: str
    fix: str

    @property
    def message(self) -> str:
        """One sentence with the layer, the symptom, its value and threshold, the most likely cause and the fix."""
        where = f"{self.layer}: " if self.layer else ""
        what = f"{TITLES[self.kind]}: {self.value:.3g} against {self.threshold:.3g}"
        advice = f"try {self.fix}" if LINE.match(self.fix) else self.fix
        return f"{where}{what}; likely {self.cause}: {advice}"

    def record(self) -> dict[str, Any]:
        """Returns the line of `alerts.jsonl`."""
        return {**self._asdict(), "message": self.message}


class WatchConfig(NamedTuple):
    """Thresholds of the early warning; the defaults were calibrated on planted faults and healthy runs.

    A field that ends in `_act` is the threshold of the severity `act`; the field without it is that of `advice`.

    Args:
      alpha, arm, floor, winsor: of the log-EMA histories: the decay, the number of finite steps before they are used,
        the smallest scale, and the number of scales at which a new value is clipped.
      arm_rows: like `arm`, for histories that are updated only by records with rows.
      z, z_act: z-score of the gradient norm against its history; z_act applies if the loss is above its mean too.
      z_layer: the same for a single layer.
      alone: what both are multiplied by for one step that stands out, where the loss is as usual.
      fast, slow: lengths in steps of the two moving averages of the loss.
      loss_ratio, loss_ratio_act: fast over slow average; the rise must also exceed `loss_noise` standard deviations.
      lowest_ratio, lowest_noise: fast average over its minimum in the last 200 steps, and the rise in deviations.
      loss_jump, loss_jump_act: loss above the fast average, in standard deviations.
      loss_once: the same for a jump that does not last for two more records.
      start_ratio: loss over the median of the first five losses, while the histories are not armed.
      rate, rate_act: learning rate over the highest at which training has been stable.
      lag, lag_act: Adam lag over all layers; for a single layer, `lag_layer` times as much.
      overshoot: `||dw|| ||g|| / loss` in the first `arm` steps.
      ratio, ratio_act: average over several records of the median update ratio of the layers.
      ratio_start: instead of ratio in the first `cold` steps; ratio_cold: in a first full record by step 20, of a run
        that has started at its full rate.
      damped: RMS of Adam's update over the learning rate in the first step; damped_later: in the two records after it.
      tilt, tilt_act: decades by which the gradient changes from the last tap to the first.
      post_norm: decades by which it decreases over an attention stack in the first three records.
      dead, saturated, flushed, swallowed: fractions of units, values, gradients and updates.
      dead_long: fraction of dead units that must last for 20 full records; `dead` needs two.
      saturated_late: instead of saturated after the first `arm` steps, as healthy tanh networks saturate with time.
      halvings: of the loss scale within 200 steps, less doublings, overflows at its smallest among them.
      tiny: fraction of entries with a tiny second moment, among those that have a gradient at all.
      attention, entropy: largest attention logit; normalized attention entropy (smaller is worse).
      output, output_act: largest output logit; init_output: the same in the first record.
      drift: rise of `sqrt(mean logsumexp^2)` in 110 steps of a steady trend.
      frozen: number of consecutive full records without an update.
      init_large, init_small: decades by which a layer's first kernel is above or below `1 / sqrt(inputs)`.
      init: decades by which `||g|| / ||w||` of a layer differs from the median over the layers.
      recurrence: decades by which `||g|| / ||w||` of a recurrent layer exceeds the other layers' in three records.
      horizon: an alert on a trend is given if it reaches its limit within so many steps.
      trend: number of points that a trend is fitted to.
      grace: number of steps after re-arming in which sensitive thresholds are multiplied by `grace_factor`.
      clear: number of steps without the symptom after which an alert is over.
    """

    alpha: float = 0.98
    arm: int = 100
    arm_rows: int = 30
    floor: float = 0.02
    winsor: float = 3.0
    z: float = 4.5
    z_act: float = 10.0
    z_layer: float = 8.0
    alone: float = 4 / 3
    fast: int = 20
    slow: int = 400
    loss_ratio: float = 1.15
    loss_ratio_act: float = 1.3
    loss_noise: float = 1.0
    lowest_ratio: float = 1.3
    lowest_noise: float = 1.5
    loss_jump: float = 6.0
    loss_once: float = 7.0
    loss_jump_act: float = 15.0
    start_ratio: float = 1.5
    rate: float = 2.5
    rate_act: float = 8.0
    lag: float = 2.3
    lag_act: float = 3.0
    lag_layer: float = 1.7
    overshoot: float = 30.0
    ratio: float = 0.15
    ratio_act: float = 0.6
    ratio_start: float = 0.045
    ratio_cold: float = 0.025
    cold: int = 50
    damped: float = 0.8
    damped_later: float = 0.25
    tilt: float = 3.0
    tilt_act: float = 5.0
    post_norm: float = 0.8
    dead: float = 0.75
    dead_long: float = 0.5
    dead_act: float = 0.9
    saturated: float = 0.5
    saturated_late: float = 0.75
    saturated_act: float = 0.9
    flushed: float = 0.05
    flushed_act: float = 0.25
    swallowed: float = 0.5
    halvings: int = 5
    tiny: float = 0.5
    attention: float = 50.0
    entropy: float = 0.02
    output: float = 100.0
    output_act: float = 400.0
    init_output: float = 20.0
    drift: float = 5.0
    frozen: int = 3
    init_large: float = 0.75
    init_small: float = 1.25
    init: float = 1.5
    recurrence: float = 0.6
    horizon: float = 200.0
    trend: int = 60
    grace: int = 50
    grace_factor: float = 1.6
    clear: int = 100
