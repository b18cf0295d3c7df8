"""From the optimizer section to an optax chain: clipping, schedule, weight-decay masks and groups. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.groups import WHOLE
from jaxprop.core import trees
from jaxprop.errors import ConfigError
from jaxprop.health.watch.reading import RATES
from jaxprop.models.edges import edges
from jaxprop.train.muon import kinds_of, muon
from jaxprop.train.mup import Growth, muon_factor, rate_factor
from jaxprop.train.named import NAMED
from jaxprop.train.parts import Leaf, Part, Section, assign, filled, leaf_decays, leaves_of, parts_of
from jaxprop.train.schedules import as_float32, is_fixed, make_schedule
from jaxprop.types import PyTree, Schedule

# These measure one step size over all parameters; parts with optimizers of their own would measure several.
ONE_STEP_SIZE = frozenset({"dadapt_adamw", "dog", "dowg", "momo", "momo_adam", "prodigy"})

Own = Callable[[str, Section, float | Schedule | None], Any]


class Optimizer(NamedTuple):
    """An optax transformation with what a run reports of it.

    Args:
      tx: turns gradients into updates, clipping included.
      schedule: number of updates made so far -> the base learning rate of the next one, float32.
      lr_scales: what multiplies that rate for each leaf, in `trees.leaf_paths` order; 0 where frozen.
      clip: the clipping that `tx` begins with, or None; a number where it is the bound of the global norm of all.
      rates: name in a record, such as `lr/head/.*`, and rate of each group that has another one.
      eps: of the optimizer of each leaf, or None where it has none.
      leaves: what moves each leaf, in the same order.
    """

    tx: optax.GradientTransformationExtraArgs
    schedule: Schedule
    lr_scales: tuple[float, ...]
    clip: float | optax.GradientTransformation | None
    rates: tuple[tuple[str, Schedule], ...] = ()
    eps: tuple[Any, ...] = ()
    leaves: tuple[Leaf, ...] = ()


BY_NAME = edges()  # of a model of which nothing else is known


def make_optimizer(
    section: sections.Optimizer | sections.CustomOptimizer,
    *,
    steps: int,
    params: PyTree,
    own: Own | None = None,
    growths: Sequence[Growth] | None = None,
    at_edge: Callable[[str], bool] = BY_NAME,
) -> Optimizer:
    """Builds the optimizer that a configuration describes.

    Without groups and masks this is the chain one would write by hand: `optax.chain(clip, optimizer)`, or the optimizer
    alone where nothing is clipped. Where groups freeze parameters, these have no optimizer state, do not count in the
    global norm that is clipped, and keep their bits (subnormal numbers become zero where the device flushes them).

    Args:
      section: the `optimizer` section.
      steps: updates the run makes; the length of a schedule that states none.
      params: parameters, or their shapes; only paths and shapes are read.
      own: place of a section with code of the user's own, section, learning rate -> optax transformation.
      growths: how each leaf grows from the base model, where its rate depends on the width; see `jaxprop.train.mup`.
      at_edge: whether a parameter is in an embedding, the first layer or the last one, by its path. `muon` leaves these
        to AdamW; in a group that names it, none.

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
    groups = assign(section.groups, paths)
    frozen = [group is not None and group.freeze for group in groups]
    if all(frozen):
        raise ConfigError("optimizer.groups: every parameter is frozen, so nothing would be trained; free some")

    parts = parts_of(section, groups, frozen, at_edge)
    factors = [1.0] * len(paths) if growths is None else _factors(parts, growths, params)
    scales = [f if group is None else f * group.lr_scale for f, group in zip(factors, groups, strict=True)]
    clipping = _clipping(section.grad_clip)
    members = [_member(part, steps, params, groups, own, factors) for part in parts]
    inner = members[0] if parts[0].group is None and len(parts) == 1 else _partition(parts, members, params)
    tx = _chain([*clipping, inner])
    clipping += _clipping_of_groups(parts, params)
    clip = _chain(clipping) if clipping else None
    if any(frozen):
        labels = _like(params, ["frozen" if flag else "trained" for flag in frozen])
        tx = optax.partition({"trained": tx, "frozen": _keep()}, labels)
        clip = clip and optax.partition({"trained": clip, "frozen": optax.set_to_zero()}, labels)
    if any(not is_fixed(scale) or scale != 1.0 for scale in scales):
        tx = optax.chain(tx, _scaleleaves_of(_like(params, scales)))

    lr_scales = tuple(0.0 if flag else scale for flag, scale in zip(frozen, scales, strict=True))
    # A bound on the norm of everything tells the step what it is clipped to without clipping once more.
    bound = section.grad_clip.norm if section.grad_clip and len(clipping) == 1 and not any(frozen) else None
    bound = float(bound) if bound is not None and is_fixed(bound) else bound
    rate, rates = _rates(section, parts, steps)
    if growths is not None:
        rates = (*rates, (f"{RATES}lowest_by_width", _lowest(parts, scales, frozen, steps)))
    leaves = leaves_of(parts, groups, params, lr_scales, factors)
    eps = _eps(parts, len(paths))
    return Optimizer(tx, as_float32(rate), lr_scales, clip if bound is None else bound, rates, eps, leaves)


