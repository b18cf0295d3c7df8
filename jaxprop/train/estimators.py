"""Estimates of the gradient from forward passes alone, in the place of the backward pass. Pure.

Each is a function of the loss, as `jax.value_and_grad` is. Along a random direction v of mean 0 and covariance I,

    E[v v^T] dL/dparams = dL/dparams,

so that the slope of the loss along v, times v, is an estimate of the gradient; what they differ in is how they get the
slope. Over n parameters and K directions its variance is about n/K times the squared norm of the gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxprop.core.precision import Policy, needs_scaling
from jaxprop.errors import MissingExtraError, UsageError, one_of
from jaxprop.health.signals.settings import Signals
from jaxprop.train.trainable import merge, split
from jaxprop.types import Batch, PyTree

DIRECTIONS = 2**32 - 3  # folded into a step's key for the directions, see `step.ROUNDING`
SHAPINGS = {"ranks": "centered_rank_fitness_shaping_fn", "none": "identity_fitness_shaping_fn"}  # of evosax

LossWithAux = Callable[[PyTree, Batch, jax.Array], tuple[jax.Array, Any]]
ValueAndGrad = Callable[[PyTree, Batch, jax.Array], tuple[tuple[jax.Array, Any], PyTree]]


class ForwardGradient(NamedTuple):
    """Slopes along random directions by forward-mode differentiation; see `estimator`."""

    samples: int = 1
    chunk: int = 1

    def __call__(self, loss: LossWithAux) -> ValueAndGrad:
        """Returns `(params, batch, key) -> ((loss, aux), estimate)`."""

        def value_and_grad(params: PyTree, batch: Batch, key: jax.Array) -> Any:
            def along(own: jax.Array) -> tuple[PyTree, Any]:
                direction = optax.tree.random_like(own, params, jax.random.normal)
                value, slope, aux = jax.jvp(lambda p: loss(p, batch, key), (params,), (direction,), has_aux=True)
                return _scaled(direction, slope), (value, aux)

            grads, found = _mean(along, key, self.samples, self.chunk)
            return found, grads

        return value_and_grad

    @property
    def passes(self) -> str:
        """What a gradient costs."""
        return f"{_counted(self.samples)} with the derivative along a direction"


class Spsa(NamedTuple):
    """Slopes along random directions by central differences; see `estimator`."""

    samples: int = 1
    sigma: float = 1e-3
    chunk: int = 1

    def __call__(self, loss: LossWithAux) -> ValueAndGrad:
        """Returns `(params, batch, key) -> ((loss, aux), estimate)`."""

        def value_and_grad(params: PyTree, batch: Batch, key: jax.Array) -> Any:
            def along(own: jax.Array) -> tuple[PyTree, tuple[()]]:
                direction = optax.tree.random_like(own, params, jax.random.rademacher)

                def at(distance: float) -> jax.Array:
                    return loss(_moved(params, distance, direction), batch, key)[0]

                return _scaled(direction, (at(self.sigma) - at(-self.sigma)) / (2 * self.sigma)), ()

            grads, _ = _mean(along, key, self.samples, self.chunk)
            return loss(params, batch, key), grads

        return value_and_grad

    @property
    def passes(self) -> str:
        """What a gradient costs."""
        return _counted(2 * self.samples + 1)


class Evolution(NamedTuple):
    """The search gradient of OpenAI's evolution strategy, by evosax; see `estimator`."""

    population: int = 64
    sigma: float = 0.02
    shaping: str = "ranks"
    chunk: int = 1

    def __call__(self, loss: LossWithAux) -> ValueAndGrad:
        """Returns `(params, batch, key) -> ((loss, aux), estimate)`."""

        def value_and_grad(params: PyTree, batch: Batch, key: jax.Array) -> Any:
            mean, unravel = ravel_pytree(params)
            for_asking, for_telling = jax.random.split(jax.random.fold_in(key, DIRECTIONS))
            strategy = _strategy(self.population, self.sigma, self.shaping, mean.size, mean.dtype.name)
            with jax.numpy_dtype_promotion("standard"):
                state = strategy.init(for_asking, mean, strategy.default_params)
                population, state = strategy.ask(for_asking, state, strategy.default_params)  # [population, n]

            def fitness(one: jax.Array) -> jax.Array:
                return loss(unravel(one), batch, key)[0]

            losses = jax.lax.map(fitness, population, batch_size=self.chunk)
            with jax.numpy_dtype_promotion("standard"):
                told, _ = strategy.tell(for_telling, population, losses, state, strategy.default_params)
            return loss(params, batch, key), unravel(told.opt_state.trace)

        return value_and_grad

    @property
    def passes(self) -> str:
        """What a gradient costs."""
        return _counted(self.population + 1)


ESTIMATORS: dict[str, Any] = {"forward": ForwardGradient, "spsa": Spsa, "evolution": Evolution}
BACKPROP = "backprop"  # the gradient itself
_KINDS = (ForwardGradient, Spsa, Evolution)


