"""Taps: what an activation and its gradient are doing, measured inside a pure function. Pure.

A tap is the identity. While a step measures, it also hands a zero `collector` through a `custom_vjp`, whose backward
pass returns the tap's statistics as the gradient of that collector. So they leave through the chain rule itself: no
callback, and nothing special about jit, scan, remat, vmap or gradient accumulation, all of which add gradients up. That
is why every statistic here is a sum.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jaxprop.core.attention_statistics import attention_statistics
from jaxprop.core.jaxprs.walk import RULES, VJP_RULE, body_of, equations_and_callers
from jaxprop.core.measurements import NOT_APPLICABLE, TAP_COLUMNS
from jaxprop.core.overrides import before_rounding, rounded_from
from jaxprop.errors import UsageError, one_of
from jaxprop.types import PyTree

KINDS = ("", "relu", "tanh", "sigmoid", "attention", "output")
# What a collector's gradient holds; sums over calls, so that scan iterations and microbatches add up.
SUMS = ("calls", "elements", "squares", "abs_max", "saturated", "grad_squares", "attention_max", "attention_entropy")
LARGEST = ("abs_max", "attention_max")  # of these
SATURATED = 0.97
_MARK = "tap: "  # begins the name of an operation that marks a tap's place in a jaxpr


class Tap(NamedTuple):
    """One tap of a function: name, kind, the units that a relu tap counts, and its rows if it has several."""

    name: str
    kind: str
    units: int
    rows: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its rows in a record."""
        return (self.name,) if self.rows is None else tuple(f"{self.name}[{i}]" for i in range(self.rows))


class _Tracing(NamedTuple):
    """What is going on while a function is traced: taps being found, or collectors being filled."""

    found: dict[str, Tap]
    collectors: dict[str, Any] | None


_tracing: contextvars.ContextVar[_Tracing | None] = contextvars.ContextVar("taps", default=None)
_weight: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("weight", default=None)
# Part of jit's cache key: else an inner jit, traced once without collectors, would never fill them.
_traced_for = jax.make_user_context(None)
_traces = itertools.count(1)


def tap(x: jax.Array, name: str, kind: str = "", row: tuple[Any, int] | None = None) -> jax.Array:
    """Returns `x`; in a step that measures, the activation and its gradient appear in `m.taps` under `name`.

        rms = sqrt(mean(x^2)),   grad_rms = sqrt(mean((dL/dx)^2))

    Args:
      x: an activation `[B, ..., units]`; one that is no floating-point array is not measured.
      name: what it is called in records; a name used several times, as in a scan, is one row over all its uses.
      kind: `"relu"` counts units that are <= 0 on every example; `"tanh"` and `"sigmoid"`, given after the
        activation, count saturated values; `"output"` marks logits.
      row: `(i, n)` inside a scan: this use is row i of n, a layer or a stretch of time; i may be traced.

    Returns:
      `x` itself.

    Raises:
      UsageError: for an unknown kind.

    Example:
      >>> import jaxprop, optax
      >>> def loss_fn(params, batch, key):
      ...     hidden = jaxprop.tap(jax.nn.relu(batch["x"] @ params["w"]), "hidden", "relu")
      ...     return jnp.mean(hidden**2)
      >>> step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
      >>> state = jaxprop.init_state({"w": jnp.ones((2, 3))}, optax.sgd(0.1), key=jax.random.key(0))
      >>> state, m = step(state, {"x": jnp.ones((4, 2))}, "full")
      >>> m.layout.taps, float(m.taps.rms[0])
      ((('hidden', 'relu'),), 2.0)
    """
    if kind not in KINDS:
        raise UsageError(one_of(kind, KINDS, "kind of tap"))
    wide = before_rounding(x) if measuring() else x
    tapped = _fill(wide, name, kind, lambda: _statistics(wide, kind), row)
    return tapped if wide is x else rounded_from(tapped, x.dtype)  # a model may hand on either of the two


