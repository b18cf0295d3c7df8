"""Which optimizer moves which parameter: that of the run, or that of a group; and how much each decays. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema import schedules
from jaxprop.config.schema.custom import Custom
from jaxprop.core import trees
from jaxprop.errors import ConfigError, did_you_mean
from jaxprop.train.muon import kinds_of
from jaxprop.train.schedules import is_fixed
from jaxprop.types import PyTree
from jaxprop.untrusted.patterns import fullmatch

LISTED_PATHS = 60

# A section with an optimizer: `sections.Optimizer`, or one of a group or of the user's own.
Section = Any


def _nowhere(path: str) -> bool:
    del path
    return False


class Part(NamedTuple):
    """An optimizer and the leaves that it moves: that of the run, or that of a group.

    Args:
      where: the section, for messages.
      section: what it says; a group's schedule is filled in.
      mine: whether it moves a leaf, for each.
      group: that has it, or None.
      at_edge: which parameters `muon` leaves to AdamW, by their paths.
    """

    where: str
    section: Section
    mine: list[bool]
    group: sections.Group | None = None
    at_edge: Callable[[str], bool] = _nowhere


def assign(groups: Sequence[sections.Group], paths: list[str]) -> list[sections.Group | None]:
    """Returns the first group that matches each path.

    Args:
      groups: of the section.
      paths: of the parameters.

    Raises:
      ConfigError: a group matches no parameter, or none that an earlier one has left.
    """
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


def parts_of(
    section: sections.Optimizer | sections.CustomOptimizer,
    groups: Sequence[sections.Group | None],
    frozen: Sequence[bool],
    at_edge: Callable[[str], bool],
) -> list[Part]:
    """Returns the optimizers that move something: that of the run first, then those of groups.

    Args:
      section: the `optimizer` section.
      groups: that of each leaf, as `assign` returns them.
      frozen: whether a leaf is, for each.
      at_edge: which parameters `muon` leaves to AdamW, by their paths.
    """
    rest = [group is None or group.optimizer is None for group in groups]
    # Frozen leaves count as the run's, so that they change nothing for a run without optimizers of groups.
    used = any(mine and not still for mine, still in zip(rest, frozen, strict=True))
    parts = [Part("optimizer", section, rest, at_edge=at_edge)] if used else []
    for i, group in enumerate(section.groups):
        if group.optimizer is not None:
            where = f"optimizer.groups.{i}.optimizer"
            mine = [other is group for other in groups]
            parts.append(Part(where, _scheduled(group.optimizer, section.schedule, where), mine, group))
    return parts


def _scheduled(own: Any, usual: schedules.Schedule, where: str) -> Any:
    """A group's section with a schedule: its own, or the shape of that of the run."""
    if own.schedule is not None:
        return own
    if own.lr is None or isinstance(usual, schedules.Constant):
        return own.model_copy(update={"schedule": schedules.Constant()})
    if not isinstance(own, Custom) and not own.entry["scheduled"]:
        raise ConfigError(
            f"{where}: optax's {own.name} takes one learning rate, and the schedule {usual.name} of the run is for all "
            "that state none; give it schedule: {name: constant}"
        )
    return own.model_copy(update={"schedule": usual})


def leaf_decays(part: Part, params: PyTree, groups: Sequence[sections.Group | None]) -> list[float | None]:
    """Returns each leaf's weight decay where it is not the optimizer's own, else None.

    Args:
      part: the optimizer, and which leaves it moves; others get what its first leaf has.
      params: parameters, or their shapes.
      groups: that of each leaf.

    Raises:
      ConfigError: a pattern of `decay_mask` matches nothing.
    """
    masked_in = _decay_mask(part, params)
    overrides = [None if group is None else group.weight_decay for group in groups]
    decays = [
        override if override is not None else (None if decays else 0.0)
        for override, decays in zip(overrides, masked_in, strict=True)
    ]
    return filled(decays, part.mine)


