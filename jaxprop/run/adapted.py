"""A run with adapters as one of the model that it adapts: the sums in the place of the weights."""

from __future__ import annotations

from jaxprop.models.lora import merged
from jaxprop.run.experiment import assemble
from jaxprop.run.loaded import LoadedRun
from jaxprop.run.prepared import stand_in
from jaxprop.types import PyTree


def merged_params(run: LoadedRun) -> PyTree:
    """Returns the parameters of a run, those of its model without adapters where it has some.

    Args:
      run: from `jaxprop.load`.
    """
    section = run.opened.config.lora
    return run.params if section is None else merged(run.params, section)


def merged_run(run: LoadedRun) -> LoadedRun:
    """Returns a run without adapters, which computes the same up to rounding; a run that has none as it is.

    Args:
      run: from `jaxprop.load`.
    """
    opened = run.opened
    if opened.config.lora is None:
        return run
    config = opened.config.model_copy(update={"lora": None})
    # As the run was opened: without its teacher, which may be gone.
    experiment = assemble(config, {"train": stand_in(opened.prepared)})
    state = opened.state._replace(params=merged_params(run), extras=run.extras, ema=(), opt_state=())
    return run.of(opened._replace(config=config, experiment=experiment, state=state))