def measuring() -> bool:
    """Whether a step that measures taps is being traced; a scan needs to count its rows only then.

    Example:
      >>> measuring()
      False
    """
    return _tracing.get() is not None


def tap_attention(
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    name: str,
    causal: bool = False,
    mask: jax.Array | None = None,
    cross: bool = False,
) -> jax.Array:
    """Returns `x`; in a step that measures, attention's largest logit and its entropy appear in `m.taps`.

        a = softmax(q k^T / sqrt(D)),   entropy = -sum_s a_s log a_s / log(keys)

    over 16 queries evenly spaced in the sequence, of every head, of the first 4 examples: a sample is enough to see
    logits grow or attention collapse, and the whole matrix would cost as much as the attention itself.

    Args:
      x: the attention's output, which the gradient reaches.
      queries, keys: `[B, T, H, D]` as they enter the product; keys may have fewer heads that divide H.
      name: what it is called in records.
      causal: whether query t sees keys 0..t only.
      mask: boolean `[B, T]`, False for padding, whose queries and keys are left out; None where all count.
      cross: the queries are of another sequence than the keys `[B, S, H, D]` and their mask `[B, S]`, and all count.

    Returns:
      `x` itself.

    Example:
      >>> x = jnp.ones((1, 4, 2, 8))
      >>> tap_attention(x, x, x, "attn") is x
      True

    Reference:
      Zhai et al., Stabilizing Transformer Training by Preventing Attention Entropy Collapse, 2023.
      https://arxiv.org/abs/2303.06296
    """

    def statistics() -> dict[str, jax.Array]:
        largest, entropy = attention_statistics(queries, keys, causal, mask, cross)
        return _statistics(x, "") | {"attention_max": largest, "attention_entropy": entropy}

    return _fill(x, name, "attention", statistics)


def find(function: Callable[..., Any], *args: Any) -> tuple[tuple[Tap, ...], Any]:
    """Traces a function without running it and returns its taps, in the order of the forward pass, and its jaxpr.

    Args:
      function: any pure function.
      *args: its arguments, arrays or their shapes.

    Returns:
      The taps, and the jaxpr of the trace. No taps, and a warning, where the function differentiates one by rules of
      its own, which a collector cannot pass.

    Example:
      >>> find(lambda x: tap(x, "a"), jnp.ones(3))[0]
      (Tap(name='a', kind='', units=0, rows=None),)
    """
    found: dict[str, Tap] = {}
    with contextlib.suppress(NotImplementedError, TypeError), _trace_with(_Tracing(found, None)):
        jaxpr = jax.make_jaxpr(function)(*args)
        if not _own_rules(jaxpr):
            return tuple(found.values()), jaxpr
    jaxpr = jax.make_jaxpr(function)(*args)  # what fails without taps too is told as it is
    warnings.warn(
        "no tap is measured, since one lies inside jax.jvp or a function with a custom_jvp or custom_vjp; move it out "
        "of there, or turn taps off with health.taps=false or Signals(taps=False)",
        stacklevel=2,
    )
    return (), jaxpr


def _own_rules(jaxpr: ClosedJaxpr) -> bool:
    """Whether a tap lies inside a function that has its own derivative; a tap itself is one."""
    for equation, callers in equations_and_callers(jaxpr):
        rules = sum(caller.primitive.name in RULES for caller in callers)
        # `custom_lin` is what jax.jvp leaves of a custom_vjp.
        if equation.primitive.name == "custom_lin" or (rules > 1 and _marked(equation) is not None):
            return True
    return False


def name_of(equation: Any) -> str | None:
    """Returns the name of the tap that an equation of the jaxpr of `find` is; None where it is none.

    Example:
      >>> [name_of(equation) for equation in find(lambda x: jnp.sin(tap(x, "a")), jnp.ones(3))[1].eqns]
      ['a', None]
    """
    body = body_of(equation) if equation.primitive.name == VJP_RULE else None
    return _marked(body.eqns[0]) if body is not None and len(body.eqns) == 1 else None