# -- learning rates -----------------------------------------------------------------------------


def _rate(part: Part, steps: int) -> float | Schedule | None:
    section = part.section
    if section.lr is None:
        return None
    assert section.schedule is not None
    return make_schedule(section.schedule, section.lr, steps, part.where)


def _rates(
    section: sections.Optimizer | sections.CustomOptimizer, parts: Sequence[Part], steps: int
) -> tuple[float | Schedule, tuple[tuple[str, Schedule], ...]]:
    """Returns the rate of the run, or of a group where the run's optimizer moves nothing, and those of groups."""
    known = {None if part.group is None else part.group.match: _rate(part, steps) for part in parts}
    base = next(iter(known.values()))
    rates = []
    for group in section.groups:
        rate = known.get(None if group.optimizer is None else group.match)
        if rate is not None and not group.freeze and (group.optimizer is not None or not _is_one(group.lr_scale)):
            rates.append((f"{RATES}{group.match}", _times(as_float32(rate), group.lr_scale)))
    for part in parts:
        if part.section.name == "muon" and part.section.adam_learning_rate is not None:
            second = make_schedule(part.section.schedule, part.section.adam_learning_rate, steps, part.where)
            of = "" if part.group is None else f"{part.group.match}/"
            rates.append((f"{RATES}{of}adamw", as_float32(second)))
    return 1.0 if base is None else base, tuple(rates)


def _is_one(factor: Any) -> bool:
    """Whether it is known to be 1: a number that lanes of a sweep differ in is not known here."""
    return isinstance(factor, float) and factor == 1.0


def _lowest(parts: Sequence[Part], scales: Sequence[Any], frozen: Sequence[bool], steps: int) -> Schedule:
    """The rate of the parameter which it is lowest for, of those that are trained."""
    found = []
    for part in parts:
        rate = _rate(part, steps)
        own = [scale for scale, mine, still in zip(scales, part.mine, frozen, strict=True) if mine and not still]
        if rate is not None and own:
            known = [scale for scale in own if is_fixed(scale)]  # one number in the step, however many leaves there are
            own = [*([min(known)] if known else []), *(scale for scale in own if not is_fixed(scale))]
            found += [(as_float32(rate), scale) for scale in own]
    return lambda step: reduce(jnp.minimum, [rate(step) * jnp.asarray(scale, jnp.float32) for rate, scale in found])


def _times(schedule: Schedule, scale: float) -> Schedule:
    return lambda step: schedule(step) * jnp.asarray(scale, jnp.float32)


def _factors(parts: Sequence[Part], growths: Sequence[Growth], params: PyTree) -> list[float]:
    """What multiplies the rate of each leaf by its growth, as its own optimizer takes gradients."""
    factors, leaves = [1.0] * len(growths), jax.tree.leaves(params)
    for part in parts:
        section, kinds = part.section, [None] * len(growths)
        if section.name == "muon":
            kinds = [kind.matrices for kind in jax.tree.leaves(kinds_of(params, part.at_edge))]
        for i, (mine, matrices) in enumerate(zip(part.mine, kinds, strict=True)):
            if mine and matrices is not None:
                scale = partial(matrices.factor, consistent_rms=section.consistent_rms)
                factors[i] = muon_factor(growths[i], scale, matrices.fans(leaves[i].shape))
            elif mine:
                factors[i] = rate_factor(growths[i], adam=section.name != "sgd")
    return factors


def _eps(parts: Sequence[Part], leaves: int) -> tuple[Any, ...]:
    found: list[Any] = [None] * leaves
    for part in parts:
        eps = part.section.arguments().get("eps")
        found = [eps if mine else other for mine, other in zip(part.mine, found, strict=True)]
    return tuple(found)


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


def _member(
    part: Part, steps: int, params: PyTree, groups: Sequence[sections.Group | None], own: Own | None,
    factors: Sequence[float],
) -> optax.GradientTransformation:  # fmt: skip
    """Returns the optimizer of a part, which a group's clipping of its own precedes."""
    custom = isinstance(part.section, Custom)
    inner = _own(part, steps, own) if custom else _decaying(part, steps, params, groups, factors)
    return _chain([*(_clipping(part.section.grad_clip) if part.group is not None else ()), inner])


