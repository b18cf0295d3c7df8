"""What to change about a cause: a line of the configuration or of Python, never one that is in force already. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxprop.health.watch.reading import Trail

# Initializations that keep the scale of what passes through a layer.
SCALED_INITS = (
    "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal", "lecun_uniform", "orthogonal",
)  # fmt: skip
COLD = 100  # steps within which a rate that started at its full value shows
LARGEST_SCALE = 2.0**24  # to which a loss scale grows at most
SATURATING = ("tanh", "sigmoid")


class Setup(NamedTuple):
    """What is known of a run besides its records.

    Args:
      source: `"yaml"` for a run of the command line, `"fit"` for one of `jaxprop.fit`, `"python"` for a loop of
        someone's own.
      config: the run's configuration as nested mappings, such as `{"optimizer": {"lr": 0.1}}`; empty if unknown.
      folder: the run's folder, as a command names it; empty if unknown.
      code: files and modules with code of the user's own that the run names.

    Example:
      >>> setup = Setup("yaml", {"optimizer": {"lr": 0.1, "grad_clip": None}})
      >>> setup.get("optimizer.lr"), setup.get("model.init"), setup.has("optimizer.grad_clip")
      (0.1, None, False)
    """

    source: str = "python"
    config: Mapping[str, Any] = {}
    folder: str = ""
    code: tuple[str, ...] = ()

    @property
    def yaml(self) -> bool:
        """Whether advice is a line of the configuration."""
        return self.source == "yaml"

    def get(self, path: str) -> Any:
        """A value of the configuration by its path; None where there is none."""
        node: Any = self.config
        for name in path.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        return node

    def has(self, path: str) -> bool:
        """Whether a value is set that is neither None nor empty."""
        return bool(self.get(path))

    def known(self, section: str) -> bool:
        """Whether advice may name a key of a section: in YAML, and not where the section is code of the user's own."""
        return self.yaml and not self.has(f"{section}.class")

    def command(self, name: str) -> str:
        """A command on the run, as it can be typed.

        Example:
          >>> Setup("yaml", {}, "runs/a b", ("net.py",)).command("replay"), Setup("yaml").command("replay")
          ("jaxprop replay 'runs/a b' --code net.py", "jaxprop replay on the run's folder")
        """
        if not self.folder:
            return f"jaxprop {name} on the run's folder"
        words = [name, self.folder, *(word for one in self.code for word in ("--code", one))]
        return f"jaxprop {shlex.join(words)}"

    @property
    def responses(self) -> tuple[str, ...]:
        """The actions that `health.on_alert` lists."""
        listed = self.get("health.on_alert") or ()
        return (listed,) if isinstance(listed, str) else tuple(listed)

    @property
    def warms_up(self) -> bool:
        """Whether the configured schedule starts with a warmup."""
        schedule = self.get("optimizer.schedule")
        return isinstance(schedule, Mapping) and (
            bool(schedule.get("warmup_steps"))
            or "warmup" in str(schedule.get("name"))
            or schedule.get("name") == "onecycle"
        )


class Plea(NamedTuple):
    """What advice is given on.

    Args:
      kind: of the symptom.
      step: at which it was seen.
      since: first sign of it.
      trail: the evidence.
      setup: what is known of the run.
      scale: the loss scale, 1 without one.
    """

    kind: str
    step: int
    since: int
    trail: Trail
    setup: Setup
    scale: float = 1.0

    def seen(self, name: str, default: float = 0.0) -> float:
        """The latest value of a piece of evidence."""
        return self.trail.get(name, default)


def number(x: float) -> str:
    """Returns a number with two significant digits, as it is written in a configuration.

    Example:
      >>> number(0.00123), number(34.0)
      ('0.0012', '34')
    """
    return f"{float(f'{x:.2g}'):g}"