@contextlib.contextmanager
def filling(collectors: dict[str, Any]) -> Iterator[None]:
    """Has the taps traced inside return their statistics as gradients of `collectors`, from `zero_collectors`.

    Example:
      >>> def loss():
      ...     return jnp.sum(tap(jnp.full(3, 2.0), "a"))
      >>> def filled(collectors):
      ...     with filling(collectors):
      ...         return loss()
      >>> taps, _ = find(loss)
      >>> columns(taps, jax.grad(filled)(zero_collectors(taps)))["rms"].tolist()
      [2.0]
    """
    # With nothing to fill, a context of its own would only keep jit from finding what it has traced before.
    with _trace_with(_Tracing({}, collectors)) if collectors else contextlib.nullcontext():
        yield


def collectors_of(name: str) -> dict[str, Any]:
    """Returns the collector of a tap, under its name, where a step that measures it is being traced; else nothing.

    A function with derivative rules of its own takes it as an argument, and fills it inside by `filling`.

    Example:
      >>> collectors_of("hidden")
      {}
    """
    tracing = _tracing.get()
    collectors = {} if tracing is None else tracing.collectors or {}
    return {name: collectors[name]} if name in collectors else {}


def collected_under(path: str) -> tuple[str, ...]:
    """Returns the names of the taps that the step being traced measures in the layer of a path, that of its own too.

    Example:
      >>> collected_under("blocks/0")
      ()
    """
    tracing = _tracing.get()
    collectors = {} if tracing is None else tracing.collectors or {}
    return tuple(name for name in collectors if name == path or name.startswith(f"{path}/"))


@contextlib.contextmanager
def counting(weight: jax.Array | None) -> Iterator[None]:
    """Has the taps inside leave out examples of weight 0: padding is no activation.

    Args:
      weight: of each example, `[B]`; None where all count. An array whose first axis is not B is measured whole.

    Example:
      >>> def loss():
      ...     with counting(jnp.array([1.0, 0.0])):
      ...         return jnp.sum(tap(jnp.array([[3.0], [5.0]]), "a"))
      >>> taps, _ = find(loss)
      >>> def filled(collectors):
      ...     with filling(collectors):
      ...         return loss()
      >>> columns(taps, jax.grad(filled)(zero_collectors(taps)))["rms"].tolist()
      [3.0]
    """
    token = _weight.set(weight)
    try:
        yield
    finally:
        _weight.reset(token)


def _counted(x: jax.Array) -> jax.Array | None:
    """Which rows of a tapped array count, `[B, 1, ...]`; None where all do."""
    weight = _weight.get()
    # Inside shard_map the rows are those of one device, and the weights those of all.
    if weight is None or x.shape[:1] != weight.shape or jax.typeof(x).manual_axis_type.varying:
        return None
    return (weight != 0).reshape(-1, *[1] * (x.ndim - 1))


@contextlib.contextmanager
def _trace_with(tracing: _Tracing) -> Iterator[None]:
    token = _tracing.set(tracing)
    try:
        with _traced_for(next(_traces)):
            yield
    finally:
        _tracing.reset(token)


def untapped() -> contextlib.AbstractContextManager[None]:
    """Has the taps traced inside measure nothing, as those of a model that is not trained."""
    return _trace_with(_Tracing({}, {})) if measuring() else contextlib.nullcontext()


def zero_collectors(taps: Sequence[Tap]) -> dict[str, Any]:
    """Returns the zeros that statistics are collected into, one entry a tap.

    Example:
      >>> zero_collectors((Tap("a", "relu", 5),))["a"]["units"].shape
      (1, 5)
    """
    return {
        tap.name: {
            "sums": jnp.zeros((len(tap.labels), len(SUMS)), jnp.float32),
            "units": jnp.zeros((len(tap.labels), tap.units), jnp.float32),
        }
        for tap in taps
    }


