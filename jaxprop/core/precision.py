"""Mixed precision: which dtype holds parameters, which computes, casts, and the dynamic loss scale. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError, one_of
from jaxprop.types import PyTree
from jaxprop.untrusted import patterns


class Override(NamedTuple):
    """The dtype of some modules and parameters in place of the compute dtype.

    Args:
      match: regular expression that is searched for in their paths, such as `norm|head`; `softmax` is attention's.
      dtype: float32, bfloat16 or float16.
    """

    match: str
    dtype: Any


class Policy(NamedTuple):
    """Dtypes of a training run; `policy` makes one of names.

    Args:
      param: of the parameters as they are stored.
      compute: parameters and inputs are cast to it for the forward and backward pass.
      output: model outputs are cast to it before the loss.
      overrides: what is computed in another dtype, of which the first that matches counts.
      stochastic: whether an update of parameters in bfloat16 is computed in float32 and rounded at random, up or down
        with the probabilities that keep its mean; the state of the optimizer is float32 then. Otherwise gradients and
        the optimizer's state have the dtype of the parameters.
      tf32: whether products of float32 are computed in TF32, on GPUs that have it.

    Reference: Micikevicius et al., Mixed Precision Training, https://arxiv.org/abs/1710.03740
    """

    param: Any
    compute: Any
    output: Any
    overrides: tuple[Override, ...] = ()
    stochastic: bool = False
    tf32: bool = False


class LossScale(NamedTuple):
    """State of the dynamic loss scale; part of the train state.

    Args:
      scale: factor on the loss before differentiation, float32 scalar.
      good_steps: finite steps since the scale last changed, int32 scalar.
    """

    scale: jax.Array
    good_steps: jax.Array


class Scaling(NamedTuple):
    """Constants of the dynamic loss scale.

    Args:
      initial: first scale.
      growth_interval: finite steps in a row before the scale doubles.
      smallest, largest: bounds of the scale.
    """

    initial: float = 2.0**15
    growth_interval: int = 2000
    smallest: float = 1.0
    largest: float = 2.0**24


POLICIES = {
    "float64": Policy(jnp.float64, jnp.float64, jnp.float64),
    "float32": Policy(jnp.float32, jnp.float32, jnp.float32),
    "tf32": Policy(jnp.float32, jnp.float32, jnp.float32, tf32=True),
    "bfloat16": Policy(jnp.float32, jnp.bfloat16, jnp.float32),
    "float16": Policy(jnp.float32, jnp.float16, jnp.float32),
}


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}  # of an override
AMPERE = 8  # compute capability of the first GPUs with TF32
STORED = ("float32", "bfloat16")  # of the parameters


def policy(
    precision: str | Policy,
    *,
    params: str | None = None,
    overrides: Iterable[Override | tuple[str, Any]] = (),
) -> Policy:
    """Returns the policy of a name: `float32`, `tf32`, `bfloat16`, `float16`, or `float64` under x64.

    Args:
      precision: a name, or a policy, which is returned as it is but for the other arguments.
      params: what parameters are stored in, if not as the name says; `"bfloat16"` rounds updates stochastically.
      overrides: pairs of a regular expression and a dtype, for modules and parameters that are computed in another.

    Returns:
      The policy.

    Raises:
      UsageError: for an unknown name, float64 where jax has x64 off, or an override that is no such pair.

    Example:
      >>> policy("bfloat16").compute.__name__
      'bfloat16'
      >>> policy("bfloat16", overrides=[("norm|head", "float32")]).overrides[0].match
      'norm|head'
    """
    if isinstance(precision, Policy):
        made = precision
    elif precision not in POLICIES:
        raise UsageError(one_of(precision, POLICIES, "precision"))
    elif precision == "float64" and jax.dtypes.canonicalize_dtype("float64") != "float64":
        raise UsageError("precision 'float64' needs jax.config.update('jax_enable_x64', True) before the first array")
    else:
        made = POLICIES[precision]
    if params is not None:
        if params not in STORED:
            raise UsageError(one_of(params, STORED, "dtype of params"))
        made = made._replace(param=DTYPES[params], stochastic=params == "bfloat16")
    added = tuple(_override(one) for one in overrides)
    return made._replace(overrides=(*made.overrides, *added)) if added else made


def _override(given: Any) -> Override:
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], str):
        raise UsageError(f"expected an override to be a pair such as ('norm|head', 'float32'), got {given!r}")
    match, dtype = given
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
    if name not in DTYPES:
        raise UsageError(one_of(name, DTYPES, "dtype of an override"))
    if (wrong := patterns.check(match)) is not None:
        raise UsageError(f"expected a regular expression in an override, got {match!r}: {wrong}")
    return Override(match, jnp.dtype(DTYPES[name]))


def check_device(dtypes: Policy, device: Any) -> None:
    """Raises UsageError where a device cannot compute as a policy says, as one without TF32.

    Args:
      dtypes: the policy.
      device: a `jax.Device`.

    Example:
      >>> check_device(policy("tf32"), jax.devices("cpu")[0])
      Traceback (most recent call last):
      jaxprop.errors.UsageError: precision tf32 needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer, and ...
    """
    if not dtypes.tf32:
        return
    # AMD's GPUs report a name such as gfx942 here, and a GPU that is only compiled for may report nothing.
    capability = str(getattr(device, "compute_capability", "") or "")
    number = re.fullmatch(r"(\d+)\.\d+", capability)
    unfit = capability and (number is None or int(number[1]) < AMPERE)
    if device.platform not in ("gpu", "cuda") or unfit:
        instead = "float32" if device.platform == "cpu" else "float32, or bfloat16 for speed"
        raise UsageError(
            "precision tf32 needs an NVIDIA GPU of compute capability 8.0 (Ampere) or newer, and this device is "
            f"{getattr(device, 'device_kind', None) or device.platform}; use {instead}"
        )


def needs_scaling(dtypes: Policy) -> bool:
    """Returns whether gradients can underflow in what is computed with, as in float16 and not in bfloat16.

    Example:
      >>> needs_scaling(policy("float16")), needs_scaling(policy("bfloat16"))
      (True, False)
    """
    return any(jnp.dtype(dtype) == jnp.float16 for dtype in (dtypes.compute, *(one.dtype for one in dtypes.overrides)))


def init_loss_scale(scaling: Scaling) -> LossScale:
    """Returns the loss scale's state before the first step.

    Example:
      >>> init_loss_scale(Scaling(initial=8.0)).scale.item()
      8.0
    """
    return LossScale(jnp.float32(scaling.initial), jnp.int32(0))


def next_loss_scale(state: LossScale, finite: jax.Array, scaling: Scaling) -> LossScale:
    """Halves the scale after a non-finite step, and doubles it after N finite steps in a row.

    Args:
      state: the scale used in this step.
      finite: whether loss and gradients were finite, boolean scalar.
      scaling: the constants.

    Returns:
      The state for the next step.

    Example:
      >>> now = init_loss_scale(Scaling(initial=8.0))
      >>> next_loss_scale(now, jnp.array(False), Scaling()).scale.item()
      4.0

    Reference: Micikevicius et al., Mixed Precision Training, section 3.2, https://arxiv.org/abs/1710.03740
    """
    good_steps = jnp.where(finite, state.good_steps + 1, 0)
    grow = good_steps >= scaling.growth_interval
    factor = jnp.where(finite, jnp.where(grow, jnp.float32(2.0), jnp.float32(1.0)), jnp.float32(0.5))
    scale = jnp.clip(state.scale * factor, jnp.float32(scaling.smallest), jnp.float32(scaling.largest))
    return LossScale(scale, jnp.where(grow, 0, good_steps))


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype that sums and statistics of a dtype are taken in: float64 of float64, else float32.

    Example:
      >>> wide_dtype(jnp.bfloat16).name
      'float32'
    """
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def wide(x: jax.Array) -> jax.Array:
    """Returns an array in the dtype that its sums are taken in; see `wide_dtype`.

    Example:
      >>> wide(jnp.ones(2, jnp.float16)).dtype.name
      'float32'
    """
    return x.astype(wide_dtype(x.dtype))


