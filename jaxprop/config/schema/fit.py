"""What `jaxprop.fit` is told besides the loss, the optimizer and the batches. Imports no jax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import Field

from jaxprop.config.schema.base import NonNegative, Positive, Section
from jaxprop.config.schema.run import Checkpoint, Health, Parallel, Precision, Run, Sinks

S = TypeVar("S", bound=Section)


def _defaults(section: type[S]) -> Callable[[], S]:
    return lambda: section.model_validate({})


class FitData(Section):
    """How batches are taken."""

    batch_size: Positive | None = Field(None, description="number of examples in a batch of a source that is evaluated")
    eval_batch_size: Positive | None = Field(None, description="the same")
    prefetch: NonNegative = Field(2, description="number of batches prepared ahead in the background; 0 turns this off")


class Settings(Section):
    """The sections of a configuration that a loop needs; what is trained comes as Python objects."""

    data: FitData = Field(default_factory=_defaults(FitData), description="how batches are taken")
    precision: Precision = Field(default_factory=_defaults(Precision), description="dtypes and loss scale")
    parallel: Parallel = Field(default_factory=_defaults(Parallel), description="devices")
    health: Health = Field(default_factory=_defaults(Health), description="signals measured inside the step")
    checkpoint: Checkpoint = Field(
        default_factory=_defaults(Checkpoint), description="when the run is saved, and which checkpoints are kept"
    )
    sinks: Sinks = Field(default_factory=_defaults(Sinks), description="destinations of records")
    run: Run = Field(description="length, seed and intervals")
