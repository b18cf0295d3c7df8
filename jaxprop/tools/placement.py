"""Where the arrays of a train state would lie on a mesh, and what each device would hold of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from jaxprop.config.schema.config import Config
from jaxprop.core import trees
from jaxprop.errors import UsageError, one_of
from jaxprop.parallel.mesh import AXES, DATA_AXIS
from jaxprop.parallel.offload import is_offloaded
from jaxprop.parallel.rules import check_rules, following, parameter_specs
from jaxprop.run.compose import compose
from jaxprop.run.steps import rules_of

PARTS = ("params", "opt_state", "ema", "extras")


class Placed(NamedTuple):
    """One parameter.

    Args:
      path: such as `blocks/0/mlp/up/kernel`.
      shape: of all of it.
      spec: for each dimension the axes that it is split over.
      bytes: that each device holds of it.
    """

    path: str
    shape: tuple[int, ...]
    spec: tuple[tuple[str, ...], ...]
    bytes: int


class Placement(NamedTuple):
    """A state on a mesh.

    Args:
      mesh: devices along each axis.
      parameters: in the order of the leaves.
      bytes: `{part: (bytes in all, bytes that each device holds)}` of the parts of the state.
    """

    mesh: dict[str, int]
    parameters: tuple[Placed, ...]
    bytes: dict[str, tuple[int, int]]


def read_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of a mesh; axes that are left out have one device.

    Raises:
      UsageError: it has another form, or another axis.

    Example:
      >>> read_mesh("fsdp=4,tensor=2")
      {'data': 1, 'fsdp': 4, 'tensor': 2}
    """
    sizes = {DATA_AXIS: 1}
    for item in text.split(","):
        name, _, size = item.strip().partition("=")
        if name not in AXES:
            raise UsageError(f"--mesh: {one_of(name, AXES, 'axis')}; write it as fsdp=4,tensor=2")
        if not (size.isascii() and size.isdecimal() and int(size) > 0):
            raise UsageError(f"--mesh: expected a number of devices for {name}, got {size!r}; write it as {name}=4")
        sizes[name] = int(size)
    return sizes


def place(config: Config, sizes: dict[str, int]) -> Placement:
    """Places the state of a configuration on a mesh; no device of it has to be there, and nothing is compiled.

    Args:
      config: the configuration, whose `parallel.rules` count and whose `parallel.mesh` does not.
      sizes: devices along each axis, from `read_mesh`.

    Raises:
      JaxpropError: the configuration cannot be built, or a rule does not fit.
    """
    single = {"devices": 1, "mesh": type(config.parallel.mesh).model_validate({}), "offload_optimizer": False}
    one = config.parallel.model_copy(update=single)
    experiment = compose(config.model_copy(update={"parallel": one}))
    state: Any = jax.eval_shape(lambda: experiment.init(config.run.seed))
    names = tuple(name for name in AXES if name in sizes)
    mesh: Any = AbstractMesh(tuple(sizes[name] for name in names), names)
    rules = rules_of(config)
    check_rules(rules, state.params, mesh)
    specs = parameter_specs(state.params, mesh, rules)
    where = following(state.params, specs, mesh)
    leaves = list(zip(trees.leaf_paths(state.params), jax.tree.leaves(state.params), specs, strict=True))
    held = {}
    for part in PARTS:
        tree = getattr(state, part)
        paths = [f"{part}/{path}" for path in trees.leaf_paths(tree)]
        moved = part == "opt_state" and config.parallel.offload_optimizer
        found = zip(paths, jax.tree.leaves(tree), strict=True)
        each = sum(_held(leaf, where(path, leaf), sizes) for path, leaf in found if not (moved and is_offloaded(leaf)))
        held[part] = (trees.size_bytes(tree), each)
    return Placement(
        {name: sizes[name] for name in names},
        tuple(
            Placed(path, leaf.shape, _axes(spec, leaf.ndim), _held(leaf, spec, sizes)) for path, leaf, spec in leaves
        ),
        held,
    )


def _axes(spec: PartitionSpec, dimensions: int) -> tuple[tuple[str, ...], ...]:
    entries = [(entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in spec]
    return tuple(entries + [()] * (dimensions - len(entries)))


def _held(leaf: Any, spec: PartitionSpec, sizes: dict[str, int]) -> int:
    parts = math.prod(sizes[name] for names in _axes(spec, len(leaf.shape)) for name in names)
    return math.prod(leaf.shape) * leaf.dtype.itemsize // parts
