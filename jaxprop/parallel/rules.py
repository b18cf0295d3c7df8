"""Where parameters, and the state of the optimizer that belongs to them, lie on a mesh: rules as data. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from jaxprop.core import trees
from jaxprop.errors import UsageError, one_of
from jaxprop.parallel.mesh import AXES
from jaxprop.types import PyTree
from jaxprop.untrusted.patterns import check, fullmatch

Entry = str | None | Sequence[str]
SMALL = 1024  # numbers; a smaller array is on every device, since gathering it would cost more than it saves


class Rule(NamedTuple):
    """Where the parameters lie whose path a pattern matches.

    Args:
      match: a regular expression that the path of a parameter, such as `blocks/0/mlp/up/kernel`, has to match as a
        whole.
      spec: for each dimension the axis of the mesh that it is split over, several of them, or None for no split.
        Dimensions at the end may be left out. Axes that the mesh has not are passed over, so that one set of rules
        serves every mesh.
    """

    match: str
    spec: tuple[Entry, ...] = ()


# The layers of a transformer as in Megatron-LM: a product splits its outputs, the next one its inputs, so that the two
# need one sum over `tensor`. Of other layers, convolutions and products split their outputs.
BUILT_IN: tuple[Rule, ...] = (
    Rule(r"(.*/)?(attn/out|cross/out|mlp/down)/kernel", ("tensor", "fsdp")),
    Rule(r"(.*/)?(attn/qkv|cross/kv|cross/query|mlp/up|mlp/gate)/kernel", ("fsdp", "tensor")),
    Rule(r"(.*/)?(attn/qkv|cross/kv|cross/query|mlp/up|mlp/gate)/bias", ("tensor",)),
    Rule(r"(.*/)?embed/embedding", ("tensor", "fsdp")),
    Rule(r"(.*/)?head/kernel", ("fsdp", "tensor")),
    Rule(r"(.*/)?dense/kernel", ("fsdp", "tensor")),
    Rule(r"(.*/)?conv/kernel", (None, None, "fsdp", "tensor")),
)
# Reference: Shoeybi et al., Megatron-LM, 2019. https://arxiv.org/abs/1909.08053; Rajbhandari et al., ZeRO, 2019.
# https://arxiv.org/abs/1910.02054


def parameter_specs(params: PyTree, mesh: Mesh, rules: Sequence[Rule] = (), small: int = SMALL) -> list[PartitionSpec]:
    """Returns where each parameter lies, in the order of the leaves.

    The first rule that matches counts: of those that are given, then of those for the built-in models. A parameter that
    none matches, and one whose rule leaves `fsdp` out because it does not divide it, is split over `fsdp` along the
    largest dimension that can be divided.

    Args:
      params: arrays, or their shapes.
      mesh: from `make_mesh`.
      rules: of the user's own.
      small: arrays of fewer numbers are not split but by the user's own rules.

    Raises:
      UsageError: a rule does not divide a parameter that it matches, or has more entries than that has dimensions.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> params = {"bias": np.zeros(8), "kernel": np.zeros((16, 64))}
      >>> [tuple(spec) for spec in parameter_specs(params, make_mesh(1))]
      [(), ()]
    """
    paths, leaves = trees.leaf_paths(params), jax.tree.leaves(params)
    return [_spec(path, leaf.shape, mesh, rules, small) for path, leaf in zip(paths, leaves, strict=True)]


def following(
    params: PyTree, specs: Sequence[PartitionSpec], mesh: Mesh, small: int = SMALL
) -> Callable[[str, Any], PartitionSpec]:
    """Returns `(path, array) -> spec` for a whole train state: what belongs to a parameter lies as that does.

    An array belongs to a parameter if its path ends like the parameter's and it has the same shape, as the moments of
    Adam and moving averages do. What the optimizer keeps besides, such as factors of its moments, is split over `fsdp`
    along the largest dimension that can be divided; all else is on every device.

    Args:
      params: the parameters of the state.
      specs: where they lie, from `parameter_specs`.
      mesh: what the specs are over.
      small: as in `parameter_specs`.

    Example:
      >>> import numpy as np
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> kernel = np.zeros((16, 64))
      >>> where = following({"kernel": kernel}, [PartitionSpec("fsdp")], make_mesh(1))
      >>> tuple(where("opt_state/0/mu/kernel", kernel)), tuple(where("opt_state/0/count", np.zeros(())))
      (('fsdp',), ())
    """
    leaves = jax.tree.leaves(params)
    known = {path: (leaf.shape, spec) for path, leaf, spec in zip(trees.leaf_paths(params), leaves, specs, strict=True)}

    def where(path: str, leaf: Any) -> PartitionSpec:
        steps = path.split("/")
        for start in range(len(steps)):
            shape, spec = known.get("/".join(steps[start:]), (None, PartitionSpec()))
            if shape == leaf.shape:
                return spec
        return _automatic(leaf.shape, mesh, (), small) if steps[0] == "opt_state" else PartitionSpec()

    return where


def without(spec: PartitionSpec, axis: str) -> PartitionSpec:
    """Returns a spec without the splits over one axis.

    Example:
      >>> tuple(without(PartitionSpec("tensor", "fsdp"), "fsdp"))
      ('tensor',)
    """
    entries = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
    return _made([tuple(name for name in names if name != axis) for names in entries])


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Sequence[Rule], small: int) -> PartitionSpec:
    for rule in rules:
        if fullmatch(rule.match, path):
            return _exact(rule, path, shape, mesh)
    entries: tuple[Entry, ...] = ()
    if math.prod(shape) >= small:
        fitting = (rule for rule in BUILT_IN if fullmatch(rule.match, path) and len(rule.spec) <= len(shape))
        entries = _divided(next(fitting, Rule("")).spec, shape, mesh)
    return _automatic(shape, mesh, entries, small)


def _exact(rule: Rule, path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec of a user's own rule, which has to fit."""
    if len(rule.spec) > len(shape):
        raise UsageError(
            f"the rule {rule.match!r} has {len(rule.spec)} entries, and {path} has the shape {list(shape)}; give at "
            f"most {len(shape)}"
        )
    entries = [_there(entry, mesh) for entry in rule.spec]
    for axis, (size, names) in enumerate(zip(shape, entries, strict=False)):
        count = math.prod(mesh.shape[name] for name in names)
        if size % count:
            raise UsageError(
                f"the rule {rule.match!r} splits dimension {axis} of {path} over {' and '.join(names)}, and its size "
                f"{size} is no multiple of their {count} devices; use null there, or another size of the mesh"
            )
    return _made(entries)


