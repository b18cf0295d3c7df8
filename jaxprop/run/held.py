"""Statistics of frozen layers, such as the mean and variance of batch normalization: which they are, and held still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from jaxprop.config.schema.config import Config
from jaxprop.core.trees import leaf_paths
from jaxprop.models.lora import is_trained
from jaxprop.types import Objective, PyTree
from jaxprop.untrusted.patterns import fullmatch


def of_frozen_layers(patterns: Sequence[str], params: Sequence[str], extras: Sequence[str]) -> list[str]:
    """Returns the paths of extras that lie in a layer whose parameters are all frozen, or that a pattern names.

    Args:
      patterns: `run.init_from.freeze`.
      params, extras: paths of all leaves.

    Example:
      >>> of_frozen_layers(["a/.*"], ["a/scale", "b/scale"], ["a/mean", "b/mean"])
      ['a/mean']
    """

    def frozen(path: str) -> bool:
        return any(fullmatch(pattern, path) for pattern in patterns)

    free = {_layer(path) for path in params if not frozen(path)}
    layers = {_layer(path) for path in params} - free
    return [path for path in extras if frozen(path) or _layer(path) in layers]


def held_statistics(config: Config, params: PyTree, extras: PyTree) -> list[str]:
    """Returns the paths of the extras that a run holds as they were loaded; none without `freeze_statistics`."""
    section = config.run.init_from
    if section is None or not section.freeze_statistics:
        return []
    if config.lora is not None:
        trained = {_layer(path) for path in leaf_paths(params) if is_trained(path, config.lora)}
        return [path for path in leaf_paths(extras) if _layer(path) not in trained]
    return of_frozen_layers(section.freeze, leaf_paths(params), leaf_paths(extras))


def hold(objective: Objective, held: Sequence[str]) -> Objective:
    """Returns an objective that leaves some extras as they are in training.

    Args:
      objective: of the run.
      held: paths of leaves of the extras.
    """
    if not held:
        return objective
    paths = set(held)

    def mean_loss(params: PyTree, extras: PyTree, *given: Any) -> Any:
        loss, (weight, new, aux) = objective.mean_loss(params, extras, *given)
        still = [path in paths for path in leaf_paths(new)]
        before, after = jax.tree.leaves(extras), jax.tree.leaves(new)
        leaves = [a if keep else b for keep, a, b in zip(still, before, after, strict=True)]
        return loss, (weight, jax.tree.unflatten(jax.tree.structure(new), leaves), aux)

    return objective._replace(mean_loss=mean_loss)


def _layer(path: str) -> str:
    return path.rpartition("/")[0]
