"""The gradient of a configuration's own loss, checked on a few examples of its own data."""

from __future__ import annotations

import jax

from jaxprop.config.schema.config import Config
from jaxprop.errors import UsageError
from jaxprop.run.compose import compose
from jaxprop.tools.gradcheck.check import gradcheck
from jaxprop.tools.gradcheck.report import Report

NUDGE = 0.01  # zeros of an initialization, as of biases and heads, hide what lies behind them


def check_config(config: Config, *, examples: int = 4, entries: int = 4) -> Report:
    """Checks the loss that a configuration trains, with its model, data and dropout; nothing is written.

    Args:
      config: the configuration.
      examples: of the run's first batch; a gradient is right or wrong on few as on many.
      entries: entries checked of each parameter.

    Returns:
      The report, at the initial parameters moved by 1 % at random.

    Raises:
      UsageError: its products are quantized.
      JaxpropError: the configuration cannot be built, or its loss not be differentiated.
    """
    if config.precision.quantize is not None:
        raise UsageError(
            "precision.quantize: gradients are checked against differences of the loss, which a product in 8 bits "
            "makes a step function; add precision.quantize=null"
        )
    one = config.model_copy(update={"parallel": config.parallel.model_copy(update={"devices": 1})})
    experiment = compose(one)
    batch = {name: values[:examples] for name, values in next(experiment.stream).items()}
    state = experiment.init(one.run.seed)
    key = jax.random.fold_in(state.key, state.step)
    objective = experiment.task.objective
    return gradcheck(objective, state.params, batch, key, extras=state.extras, entries=entries, nudge=NUDGE)