def _find_rate(p: Plea) -> str:
    """A rate fault is answered by a search: half of a rate that is 100 times too high is still too high."""
    cold = p.step - p.trail.start <= COLD and not p.setup.warms_up and not p.trail.first < 0.5 * p.trail.rate
    if p.setup.yaml:
        warmup = "; a run that starts with a warmup bears a higher one" if cold else ""
        return f"run {p.setup.command('lr-find')}, and set optimizer.lr to what it suggests{warmup}"
    now = f" from {number(p.trail.rate)}" if p.trail.rate > 0 else ""
    warmup = "; a warmup bears a higher one" if cold else ""
    return f"lower the learning rate{now} tenfold until the first steps lower the loss, then search above it{warmup}"


def _lower(p: Plea) -> str:
    """Where the rate has risen, the highest at which this run was stable is known, or how far it has risen."""
    rise, rate, grown = p.seen("rise", 1.0), p.trail.rate, p.seen("rate_grown")
    if grown and not math.isfinite(rate):
        return f"set the learning rate back to what it was: updates are about {number(grown)} times as large as before"
    if not (rise > 1.3 and rate > 0 and math.isfinite(rate)):
        return _find_rate(p)
    if not p.setup.yaml:
        return f"keep the learning rate at or below {number(rate / rise)}, where training was stable"
    peak = p.setup.get("optimizer.lr")
    return f"optimizer.lr={number((peak if isinstance(peak, int | float) else rate) / rise)}"


def _warmup(p: Plea) -> str:
    if p.setup.warms_up:
        return _find_rate(p)
    if p.setup.yaml:
        return "optimizer.schedule={name: warmup_cosine, warmup_steps: 100}"
    peak = number(p.trail.rate) if p.trail.rate > 0 else "rate"
    return f"start with a warmup, such as optax.warmup_cosine_decay_schedule(0.0, {peak}, 100, steps)"


def _clip(p: Plea) -> str:
    level = p.seen("grad_level")
    limit = number(2 * level) if level > 0 else "1.0"
    if p.trail.clipped or p.setup.has("optimizer.grad_clip"):
        return _look_at_data(p) if p.kind != "exploding" else _find_rate(p)
    if p.setup.yaml:
        return f"optimizer.grad_clip={{norm: {limit}}}"
    return f"clip the gradient with optax.chain(optax.clip_by_global_norm({limit}), tx)"


def _look_at_data(p: Plea) -> str:
    where = f"from step {p.since} on" if p.kind in ("loss_rise", "adam_lag", "gradient_trend") else f"of step {p.since}"
    return f"look at the data {where}"


def _label_shift(p: Plea) -> str:
    if p.setup.yaml and "rollback" not in p.setup.responses:
        return "health.on_alert=[rollback, stop]"
    return f"look at the data from step {p.since} on"


def _maker(p: Plea) -> str:
    return "jaxprop.fit" if p.setup.source == "fit" else "make_train_step"


def _rate_or_data(p: Plea) -> str:
    return (
        f"lower the learning rate if it rose near step {p.since}, and pass schedule= to {_maker(p)}, so that the "
        f"watch knows it; otherwise look at the data from step {p.since} on"
    )


def _scale_loss(p: Plea) -> str:
    larger, known = max(32768.0, 1024 * p.scale), p.setup.get("precision.loss_scale")
    if isinstance(known, int | float) and known >= larger:  # overflows have brought it down
        return "precision.policy=bfloat16"
    if p.scale >= LARGEST_SCALE:
        return _wider_range(p)
    if p.setup.yaml:
        return f"precision.loss_scale={larger:g}"
    return f"make the step with a larger first loss scale, scaling=Scaling(initial={larger:g})"


def _wider_range(p: Plea) -> str:
    if p.setup.yaml:
        return "precision.policy=bfloat16"
    return f"pass precision='bfloat16' to {_maker(p)}: it has the range of float32, and no loss scale"


def _replay(p: Plea) -> str:
    if p.setup.yaml:
        return f"run {p.setup.command('replay')}, which names the operation and the values it was given"
    if p.setup.source == "fit":
        return f"see what the run says of step {p.since}, which names the operation and the line"
    return "call step.find_nonfinite(state, batch) with this step's batch, which names the operation and the line"


