"""What `jaxprop.fit` is told besides the loss, the optimizer and the batches. Imports no jax."""

from __future__ import annotations

from pydantic import Field

from jaxprop.config.schema.base import NonNegative, Positive, Section, defaults
from jaxprop.config.schema.run import Checkpoint, Health, Parallel, Precision, Run, Sinks


class FitData(Section):
    """How batches are taken."""

    batch_size: Positive | None = Field(None, description="number of examples in a batch of a source that is evaluated")
    eval_batch_size: Positive | None = Field(None, description="the same")
    prefetch: NonNegative = Field(2, description="number of batches prepared ahead in the background; 0 turns this off")


class Settings(Section):
    """The sections of a configuration that a loop needs; what is trained comes as Python objects."""

    data: FitData = Field(default_factory=defaults(FitData), description="how batches are taken")
    precision: Precision = Field(default_factory=defaults(Precision), description="dtypes and loss scale")
    parallel: Parallel = Field(default_factory=defaults(Parallel), description="devices")
    health: Health = Field(default_factory=defaults(Health), description="signals measured inside the step")
    checkpoint: Checkpoint = Field(
        default_factory=defaults(Checkpoint), description="when the run is saved, and which checkpoints are kept"
    )
    sinks: Sinks = Field(default_factory=defaults(Sinks), description="destinations of records")
    run: Run = Field(description="length, seed and intervals")
