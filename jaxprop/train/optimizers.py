"""From the optimizer section to an optax chain: clipping, schedule, weight-decay masks and groups. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprop.config.schema import optimizer as sections
from jaxprop.core import trees
from jaxprop.errors import ConfigError, did_you_mean
from jaxprop.train.schedules import as_float32, is_fixed, make_schedule
from jaxprop.types import PyTree, Schedule
from jaxprop.untrusted.patterns import fullmatch

# These measure one step size over all parameters; parts with optimizers of their own would measure several.
ONE_STEP_SIZE = frozenset({"dadapt_adamw", "dog", "dowg", "prodigy"})
LISTED_PATHS = 60


class Optimizer(NamedTuple):
    """An optax transformation with what a run reports of it.

    Args:
      tx: turns gradients into updates, clipping included.
      schedule: number of updates made so far -> the base learning rate of the next one, float32.
      lr_scales: what multiplies that rate for each leaf, in `trees.leaf_paths` order; 0 where frozen.
      clip: the clipping that `tx` begins with, or None; a number where it is the bound of the global norm of all.
    """

    tx: optax.GradientTransformationExtraArgs
    schedule: Schedule
    lr_scales: tuple[float, ...]
    clip: float | optax.GradientTransformation | None


def make_optimizer(
    section: sections.Optimizer | sections.CustomOptimizer,
    *,
    steps: int,
    params: PyTree,
    own: Callable[[float | Schedule | None], Any] | None = None,
    rates: Sequence[float] | None = None,
) -> Optimizer:
    """Builds the optimizer that a configuration describes.

    Without groups and masks this is the chain one would write by hand: `optax.chain(clip, optimizer)`, or the optimizer
    alone where nothing is clipped. Where groups freeze parameters, these have no optimizer state, do not count in the
    global norm that is clipped, and keep their bits (subnormal numbers become zero where the device flushes them).

    Args:
      section: the `optimizer` section.
      steps: updates the run makes; the length of a schedule that states none.
      params: parameters, or their shapes; only paths and shapes are read.
      own: learning rate -> optax transformation, for a section with code of the user's own.
      rates: what multiplies the learning rate of each leaf, besides its group's `lr_scale`; rate times weight decay
        stays the same.

    Returns:
      The transformation, its base learning rate and each leaf's multiple of it.

    Raises:
      ConfigError: a pattern matches no parameter, everything is frozen, or the schedule does not fit the run.

    Example:
      >>> section = sections.optimizer_model("sgd")(name="sgd", lr=0.5)
      >>> params = {"w": jnp.ones(2)}
      >>> opt = make_optimizer(section, steps=10, params=params)
      >>> updates, _ = opt.tx.update({"w": jnp.ones(2)}, opt.tx.init(params), params)
      >>> updates["w"].tolist(), float(opt.schedule(0))
      ([-0.5, -0.5], 0.5)
    """
    paths = trees.leaf_paths(params)
    groups = _assign(section.groups, paths)
    frozen = [group is not None and group.freeze for group in groups]
    factors = [1.0] * len(paths) if rates is None else list(rates)
    scales = [f if group is None else f * group.lr_scale for f, group in zip(factors, groups, strict=True)]
    if all(frozen):
        raise ConfigError("optimizer.groups: every parameter is frozen, so nothing would be trained; free some")

    clipping = _clipping(section.grad_clip)
    if isinstance(section, sections.CustomOptimizer):
        inner = _own(section, steps, own)
    else:
        inner = _decaying(section, steps, params, groups, factors)
    tx = _chain([*clipping, inner])
    clip = _chain(clipping) if clipping else None
    if any(frozen):
        labels = _like(params, ["frozen" if flag else "trained" for flag in frozen])
        tx = optax.partition({"trained": tx, "frozen": _keep()}, labels)
        clip = clip and optax.partition({"trained": clip, "frozen": optax.set_to_zero()}, labels)
    if any(not is_fixed(scale) or scale != 1.0 for scale in scales):
        tx = optax.chain(tx, _scale_leaves(_like(params, scales)))

    rate = _rate(section, steps)
    lr_scales = tuple(0.0 if flag else scale for flag, scale in zip(frozen, scales, strict=True))
    # A bound on the norm of everything tells the step what it is clipped to without clipping once more.
    bound = section.grad_clip.norm if section.grad_clip and len(clipping) == 1 and not any(frozen) else None
    bound = float(bound) if bound is not None and is_fixed(bound) else bound
    return Optimizer(tx, as_float32(1.0 if rate is None else rate), lr_scales, clip if bound is None else bound)


def _rate(section: sections.Optimizer | sections.CustomOptimizer, steps: int) -> float | Schedule | None:
    return None if section.lr is None else make_schedule(section.schedule, section.lr, steps)


# -- the chain ----------------------------------------------------------------------------------


def _chain(parts: Sequence[optax.GradientTransformation]) -> Any:
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _clipping(clip: sections.GradClip | None) -> list[optax.GradientTransformation]:
    """Returns the clippings in an order that leaves the global norm as the last word."""
    if clip is None:
        return []
    makers = [
        (optax.clip, clip.value),
        (optax.adaptive_grad_clip, clip.adaptive),
        (optax.clip_by_global_norm, clip.norm),
    ]
    return [make(limit) for make, limit in makers if limit is not None]


def _call(section: sections.Optimizer, steps: int, **changed: Any) -> optax.GradientTransformation:
    """Calls the section's optax function with the section's arguments."""
    arguments = {**section.arguments(), **changed}
    if arguments.get("adam_learning_rate") is not None:  # muon's second rate follows the schedule too
        arguments["adam_learning_rate"] = make_schedule(section.schedule, arguments["adam_learning_rate"], steps)
    function = reduce(getattr, section.entry["function"].split(".")[1:], optax)
    return function(learning_rate=_rate(section, steps), **arguments)


def _own(
    section: sections.CustomOptimizer, steps: int, own: Callable[[float | Schedule | None], Any] | None
) -> optax.GradientTransformation:
    assert own is not None
    tx = own(_rate(section, steps))
    if not isinstance(tx, optax.GradientTransformation):
        raise ConfigError(
            f"optimizer.class: expected {section.name} to return an optax.GradientTransformation, such as "
            f"optax.chain(...), got {type(tx).__name__}"
        )
    return tx


def _decaying(
    section: sections.Optimizer, steps: int, params: PyTree, groups: Sequence[sections.Group | None],
    factors: Sequence[float],
) -> optax.GradientTransformation:  # fmt: skip
    """Returns the optimizer with each leaf's weight decay: plain, masked, or one instance a value."""
    names = [name for name in (section.entry["decay"], "adam_weight_decay") if name in section.entry["arguments"]]
    own = [getattr(section, name) for name in names]
    decays = _leaf_decays(section, params, groups)
    if not any(_decays(value) for value in own):
        decays = [value if _decays(value) else None for value in decays]  # by nothing is the optimizer's own way
    decays = _undone(decays, own, factors)
    if not any(value is not None for value in decays):
        return _call(section, steps)
    only_masked = all(value is None or (is_fixed(value) and value == 0) for value in decays)
    if section.entry["mask"] and only_masked and None in decays and not any(_decays(value) for value in own[1:]):
        return _call(section, steps, **{section.entry["mask"]: _like(params, [value is None for value in decays])})
    if section.name in ONE_STEP_SIZE:
        raise ConfigError(
            f"optimizer: {section.name} measures one step size over all parameters, so their weight decay cannot "
            "differ like this; remove decay_mask and the groups' weight_decay"
        )
    labels = ["own" if value is None else f"weight_decay={value if is_fixed(value) else id(value)}" for value in decays]
    instances = {
        label: _call(section, steps, **({} if value is None else dict.fromkeys(names, value)))
        for label, value in zip(labels, decays, strict=True)
    }
    return optax.partition(instances, _like(params, labels))