def masters(params: PyTree, dtypes: Policy) -> PyTree:
    """Returns parameters as gradients are taken by them and updates are added to them: float32 where they are rounded.

    Args:
      params: as they are stored.
      dtypes: the policy.

    Example:
      >>> stored = {"w": jnp.ones(2, jnp.bfloat16)}
      >>> masters(stored, policy("bfloat16", params="bfloat16"))["w"].dtype.name
      'float32'
    """
    if not dtypes.stochastic:
        return params
    return jax.tree.map(lambda x: wide(x) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)


def rounded(params: PyTree, dtypes: Policy, key: jax.Array) -> PyTree:
    """Rounds updated parameters to what they are stored in, up or down at random so that the mean is kept.

        P(up) = (x - down) / (up - down),   E[round(x)] = x

    A value that bfloat16 holds stays as it is, and so does one that is not finite.

    Args:
      params: float32, as `masters` has returned them and an update has changed them.
      dtypes: the policy; nothing is rounded unless it is stochastic.
      key: PRNG key; each leaf has one of its own.

    Example:
      >>> x = {"w": jnp.full(4096, 1 + 2.0**-9)}  # a quarter of the way from 1 to the next number
      >>> up = rounded(x, policy("bfloat16", params="bfloat16"), jax.random.key(0))["w"] > 1
      >>> round(float(up.mean()), 1)
      0.2

    Reference:
      Gupta et al., Deep Learning with Limited Numerical Precision, 2015. https://arxiv.org/abs/1502.02551
    """
    if not dtypes.stochastic:
        return params
    leaves, treedef = jax.tree.flatten(params)
    drawn = [_rounded(x, jax.random.fold_in(key, i), dtypes.param) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)


