"""Every custom rule of a loss against plain autodiff of the function it stands for.

Each call is wrapped in a `custom_vjp` of the check's own that computes both and hands what they differ by out as the
gradient of a `collector`: through the chain rule itself, so that every turn of a scan is looked at with the values and
the cotangents that it really meets. That is why all that is collected are sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxprop.core.jaxprs import evaluate, walk
from jaxprop.core.jaxprs.sites import rule_name, rule_site
from jaxprop.tools.gradcheck.report import Rule

# A row an argument: squared norms of the rule's and of autodiff's gradient, their product, and that of the difference.
SUMS = 4
NUDGE = 1e-3


class RuleCall(NamedTuple):
    """One call of a custom rule in a traced function."""

    equation: JaxprEqn
    number: int

    @property
    def rows(self) -> int:
        """Rows of its collector: one for the values, and one for each argument."""
        return 1 + len(self.equation.invars)


def rule_calls(traced: ClosedJaxpr) -> tuple[RuleCall, ...]:
    """Returns every call of a custom rule that reverse mode may come by.

    Example:
      >>> len(rule_calls(jax.make_jaxpr(lambda x: jax.nn.relu(jax.nn.relu(x)))(1.0)))
      2
    """
    # A jaxpr may be shared by several calls: one equation then stands for all of them.
    inside = walk.equations(traced, skip=("while", *walk.RULES))
    found = {id(equation): equation for equation in inside if equation.primitive.name in walk.RULES}
    return tuple(RuleCall(equation, i) for i, equation in enumerate(found.values()))


def collect_sums(traced: ClosedJaxpr, calls: Sequence[RuleCall], args: Sequence[Any]) -> list[np.ndarray]:
    """Runs the loss once backward and returns what has been collected at each call.

    Args:
      traced: a scalar function; its first argument is what it is differentiated by.
      calls: as `rule_calls` returns them.
      args: of the function.

    Returns:
      For each call `[1 + arguments, 4]`.
    """
    by_equation = {id(call.equation): call for call in calls if _is_comparable(call)}

    def loss(first: Any, collectors: list[jax.Array], rest: Sequence[Any]) -> jax.Array:
        def replaced(equation: JaxprEqn, given: list[Any]) -> Sequence[Any]:
            call = by_equation.get(id(equation))
            return evaluate.bind(equation, given) if call is None else _probe(call)(given, collectors[call.number])

        return evaluate.evaluate(traced, [first, *rest], dict.fromkeys(walk.RULES, replaced))[0]

    collectors = [jnp.zeros((call.rows, SUMS), jnp.float64) for call in calls]
    return [np.asarray(x) for x in jax.jit(jax.grad(loss, argnums=1))(args[0], collectors, args[1:])]


def summarize(calls: Sequence[RuleCall], sums: Sequence[np.ndarray]) -> tuple[Rule, ...]:
    """Turns what was collected into one row a rule, over all of its calls."""
    members: dict[tuple[str, str, str], list[tuple[RuleCall, np.ndarray]]] = {}
    for call, found in zip(calls, sums, strict=True):
        kind = call.equation.primitive.name.removesuffix("_call")
        members.setdefault((rule_name(call.equation), kind, rule_site(call.equation).place), []).append((call, found))
    return tuple(_summary(*key, of_rule) for key, of_rule in members.items())


def _is_comparable(call: RuleCall) -> bool:
    """Whether autodiff passes the function of a rule, which a loop of traced length may be the reason for."""

    def pulled(args: list[Any]) -> Any:
        values, pull = jax.vjp(partial(evaluate.without_rules, call.equation), args)
        return pull(jax.tree.map(_cotangent, values))

    try:
        jax.eval_shape(pulled, [variable.aval for variable in call.equation.invars])
    except (NotImplementedError, TypeError, ValueError):
        return False
    return True


def _cotangent(value: jax.Array) -> Any:
    real = jnp.issubdtype(value.dtype, jnp.floating)
    return jnp.zeros_like(value) if real else np.zeros(value.shape, jax.dtypes.float0)


# -- one call -------------------------------------------------------------------------------------


def _probe(call: RuleCall) -> Callable[[list[Any], jax.Array], Sequence[Any]]:
    plain = partial(evaluate.without_rules, call.equation)
    ruled = partial(evaluate.bind, call.equation)

    @jax.custom_vjp
    def probe(args: list[Any], collector: jax.Array) -> list[Any]:
        del collector
        return plain(args)

    def forward(args: list[Any], collector: jax.Array) -> tuple[list[Any], list[Any]]:
        del collector
        return plain(args), args

    def backward(args: list[Any], cotangents: list[Any]) -> tuple[Any, jax.Array]:
        # Beside the point, where what is not differentiable at it is; and with other cotangents in the same places,
        # since equal ones hide a transposed rule.
        beside = [_beside(x, i) for i, x in enumerate(args)]
        given = [_varied(c, -1 - i) for i, c in enumerate(cotangents)]
        values, pulled = zip(*(_pull(function, beside, given) for function in (ruled, plain)), strict=True)
        rows = [sum((_sums(a, b) for a, b in zip(*values, strict=True)), jnp.zeros(SUMS, jnp.float64))]
        rows += [_sums(a, b) for a, b in zip(*pulled, strict=True)]
        return jax.vjp(plain, args)[1](cotangents)[0], jnp.stack(rows)

    probe.defvjp(forward, backward)
    return probe


def _pull(function: Callable, args: list[Any], cotangents: list[Any]) -> tuple[list[Any], list[Any]]:
    values, pull = jax.vjp(function, args)
    return values, pull(cotangents)[0]


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _spread(x: jax.Array, number: int) -> jax.Array:
    """Numbers in 0..1, another for each entry: a Weyl sequence, which is compiled in a tenth of jax.random's time."""
    steps = jnp.arange(1, x.size + 1, dtype=jnp.float32).reshape(x.shape) * jnp.float32(0.618034)
    return ((steps + jnp.float32(0.414214 * number)) % 1).astype(x.dtype)