def _call(part: Part, steps: int, params: PyTree, **changed: Any) -> optax.GradientTransformation:
    """Calls the section's optax function with the section's arguments."""
    section = part.section
    arguments = {**section.arguments(), **changed}
    if arguments.get("adam_learning_rate") is not None:  # muon's second rate follows the schedule too
        rate = make_schedule(section.schedule, arguments["adam_learning_rate"], steps, part.where)
        arguments["adam_learning_rate"] = rate
    if section.name == "muon":
        _check_matrices(part, params)
        own = _rate(part, steps)
        assert own is not None, "muon has a rate"
        return muon(own, params=params, at_edge=part.at_edge, **arguments)
    function = NAMED.get(section.name) or reduce(getattr, section.entry["function"].split(".")[1:], optax)
    return function(learning_rate=_rate(part, steps), **arguments)


def _check_matrices(part: Part, params: PyTree) -> None:
    kinds = jax.tree.leaves(kinds_of(params, part.at_edge))
    if any(kind.matrices and mine for kind, mine in zip(kinds, part.mine, strict=True)):
        return
    which = "none in this group" if part.group is not None else "none between the first layer and the last"
    raise ConfigError(
        f"{part.where}: muon is for matrices, and there is {which}; use adamw, or name muon in a group of "
        "optimizer.groups that matches some"
    )


def _own(part: Part, steps: int, own: Own | None) -> optax.GradientTransformation:
    assert own is not None
    tx = own(part.where, part.section, _rate(part, steps))
    if not isinstance(tx, optax.GradientTransformation):
        raise ConfigError(
            f"{part.where}.class: expected {part.section.name} to return an optax.GradientTransformation, such as "
            f"optax.chain(...), got {type(tx).__name__}"
        )
    return tx


def _decaying(
    part: Part, steps: int, params: PyTree, groups: Sequence[sections.Group | None], factors: Sequence[float]
) -> optax.GradientTransformation:
    """Returns the optimizer with each leaf's weight decay: plain, masked, or one instance a value."""
    section = part.section
    names = [name for name in (section.entry["decay"], "adam_weight_decay") if name in section.entry["arguments"]]
    own = [getattr(section, name) for name in names]
    decays = leaf_decays(part, params, groups)
    if not any(_decays(value) for value in own):
        decays = [value if _decays(value) else None for value in decays]  # by nothing is the optimizer's own way
    decays = _undone(decays, own, filled(factors, part.mine))
    if not any(value is not None for value in decays):
        return _call(part, steps, params)
    only_masked = all(value is None or (is_fixed(value) and value == 0) for value in decays)
    if section.entry["mask"] and only_masked and None in decays and not any(_decays(value) for value in own[1:]):
        return _call(part, steps, params, **{section.entry["mask"]: _like(params, [value is None for value in decays])})
    if section.name in ONE_STEP_SIZE:
        raise ConfigError(
            f"{part.where}: {section.name} measures one step size over all parameters, so their weight decay cannot "
            "differ like this; remove decay_mask and the groups' weight_decay"
        )
    if section.name in WHOLE:
        raise ConfigError(
            f"{part.where}: the weight decay of {section.name} cannot differ between parameters but by decay_mask, "
            f"since {WHOLE[section.name]}; remove weight_decay from the groups"
        )
    labels = ["own" if value is None else f"weight_decay={value if is_fixed(value) else id(value)}" for value in decays]
    instances = {
        label: _call(part, steps, params, **({} if value is None else dict.fromkeys(names, value)))
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


def _keep() -> optax.GradientTransformation:
    """Returns updates of negative zero: x + (-0) has the bits of x, where x + 0 turns -0 into +0."""
    return optax.stateless_with_tree_map(lambda grad, _: -jnp.zeros_like(grad))


def _scaleleaves_of(scales: PyTree) -> optax.GradientTransformation:
    def scale(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree.map(lambda u, s: u if is_fixed(s) and s == 1.0 else u * s, updates, scales)

    return optax.stateless(scale)


# -- groups -------------------------------------------------------------------------------------


def _partition(parts: Sequence[Part], members: Sequence[Any], params: PyTree) -> optax.GradientTransformation:
    """One transformation for each part; labels are told by the place of the group in the list."""
    names = ["run" if part.group is None else f"group{part.where.split('.')[2]}" for part in parts]
    labels = [names[0]] * len(parts[0].mine)
    for name, part in zip(names, parts, strict=True):
        labels = [name if mine else label for label, mine in zip(labels, part.mine, strict=True)]
    return optax.partition(dict(zip(names, members, strict=True)), _like(params, labels))


def _clipping_of_groups(parts: Sequence[Part], params: PyTree) -> list[optax.GradientTransformation]:
    own = [_clipping(part.section.grad_clip) if part.group is not None else [] for part in parts]
    if not any(own):
        return []
    return [_partition(parts, [_chain(clips) if clips else optax.identity() for clips in own], params)]


def _like(params: PyTree, leaves: Sequence[Any]) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(params), leaves)
