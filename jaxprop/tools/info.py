"""Describes what a configuration builds, without training: layers, sizes, and the cost of one train step."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.core import trees
from jaxprop.core.jaxprs.products import products
from jaxprop.data import one_pass
from jaxprop.models.lora import unmerged
from jaxprop.parallel.placement import place_batch
from jaxprop.run import compose
from jaxprop.run.precision import policy_of
from jaxprop.train.estimators import described
from jaxprop.train.parts import Leaf
from jaxprop.types import PyTree, TrainState


class Layer(NamedTuple):
    """The parameters of one layer, grouped as in the rows of a run's `layers.jsonl`.

    Args:
      name: the layer's path.
      shapes: name of each of its parameters -> shape.
      dtypes: the distinct dtypes of its parameters.
      parameters: number of scalars.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: tuple[str, ...]
    parameters: int


class Moved(NamedTuple):
    """Parameters that one optimizer moves at one rate and one weight decay.

    Args:
      optimizer, group, lr, by_width, weight_decay: as `jaxprop.train.parts.Leaf` has them.
      parameters: number of scalars.
      paths: of the parameters, in order.
    """

    optimizer: str
    group: str | None
    lr: float | None
    by_width: float
    weight_decay: float | None
    parameters: int
    paths: tuple[str, ...]


class Cost(NamedTuple):
    """The cost of one train step as XLA reports it; None if the backend does not report it.

    Args:
      flops: floating-point operations for the whole batch, over all devices and microbatches.
      loops: whether the model has loops; XLA counts their body once, so that the true number exceeds `flops`.
      argument_bytes: size of the state and the batch on each device; the new state reuses the memory of the old one.
      temporary_bytes: further memory that the step needs on each device.
      peak_bytes: the total on each device.
    """

    flops: float | None
    loops: bool
    argument_bytes: int | None
    temporary_bytes: int | None
    peak_bytes: int | None


class Device(NamedTuple):
    """Devices of one kind; `memory_bytes` is the memory of each, or None if unknown."""

    platform: str
    kind: str
    number: int
    memory_bytes: int | None


class Description(NamedTuple):
    """What `jaxprop info` shows.

    Args:
      layers: the layers in the order of their first parameter.
      parameters: number of scalars in all layers.
      frozen: number of those that the optimizer does not update.
      bytes: `params`, `opt_state`, `ema`, `extras` -> their size in bytes.
      cost: cost of one train step.
      devices: the devices that the run uses.
      data: numbers of train and test examples, batch size, batches per epoch, and steps of the run.
      reference: metrics of a trivial predictor on the test split.
      gradient: where it is an estimate, by which estimator, and what that costs; None for the backward pass.
      products: where `precision.quantize` is set, how many products and convolutions the gradient, or a forward pass
        where the gradient is an estimate, has of each dtype of operands, such as `{"int8": 9, "float32": 2}`.
      optimizers: which parameters are moved by what.
      adapted: path of each weight that `lora` has adapters for, and their number of scalars.
    """

    layers: tuple[Layer, ...]
    parameters: int
    frozen: int
    bytes: dict[str, int]
    cost: Cost
    devices: tuple[Device, ...]
    data: dict[str, int]
    reference: Mapping[str, float]
    gradient: str | None = None
    products: Mapping[str, int] = {}
    optimizers: tuple[Moved, ...] = ()
    adapted: Mapping[str, int] = {}


def describe(config: Config) -> Description:
    """Builds the model and data of a configuration and compiles its train step, without writing any file.

    Args:
      config: the configuration.

    Returns:
      The description.

    Raises:
      JaxpropError: the data, the model, the optimizer and the devices do not fit together.
    """
    single = _with_run(config, steps_per_call=1)  # the cost of one step, not of one call
    experiment = compose.compose(single)
    state = experiment.init(single.run.seed)
    assert experiment.optimizer is not None
    scales = experiment.optimizer.lr_scales
    sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(state.params)]
    mesh = experiment.mesh
    return Description(
        layers=tuple(describe_layers(state.params)),
        parameters=sum(sizes),
        frozen=sum(size for size, scale in zip(sizes, scales, strict=True) if scale == 0),
        bytes={name: trees.size_bytes(getattr(state, name)) for name in ("params", "opt_state", "ema", "extras")},
        cost=_cost(experiment, state),
        devices=describe_devices(list(mesh.devices.flat) if mesh else jax.local_devices()[:1]),
        data=_data(config, experiment),
        reference=experiment.task.reference,
        gradient=described(experiment.step.recipe.gradient),
        products=_products(config, experiment, state),
        optimizers=tuple(describe_optimizers(state.params, experiment.optimizer.leaves)),
        adapted=_adapted(config, state),
    )