def _beside(x: Any, number: int) -> Any:
    """`x` moved by a little, each entry by its own share of itself, so that ties break and domains are kept."""
    if not _is_real(x):
        return x
    x = jnp.asarray(x)
    noise = (NUDGE * (1 + _spread(x, number))).astype(x.dtype)
    size = jnp.sqrt(jnp.mean(jnp.square(x)))
    return jnp.where(x == 0, noise * jnp.where(size > 0, size, jnp.ones_like(size)), x * (1 + noise))


def _varied(cotangent: Any, number: int) -> Any:
    if getattr(cotangent, "dtype", None) == jax.dtypes.float0 or not _is_real(cotangent):
        return cotangent
    factor = 2 * _spread(cotangent, number) - 1
    return cotangent * (factor + jnp.sign(factor) / 2)


def _sums(rule: Any, plain: Any) -> jax.Array:
    if rule.dtype == jax.dtypes.float0 or not _is_real(plain):
        return jnp.zeros(SUMS, jnp.float64)
    a, b = rule.astype(jnp.float64), plain.astype(jnp.float64)
    # Where autodiff itself fails, as a rule is often there to avoid, there is nothing to compare with.
    known = jnp.isfinite(a) & jnp.isfinite(b)
    a, b = jnp.where(known, a, 0), jnp.where(known, b, 0)
    return jnp.stack([jnp.sum(a * a), jnp.sum(b * b), jnp.sum(a * b), jnp.sum(jnp.square(a - b))])


# -- of all calls ---------------------------------------------------------------------------------


def _summary(name: str, kind: str, where: str, calls: list[tuple[RuleCall, np.ndarray]]) -> Rule:
    tolerance = max(_tolerance(call.equation) for call, _ in calls)
    compared = any(found[1:, :2].any() for _, found in calls)
    error, says = max(((*_difference(row, i, tolerance),) for _, found in calls for i, row in enumerate(found)))
    agrees = error <= tolerance
    return Rule(name, kind, where, len(calls), compared, error, tolerance, agrees, "" if agrees else says)


def _tolerance(equation: JaxprEqn) -> float:
    """Half the digits of the narrowest floating-point type that the function computes in."""
    body = walk.body_of(equation)
    assert body is not None, equation.primitive.name
    return walk.narrowest(body) ** 0.5


def _difference(row: np.ndarray, i: int, tolerance: float) -> tuple[float, str]:
    """How far rule and autodiff are apart in one row, and what that looks like."""
    rule, plain, product, apart = (float(x) for x in row)
    largest = max(rule, plain)
    if largest == 0:
        return 0.0, ""
    error = (apart / largest) ** 0.5
    if i == 0:
        return error, f"its forward rule returns values {100 * error:.2g} % away from its function's"
    of = f"for argument {i} of the call"
    if plain == 0:
        return error, f"{of} it gives a gradient where its function has none"
    if rule == 0:
        return error, f"{of} it gives no gradient, where its function has one"
    factor = product / plain
    if rule - product * factor <= tolerance * rule:
        return error, f"{of} it gives {factor:.4g} times its function's gradient"
    return error, f"{of} it is {100 * error:.2g} % away from its function's gradient"