def estimator(name: str, **settings: Any) -> Callable[[LossWithAux], ValueAndGrad] | None:
    """Returns an estimator of the gradient that needs no backward pass, for `make_train_step(..., gradient=...)`.

    With f the loss of the step's batch, at the step's parameters p and with one key in all of its passes:

        forward      g = 1/K sum_k (df . v_k) v_k,                                          v ~ N(0, I)
        spsa         g = 1/K sum_k (f(p + sigma v_k) - f(p - sigma v_k)) / (2 sigma) v_k,   v = +-1, each with 1/2
        evolution    g = 1/(P sigma) sum_i r_i z_i,                                         z ~ N(0, I)

    `forward` differentiates forwards, and is unbiased. `spsa`, whose bias is of the order sigma^2, and `evolution` only
    compare losses, so that they take one that has no gradient. In `evolution`, z and -z come in pairs, and r_i is the
    rank of f(p + sigma z_i) in the population, from -1/2 to 1/2: the estimate does not change with the unit of the
    loss, and neither does its norm shrink towards a minimum. Without shaping, r_i is the loss, and the mean of g the
    gradient of the loss that is smoothed by sigma.

    No activations are kept for a backward pass; a chunk of directions takes the memory of as many parameters.

    Args:
      name: `forward`, `spsa` or `evolution`; `backprop` for the gradient itself.
      samples: of `forward` and `spsa`: the number K of directions; 1 by default.
      sigma: of `spsa` and `evolution`: distance to the points at which the loss is compared, for each parameter; 1e-3
        and 0.02 by default.
      population: of `evolution`: the number P of points, an even one; 64 by default.
      shaping: of `evolution`: `ranks`, or `none`.
      chunk: number of directions, or points, that are computed with at a time; 1 by default, which takes least memory.
        More are faster where one alone leaves most of a device idle.

    Returns:
      A function of the loss, as `jax.value_and_grad(loss, has_aux=True)` is one; None for `backprop`.

    Raises:
      UsageError: there is no such estimator or setting, or one does not fit.
      MissingExtraError: evosax, which `evolution` needs, is not installed.

    Example:
      >>> import jaxprop, jax, jax.numpy as jnp, optax
      >>> wrong = lambda params, batch, key: jnp.mean(jnp.sign(batch["x"] @ params["w"]) != batch["y"])  # no gradient
      >>> gradient = jaxprop.estimator("spsa", samples=8, sigma=0.3)
      >>> step = jaxprop.make_train_step(wrong, optax.sgd(1.0), gradient=gradient)
      >>> state = step.init({"w": jnp.array([-0.1, 0.1])}, key=jax.random.key(0))
      >>> x = jax.random.normal(jax.random.key(1), (256, 2))
      >>> for _ in range(20):
      ...     state, m = step(state, {"x": x, "y": jnp.sign(x[:, 0])}, "rows")
      >>> float(m.loss) < 0.1
      True

    References:
      Baydin et al., Gradients without Backpropagation, 2022. https://arxiv.org/abs/2202.08587
      Spall, Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient Approximation, IEEE
      Transactions on Automatic Control 37, 1992.
      Malladi et al., Fine-Tuning Language Models with Just Forward Passes, 2023. https://arxiv.org/abs/2305.17333
      Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning, 2017.
      https://arxiv.org/abs/1703.03864
      Lange, evosax: JAX-based Evolution Strategies, 2022. https://arxiv.org/abs/2212.04180
    """
    if name not in (BACKPROP, *ESTIMATORS):
        raise UsageError(one_of(name, (BACKPROP, *ESTIMATORS), "estimator of the gradient"))
    kind = ESTIMATORS.get(name)
    takes = () if kind is None else kind._fields
    for key in settings:
        if key not in takes:
            listed = f"it takes {', '.join(takes)}" if takes else "it takes no settings"
            raise UsageError(f"the estimator {name} has no setting {key!r}; {listed}")
    if kind is None:
        return None
    made = kind(**settings)
    _check(made)
    if isinstance(made, Evolution):
        _evosax()
    return made


def resolved(gradient: Any) -> Callable[..., Any] | None:
    """Returns what stands in place of `jax.value_and_grad`: the estimator of a name, or what is given.

    Example:
      >>> resolved("spsa"), resolved("backprop"), resolved(None)
      (Spsa(samples=1, sigma=0.001, chunk=1), None, None)
    """
    return estimator(gradient) if isinstance(gradient, str) else gradient


def check_fits(gradient: Any, policy: Policy, signals: Signals | None) -> None:
    """Raises UsageError where an estimator does not go together with the rest of a step."""
    if not isinstance(gradient, _KINDS):
        return
    if needs_scaling(policy):
        raise UsageError(
            "float16 scales the loss for the sake of the backward pass, which an estimator of the gradient does not "
            "take; use precision='bfloat16'"
        )
    if signals is not None and signals.curvature:
        raise UsageError(
            "the curvature is found by differentiating the gradient, and an estimate of it changes with its directions "
            "alone; leave out Signals(curvature=True), or gradient="
        )


