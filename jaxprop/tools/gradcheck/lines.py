"""A loss in float64 along lines through its parameters: values, slopes and gradients, each compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxprop.core.jaxprs import evaluate
from jaxprop.core.jaxprs.sites import site_of
from jaxprop.core.jaxprs.walk import RULES, equations
from jaxprop.core.precision import policy
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ShapeError, UsageError
from jaxprop.train.objective import LossFn, as_objective
from jaxprop.types import Batch, Objective, PyTree


class Point(NamedTuple):
    """Parameters as one vector, and what else the loss takes.

    Args:
      flat: every floating-point parameter, float64 `[N]`.
      paths, shapes: of the floating-point leaves.
      starts: where each begins in `flat`, and N.
      fixed: paths of the leaves that are not differentiated.
      rest: what the traced loss takes besides `flat`.
    """

    flat: np.ndarray
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    fixed: tuple[str, ...]
    rest: list[Any]


class Ray(NamedTuple):
    """A direction: `scale` times a stored direction between two places of the vector, nothing elsewhere."""

    start: int
    stop: int
    stored: int
    scale: float


def trace(
    loss_fn: LossFn | Objective, params: PyTree, batch: Batch, key: Any, extras: PyTree
) -> tuple[Point, ClosedJaxpr]:
    """Traces a loss as a function of one float64 vector; to be called under `jax.enable_x64`.

    Raises:
      UsageError: there is nothing to differentiate, or the loss cannot be traced.
      ShapeError: the loss is no scalar.
    """
    leaves, structure = jax.tree.flatten(params)
    paths = leaf_paths(params)
    real = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    if not any(real):
        raise UsageError("there is nothing to differentiate: params has no floating-point leaf; give it float32 arrays")
    wide = [np.asarray(leaf, np.float64) for leaf, flag in zip(leaves, real, strict=True) if flag]
    shapes, sizes = tuple(x.shape for x in wide), [x.size for x in wide]
    starts = tuple(int(n) for n in np.cumsum([0, *sizes]))
    fixed = [leaf for leaf, flag in zip(leaves, real, strict=True) if not flag]
    objective = as_objective(loss_fn if isinstance(loss_fn, Objective) else _checked(loss_fn))

    def loss(flat: jax.Array, fixed: list[Any], extras: PyTree, batch: Batch, key: Any) -> jax.Array:
        parts = iter(flat[a:b].reshape(s) for a, b, s in zip(starts, starts[1:], shapes, strict=False))
        others = iter(fixed)
        joined = jax.tree.unflatten(structure, [next(parts if flag else others) for flag in real])
        return objective.mean_loss(joined, extras, batch, key, policy("float64"))[0]

    flat = np.concatenate([x.ravel() for x in wide])
    rest = jax.tree.map(_widened, (fixed, extras, batch, key))
    traced = with_sentence("traced", lambda: jax.make_jaxpr(loss)(flat, *rest))
    named = [tuple(p for p, flag in zip(paths, real, strict=True) if flag is wanted) for wanted in (True, False)]
    return Point(flat, named[0], shapes, starts, named[1], jax.tree.leaves(rest)), traced


def _widened(leaf: Any) -> Any:
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(np.asarray(leaf, np.float64))
    return leaf if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jnp.asarray(leaf)


def _checked(loss_fn: LossFn) -> LossFn:
    """The function, which tells what it returns that has no gradient, before the objective casts it."""

    def loss(params: PyTree, batch: Batch, key: Any) -> Any:
        out = loss_fn(params, batch, key)
        value = out[0] if isinstance(out, tuple) and out else out
        if not hasattr(value, "dtype") and not isinstance(value, int | float):
            raise UsageError(f"expected the loss function to return a scalar, got {type(value).__name__}")
        if jnp.shape(value) != ():
            raise ShapeError(
                f"expected the loss function to return a scalar, got shape {jnp.shape(value)}; average it over the "
                "batch, for example with jnp.mean"
            )
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise UsageError(
                f"expected a floating-point loss, got {jnp.result_type(value).name}, which has no gradient; an argmax, "
                "a count or a comparison cannot be differentiated"
            )
        return out

    return loss


def with_sentence(what: str, run: Callable[[], Any]) -> Any:
    """Runs what traces or differentiates the loss, and tells what makes that impossible in one sentence."""
    try:
        return run()
    except jax.errors.TracerArrayConversionError as error:
        raise UsageError("the loss function hands a traced value to NumPy; use jax.numpy there") from error
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError) as error:
        raise UsageError(
            "the loss function needs the value of a traced array, as `if`, `while`, `int()` and a shape do; use "
            "jnp.where, jax.lax.cond or a static value there"
        ) from error
    except (NotImplementedError, ValueError, TypeError) as error:
        if isinstance(error, ShapeError | UsageError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"the loss cannot be {what} in float64: {first}") from error


class Lines:
    """The loss along rays from a point.

    Args:
      traced: `(flat, *rest) -> loss`.
      point: with what it was traced for.
      flat: where the rays begin, `[N]`.
      stored: directions `[D, N]`.
      most: evaluations that one call makes at most.
    """

    def __init__(self, traced: ClosedJaxpr, point: Point, flat: np.ndarray, stored: np.ndarray, most: int):
        self.traced, self.rest, self.flat = traced, point.rest, jnp.asarray(flat)
        self.stored, self._most = jnp.asarray(stored), most
        self._reverse = jax.jit(jax.value_and_grad(self._loss({})))
        self._values = self._looped(self._value)
        self._slopes: dict[str, Any] = {}

    def _loss(self, replace: Mapping[str, evaluate.Replacement]) -> Callable[..., jax.Array]:
        return lambda flat, rest: evaluate.evaluate(self.traced, [flat, *rest], replace)[0]

    def reverse(self, flat: Any) -> tuple[float, np.ndarray]:
        """Loss and gradient in reverse mode, with the loss's own rules.

        Raises:
          UsageError: reverse mode does not pass the loss.
        """
        loops = [e for e in equations(self.traced, skip=RULES) if e.primitive.name == "while"]
        try:
            value, grads = self._reverse(flat, self.rest)
        except (NotImplementedError, ValueError, TypeError) as error:
            if loops and "while_loop" in str(error):
                raise UsageError(
                    f"reverse mode cannot pass the loop at {site_of(loops[0]).place}, whose number of turns is traced; "
                    "use jax.lax.scan, or jax.lax.fori_loop with bounds that are Python integers"
                ) from error
            return with_sentence("differentiated", lambda: self._reverse(flat, self.rest))
        return float(value), np.asarray(grads)

    def values(self, rays: Sequence[Ray], steps: np.ndarray) -> np.ndarray:
        """The loss at `steps[i]` along ray i, `[n]`."""
        return self._run(self._values, rays, steps)

    def slopes(
        self, rays: Sequence[Ray], label: str = "", replace: Mapping[str, Any] = evaluate.STRIPPED
    ) -> np.ndarray:
        """Derivatives along rays in forward mode, `[n]`; by default with the custom rules taken off.

        Args:
          rays: where.
          label: what the compiled function is kept under.
          replace: operations to replace.
        """
        if label not in self._slopes:
            loss = self._loss(replace)

            def slope(flat: jax.Array, ray: jax.Array, step: jax.Array, rest: list[Any]) -> jax.Array:
                del step
                return jax.jvp(lambda x: loss(x, rest), (flat,), (ray,))[1]

            self._slopes[label] = self._looped(slope)
        try:
            return self._run(self._slopes[label], rays, np.zeros(len(rays)))
        except (TypeError, NotImplementedError):
            # A rule inside of what is not gone into, as a shard_map, which forward mode cannot pass.
            return np.full(len(rays), np.nan)

    def _value(self, flat: jax.Array, ray: jax.Array, step: jax.Array, rest: list[Any]) -> jax.Array:
        return self._loss({})(flat + step * ray, rest)

    def _looped(self, one: Callable[..., jax.Array]) -> Any:
        """One evaluation after the other in one program: a batch of them would take that many times the memory."""

        def many(
            count: jax.Array, rays: Any, steps: jax.Array, flat: jax.Array, stored: jax.Array, rest: list[Any]
        ) -> jax.Array:
            places = jnp.arange(flat.size)

            def turn(i: jax.Array, found: jax.Array) -> jax.Array:
                start, stop, which, scale = (column[i] for column in rays)
                inside = (places >= start) & (places < stop)
                ray = jnp.where(inside, scale * stored[which], 0.0)
                return found.at[i].set(one(flat, ray, steps[i], rest))

            return jax.lax.fori_loop(0, count, turn, jnp.zeros(self._most, flat.dtype))

        return jax.jit(many)

    def _run(self, program: Any, rays: Sequence[Ray], steps: np.ndarray) -> np.ndarray:
        found = []
        for first in range(0, len(rays), self._most):
            part = rays[first : first + self._most]
            padding = self._most - len(part)
            columns = [np.asarray([*column, *[0] * padding]) for column in zip(*part, strict=True)]
            padded = np.concatenate([steps[first : first + self._most], np.zeros(padding)])
            columns[3] = columns[3].astype(np.float64)
            call = (len(part), columns, padded, self.flat, self.stored, self.rest)
            found.append(np.asarray(program(*call))[: len(part)])
        return np.concatenate(found)