def _rounded(x: jax.Array, key: jax.Array, dtype: DTypeLike) -> jax.Array:
    if x.dtype != jnp.float32 or jnp.dtype(dtype) != jnp.bfloat16:
        return x
    # bfloat16 is the upper half of float32. Random numbers of 16 bits, added to the lower half, carry into the upper
    # one with just the probability of rounding away from zero.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    carried = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), carried, x).astype(dtype)


def cast_floating(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Casts the floating-point leaves of a pytree and leaves the others as they are.

    Args:
      tree: any pytree of arrays.
      dtype: the floating dtype to cast to.

    Returns:
      The same structure.

    Example:
      >>> out = cast_floating({"x": jnp.zeros(2), "label": jnp.zeros(2, jnp.int32)}, jnp.bfloat16)
      >>> out["x"].dtype.name, out["label"].dtype.name
      ('bfloat16', 'int32')
    """

    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def cast_keys(batch: PyTree, dtype: DTypeLike, keys: Sequence[str] | bool) -> PyTree:
    """Casts the floating-point leaves of a batch that lie under some of its keys, and rounds no other.

    What is only compared or counted must not be rounded: in bfloat16 a target of 1001 would become 1000, and so would
    a sum of weights.

    Args:
      batch: any pytree of arrays.
      dtype: the compute dtype.
      keys: keys of the batch, or paths into it such as `"pair/left"`; True for everything. A leaf elsewhere is cast
        only where the compute dtype holds all its values, as float64 does those of float32.

    Returns:
      The same structure.

    Example:
      >>> out = cast_keys({"inputs": jnp.zeros(2), "weight": jnp.ones(2)}, jnp.bfloat16, ("inputs",))
      >>> out["inputs"].dtype.name, out["weight"].dtype.name
      ('bfloat16', 'float32')
    """
    if keys is True:
        return cast_floating(batch, dtype)
    leaves, treedef = jax.tree.flatten(batch)
    cast = [
        cast_floating(leaf, dtype) if lies_under(path, keys or ()) or holds(dtype, leaf.dtype) else leaf
        for path, leaf in zip(leaf_paths(batch), leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, cast)


def holds(dtype: DTypeLike, smaller: DTypeLike) -> bool:
    """Whether a floating dtype has all values of another one.

    Example:
      >>> holds(jnp.float32, jnp.bfloat16), holds(jnp.bfloat16, jnp.float16)
      (True, False)
    """
    if not jnp.issubdtype(smaller, jnp.floating):
        return False
    a, b = jnp.finfo(smaller), jnp.finfo(dtype)
    return a.nmant <= b.nmant and a.maxexp <= b.maxexp


def lies_under(path: str, keys: Iterable[str]) -> bool:
    """Whether a leaf's path is one of the keys or lies under one.

    Example:
      >>> lies_under("pair/left", ["pair"]), lies_under("pairs", ["pair"])
      (True, False)
    """
    return any(path == key or path.startswith(f"{key}/") for key in keys)


def promoting(function: Callable) -> Callable:
    """Runs optax under standard dtype promotion: it raises floats to integer powers, which strict mode refuses.

    Example:
      >>> with jax.numpy_dtype_promotion("strict"):
      ...     float(promoting(lambda x: x + jnp.int32(1))(jnp.float32(1)))
      2.0
    """

    def standard(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return standard
