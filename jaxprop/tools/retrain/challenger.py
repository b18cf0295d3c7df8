"""The challenger: the champion's configuration on old and new data, from the champion's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.config.build import build_tree
from jaxprop.config.custom import admit
from jaxprop.config.dump import to_builtins
from jaxprop.config.merge import merge, overrides_tree
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import Tree
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError
from jaxprop.run.initial import extended, is_larger
from jaxprop.run.opened import Opened
from jaxprop.tools.retrain.fresh import Fresh, mixed_section, sections_of
from jaxprop.types import PyTree

AT_THE_END = 10**9  # `run.eval_every` of a run that is evaluated at its end alone, in calls
SAVE_EVERY = 100  # calls between its checkpoints
NEVER = -30.0  # logit of a class that a champion does not know: a probability of about 1e-13


def challenger_config(
    config: Config,
    fresh: Fresh,
    lengths: Sequence[int],
    champion: Path,
    *,
    replay: float,
    overrides: Sequence[str] = (),
    code: Sequence[str] = (),
) -> Config:
    """Returns the configuration of a challenger.

    It is the champion's with the mixture of old and new data, the champion's weights to start from, and overrides.
    Without a validation split it is evaluated at its end alone: a checkpoint that is chosen by the test examples would
    have an advantage over the champion on these.

    Args:
      config: of the champion.
      fresh: the new data.
      lengths: number of training examples of each source of the champion's.
      champion: folder of its run.
      replay: share of old examples.
      overrides: `key=value`.
      code: files and modules with code of the user's own that may be run.

    Raises:
      ConfigError: an override does not fit.
      UsageError: an override is of what retraining itself sets.
    """
    patch, problems = overrides_tree(overrides)
    _refuse(patch.value)
    base = to_builtins(config)
    base["data"] = mixed_section(config, fresh, lengths, replay, champion)
    before = base["run"].get("init_from") or {}
    kept = {key: before[key] for key in ("freeze", "freeze_statistics") if before.get(key)}
    grown = {"extend": [".*"]} if fresh.new_classes else {}
    base["run"]["init_from"] = {"from": str(champion.absolute()), **kept, **grown}
    stop = base["run"].get("stop") or {}
    if not _validates(config, fresh) and not (stop.get("patience") or stop.get("target")):
        calls = config.run.per_call
        base["checkpoint"]["every_steps"] = base["checkpoint"].get("every_steps") or (
            base["run"].get("eval_every") or SAVE_EVERY * calls
        )
        base["run"]["eval_every"] = AT_THE_END * calls
    tree = merge(Tree(base, {}), patch)
    return admit(build_tree(tree, problems), tree, code, stored=True)


def _refuse(given: Any) -> None:
    for section, key, instead in (
        ("data", "sources", "--data NEW"), ("data", "weights", "--replay"), ("data", "name", "--data NEW"),
        ("data", "train", "--data NEW"), ("data", "test", "--data NEW"), ("run", "init_from", "RUN"),
        ("task", "name", "RUN"),
    ):  # fmt: skip
        if key in (given.get(section) or {}):
            raise UsageError(f"{section}.{key} is what retraining sets itself; remove the override, and use {instead}")


def _validates(config: Config, fresh: Fresh) -> bool:
    whole = config.data.validation is not None
    return whole or any(one.validation is not None for one in (*sections_of(config), fresh.section))


def champion_within(champion: Opened, challenger: Opened) -> tuple[PyTree, PyTree]:
    """Returns the parameters and extras of a champion as the challenger's model takes them.

    Where the challenger knows more classes, the champion gives these a logit of about `NEVER`: it never answers one.
    Those of the classes that it knows are what they were.

    Args:
      champion, challenger: the runs.
    """
    step, state = champion.experiment.step, champion.state
    given = jax.device_get((step.eval_params(state), step.eval_extras(state)))
    step, state = challenger.experiment.step, challenger.state
    wanted = jax.device_get((step.eval_params(state), step.eval_extras(state)))
    arrays = dict(zip(leaf_paths(given), jax.tree.leaves(given), strict=True))
    flat, structure = jax.tree.flatten(wanted)
    leaves = []
    for path, leaf in zip(leaf_paths(wanted), flat, strict=True):
        array = arrays.get(path)
        if array is None or (array.shape != leaf.shape and not is_larger(leaf, array)):
            raise UsageError(
                f"the challenger's model has {path} {list(leaf.shape)}, the champion's "
                f"{'none' if array is None else list(array.shape)}; remove the overrides of the model"
            )
        if array.shape != leaf.shape:
            array = extended(jnp.full(leaf.shape, NEVER if leaf.ndim == 1 else 0.0, leaf.dtype), array)
        leaves.append(array)
    return jax.tree.unflatten(structure, leaves)