def filled(values: Sequence[Any], mine: Sequence[bool]) -> list[Any]:
    """Returns the values of a part's leaves; of others that of the first, which need no instance of its optimizer."""
    other = values[mine.index(True)]
    return [value if own else other for value, own in zip(values, mine, strict=True)]


def _decay_mask(part: Part, params: PyTree) -> list[bool]:
    mask, leaves, paths = part.section.decay_mask, jax.tree.leaves(params), trees.leaf_paths(params)
    if mask == "all":
        return [True] * len(leaves)
    if mask == "matrices":
        return [jnp.ndim(leaf) >= 2 for leaf in leaves]
    if part.group is not None:
        _of_group(part, mask, paths)
    hits = [_matches(pattern, paths, f"{part.where}.decay_mask") for pattern in mask]
    return [any(column) for column in zip(*hits, strict=True)]


def _of_group(part: Part, mask: Sequence[str], paths: list[str]) -> None:
    own = [path for path, mine in zip(paths, part.mine, strict=True) if mine]
    for pattern in mask:
        _matches(pattern, own, f"{part.where}.decay_mask")


class Leaf(NamedTuple):
    """What moves one parameter, for a person.

    Args:
      optimizer: its name; `adamw (muon)` for what `muon` leaves to AdamW, `frozen` for none.
      group: the pattern of the group that it belongs to, or None.
      lr: highest learning rate, scaled as the parameter's is; None where the optimizer finds its own.
      by_width: what of that is the factor by the model's width.
      weight_decay: as the optimizer takes it; None where it has none.
    """

    optimizer: str
    group: str | None = None
    lr: float | None = None
    by_width: float = 1.0
    weight_decay: float | None = None


FROZEN = Leaf("frozen")


def leaves_of(
    parts: Sequence[Part], groups: Sequence[sections.Group | None], params: PyTree, scales: Sequence[Any],
    factors: Sequence[float],
) -> tuple[Leaf, ...]:  # fmt: skip
    """Returns what moves each leaf.

    Args:
      parts: the optimizers.
      groups: that of each leaf.
      params: parameters, or their shapes.
      scales: what multiplies the rate of each leaf; 0 where it is frozen.
      factors: what of that is by the model's width.
    """
    found = [FROZEN._replace(group=None if group is None else group.match) for group in groups]
    for part in parts:
        told = _told(part, params, groups)
        for i, (one, scale) in enumerate(zip(told, scales, strict=True)):
            if part.mine[i] and not (is_fixed(scale) and scale == 0):
                # So that rate times decay stays.
                decay = _product(one.weight_decay, 1 / factors[i])
                found[i] = Leaf(one.optimizer, found[i].group, _product(one.lr, scale), factors[i], decay)
    return tuple(found)


def _product(value: Any, factor: Any) -> float | None:
    """None where a number is not known before a program runs."""
    return value * factor if value is not None and is_fixed(value) and is_fixed(factor) else None


def _told(part: Part, params: PyTree, groups: Sequence[sections.Group | None]) -> list[Leaf]:
    """What moves each leaf if this part does, unscaled."""
    section = part.section
    if isinstance(section, Custom):
        return [Leaf(section.name, lr=getattr(section, "lr", None))] * len(part.mine)
    told = []
    for decay, second in zip(leaf_decays(part, params, groups), _by_adam(part, params), strict=True):
        own = getattr(section, "adam_weight_decay" if second else section.entry["decay"] or "", None)
        lr = section.adam_learning_rate if second else None
        name = f"adamw ({section.name})" if second else section.name
        told.append(Leaf(name, lr=section.lr if lr is None else lr, weight_decay=own if decay is None else decay))
    return told


def _by_adam(part: Part, params: PyTree) -> list[bool]:
    """Which leaves `muon` leaves to AdamW; of another optimizer none."""
    if part.section.name != "muon":
        return [False] * len(part.mine)
    return [kind.matrices is None for kind in jax.tree.leaves(kinds_of(params, part.at_edge))]
