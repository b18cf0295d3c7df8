"""The coordinate check: whether a step changes every layer by as much at every width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop import data
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.optimizer import Optimizer
from jaxprop.config.schema.schedules import Constant
from jaxprop.config.widths import width_of, with_width
from jaxprop.errors import UsageError
from jaxprop.run.compose import Experiment, compose, open_stream, place
from jaxprop.run.folder import write_text
from jaxprop.run.initial import begin
from jaxprop.run.precision import policy_of
from jaxprop.sinks.jsonl import encode
from jaxprop.tools.coord_layers import LIMIT, Checked, Layer, as_json
from jaxprop.tools.coord_picture import picture
from jaxprop.train.activations import tapped_arrays

FACTORS = (1, 2, 4, 8)  # of the smallest width, by default
STEPS, SEEDS = 20, 3

FEWEST_STEPS, FEWEST_TIMES = 5, 4  # fewer steps, or widths that are nearer, show little beside chance
_WEAK = "; with one seed, fewer than 5 steps or widths within a factor of 4, this may be chance"


def coord_check(
    config: Config, widths: Sequence[int] | None = None, *, steps: int = STEPS, seeds: int = SEEDS
) -> list[Checked]:
    """Trains models of several widths for a few steps, and compares how much their activations change.

        change_l(n) = rms(h_l after the steps - h_l before) of the width n,   change_l(n) ~ n^power

    With `optimizer.parametrization: mup`, it is done with the standard one, too, for comparison.

    Args:
      config: the configuration; its length, schedule and checkpoints do not count.
      widths: two or more; default: 1, 2, 4 and 8 times `optimizer.base_width`, or the model's own width and halves.
      steps: of each model.
      seeds: models of each width.

    Raises:
      UsageError: the widths are too few, or the optimizer has no learning rate to scale.
      JaxpropError: a model cannot be made at one of the widths.

    Reference:
      Yang et al., Tensor Programs V, 2022, appendix D.1. https://arxiv.org/abs/2203.03466
    """
    chosen = tuple(sorted(set(widths or _usual_widths(config))))
    if len(chosen) < 2:
        raise UsageError("a coordinate check compares widths; give two or more, as in --widths 64,128,256")
    if not isinstance(config.optimizer, Optimizer):
        raise UsageError("how the rates of an optimizer of your own depend on the width is not known; use another")
    found = [_checked(config, chosen, steps, seeds)]
    if config.optimizer.parametrization == "mup":
        plain = config.optimizer.model_copy(update={"parametrization": "standard", "base_width": None, "base": None})
        found.append(_checked(config.model_copy(update={"optimizer": plain}), chosen, steps, seeds))
    return found


def _usual_widths(config: Config) -> list[int]:
    base = getattr(config.optimizer, "base_width", None)
    if base is not None:
        return [base * factor for factor in FACTORS]
    own = width_of(config.model)
    return [own // factor for factor in FACTORS if own % factor == 0]


def _checked(config: Config, widths: tuple[int, ...], steps: int, seeds: int) -> Checked:
    names: list[str] | None = None
    changes, sizes = [], []
    for width in widths:
        experiment = compose(_of_width(config, width, steps))
        here, change, size = _measured(experiment, steps, seeds)
        if names is not None and names != here:
            raise UsageError(f"the models of width {widths[0]} and {width} have other layers, so nothing is compared")
        names = here
        changes.append(change)
        sizes.append(size)
    if not names:
        raise UsageError("the model has no taps, so none of its activations can be compared; see docs/library.md")
    layers = tuple(
        Layer(name, tuple(c), power(widths, c), tuple(s))
        for name, c, s in zip(names, np.transpose(changes).tolist(), np.transpose(sizes).tolist(), strict=True)
    )
    parametrization = getattr(config.optimizer, "parametrization", "standard")
    holds, verdict = _verdict(parametrization, layers)
    few = seeds < 2 or steps < FEWEST_STEPS or widths[-1] < FEWEST_TIMES * widths[0]
    return Checked(parametrization, widths, steps, seeds, layers, holds, verdict + (_WEAK if few else ""))


def _of_width(config: Config, width: int, steps: int) -> Config:
    changes: dict[str, Any] = {
        "steps": steps,
        "epochs": None,
        "steps_per_call": 1,
        "grow_batch": None,
        "ema_decay": None,
        "init_from": None,
    }
    return config.model_copy(
        update={
            "model": with_width(config.model, width),
            "run": config.run.model_copy(update=changes),
            "optimizer": config.optimizer.model_copy(update={"schedule": Constant()}),
        }
    )


def _measured(experiment: Experiment, steps: int, seeds: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the taps, how much each changes, and how large each is then: the mean over seeds."""
    names, arrays = _taps(experiment)
    changes, sizes = [], []
    batch = next(data.one_pass(experiment.sources["train"], min(experiment.config.data.batch_size, 64)))

    @jax.jit
    def compared(before: list[jax.Array], after: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        def rms(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))

        differences = [rms(b.astype(jnp.float32) - a.astype(jnp.float32)) for a, b in zip(before, after, strict=True)]
        return jnp.stack(differences), jnp.stack([rms(b) for b in after])

    for seed in range(seeds):
        run = experiment.config.run.model_copy(update={"seed": experiment.config.run.seed + seed})
        own = experiment.config.model_copy(update={"run": run})
        state, stream = begin(experiment, run.seed)[0], open_stream(own, experiment.sources["train"])
        before = arrays(state.params, state.extras, batch)
        for _ in range(steps):
            state, _ = experiment.step(state, place(experiment, next(stream))[0], "lean")
        change, size = compared(before, arrays(state.params, state.extras, batch))
        changes.append(np.asarray(change))
        sizes.append(np.asarray(size))
    return names, np.mean(changes, 0), np.mean(sizes, 0)