def _undone(decays: Sequence[Any], own: Sequence[Any], factors: Sequence[float]) -> list[Any]:
    """Weight decays by which a leaf whose rate is multiplied loses as much as if it were not."""
    if not own:
        return list(decays)
    known: dict[tuple[int, float], Any] = {}  # one value that is not known when traced makes one instance
    made = []
    for decay, factor in zip(decays, factors, strict=True):
        value = own[0] if decay is None else decay
        if factor != 1.0 and _decays(value):
            decay = known.setdefault((id(value), factor), value / factor)
        made.append(decay)
    return made


def _decays(value: Any) -> bool:
    """Whether a weight decay may be other than 0."""
    return not is_fixed(value) or bool(value)


def _leaf_decays(
    section: sections.Optimizer, params: PyTree, groups: Sequence[sections.Group | None]
) -> list[float | None]:
    """Returns each leaf's weight decay where it is not the optimizer's own, else None."""
    masked_in = _decay_mask(section.decay_mask, params)
    overrides = [None if group is None else group.weight_decay for group in groups]
    return [
        override if override is not None else (None if decays else 0.0)
        for override, decays in zip(overrides, masked_in, strict=True)
    ]


def _decay_mask(mask: str | tuple[str, ...], params: PyTree) -> list[bool]:
    leaves, paths = jax.tree.leaves(params), trees.leaf_paths(params)
    if mask == "all":
        return [True] * len(leaves)
    if mask == "matrices":
        return [jnp.ndim(leaf) >= 2 for leaf in leaves]
    hits = [_matches(pattern, paths, "optimizer.decay_mask") for pattern in mask]
    return [any(column) for column in zip(*hits, strict=True)]


def _keep() -> optax.GradientTransformation:
    """Returns updates of negative zero: x + (-0) has the bits of x, where x + 0 turns -0 into +0."""
    return optax.stateless_with_tree_map(lambda grad, _: -jnp.zeros_like(grad))


def _scale_leaves(scales: PyTree) -> optax.GradientTransformation:
    def scale(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree.map(lambda u, s: u if is_fixed(s) and s == 1.0 else u * s, updates, scales)

    return optax.stateless(scale)


# -- groups -------------------------------------------------------------------------------------


def _assign(groups: Sequence[sections.Group], paths: list[str]) -> list[sections.Group | None]:
    """Returns the first group that matches each path."""
    hits = [_matches(group.match, paths, "optimizer.groups") for group in groups]
    first = [next((i for i in range(len(groups)) if hits[i][leaf]), None) for leaf in range(len(paths))]
    for i, group in enumerate(groups):
        if i not in first:
            raise ConfigError(
                f"optimizer.groups: every parameter that {group.match!r} matches belongs to an earlier group; "
                "put the narrower pattern first"
            )
    return [None if i is None else groups[i] for i in first]


def _matches(pattern: str, paths: list[str], where: str) -> list[bool]:
    hits = [fullmatch(pattern, path) is not None for path in paths]
    if not any(hits):
        more = f", and {len(paths) - LISTED_PATHS} more" if len(paths) > LISTED_PATHS else ""
        listed = ", ".join(paths[:LISTED_PATHS]) + more
        near = did_you_mean(pattern, paths)
        raise ConfigError(f"{where}: {pattern!r} matches no parameter's whole path{near} (paths: {listed})")
    return hits


def _like(params: PyTree, leaves: Sequence[Any]) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