def among(gradient: Any, moved: list[bool]) -> Any:
    """Returns an estimator whose directions lie in some of the leaves of the parameters; anything else as it is.

    Args:
      gradient: what stands in place of `jax.value_and_grad`.
      moved: for every leaf whether it is one of them; the estimate of the others is zero.
    """
    if not isinstance(gradient, _KINDS) or all(moved):
        return gradient

    def restricted(loss: LossWithAux) -> ValueAndGrad:
        def value_and_grad(params: PyTree, batch: Batch, key: jax.Array) -> Any:
            inner = gradient(lambda some, batch, key: loss(merge(some, params, moved), batch, key))
            found, grads = inner(split(params, moved), batch, key)
            return found, merge(grads, jax.tree.map(jnp.zeros_like, params), moved)

        return value_and_grad

    return restricted


def needs_plain_forms(gradient: Any) -> bool:
    """Whether layers have to take the forms that forward mode goes through."""
    return isinstance(gradient, ForwardGradient)


def described(gradient: Any) -> str | None:
    """Returns an estimator in words, with its settings and its cost; None for what is no estimator.

    Example:
      >>> described(Spsa(samples=4))
      'spsa, samples 4, sigma 0.001, chunk 1: 9 forward passes'
    """
    if not isinstance(gradient, _KINDS):
        return None
    name = next(name for name, kind in ESTIMATORS.items() if isinstance(gradient, kind))
    settings = [f"{key} {value}" for key, value in gradient._asdict().items()]
    return f"{', '.join([name, *settings])}: {gradient.passes}"


def _check(made: Any) -> None:
    given = made._asdict()
    for key in ("samples", "population", "chunk"):
        value = given.get(key)
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1
        if key in given and not whole:
            raise UsageError(f"expected {key} to be a whole number of at least 1; got {value!r}")
    sigma = given.get("sigma", 1.0)
    if isinstance(sigma, bool) or not isinstance(sigma, int | float | np.number) or not 0 < sigma < float("inf"):
        raise UsageError(f"expected sigma to be a number above 0; got {sigma!r}")
    if given.get("shaping", "ranks") not in SHAPINGS:
        raise UsageError(one_of(given["shaping"], SHAPINGS, "shaping"))
    if given.get("population", 2) % 2:
        even = made.population + 1
        raise UsageError(f"population is {made.population}, and its points come in pairs z and -z; use {even}")
    name, count = ("population", made.population) if "population" in given else ("samples", made.samples)
    if count % made.chunk:
        raise UsageError(f"chunk is {made.chunk}, which does not divide {name}, {count}; use a divisor of {count}")


def _mean(
    along: Callable[[jax.Array], tuple[PyTree, Any]], key: jax.Array, samples: int, chunk: int
) -> tuple[PyTree, Any]:
    """Mean over keys of the first output, `chunk` keys at a time; and the second one of the first key."""
    keys = jax.random.split(jax.random.fold_in(key, DIRECTIONS), (samples // chunk, chunk))
    if samples == 1:
        return along(keys[0, 0])

    def of_chunk(own: jax.Array) -> tuple[PyTree, Any]:
        if chunk == 1:
            return along(own[0])
        found, kept = jax.vmap(along)(own)
        return jax.tree.map(lambda x: jnp.sum(x, 0), found), jax.tree.map(lambda x: x[0], kept)

    def add(total: PyTree, own: jax.Array) -> tuple[PyTree, Any]:
        found, kept = of_chunk(own)
        return jax.tree.map(jnp.add, total, found), kept

    shapes, _ = jax.eval_shape(of_chunk, keys[0])
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, kept = jax.lax.scan(add, zeros, keys)
    return jax.tree.map(lambda x: x / samples, total), jax.tree.map(lambda x: x[0], kept)


def _scaled(direction: PyTree, slope: jax.Array) -> PyTree:
    return jax.tree.map(lambda v: slope.astype(v.dtype) * v, direction)


def _moved(params: PyTree, distance: float, direction: PyTree) -> PyTree:
    return jax.tree.map(lambda p, v: p + jnp.asarray(distance, p.dtype) * v, params, direction)


@functools.lru_cache(maxsize=8)
def _strategy(population: int, sigma: float, shaping: str, size: int, dtype: str) -> Any:
    """An evolution strategy over `size` parameters; one object for all traces, since evosax's jit holds each for good.

    Its optimizer changes nothing, and leaves the estimate of the gradient in its state: the difference of two means
    would be rounded.
    """
    algorithms, shapings = _evosax()
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        return algorithms.Open_ES(
            population_size=population,
            solution=np.zeros(size, dtype),
            optimizer=optax.trace(decay=0.0),
            std_schedule=optax.constant_schedule(sigma),
            fitness_shaping_fn=getattr(shapings, SHAPINGS[shaping]),
        )


def _evosax() -> tuple[Any, Any]:
    try:
        from evosax import algorithms
        from evosax.core import fitness_shaping
    except ImportError as error:
        raise MissingExtraError("evosax", "the estimator evolution of the gradient") from error
    return algorithms, fitness_shaping


def _counted(passes: int) -> str:
    return f"{passes} forward pass{'' if passes == 1 else 'es'}"
