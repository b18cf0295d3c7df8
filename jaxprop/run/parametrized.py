"""Rates and initial values of a model's parameters by its width; see `jaxprop.train.mup`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop import tasks
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.model import Blocks
from jaxprop.config.widths import base_of
from jaxprop.core.forms import PLAIN, forms_for
from jaxprop.core.jaxprs.roles import roles
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError
from jaxprop.run.precision import policy_of
from jaxprop.train.mup import Growth, growths, init_factor
from jaxprop.types import Batch, Model, PyTree, Source

DRAWS = 8  # of initial values, whose standard deviations are compared; of 64 x 64 entries their ratio is known to 0.6 %


class Parametrization(NamedTuple):
    """What scales the rates and the initial values of a model's parameters.

    Args:
      growths: how each parameter grows from the base model, by which its rate is multiplied.
      scaled: `params -> params`, initial values as they are drawn to those that training begins with.
    """

    growths: tuple[Growth, ...]
    scaled: Callable[[PyTree], PyTree]


def parametrization_of(
    config: Config, task: tasks.Task, train: Source, shapes: tuple[PyTree, PyTree], example: Batch
) -> Parametrization | None:
    """Returns the parametrization that a configuration asks for; None where it is the standard one.

    Args:
      config: the configuration.
      task: its task.
      train: the training data.
      shapes: of the parameters, and of what the model carries besides.
      example: a batch.

    Raises:
      ConfigError: the base model cannot be made or has other parameters, or one is used in two ways.
    """
    section = base_of(config)
    if section is None:
        return None
    assert task.model is not None
    base = tasks.model_of(config.model_copy(update={"model": section}), train)
    small = jax.eval_shape(base.init, jax.random.key(0), example)[0]
    paths = leaf_paths(shapes[0])
    _check_same(paths, leaf_paths(small))
    sizes, before = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (shapes[0], small))
    tied = isinstance(config.model, Blocks) and getattr(config.model, "tie_embeddings", False)
    grown = growths(paths, sizes, before, _axes(config, task, shapes, example, len(paths)), tied=tied)
    model, same = task.model, [size == old for size, old in zip(sizes, before, strict=True)]

    @functools.cache  # drawn when parameters are, which plans and evaluations never do
    def multiples() -> PyTree:
        laws = _laws(model, base, example)
        factors = [1.0 if one else init_factor(g) / law for one, g, law in zip(same, grown, laws, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(shapes[0]), factors)

    @jax.jit
    def scaled(params: PyTree, multiples: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, factor: leaf * factor.astype(leaf.dtype), params, multiples)

    return Parametrization(tuple(grown), lambda params: scaled(params, multiples()))


def _axes(config: Config, task: tasks.Task, shapes: tuple[PyTree, PyTree], example: Batch, count: int) -> list[Any]:
    """How the loss uses the axes of the parameters."""
    key, policy = jax.eval_shape(lambda: jax.random.key(0)), policy_of(config)._replace(overrides=())
    with forms_for(PLAIN):
        traced = jax.make_jaxpr(lambda *given: task.objective.mean_loss(*given, policy)[0])(*shapes, example, key)
    return roles(traced, count)


def _check_same(paths: list[str], base: list[str]) -> None:
    if paths == base:
        return
    other = next(path for path in [*paths, *base] if (path in paths) != (path in base))
    has, has_not = ("the model", "the base model") if other in paths else ("the base model", "the model")
    raise ConfigError(f"optimizer.base: {has} has a parameter {other}, and {has_not} has none; change widths alone")


def _laws(model: Model, base: Model, example: Batch) -> list[float]:
    """The ratio of the standard deviations that both models draw each parameter with, from the same keys always."""

    def squares(init: Callable[..., Any]) -> np.ndarray:
        measured = jax.jit(
            lambda key: jnp.stack([jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(init(key, example)[0])])
        )
        return np.mean([np.asarray(measured(jax.random.key(seed))) for seed in range(DRAWS)], 0)

    ours, theirs = squares(model.init), squares(base.init)
    # What starts at 0 in one of them has nothing to be scaled.
    return np.sqrt(np.where((ours > 0) & (theirs > 0), ours / np.where(theirs > 0, theirs, 1), 1)).tolist()