def describe_optimizers(params: PyTree, leaves: Sequence[Leaf]) -> list[Moved]:
    """Groups parameters by what moves them.

    Args:
      params: any pytree of arrays.
      leaves: what moves each of them.

    Returns:
      One entry for each optimizer, rate and weight decay, in the order of their first parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
      >>> [(one.optimizer, one.parameters, one.paths) for one in describe_optimizers(params, [Leaf("sgd")] * 2)]
      [('sgd', 7, ('a', 'b'))]
    """
    members: dict[Leaf, list[tuple[str, int]]] = {}
    for path, leaf, moved in zip(trees.leaf_paths(params), jax.tree.leaves(params), leaves, strict=True):
        members.setdefault(moved, []).append((path, int(np.size(leaf))))
    return [
        Moved(*moved, sum(count for _, count in of), tuple(path for path, _ in of)) for moved, of in members.items()
    ]


def describe_layers(params: PyTree) -> list[Layer]:
    """Groups parameters by the layer that holds them.

    Args:
      params: any pytree of arrays.

    Returns:
      One entry for each layer.

    Example:
      >>> import jax.numpy as jnp
      >>> [(layer.name, layer.shapes, layer.parameters) for layer in describe_layers({"head": {"bias": jnp.zeros(3)}})]
      [('head', {'bias': (3,)}, 3)]
    """
    names, owners = trees.layer_names(params)
    members: list[dict[str, Any]] = [{} for _ in names]
    for path, leaf, owner in zip(trees.leaf_paths(params), jax.tree.leaves(params), owners, strict=True):
        members[owner][path.rpartition("/")[2]] = leaf
    return [
        Layer(
            name,
            {key: tuple(leaf.shape) for key, leaf in leaves.items()},
            tuple(dict.fromkeys(str(leaf.dtype) for leaf in leaves.values())),
            sum(math.prod(leaf.shape) for leaf in leaves.values()),
        )
        for name, leaves in zip(names, members, strict=True)
    ]


def describe_devices(devices: list[jax.Device]) -> tuple[Device, ...]:
    """Counts devices by kind.

    Example:
      >>> [device.platform for device in describe_devices(jax.devices("cpu")[:1])]
      ['cpu']
    """
    kinds: dict[tuple[str, str], list[jax.Device]] = {}
    for device in devices:
        kinds.setdefault((device.platform, device.device_kind), []).append(device)
    return tuple(
        Device(platform, kind, len(same), (same[0].memory_stats() or {}).get("bytes_limit"))
        for (platform, kind), same in kinds.items()
    )


def _with_run(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update=changes)})


def _cost(experiment: compose.Experiment, state: TrainState) -> Cost:
    config, batch = experiment.config, _batch(experiment)
    lowered = experiment.step.lower(state, batch)
    memory = lowered.compile().memory_analysis()
    # Operations are counted on the step without accumulation: the loop over microbatches would be counted once.
    whole = experiment if config.run.accumulate == 1 else compose.compose(_with_run(config, accumulate=1))
    counted = (lowered if whole is experiment else whole.step.lower(state, batch)).cost_analysis()
    program = str(jax.make_jaxpr(whole.step)(state, batch))
    flops, loops = (counted or {}).get("flops"), re.search(r"\bscan\[", program) is not None
    if memory is None:
        return Cost(flops, loops, None, None, None)
    held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return Cost(
        flops, loops, held, temporary, held + temporary + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )


def _adapted(config: Config, state: TrainState) -> dict[str, int]:
    if config.lora is None:
        return {}
    return {path: int(a.size + b.size) for path, (a, b) in unmerged(state.params, config.lora).items()}


def _products(config: Config, experiment: compose.Experiment, state: TrainState) -> dict[str, int]:
    if config.precision.quantize is None:
        return {}
    # Of the loss alone: full records of health have products of their own, and are taken in few steps.
    mean_loss, computes = experiment.task.objective.mean_loss, policy_of(config)
    batch = next(one_pass(experiment.sources["train"], config.data.batch_size))

    def loss(params: PyTree) -> Any:
        return mean_loss(params, state.extras, batch, state.key, computes)[0]

    found: Counter[str] = Counter()
    differentiated = jax.grad(loss) if experiment.step.recipe.gradient is None else loss
    for one in products(jax.make_jaxpr(differentiated)(state.params)):
        found[one.operands] += one.times
    return dict(found)


def _batch(experiment: compose.Experiment) -> Any:
    # the largest there is, where batches have several lengths
    batch = next(one_pass(experiment.sources["train"], experiment.config.data.batch_size))
    mesh = experiment.mesh
    return batch if mesh is None else place_batch(batch, mesh)


def _data(config: Config, experiment: compose.Experiment) -> dict[str, int]:
    per_epoch = experiment.stream.batches_per_epoch
    sizes = {f"{split}_examples": source.length for split, source in experiment.sources.items()}
    return sizes | {
        "batch_size": config.data.batch_size,
        "batches_per_epoch": per_epoch,
        "total_steps": experiment.total_steps,
    }