def rescaled(collectors: PyTree, factor: Any) -> PyTree:
    """Multiplies the gradients in collectors by `factor`: a loss scale taken off, or a microbatch's weight put on.

    Example:
      >>> collector = {"a": {"sums": jnp.ones((1, 8)), "units": jnp.ones((1, 0))}}
      >>> rescaled(collector, 0.5)["a"]["sums"][0, SUMS.index("grad_squares")].item()
      0.25
    """
    at = SUMS.index("grad_squares")

    def scale(collector: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {**collector, "sums": collector["sums"].at[:, at].multiply(jnp.square(jnp.asarray(factor, jnp.float32)))}

    return {name: scale(collector) for name, collector in collectors.items()}


def columns(taps: Sequence[Tap], collectors: PyTree) -> dict[str, jax.Array]:
    """Turns the sums in collectors into what `m.taps` holds, `{name: [T]}` in float32, T rows of all taps.

    Args:
      taps: as found.
      collectors: gradients of `zero_collectors(taps)`.

    Returns:
      One array for each name of `TAP_COLUMNS`; -1 where a tap lies on no path to the loss.

    Example:
      >>> sorted(columns((), {}))[0]
      'abs_max'
    """
    if not taps:
        return dict.fromkeys(TAP_COLUMNS, jnp.zeros(0, jnp.float32))
    sums = jnp.concatenate([collectors[tap.name]["sums"] for tap in taps])  # [T, sums]
    value = dict(zip(SUMS, sums.T, strict=True))
    dead = [jnp.sum(collectors[t.name]["units"] == 0, 1, dtype=jnp.float32) / max(t.units, 1) for t in taps]
    # Where nothing was measured both are 0.
    calls, elements = jnp.maximum(value["calls"], 1), jnp.maximum(value["elements"], 1)
    found = {
        "grad_rms": jnp.sqrt(value["grad_squares"] / elements),
        "rms": jnp.sqrt(value["squares"] / elements),
        "abs_max": value["abs_max"] / calls,
        "dead": jnp.concatenate(dead),
        "saturated": value["saturated"] / elements,
        "attention_max": value["attention_max"] / calls,
        "attention_entropy": value["attention_entropy"] / calls,
    }
    return {name: jnp.where(value["calls"] > 0, found[name], NOT_APPLICABLE) for name in TAP_COLUMNS}


def merged(collectors: PyTree, others: PyTree) -> PyTree:
    """Joins what two microbatches have collected: sums are added, of the largest values the larger one is kept.

    The largest values are means over the uses of a tap, so they are kept as the mean of one microbatch times all uses.

    Example:
      >>> zeros = zero_collectors((Tap("a", "", 0),))
      >>> at = SUMS.index("abs_max"), SUMS.index("calls")
      >>> def with_values(largest):
      ...     return jax.tree.map(lambda x: x.at[..., at].set(jnp.array([largest, 1.0])), zeros)
      >>> one, other = with_values(3.0), with_values(5.0)
      >>> (columns((Tap("a", "", 0),), merged(one, other))["abs_max"]).tolist()
      [5.0]
    """
    calls = SUMS.index("calls")

    def join(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
        sums = a["sums"] + b["sums"]
        for name in LARGEST:
            at = SUMS.index(name)
            means = [x["sums"][:, at] / jnp.maximum(x["sums"][:, calls], 1) for x in (a, b)]
            sums = sums.at[:, at].set(jnp.maximum(*means) * sums[:, calls])
        return {"sums": sums, "units": a["units"] + b["units"]}

    return {name: join(collectors[name], others[name]) for name in collectors}


# -- the identity that measures -----------------------------------------------------------------


def _fill(
    x: Any,
    name: str,
    kind: str,
    statistics: Callable[[], dict[str, jax.Array]],
    row: tuple[Any, int] | None = None,
) -> Any:
    tracing = _tracing.get()
    if tracing is None or not isinstance(x, jax.Array) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    units = x.shape[-1] if kind == "relu" and x.ndim else 0
    if tracing.collectors is None:
        tracing.found.setdefault(name, Tap(name, kind, units, None if row is None else row[1]))
        return _found(name, x)
    collector = tracing.collectors.get(name)
    if collector is None:
        return x
    measured = jax.tree.map(jax.lax.stop_gradient, statistics())
    rows, counted = collector["units"].shape
    found = measured.get("units", jnp.zeros(counted, jnp.float32))
    if found.shape != (counted,):  # one name over layers of several widths: units have no common count
        found = jnp.ones(counted, jnp.float32)
    index = 0 if row is None else row[0]
    place = (jnp.arange(rows, dtype=jnp.int32) == index).astype(jnp.float32)[:, None]  # [rows, 1]
    sums = jnp.stack([measured.get(key, jnp.float32(0)) for key in SUMS])
    # A select: 0 x inf would put a NaN into every other row.
    placed = {"place": place, "sums": jnp.where(place > 0, sums, 0), "units": jnp.where(place > 0, found, 0)}
    return _measured(x, placed, collector)


def _statistics(x: jax.Array, kind: str) -> dict[str, jax.Array]:
    wide, elements = jax.lax.stop_gradient(x).astype(jnp.float32), jnp.float32(x.size)
    rows = _counted(x)
    if rows is not None:
        wide, elements = jnp.where(rows, wide, 0), jnp.sum(rows, dtype=jnp.float32) * (x.size / max(len(x), 1))
    found = {
        "calls": jnp.float32(1),
        "elements": elements,
        "squares": jnp.sum(jnp.square(wide)),
        "abs_max": jnp.max(jnp.abs(wide)) if x.size else jnp.float32(0),
    }
    if kind == "tanh":
        found["saturated"] = jnp.sum(jnp.abs(wide) > SATURATED, dtype=jnp.float32)
    if kind == "sigmoid":
        saturated = jnp.abs(2 * wide - 1) > SATURATED
        found["saturated"] = jnp.sum(saturated if rows is None else saturated & rows, dtype=jnp.float32)
    if kind == "relu" and x.ndim:
        found["units"] = jnp.sum(wide > 0, tuple(range(x.ndim - 1)), dtype=jnp.float32)
    return found


@functools.lru_cache
def _mark(name: str) -> Callable[[jax.Array], jax.Array]:
    """The identity, as a jitted function whose name in a jaxpr says which tap it is."""

    def here(x: jax.Array) -> jax.Array:
        return x

    here.__name__ = _MARK + name
    return jax.jit(here)


def _marked(equation: Any) -> str | None:
    """The name of the tap whose place an equation marks; None where it marks none."""
    name = equation.params.get("name")
    return name.removeprefix(_MARK) if isinstance(name, str) and name.startswith(_MARK) else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _found(name: str, x: jax.Array) -> jax.Array:
    """`x`; may be differentiated as a tap that is measured may, and not otherwise."""
    return _mark(name)(x)


_found.defvjp(lambda _, x: (x, None), lambda _name, _x, grad: (grad,))


@jax.custom_vjp
def _measured(x: jax.Array, statistics: PyTree, collector: PyTree) -> jax.Array:
    """`x`; the gradient of `collector` is `statistics` and the sum of the squared gradient of `x`."""
    del statistics, collector
    return x


def _measured_forward(x: jax.Array, statistics: PyTree, collector: PyTree) -> tuple[jax.Array, PyTree]:
    del collector
    return x, statistics


def _measured_backward(statistics: PyTree, grad: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
    squares = jnp.sum(jnp.square(grad.astype(jnp.float32)))
    at = jnp.asarray([name == "grad_squares" for name in SUMS])
    sums = jnp.where(at, jnp.where(statistics["place"] > 0, squares, 0), statistics["sums"])
    collector = jax.tree.map(_over_devices, {"sums": sums, "units": statistics["units"]})
    return grad, jax.tree.map(jnp.zeros_like, statistics), collector


def _over_devices(x: jax.Array) -> jax.Array:
    # Inside shard_map each device sees its own part, and the collector is one for all.
    axes = tuple(jax.typeof(x).manual_axis_type.varying)
    return jax.lax.psum(x, axes) if axes else x


_measured.defvjp(_measured_forward, _measured_backward)