def _divided(spec: Sequence[Entry], shape: tuple[int, ...], mesh: Mesh) -> tuple[Entry, ...]:
    """The entries of a rule that divide an array; the others are left out."""
    entries = [_there(entry, mesh) for entry in spec]
    return tuple(
        names if size % math.prod(mesh.shape[name] for name in names) == 0 else ()
        for names, size in zip(entries, shape, strict=False)
    )


def _automatic(shape: tuple[int, ...], mesh: Mesh, entries: Sequence[Entry], small: int) -> PartitionSpec:
    """The entries, with `fsdp` along the largest dimension that is free and can be divided, if they have none."""
    taken = [_there(entry, mesh) for entry in entries] + [()] * (len(shape) - len(entries))
    count = mesh.shape.get("fsdp", 1)
    free = [axis for axis, size in enumerate(shape) if not taken[axis] and size % count == 0]
    if count > 1 and free and math.prod(shape) >= small and not any("fsdp" in names for names in taken):
        taken[max(free, key=lambda axis: shape[axis])] = ("fsdp",)
    return _made(taken)


def _there(entry: Entry, mesh: Mesh) -> tuple[str, ...]:
    """The axes of an entry that the mesh has."""
    names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
    return tuple(name for name in names if name in mesh.shape)


def _made(entries: Sequence[tuple[str, ...]]) -> PartitionSpec:
    last = max((i for i, names in enumerate(entries) if names), default=-1)
    return PartitionSpec(*[names[0] if len(names) == 1 else names or None for names in entries[: last + 1]])


def check_rules(rules: Sequence[Rule], params: PyTree, mesh: Mesh) -> None:
    """Raises UsageError where a rule matches no parameter, names an axis twice, or one that no mesh has.

    Args:
      rules: of the user's own.
      params: arrays, or their shapes.
      mesh: what they are over; its axes are known besides those of `make_mesh`.

    Example:
      >>> from jaxprop.parallel.mesh import make_mesh
      >>> check_rules([Rule("w", ("fsdpp",))], {"w": 1.0}, make_mesh(1))
      Traceback (most recent call last):
      jaxprop.errors.UsageError: the rule 'w': unknown axis of the mesh 'fsdpp'; did you mean 'fsdp'? (known: data, \
fsdp, sequence, tensor)
    """
    paths = trees.leaf_paths(params)
    known = dict.fromkeys([*AXES, *mesh.axis_names])
    for rule in rules:
        if problem := check(rule.match):
            raise UsageError(f"the rule {rule.match!r} is no regular expression: {problem}")
        names = [name for entry in rule.spec for name in ((entry,) if isinstance(entry, str) else entry or ())]
        for name in names:
            if name not in known:
                raise UsageError(f"the rule {rule.match!r}: {one_of(name, known, 'axis of the mesh')}")
            if names.count(name) > 1:
                raise UsageError(f"the rule {rule.match!r} names the axis {name} twice; an array is split over it once")
        if not any(fullmatch(rule.match, path) for path in paths):
            raise UsageError(
                f"the rule {rule.match!r} matches no parameter; there are: {', '.join(paths[:8])}"
                f"{', ...' if len(paths) > 8 else ''}"
            )
