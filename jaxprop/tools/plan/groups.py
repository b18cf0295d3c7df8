"""Which devices of a mesh a collective runs among, from the forms that XLA writes replica groups in. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

_NUMBERS = re.compile(r"\d+")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?[^)]*)\))? ?\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_SLICES = re.compile(r'"?\{([\d,:]+)\}x\{([\d,:]+)\}')
A_SLICE = 100_000  # ids of the chips of one slice
_SIZE = re.compile(r"'([^']+)'=(\d+)")


def replica_groups(text: str, devices: int) -> np.ndarray | None:
    """Returns the groups `[G, S]` of the devices' places in the program's assignment.

    XLA writes them as lists, `{{0,1},{2,3}}`; as an iota, `[2,4]<=[4,2]T(1,0)`; or by the axes of a mesh of its own,
    `mesh['axis_0'=4,'axis_1'=2] {'axis_0'}`, whose devices may stand in another order and whose axes may be cut.

    Args:
      text: begins with what follows `replica_groups=`.
      devices: that the program runs on; an empty list of groups means all of them.

    Returns:
      The groups; None where the text has another form.

    Example:
      >>> replica_groups("[2,4]<=[4,2]T(1,0)", 8).tolist()
      [[0, 2, 4, 6], [1, 3, 5, 7]]
      >>> replica_groups("mesh['a'=4,'b'=2] {'b'}", 8).tolist()
      [[0, 1], [2, 3], [4, 5], [6, 7]]
    """
    if text.startswith("mesh["):
        return _of_mesh(text)
    if text.startswith("["):
        found = _IOTA.match(text)
        return None if found is None else _iota(found)
    listed = re.match(r"\{(\s*|\{.*?\})\}", text)
    if listed is None:
        return None
    groups = [[int(one) for one in _NUMBERS.findall(part)] for part in re.findall(r"\{([\d,\s]*)\}", listed[1])]
    if not groups:
        return np.arange(devices)[None]
    return np.array(groups) if len({len(group) for group in groups}) == 1 else None


def _iota(found: re.Match[str]) -> np.ndarray:
    shape = [int(one) for one in found[1].split(",")]
    return _reshaped(found).reshape(shape)


def _reshaped(found: re.Match[str]) -> np.ndarray:
    order = [int(one) for one in (found[2] or found[1]).split(",")]
    ids = np.arange(math.prod(order)).reshape(order)
    return ids.transpose([int(one) for one in found[3].split(",")]) if found[3] else ids


def _of_mesh(text: str) -> np.ndarray | None:
    found = _MESH.match(text)
    if found is None:
        return None
    sizes = {name: int(size) for name, size in _SIZE.findall(found[1])}
    ids = np.arange(math.prod(sizes.values()))
    if found[2]:
        iota = _IOTA.match(found[2])
        ids = _reshaped(iota).ravel() if iota else np.array([int(one) for one in _NUMBERS.findall(found[2])])
    # Each axis as (before, cut, after) of the part that takes part, so that a cut axis needs no other way.
    chosen = {name: (int(before or 1), int(cut or sizes[name])) for name, before, cut in _AXIS.findall(found[3])}
    shape: list[int] = []
    within: list[int] = []
    for name, size in sizes.items():
        before, cut = chosen.get(name, (1, 1))
        shape += [before, cut, size // (before * cut)]
        if name in chosen:
            within.append(len(shape) - 2)
    others = [axis for axis in range(len(shape)) if axis not in within]
    return ids.reshape(shape).transpose(others + within).reshape(-1, math.prod(shape[axis] for axis in within))


def slice_groups(text: str) -> np.ndarray | None:
    """Returns the groups `[G, S]` of the ids of chips that exchange arrays between slices of TPUs.

    A chip's id is 100000 times the number of its slice, from 1, and its number within the slice. XLA lists the ids,
    `{{100000,200000},{100001,200001}}`, or names slices and chips, `"{1,2}x{0:1}"`, of which the chips of one number
    are a group.

    Args:
      text: begins with what follows `_xla_megascale_target=`.

    Returns:
      The groups; None where the text has another form.

    Example:
      >>> slice_groups('"{1,2}x{0:1}"').tolist()
      [[100000, 200000], [100001, 200001]]
    """
    found = _SLICES.match(text)
    if found is None:
        return replica_groups(text, 0) if text.startswith("{{") else None
    slices, chips = (
        [i for part in listed.split(",") for i in range(int(part.split(":")[0]), int(part.split(":")[-1]) + 1)]
        for listed in found.groups()
    )
    return A_SLICE * np.array(slices) + np.array(chips)[:, None]


def pairs(text: str) -> np.ndarray:
    """Returns the pairs `[P, 2]` of source and target of a permutation.

    Args:
      text: begins with what follows `source_target_pairs=`.

    Example:
      >>> pairs("{{0,1},{1,0}}").tolist()
      [[0, 1], [1, 0]]
    """
    listed = re.match(r"\{[\d,{}\s]*\}", text)
    return np.array([int(one) for one in _NUMBERS.findall(listed[0] if listed else "")], int).reshape(-1, 2)


def axes_of(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes of a mesh along which the devices of a group differ.

    Args:
      groups: `[G, S]`, places in the mesh's order.
      mesh: axis -> size.

    Example:
      >>> axes_of(np.array([[0, 2], [1, 3]]), {"data": 2, "tensor": 2})
      ('data',)
    """
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())), -1)  # [G, S, axes]
    differ = (places != places[:, :1]).any((0, 1))
    return tuple(name for name, one in zip(mesh, differ, strict=True) if one)
