"""What is planned: a configuration, with the shapes of its batches and the operations of its model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jaxprop import data
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.run import Mesh
from jaxprop.core.jaxprs.products import products
from jaxprop.run.compose import compose
from jaxprop.types import PyTree, Source

MANY = 2**26  # examples, more than any batch; their steps are still counted in 32 bits


class Subject:
    """A configuration to plan for, with its data opened once.

    Args:
      config: the configuration; its `parallel` section and `run.remat` may be others in what is compiled.

    Raises:
      JaxpropError: the data cannot be opened.
    """

    def __init__(self, config: Config):
        # One step of one call: what a call of several holds besides are their batches.
        self.config = with_run(config, steps_per_call=1)
        sources = data.open_sources(config.data, config.task.name)
        self.batch_size = config.data.batch_size
        # A plan reads two examples; their number limits no batch.
        self.sources: Mapping[str, Source] = {name: _endless(source) for name, source in sources.items()}
        self._example = next(data.one_pass(data.as_kept(sources["train"]), min(2, sources["train"].length)))
        self._counted = lru_cache(self._count)

    def batch(self, size: int) -> PyTree:
        """Returns the shapes of a batch of a size."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *np.shape(x)[1:]), x.dtype), self._example)

    def with_batch(self, size: int) -> Config:
        """Returns the configuration with another batch size."""
        return self.config.model_copy(update={"data": self.config.data.model_copy(update={"batch_size": size})})

    @property
    def tokens(self) -> int | None:
        """Tokens of an example, where the task is of tokens that are predicted."""
        labels = self._example.get("labels") if isinstance(self._example, Mapping) else None
        if self.config.task.name not in ("language", "translate") or labels is None or np.ndim(labels) != 2:
            return None
        return int(np.shape(labels)[1])

    def flops(self, size: int) -> float:
        """Returns the operations of a step's products over all devices, none of them for rematerialization.

        Args:
          size: examples in a batch.
        """
        return self._counted(size)

    def _count(self, size: int) -> float:
        config = with_run(self.with_batch(size), accumulate=1, remat="none", vocabulary_chunks="none")
        alone = config.parallel.model_copy(
            update={"devices": 1, "mesh": Mesh(data=None, fsdp=1, sequence=1, tensor=1), "rules": ()}
        )
        config = config.model_copy(update={"parallel": alone})
        # Without signals, since they are no part of the model.
        experiment = compose(config, self.sources, health=False)
        state = jax.eval_shape(lambda: experiment.init(0))
        traced = jax.make_jaxpr(lambda state, batch: experiment.step(state, batch, "lean"))(state, self.batch(size))
        return sum(one.flops * one.times for one in products(traced))


def _endless(source: Source) -> Source:
    return source._replace(length=max(source.length, MANY))


def with_run(config: Config, **changes: Any) -> Config:
    """Returns a configuration with other keys of `run`."""
    return config.model_copy(update={"run": config.run.model_copy(update=changes)})
