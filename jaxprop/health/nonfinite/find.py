"""Finds the operation, layer, source line and examples behind a loss or a gradient that is not finite. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jaxprop.core import trees
from jaxprop.core.forms import layers_apart
from jaxprop.core.jaxprs.evaluate import bind
from jaxprop.core.jaxprs.sites import Site, site_of
from jaxprop.core.jaxprs.walk import LOOPS, bodies, equations, is_call
from jaxprop.core.layers import find_groups
from jaxprop.core.precision import LossScale, Policy, policy
from jaxprop.errors import UsageError
from jaxprop.health.nonfinite.blame import Backtrace, Blame, Origin
from jaxprop.health.nonfinite.examples import offending
from jaxprop.health.nonfinite.interpret import (
    Caller,
    Entry,
    Interpreter,
    Owner,
    Value,
    bad_entries,
    is_finite,
)
from jaxprop.health.nonfinite.masks import ELEMENTWISE
from jaxprop.health.nonfinite.rules import site_in_rule
from jaxprop.types import Batch, Objective, PyTree, TrainState

SHOWN = 24  # steps of a path that are told


class Hop(NamedTuple):
    """One stop on the way of a non-finite number to the loss or a gradient.

    Args:
      phase, primitive, layer, file, line: as in `Finding`.
      bad, size: entries that are not finite, and all.
    """

    phase: str
    primitive: str
    layer: str | None
    file: str | None
    line: int | None
    bad: int
    size: int


class Finding(NamedTuple):
    """Where a loss or a gradient stopped being finite.

    Args:
      phase: `"forward"` where it reaches the loss, `"backward"` where only gradients.
      primitive: of jax, that made it of finite numbers; `"input"` where batch or parameters hold it, `"constant"`
        where the result does not depend on them; None where the compiled step alone is not finite.
      layer: the layer whose parameters the operation reads or goes on from, or None before the first; of an input
        its path.
      file, line: of the user's code, or None.
      examples: numbers of the examples of the batch that bring it about by themselves; all where all do, none where
        none does or the batch cannot be taken apart.
      batch_size: of how many examples.
      function: that the line is in.
      scope: named scopes of the operation.
      derivative_of: the primitive of that line whose derivative the operation belongs to, if it does.
      at, shape: the first entry that is not finite, in the operation's output of this shape.
      bad: how many entries are not.
      value: what stands at that entry: `"nan"`, `"inf"` or `"-inf"`.
      operands: what the operation read there: values at the index, or smallest and largest.
      affected: paths of the parameters whose gradient is not finite.
      path: how it got from there to the loss, or to a gradient.
      suspect: `"precision"` or `"fusion"` where the step is finite unless it is compiled; `"sum"` where loss and
        gradient of every microbatch are finite, and together they are not.
      detail: what `checkify` says of an operation that cannot be looked into.
    """

    phase: str
    primitive: str | None
    layer: str | None
    file: str | None
    line: int | None
    examples: tuple[int, ...] = ()
    batch_size: int = 0
    function: str | None = None
    scope: str = ""
    derivative_of: str | None = None
    at: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    bad: int = 0
    value: str = ""
    operands: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    path: tuple[Hop, ...] = ()
    suspect: str | None = None
    detail: str | None = None

    @property
    def message(self) -> str:
        """What has been found, in one or two sentences."""
        if self.suspect is not None:
            return SUSPECTS[self.suspect].format(layer=self.layer, largest="".join(self.operands))
        if self.primitive == "constant":
            return (
                f"{self.phase} pass: a result is a constant that is not finite, whatever the batch and the parameters"
            )
        if self.primitive == "input":
            return f"{self.layer} holds {self.value} to begin with, {self._entries()}{self._examples()}"
        where = f" at {self.file}:{self.line}" if self.file else ""
        layer = f", layer {self.layer}" if self.layer else ""
        of = f", in the derivative of {self.derivative_of}," if self.derivative_of else ""
        here = f": {self.primitive}({', '.join(self.operands)}) = {self.value}" if self.operands else ""
        more = f" ({self.detail})" if self.detail else ""
        return (
            f"{self.phase} pass: {self.primitive}{where}{layer}{of} is the first to give {self.value}, "
            f"{self._entries()}{here}{self._examples()}{more}"
        )

    def _entries(self) -> str:
        total = math.prod(self.shape)
        return f"in {self.bad} of {total} {'entry' if total == 1 else 'entries'}, first at {list(self.at)}"

    def _examples(self) -> str:
        if not self.examples:
            return ""
        if len(self.examples) == self.batch_size > 1:
            return f"; each of the {self.batch_size} examples of the batch causes it by itself"
        shown = ", ".join(map(str, self.examples[:8])) + (", ..." if len(self.examples) > 8 else "")
        which = f"example {shown} causes" if len(self.examples) == 1 else f"each of examples {shown} causes"
        return f"; of the {self.batch_size} examples of the batch, {which} it by itself (counted from 0)"

    def record(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        values = {**self._asdict(), "path": [hop._asdict() for hop in self.path], "message": self.message}
        values["index"] = values.pop("at")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


COMPILED = "the compiled step is not finite, and the same step run one operation at a time is; the likely reason is "
SUSPECTS = {
    "precision": COMPILED
    + "the precision of products: set jax_default_matmul_precision to 'highest', or compute in float32",
    "fusion": COMPILED + "how the compiler has fused or reordered operations: rewrite what is near its dtype's range",
    "sum": "every microbatch is finite, but their weighted sum is not: its largest entry is {largest}, in layer "
    "{layer}; lower precision.loss_scale, or normalize inputs and targets",
}


def find_nonfinite(
    loss_fn: Callable[..., Any] | Objective,
    params: PyTree | TrainState,
    batch: Batch,
    key: Any = None,
    *,
    extras: PyTree = None,
    precision: str | Policy = "float32",
    examples: bool = True,
) -> Finding | None:
    """Finds what makes a loss or its gradient NaN or infinite.

    The jaxpr of `jax.value_and_grad(loss_fn)` is run one equation at a time, into scan, while, cond, jit, remat and
    custom derivatives, and followed back from the results: what a `where` masks, and reaches nothing, is not found.

    Args:
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`; or an objective, from `jaxprop.loss_from`.
      params: any pytree of floating-point arrays; or a train state, with the key and the loss scale of its next step.
      batch: a pytree of arrays `[B, ...]`.
      key: a PRNG key, or None if the loss needs none.
      extras: of an objective whose parameters are given without a state.
      precision: of an objective, as given to `make_train_step`.
      examples: look for the examples of the batch that bring it about, which takes a few evaluations more.

    Returns:
      What has been found, or None where loss and gradients are finite.

    Raises:
      UsageError: the loss cannot be differentiated.

    Example:
      >>> def loss_fn(params, batch, key):
      ...     return jnp.mean(jnp.log(batch["x"] * params["scale"]))
      >>> found = find_nonfinite(loss_fn, {"scale": jnp.float32(1)}, {"x": jnp.array([1.0, 2.0, 0.0])})
      >>> found.phase, found.primitive, found.layer, found.examples
      ('forward', 'log', 'scale', (2,))
      >>> find_nonfinite(loss_fn, {"scale": jnp.float32(1)}, {"x": jnp.ones(3)}) is None
      True
    """
    scale = None
    if isinstance(params, TrainState):
        state = params
        params, extras = state.params, state.extras
        key = jax.random.fold_in(state.key, state.step) if key is None else key
        scale = state.loss_scale.scale if isinstance(state.loss_scale, LossScale) else None
    if isinstance(loss_fn, Objective):
        objective, given = loss_fn, extras
        loss_fn = _plain(objective, {} if extras is None else extras, policy(precision), scale)
        try:
            jax.eval_shape(loss_fn, params, batch, key)
        except Exception as error:  # whatever the model's framework raises where it misses its batch statistics
            if given is not None:
                raise
            raise UsageError(
                "the objective cannot be computed from parameters alone; give its state, find_nonfinite(objective, "
                f"state, batch), or extras=: {_first_line(error)}"
            ) from error
    params, batch = _arrays(params), _arrays(batch)
    with jax.debug_nans(False), jax.debug_infs(False):  # which would raise at the first one, whether it matters or not
        compiled = jax.jit(differentiated(loss_fn, params, batch, key))
        results = compiled(params, batch, key)
        if all(is_finite(leaf) for leaf in jax.tree.leaves(results)):
            return None
        finding = _examine(loss_fn, params, batch, key, results)
        if finding is None:
            return _blame_compiler(loss_fn, params, batch, key, results)
        if not examples:
            return finding
        found, size = offending(lambda batch: compiled(params, batch, key), batch)
        return finding._replace(examples=found, batch_size=size)


def _plain(objective: Objective, extras: PyTree, dtypes: Policy, scale: Any) -> Callable[..., jax.Array]:
    """The loss that a step of an objective differentiates, with its loss scale on it."""

    def loss_fn(params: PyTree, batch: Batch, key: Any) -> jax.Array:
        loss = objective.mean_loss(params, extras, batch, key, dtypes)[0]
        return loss if scale is None else loss * scale.astype(loss.dtype)

    return loss_fn


def _arrays(tree: PyTree) -> PyTree:
    """Numbers and NumPy's arrays become jax's, beyond whose range they are infinite; the rest is left to be refused."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, int | float | complex | np.ndarray) else x, tree)


def differentiated(loss_fn: Callable[..., Any], params: PyTree, batch: Batch, key: Any) -> Callable[..., Any]:
    """Returns `(params, batch, key) -> (loss, gradient)` of a loss with or without aux.

    Raises:
      UsageError: the loss cannot be differentiated.
    """
    try:
        has_aux = isinstance(jax.eval_shape(loss_fn, params, batch, key), tuple)
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise UsageError(f"the loss cannot be computed as loss_fn(params, batch, key): {_first_line(error)}") from error
    try:

        def run(params: PyTree, batch: Batch, key: Any) -> tuple[jax.Array, PyTree]:
            value, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, batch, key)
            return value[0] if has_aux else value, grads

        jax.eval_shape(run, params, batch, key)
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise UsageError(
            f"the loss cannot be differentiated: {_first_line(error)}; expected (params, batch, key) -> loss, a "
            "floating-point scalar, with floating-point parameters"
        ) from error
    return run


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _examine(loss_fn: Callable[..., Any], params: PyTree, batch: Batch, key: Any, results: Any) -> Finding | None:
    """Runs the step one operation at a time; returns None where it is finite then."""
    run = differentiated(loss_fn, params, batch, key)
    with layers_apart():  # so that each layer has its name
        jaxpr, loss_jaxpr = (jax.make_jaxpr(function)(params, batch, key) for function in (run, loss_fn))
    groups = find_groups(jaxpr, params)
    arguments = jax.tree.leaves((params, batch, key))
    inside = Interpreter()
    owners: list[Owner | None] = [Owner(tuple(groups.names[row] for row in rows), None) for rows in groups.rows]
    owners += [None] * (len(arguments) - len(owners))
    values = inside.arguments(arguments, owners)
    loss, *grads = inside.run(jaxpr, values, Caller())
    forward = not is_finite(loss.array)
    blame = Backtrace(inside.tape).from_results([loss] if forward else grads)
    phase = "forward" if forward else "backward"
    affected = _affected(params, results[1])
    given = _given(values, params, batch, blame)
    if given is not None:
        name, entries = given
        return Finding(phase, "input", name, None, None, affected=affected, **entries)
    if not blame.origins and any(value.slot is None for value in [loss, *grads] if not is_finite(value.array)):
        return Finding(phase, "constant", None, None, None, affected=affected)
    if not blame.origins:
        return None
    origin = blame.origins[0]
    site = origin.entry.site
    if origin.entry.backward:
        site = site_in_rule(origin.entry.equation, site, loss_jaxpr, jaxpr)
    written = [e.primitive.name for e in equations(loss_jaxpr) if site_of(e) == site and not is_call(e)]
    return _describe(phase, origin, site, blame, written)._replace(affected=affected)


def _given(values: Sequence[Value], params: PyTree, batch: Batch, blame: Blame) -> tuple[str, dict[str, Any]] | None:
    """The input that was not finite to begin with and that the result depends on, and its entries."""
    names = [f"params/{path}" for path in trees.leaf_paths(params)] + [f"batch/{p}" for p in trees.leaf_paths(batch)]
    for value, name in zip(values, names, strict=False):
        want = None if value.slot is None else blame.inputs.get(value.slot)
        # An infinity in the batch may be a mask; in the parameters it is none.
        if want is not None and (name.startswith("params/") or not want.suspects):
            return name, _entries(value.array, want.entries)
    return None


def _describe(phase: str, origin: Origin, site: Site, blame: Blame, written: Sequence[str]) -> Finding:
    entry = origin.entry
    return Finding(
        phase, entry.primitive, entry.owner.name if entry.owner else None, site.file, site.line,
        function=site.function, scope=entry.scope, derivative_of=_derivative_of(entry, written),
        operands=tuple(_operands(entry, origin)), path=_path(origin, blame.visited), detail=_look_inside(entry),
        **_entries(entry.outputs[origin.output].array, origin.entries),
    )  # fmt: skip


def _entries(array: Any, entries: np.ndarray) -> dict[str, Any]:
    first = tuple(int(i) for i in np.argwhere(entries)[0])
    value = str(np.asarray(array, object)[first])
    return {"at": first, "shape": entries.shape, "bad": int(entries.sum()), "value": value}


def _affected(params: PyTree, grads: PyTree) -> tuple[str, ...]:
    leaves = zip(trees.leaf_paths(params), jax.tree.leaves(grads), strict=True)
    return tuple(path for path, grad in leaves if not is_finite(grad))


def _operands(entry: Entry, origin: Origin) -> Iterator[str]:
    """What an operation read where it went wrong."""
    index = tuple(np.argwhere(origin.entries)[0])
    for value in entry.inputs:
        array = np.asarray(value.array) if jnp.issubdtype(jnp.result_type(value.array), jnp.inexact) else None
        if array is None or array.size == 0:
            continue
        if array.shape == () or (entry.primitive in ELEMENTWISE and array.shape == origin.entries.shape):
            yield _number(array[index] if array.shape else array[()])
        elif np.iscomplexobj(array):
            yield f"{list(array.shape)} up to {_number(np.abs(array).max())}"
        else:
            yield f"{list(array.shape)} between {_number(array.min())} and {_number(array.max())}"


def _number(x: Any) -> str:
    return f"{complex(x) if np.iscomplexobj(x) else float(x):.4g}"


def _path(origin: Origin, visited: Sequence[Entry]) -> tuple[Hop, ...]:
    hops: list[Hop] = []
    for entry in visited:
        if entry.order < origin.entry.order or entry.primitive in LOOPS:
            continue
        output = next(value.array for value in entry.outputs if not is_finite(value.array))
        bad = int(origin.entries.sum()) if entry is origin.entry else int(bad_entries(output).sum())
        hop = Hop(
            "backward" if entry.backward else "forward", entry.primitive, entry.owner.name if entry.owner else None,
            entry.site.file, entry.site.line, bad, int(np.size(output)),
        )  # fmt: skip
        if not hops or hops[-1][:5] != hop[:5]:
            hops.append(hop)
    if len(hops) > SHOWN:
        hops = [*hops[: SHOWN // 2], *hops[-SHOWN // 2 :]]
    return tuple(hops)


def _derivative_of(entry: Entry, written: Sequence[str]) -> str | None:
    """The primitive that an equation is the derivative of, if it is one's and its line leaves no doubt."""
    if entry.primitive in written and not entry.backward:
        return None
    likely = [name for name in dict.fromkeys(written) if name in DERIVATIVES.get(entry.primitive, ())]
    return likely[0] if len(likely) == 1 else None


# An operation of the backward pass -> those in whose derivative it may be the first that is not finite.
DERIVATIVES = {
    "div": ("atan2", "atanh", "div", "log", "log1p", "rsqrt", "sqrt"),
    "integer_pow": ("cbrt", "div", "integer_pow"),
    "log": ("pow",),
    "mul": ("cumprod", "exp", "exp2", "expm1", "integer_pow", "logistic", "pow", "reduce_prod", "square", "tan"),
    "pow": ("pow",),
    "rsqrt": ("acos", "acosh", "asin"),
}


def _look_inside(entry: Entry) -> str | None:
    """What checkify says of an operation that holds a program of its own and is none of those that are looked into."""
    if not bodies(entry.equation):
        return None
    try:
        alone = checkify.checkify(partial(bind, entry.equation), errors=checkify.float_checks)
        error, _ = alone([value.array for value in entry.inputs])
        return error.get()
    except Exception as failure:  # checkify does not know every primitive either
        return f"{entry.primitive} cannot be looked into: {type(failure).__name__}"


def _blame_compiler(loss_fn: Callable[..., Any], params: PyTree, batch: Batch, key: Any, results: Any) -> Finding:
    """Compiles the step anew with exact products, to tell precision from fusion."""
    with jax.default_matmul_precision("highest"):
        again = jax.jit(differentiated(loss_fn, params, batch, key))(params, batch, key)
    exact = all(is_finite(leaf) for leaf in jax.tree.leaves(again))
    phase = "backward" if is_finite(results[0]) else "forward"
    return Finding(
        phase,
        None,
        None,
        None,
        None,
        affected=_affected(params, results[1]),
        suspect="precision" if exact else "fusion",
    )
