"""The whole configuration: every section under its name. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import Field

from jaxprop.config.schema.base import Section
from jaxprop.config.schema.data import Data
from jaxprop.config.schema.model import ModelSection
from jaxprop.config.schema.optimizer import OptimizerSection
from jaxprop.config.schema.run import Checkpoint, Health, Parallel, Precision, Run, Sinks
from jaxprop.config.schema.task import Task

S = TypeVar("S", bound=Section)


def _defaults(section: type[S]) -> Callable[[], S]:
    """Returns a factory; a default made at import would already build the section's validator, which is slow."""
    return lambda: section.model_validate({})


class Config(Section):
    """The configuration of one run."""

    task: Task = Field(description="what is learned")
    data: Data = Field(description="what it is learned from")
    model: ModelSection = Field(description="the network")
    optimizer: OptimizerSection = Field(description="the update rule, by its optax name")
    precision: Precision = Field(default_factory=_defaults(Precision), description="dtypes and loss scale")
    parallel: Parallel = Field(default_factory=_defaults(Parallel), description="devices")
    health: Health = Field(default_factory=_defaults(Health), description="signals measured inside the step")
    checkpoint: Checkpoint = Field(
        default_factory=_defaults(Checkpoint), description="when the run is saved, and which checkpoints are kept"
    )
    sinks: Sinks = Field(default_factory=_defaults(Sinks), description="destinations of records")
    run: Run = Field(description="length, seed and intervals")
