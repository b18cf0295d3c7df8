"""jaxprop as it comes: its built-in model and its train step, with the norms of every layer and the guard."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxprop
from jaxprop.core.compiler import fast_options
from jaxprop.core.precision import policy
from peers.built_in import batches_of, objective_of, start_of
from peers.side import Trainer, stepping
from peers.workloads import EPSILON, LEARNING_RATE, WEIGHT_DECAY, Workload

TX = optax.adamw(LEARNING_RATE, eps=EPSILON, weight_decay=WEIGHT_DECAY)


def start(workload: Workload, _weights: dict[str, Any], precision: str) -> Trainer:
    """The step that `make_train_step` makes, with its defaults: a full record in each fiftieth call."""
    step = jaxprop.make_train_step(objective_of(workload), TX, precision=precision)
    params, extras = start_of(workload)
    state = step.init(params, key=jax.random.key(0), extras=extras)
    count = 0

    def take(batch: Any) -> Any:
        nonlocal state, count
        count += 1
        state, measured = step(state, batch, "full" if count % 50 == 0 else "rows")
        return measured.loss

    def wait(loss: Any) -> float:
        jax.block_until_ready(state)
        return float(loss)

    return Trainer(stepping(take, _placed(workload), wait), versions("jaxprop", "jax", "optax"))


def start_by_hand(workload: Workload, _weights: dict[str, Any], precision: str) -> Trainer:
    """The floor: the same model, loss and compiler options, `jax.value_and_grad` and optax, and nothing else."""
    objective, dtypes = objective_of(workload), policy(precision)
    params, extras = start_of(workload)
    state = (params, TX.init(params), extras)
    key = jax.random.key(0)

    def update(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, opt_state, extras = state

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            loss, aux = objective.mean_loss(params, extras, batch, key, dtypes)
            return loss, aux[1]

        (loss, extras), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = TX.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, extras), loss

    return jitted(update, state, _placed(workload), versions("jax", "optax"), fast_options())


def jitted(
    update: Callable[..., Any], state: Any, batches: list[Any], found: dict[str, str], options: dict[str, Any]
) -> Trainer:
    """A trainer of a function `(state, batch) -> (state, loss)`, compiled, with the state donated."""
    compiled = jax.jit(update, donate_argnums=0, compiler_options=options)

    def take(batch: Any) -> Any:
        nonlocal state
        state, loss = compiled(state, batch)
        return loss

    def wait(loss: Any) -> float:
        jax.block_until_ready(state)
        return float(loss)

    return Trainer(stepping(take, batches, wait), found)


def on_device(made: list[dict[str, Any]]) -> list[dict[str, jax.Array]]:
    """Batches where the step finds them, on the default device."""
    return [{name: jnp.asarray(x) for name, x in one.items()} for one in made]


def versions(*names: str) -> dict[str, str]:
    """Versions of packages."""
    return {name: importlib.metadata.version(name) for name in names}


def _placed(workload: Workload) -> list[dict[str, jax.Array]]:
    return on_device(batches_of(workload))
