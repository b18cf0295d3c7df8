"""Arrays of a checkpoint become parameters by rules: which one each becomes, and what is done with its axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxprop.config.schema.initial import WeightRuleKeys
from jaxprop.errors import UsageError
from jaxprop.run.weight_files import Listed, Weights
from jaxprop.untrusted.patterns import expand, fullmatch

NAMED = 6  # names that a message lists


class Move(NamedTuple):
    """An array there, by its name, and the rule that takes it."""

    name: str
    rule: WeightRuleKeys


def apply_rules(listed: Listed, rules: Sequence[WeightRuleKeys]) -> Weights:
    """Reads the arrays that rules take, one by one, and names, turns and joins them.

    Args:
      listed: the arrays there.
      rules: the first one that matches a whole name is used.

    Returns:
      Arrays by their paths here. Whether they are parameters or extras is not known, so both hold them.

    Raises:
      UsageError: a rule matches nothing, two arrays become one parameter, or a part of one is missing.

    Example:
      >>> from jaxprop.config.weight_maps import weight_map
      >>> rules = weight_map([{"from": "fc/weight", "to": "head/kernel", "transpose": [1, 0]}]).rules
      >>> arrays = {"fc/weight": np.zeros((2, 3)), "step": np.zeros(1)}
      >>> found = apply_rules(Listed(tuple(arrays), arrays.get, "there", {}), rules)
      >>> found.params["head/kernel"].shape, found.left
      ((3, 2), ('step',))
    """
    found, left = matched(listed, rules)
    arrays = {to: _joined(to, moves, listed) for to, moves in found.items()}
    names = {to: ", ".join(move.name.replace("/", ".") for move in moves) for to, moves in found.items()}
    cut = frozenset(to for to, moves in found.items() if moves[0].rule.cut)
    return Weights(arrays, arrays, listed.where, names, cut, left)


def matched(listed: Listed, rules: Sequence[WeightRuleKeys]) -> tuple[dict[str, list[Move]], tuple[str, ...]]:
    """Returns the arrays that become each parameter, in the order of its parts, and the names that no rule matches.

    Args:
      listed: the arrays there.
      rules: see `apply_rules`.

    Raises:
      UsageError: as `apply_rules`, but for shapes.
    """
    moves: dict[str, list[Move]] = {}
    left, unused = [], set(range(len(rules)))
    for name in listed.names:
        first = next(((i, found) for i, rule in enumerate(rules) if (found := fullmatch(rule.pattern, name))), None)
        if first is None:
            left.append(name)
            continue
        rule = rules[first[0]]
        unused.discard(first[0])
        if rule.to is not None:
            moves.setdefault(_target(rule, first[1]), []).append(Move(name, rule))
    for i in sorted(unused):
        if not rules[i].optional:
            raise UsageError(
                f"run.init_from.map: the rule from {rules[i].pattern!r} matches no array of {listed.where}, which has "
                f"{_some(listed.names)}; remove it, or write optional: true"
            )
    for to, several in moves.items():
        several.sort(key=lambda move: move.rule.part or (0, 1))
        _expect_whole(to, several)
    return moves, tuple(left)


def _target(rule: WeightRuleKeys, found: object) -> str:
    template = rule.to
    assert template is not None
    try:
        for group in rule.from_one:
            template = template.replace(f"\\{group}", str(int(expand(found, f"\\{group}")) - 1))
        return expand(found, template)
    except ValueError as error:
        raise UsageError(f"run.init_from.map: {rule.to!r} cannot be filled in: {error}") from error


def _expect_whole(to: str, moves: Sequence[Move]) -> None:
    """Raises UsageError unless some arrays are one parameter: a single one, or each of its parts once."""
    parts = [move.rule.part or (0, 1) for move in moves]
    of = parts[0][1]
    if parts == [(i, of) for i in range(of)]:
        return
    names = " and ".join(move.name for move in moves[:3])
    if len({part[0] for part in parts}) < len(parts) or len({part[1] for part in parts}) > 1:
        raise UsageError(f"run.init_from.map: {names} both become {to}; give one of them another name, or to: null")
    raise UsageError(
        f"run.init_from.map: {to} is joined from {of} arrays, of which there {'is' if len(parts) == 1 else 'are'} "
        f"{names} alone; give rules for the others"
    )


def _joined(to: str, moves: Sequence[Move], listed: Listed) -> np.ndarray:
    arrays = [_turned(listed.read(move.name), move) for move in moves]
    if len(arrays) == 1:
        return arrays[0]
    try:
        return np.concatenate(arrays, -1)
    except ValueError:
        shapes = " and ".join(f"{move.name} {list(array.shape)}" for move, array in zip(moves, arrays, strict=True))
        raise UsageError(f"run.init_from.map: {to} cannot be joined from {shapes}") from None


def _turned(array: np.ndarray, move: Move) -> np.ndarray:
    axes = move.rule.transpose
    if axes is None:
        return array
    if len(axes) != array.ndim:
        raise UsageError(
            f"run.init_from.map: transpose: {list(axes)} is for {len(axes)} axes, and {move.name} has {array.ndim}, "
            f"{list(array.shape)}"
        )
    return array.transpose(axes)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