def _activation(p: Plea) -> str:
    now = p.setup.get("model.activation")
    if p.setup.known("model") and now in (None, "relu", "tanh", "sigmoid"):
        return "model.activation=gelu"
    return "use an activation that passes a gradient everywhere, such as gelu or leaky_relu, or a lower learning rate"


def _unsaturated(p: Plea) -> str:
    now = p.setup.get("model.activation")
    if p.setup.known("model") and (now in SATURATING or not p.setup.config):
        return "model.activation=relu"
    return "use relu or gelu in place of saturating activations, or normalize between the layers"


def _smaller_epsilon(p: Plea) -> str:
    now = p.setup.get("optimizer.eps")
    smaller = 1e-8 if not isinstance(now, int | float) or now > 1e-8 else now / 1e4
    if not p.setup.known("optimizer"):
        return "pass the optimizer a smaller eps"
    if any(isinstance(group, Mapping) and group.get("optimizer") for group in p.setup.get("optimizer.groups") or ()):
        return "give the optimizer that trains the layer, that of the run or of its group, a smaller eps"
    return f"optimizer.eps={smaller:.0e}".replace("e-0", "e-")


def _limit_logits(p: Plea) -> str:
    loss = p.setup.get("task.loss")
    name = loss.get("name") if isinstance(loss, Mapping) else loss
    known = isinstance(loss, Mapping) and loss.get("z_loss")
    if p.setup.known("task.loss") and name in (None, "softmax_cross_entropy") and not known:
        return "task.loss={name: softmax_cross_entropy, z_loss: 0.0001}"
    return "limit the logits: a z-loss, weight decay on the last layer, or a lower learning rate"


def _differentiable(p: Plea) -> str:
    way = "gradient.estimator=spsa" if p.setup.yaml else f"{_maker(p)}(..., gradient='spsa')"
    return (
        "see what cuts the loss off from the parameters: a stop_gradient, an argmax or a rounding, a mask of zeros, "
        f"initial values of zero, or units that no example reaches; a loss that only steps is trained by {way}"
    )


def _init(p: Plea) -> str:
    now = p.setup.get("model.init")
    if p.setup.known("model") and now not in SCALED_INITS:
        return "model.init=lecun_normal"
    return "initialize the layer's kernel with a standard deviation near 1 / sqrt(inputs)"


def remedy(setup: Setup, exploded: bool) -> str:
    """What to do about a run that has diverged, in a sentence.

    Args:
      setup: what is known of the run.
      exploded: whether its losses have exploded before they were not finite.
    """
    if setup.source != "yaml":
        lower, again, origin = "lower it", "with fresh=True", "repair the operation that the run has named"
    else:
        lower = f"set optimizer.lr to what '{setup.command('lr-find')}' suggests"
        again, origin = "with --fresh", f"'{setup.command('replay')}' names the operation to repair"
    if exploded:
        return (
            f"The losses before had exploded, so the learning rate is the first suspect: {lower} and start over {again}"
        )
    return f"If the learning rate is too high, {lower} and start over {again}; otherwise {origin}"


def _fixed(sentence: str) -> Callable[[Plea], str]:
    return lambda _: sentence


ADVICE: dict[str, Callable[[Plea], str]] = {
    "rate_too_high": _lower,
    "vanishing": _unsaturated,
    "exploding_recurrence": _clip,
    "post_norm": _warmup,
    "no_loss_scaling": _scale_loss,
    "loss_scale_falls": _wider_range,
    "bad_batch": _clip,
    "not_finite": _replay,
    "label_shift": _label_shift,
    "rate_or_data": _rate_or_data,
    "dead_relu": _activation,
    "adam_eps": _smaller_epsilon,
    "logit_drift": _limit_logits,
    "frozen_layer": _fixed(
        "see what keeps the layer from moving: a stop_gradient, an unused output, or an optimizer that masks it"
    ),
    "no_gradient": _differentiable,
    "bad_init": _init,
    "unscaled_inputs": _fixed("scale the inputs to a mean of 0 and a standard deviation of 1"),
    "rounded": _fixed("keep the parameters in float32, or end the run here: its learning rate no longer changes them"),
    "unstable": _find_rate,
}
