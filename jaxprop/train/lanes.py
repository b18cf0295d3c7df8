"""One program for the steps of many runs that differ in numbers: those are arguments of it, and no constants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from jaxprop.core.handed import handing
from jaxprop.health.signals.settings import DETAILS
from jaxprop.parallel.sharding import replicated
from jaxprop.train.step import Recipe, variants
from jaxprop.types import Batch, PyTree, TrainState

RecipeOf = Callable[[Sequence[jax.Array]], Recipe]


class Shared:
    """The programs of the steps of many runs.

    Args:
      recipe_of: scalars, of which each run has its own -> what its step closes over. Called while a step is traced.

    Example:
      >>> shared = Shared(lambda values: values)
      >>> Lane(shared, (0.1, 0.01)).values
      (0.1, 0.01)
    """

    def __init__(self, recipe_of: RecipeOf):
        self._recipe_of = recipe_of
        self._jitted: dict[int, dict[str, Any]] = {}  # by the steps of a call

    def jitted(self, steps_per_call: int, options: dict[str, Any]) -> dict[str, Any]:
        """Returns `(values, state, batch) -> (state, Measurements)` for every detail, compiled at its first call.

        Args:
          steps_per_call: steps that one call takes.
          options: of `jax.jit`, for the arguments after the first.
        """
        if steps_per_call not in self._jitted:
            moved = {**options, "donate_argnums": 1}
            if "in_shardings" in options:
                moved["in_shardings"] = (None, *options["in_shardings"])
            self._jitted[steps_per_call] = {
                detail: jax.jit(self._step(steps_per_call, detail), **moved) for detail in DETAILS
            }
        return self._jitted[steps_per_call]

    def together(self, steps_per_call: int, detail: str, options: dict[str, Any], split: Sharding | None = None) -> Any:
        """Returns `(values, mask, states, batches) -> (states, Measurements)`, one step of several runs at a time.

        Args:
          steps_per_call: steps that one call takes.
          detail: what they measure.
          options: of `jax.jit`.
          split: of all arrays along the runs, over devices; then `batches` is stacked, and otherwise a list.
        """
        step = self._step(steps_per_call, detail)

        def lanes_step(values: Sequence[jax.Array], mask: jax.Array, state: TrainState, batch: Batch) -> Any:
            after, measurements = step(values, state, batch)
            # A lane that takes no step now keeps its state to the bit, whatever the others do.
            return jax.tree.map(lambda new, old: jnp.where(mask, new, old), after, state), measurements

        def several(values: Any, mask: jax.Array, states: TrainState, batches: Any) -> Any:
            stacked = batches if split else jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
            return jax.vmap(lanes_step)(values, mask, states, stacked)

        where: dict[str, Any] = {} if split is None else {"in_shardings": split, "out_shardings": split}
        return jax.jit(several, donate_argnums=2, **where, **options)

    def _step(self, steps_per_call: int, detail: str) -> Callable:
        def lane_step(values: Sequence[jax.Array], state: TrainState, batch: Batch) -> Any:
            return variants(self._recipe_of(values), steps_per_call)(detail)(state, batch)

        return lane_step


class Elsewhere(NamedTuple):
    """A state that lies among those of other lanes.

    Args:
      fetch: returns a copy of it.
    """

    fetch: Callable[[], TrainState]


class Alone(NamedTuple):
    """A run whose programs are its own.

    Args:
      recipe: what its step closes over.
      mesh: the devices, or None for a single one.
    """

    recipe: Recipe
    mesh: Mesh | None = None

    def programs(self, steps_per_call: int, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the jitted functions `(state, batch)` that a step calls."""
        variant, beside = variants(self.recipe, steps_per_call), self.recipe.objective.beside
        if beside is None:
            return {detail: jax.jit(variant(detail), **options) for detail in DETAILS}
        where = None if self.mesh is None else replicated(self.mesh)
        if "in_shardings" in options:
            options = {**options, "in_shardings": (*options["in_shardings"], where)}
        arrays = _Arrays(beside, where)
        return {detail: _Handed(jax.jit(_taking(variant(detail)), **options), arrays) for detail in DETAILS}


class Lane(NamedTuple):
    """One of the runs that share programs.

    Args:
      shared: the programs.
      values: the run's own numbers.
    """

    shared: Shared
    values: tuple[float, ...]

    def programs(self, steps_per_call: int, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the programs with this run's numbers, as the jitted functions `(state, batch)` that a step calls."""
        values = tuple(jnp.asarray(value, jnp.float32) for value in self.values)
        shared = self.shared.jitted(steps_per_call, options)
        return {detail: _Bound(program, values) for detail, program in shared.items()}


def _taking(step: Callable) -> Callable:
    def taking(state: TrainState, batch: Batch, beside: PyTree) -> Any:
        with handing(beside):
            return step(state, batch)

    return taking


class _Arrays:
    """Arrays that programs read besides, copied to the devices when the first of them is called."""

    def __init__(self, arrays: PyTree, where: Sharding | None):
        self._arrays, self._where = arrays, where

    @functools.cached_property
    def placed(self) -> PyTree:
        return jax.device_put(self._arrays, self._where)

    @property
    def shapes(self) -> PyTree:
        return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, self._arrays))


class _Handed(NamedTuple):
    program: Any
    arrays: _Arrays

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        return self.program(state, batch, self.arrays.placed)

    def lower(self, state: TrainState, batch: Batch) -> Any:
        return self.program.lower(state, batch, self.arrays.shapes)


class _Bound(NamedTuple):
    program: Any
    values: tuple[jax.Array, ...]

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        return self.program(self.values, state, batch)

    def lower(self, state: TrainState, batch: Batch) -> Any:
        return self.program.lower(self.values, state, batch)