def _taps(experiment: Experiment) -> tuple[list[str], Any]:
    """Names of the taps of a training loss, and a function that returns their arrays, always with the same dropout."""
    policy, key = policy_of(experiment.config), jax.random.key(0)

    def loss(params: Any, extras: Any, batch: Any) -> jax.Array:
        return experiment.task.objective.mean_loss(params, extras, batch, key, policy)[0]

    example = next(data.one_pass(experiment.sources["train"], min(experiment.config.data.batch_size, 64)))
    state = jax.eval_shape(lambda: experiment.init(0))
    names, arrays = tapped_arrays(loss, state.params, state.extras, example)
    return names, jax.jit(arrays)


def power(widths: Sequence[float], changes: Sequence[float]) -> float:
    """Returns the slope of log change over log width by least squares; NaN where a change is 0 or not finite.

    Example:
      >>> round(power([64, 128, 256], [1.0, 2.0, 4.0]), 6)
      1.0
    """
    if not all(math.isfinite(change) and change > 0 for change in changes):
        return math.nan
    return round(float(np.polyfit(np.log(widths), np.log(changes), 1)[0]), 3) + 0.0  # no -0.0


def _verdict(parametrization: str, layers: Sequence[Layer]) -> tuple[bool, str]:
    lost = [layer.name for layer in layers if not math.isfinite(layer.power)]
    if lost:
        return False, f"{parametrization} cannot be judged: {', '.join(lost[:4])} did not change, or is not finite"
    worst = max(layers, key=lambda layer: abs(layer.power))
    of = f"{worst.name} changes with width^{worst.power:.2f}"
    if abs(worst.power) <= LIMIT:
        return True, f"{parametrization} holds: no layer's change depends on the width by more than width^{LIMIT}; {of}"
    count = sum(abs(layer.power) > LIMIT for layer in layers)
    return False, f"{parametrization} does not hold for {count} of {len(layers)} layers: {of}"


def write(found: Sequence[Checked], folder: Path) -> None:
    """Writes `coord_check.json` and the picture `coord_check.svg`.

    Args:
      found: by `coord_check`.
      folder: where; it is made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "coord_check.json", encode({"checks": [as_json(one) for one in found]}) + "\n")
    write_text(folder / "coord_check.svg", picture(found))
