"""The whole configuration: every section under its name. Imports no jax."""

from __future__ import annotations

from pydantic import Field

from jaxprop.config.schema.base import Section, defaults
from jaxprop.config.schema.data import Data
from jaxprop.config.schema.gradient import Gradient
from jaxprop.config.schema.lora import Lora
from jaxprop.config.schema.model import ModelSection
from jaxprop.config.schema.optimizer import OptimizerSection
from jaxprop.config.schema.run import Checkpoint, Health, Parallel, Precision, Run, Sinks
from jaxprop.config.schema.task import Task


class Config(Section):
    """The configuration of one run."""

    task: Task = Field(description="what is learned")
    data: Data = Field(description="what it is learned from")
    model: ModelSection = Field(description="the network")
    lora: Lora | None = Field(
        None, description="adapters of a low rank, beside weights that are frozen; none by default"
    )
    optimizer: OptimizerSection = Field(description="the update rule, by its optax name")
    gradient: Gradient = Field(
        default_factory=defaults(Gradient),
        description="where the gradient comes from: the backward pass, or an estimate",
    )
    precision: Precision = Field(default_factory=defaults(Precision), description="dtypes and loss scale")
    parallel: Parallel = Field(default_factory=defaults(Parallel), description="devices")
    health: Health = Field(default_factory=defaults(Health), description="signals measured inside the step")
    checkpoint: Checkpoint = Field(
        default_factory=defaults(Checkpoint), description="when the run is saved, and which checkpoints are kept"
    )
    sinks: Sinks = Field(default_factory=defaults(Sinks), description="destinations of records")
    run: Run = Field(description="length, seed and intervals")
