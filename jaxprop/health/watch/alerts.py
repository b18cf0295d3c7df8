"""What the early warning says, and every threshold it goes by. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

TITLES = {
    "nonfinite": "loss or gradient is not finite",
    "zero_gradient": "the gradient is exactly zero in nearly every parameter",
    "gradient_spike": "the gradient norm stands above its own history (z)",
    "layer_spike": "one layer's gradient norm stands above its own history (z)",
    "gradient_trend": "the gradient norm grows towards ten times its level (steps left)",
    "loss_rise": "the loss rises above its slow mean (fast mean / slow mean)",
    "loss_jump": "the loss jumps out of its own noise (standard deviations)",
    "loss_start": "the loss rises from where it started (times the first losses)",
    "rate": "the learning rate is above all that this run has been stable at (times)",
    "adam_lag": "gradients outgrow Adam's second moment (lag)",
    "overshoot": "updates are too large for the loss they should lower (||dw|| ||g|| / loss)",
    "update_ratio": "updates are large relative to the weights (||dw|| / ||w||)",
    "damped": "Adam's epsilon holds its updates far below the learning rate (rms / rate)",
    "vanishing": "gradients vanish towards the input (decades over the depth)",
    "exploding": "gradients explode towards the input (decades over the depth)",
    "depth_tilt": "gradients of an attention stack are larger near the head at the start (decades over the depth)",
    "dead": "units are dead (share)",
    "saturated": "activations are saturated (share)",
    "attention": "attention logits grow (largest)",
    "entropy": "attention collapses onto single keys (entropy / log keys)",
    "output": "the output logits grow (largest)",
    "output_trend": "the output logits grow towards their limit (steps left)",
    "output_drift": "all output logits drift together, which the softmax does not feel (rise of logsumexp)",
    "flushed": "gradients fall below what float16 holds (share)",
    "swallowed": "updates are too small to change the parameters (share)",
    "tiny_second_moment": "Adam's epsilon outweighs its second moment (share)",
    "frozen": "the layer does not move while others do (records)",
    "init": "the layer starts out of proportion to the others (decades of ||g|| / ||w||)",
    "init_scale": "the layer's first weights are far from 1 / sqrt(inputs) (decades)",
    "init_output": "the first outputs are far too large (largest logit)",
}


class Alert(NamedTuple):
    """One warning, given when it starts.

    Args:
      step: when it was given.
      kind: what was found, a key of `TITLES`.
      layer: where it is worst, or None where that is not known or not a matter of one layer.
      severity: `advice`, or `act` where the loss is likely to break.
      value, threshold: the number found and the one it passed.
      since: first step of what led to it, so that a rollback goes to before it.
      evidence: the numbers the cause was chosen by.
      cause: id of the likeliest cause, one of `jaxprop.health.watch.causes.CAUSES`.
      fix: the line of the configuration to change.

    Example:
      >>> Alert(7, "dead", "layers/0", "advice", 0.62, 0.5, 1, {}, "dead_relu", "model.activation=gelu").message
      'layers/0: units are dead (share): 0.62 against 0.5; likely dead_relu: try model.activation=gelu'
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
        """One sentence for people: where, what, the number against its threshold, likeliest cause and fix."""
        where = f"{self.layer}: " if self.layer else ""
        what = f"{TITLES[self.kind]}: {self.value:.3g} against {self.threshold:.3g}"
        return f"{where}{what}; likely {self.cause}: try {self.fix}"

    def record(self) -> dict[str, Any]:
        """Returns the line of `alerts.jsonl`."""
        return {**self._asdict(), "message": self.message}


class WatchConfig(NamedTuple):
    """Thresholds of the early warning; the defaults are the measured ones.

    Args:
      alpha, arm, floor, winsor: of the log-EMA histories: decay, finite steps before they count, smallest scale,
        and how many of their own scales a value may move them.
      arm_rows: the same as `arm` for what comes with rows only.
      z, z_act: gradient norm above its history, in scales; z_act also needs no rise of the loss.
      z_layer: the same of one layer alone.
      fast, slow: lengths in steps of the two means of the loss.
      loss_ratio, loss_ratio_act: fast over slow mean; the rise must also be `loss_noise` standard deviations.
      lowest_ratio, lowest_noise: fast mean over its lowest in the last 200 steps, and by how many deviations.
      loss_jump, loss_jump_act: losses above the fast mean, in standard deviations; loss_once: one that does not stay.
      start_ratio: loss above the first five losses while the histories are not armed.
      rate, rate_act: learning rate over the highest that training has settled at.
      lag, lag_act: Adam lag over all layers; of one layer alone `lag_layer` times as much.
      overshoot: `||dw|| ||g|| / loss` in the first `arm` steps.
      ratio, ratio_act: update ratio, median over layers; needs to persist. ratio_start: in the first `cold` steps.
      damped: Adam's update over the learning rate in the first step, and damped_later in the two after it.
      tilt, tilt_act: decades of gradient lost or gained from the last tap to the first.
      post_norm: decades lost over an attention stack in the first records.
      dead_long: dead share that must last 20 full records; dead is enough in two.
      dead, saturated, flushed, swallowed and their act: shares; tiny: share without the entries that never move.
      saturated_late: instead of saturated after the first `arm` steps, when tanh networks have grown bolder.
      attention, entropy: largest attention logit; normalized entropy.
      output, output_act: largest output logit; init_output: the same in the first record.
      drift: rise of `sqrt(mean logsumexp^2)` over the fitted points of a steady trend.
      frozen: records in a row without an update.
      init_large, init_small: decades a layer's first kernel is above or below `1 / sqrt(inputs)`.
      init: decades a layer's `||g|| / ||w||` is off the median of its like.
      recurrence: decades a recurrent layer's `||g|| / ||w||` leads over the others in the first three records.
      horizon: steps left to a limit below which a trend is worth an alert; trend: points it is fitted to.
      grace: steps after a re-arming in which sensitive thresholds are `grace_factor` times as high.
      clear: steps without a sign after which an alert is over.
    """

    alpha: float = 0.98
    arm: int = 100
    arm_rows: int = 30
    floor: float = 0.02
    winsor: float = 3.0
    z: float = 4.5
    z_act: float = 10.0
    z_layer: float = 8.0
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
    tiny: float = 0.5
    attention: float = 50.0
    entropy: float = 0.02
    output: float = 100.0
    output_act: float = 400.0
    init_output: float = 20.0
    drift: float = 5.0
    frozen: int = 5
    init_large: float = 0.75
    init_small: float = 1.25
    init: float = 1.5
    recurrence: float = 0.6
    horizon: float = 200.0
    trend: int = 60
    grace: int = 50
    grace_factor: float = 1.6
    clear: int = 100
