"""The composition root: one configuration becomes everything a run needs."""

from __future__ import annotations

from collections.abc import Mapping

from jax.sharding import Mesh

from jaxprop import data
from jaxprop.config.schema.config import Config
from jaxprop.run import own_code
from jaxprop.run.experiment import Experiment, assemble, evaluate_of, mesh_of, open_stream, place
from jaxprop.run.teacher import open_teacher
from jaxprop.types import Source

__all__ = ["Experiment", "compose", "evaluate_of", "mesh_of", "open_stream", "place"]


def compose(
    config: Config, sources: Mapping[str, Source] | None = None, *, health: bool = True, mesh: Mesh | None = None
) -> Experiment:
    """Builds everything a configuration names.

    Args:
      config: the configuration.
      sources: the data's splits, where they are open already.
      health: whether the step has its signals; without them, what they cost can be measured.
      mesh: devices in place of those that the configuration names, for a step that is compiled and not run.

    Returns:
      The experiment.

    Raises:
      ConfigError: code of the user's own cannot be loaded, or its arguments do not fit.
      UsageError: a run names such code, and the user has not repeated it; the teacher does not fit.
      JaxpropError: the data, the model, the optimizer and the devices do not fit together.
    """
    config = own_code.checked(config)
    sources = data.open_sources(config.data, config.task.name) if sources is None else sources
    config, teacher = open_teacher(config, sources["train"])
    return assemble(config, sources, teacher, health=health, mesh=mesh)
