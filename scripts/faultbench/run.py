"""Runs of a program: the train step of jaxprop itself, vmapped over runs whose faults are data, in one `lax.scan`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop
from faultbench.faults import Plan, Program
from faultbench.models import ARCHITECTURES, TOKENS, Architecture
from jaxprop.core import trees
from jaxprop.core.measurements import Layout, Measurements
from jaxprop.core.precision import Scaling, policy
from jaxprop.health import Signals
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.train import step
from jaxprop.train.objective import loss_from
from jaxprop.types import PyTree, TrainState

RARE, FLUSH = 10, Signals().flush_every  # the command line's first choice
CHUNK = 50  # steps one call takes; a length of a run is a multiple of it


class Planted(NamedTuple):
    """State of an optimizer whose updates a fault may change; rows by layer, `[L]`."""

    inner: PyTree
    keep: jax.Array
    push: jax.Array
    grow: jax.Array


def faulty(
    inner: optax.GradientTransformation, layers: tuple[str, ...], frozen: tuple[str, ...]
) -> optax.GradientTransformation:
    """Wraps an optimizer: its updates times `keep`, plus `push` on biases and `grow` times the weights on kernels.

    What is frozen on purpose gets an update of zeros, as from `optax.set_to_zero`.
    """

    def init(params: PyTree) -> Planted:
        return Planted(inner.init(params), *(jnp.full(len(layers), value, jnp.float32) for value in (1, 0, 0)))

    def update(grads: PyTree, state: Planted, params: PyTree) -> tuple[PyTree, Planted]:
        updates, kept = inner.update(grads, state.inner, params)
        rows = trees.layer_names(params)[1]
        biases = [path.endswith("bias") for path in trees.leaf_paths(params)]
        leaves = zip(jax.tree.leaves(updates), jax.tree.leaves(params), rows, biases, strict=True)
        changed = [
            jnp.zeros(p.shape, p.dtype)
            if layers[row] in frozen
            else u * state.keep[row] + (state.push[row] if bias else state.grow[row] * p)
            for u, p, row, bias in leaves
        ]
        return jax.tree.unflatten(jax.tree.structure(params), changed), state._replace(inner=kept)

    return optax.GradientTransformation(init, update)


def optimizer(program: Program) -> optax.GradientTransformation:
    """The program's optimizer, whose hyperparameters lie in its state."""
    if program.optimizer == "sgd":
        inner = optax.inject_hyperparams(optax.sgd, static_args="nesterov")(learning_rate=1.0, momentum=0.9)
    else:
        inner = optax.inject_hyperparams(optax.adam, static_args=("b1", "b2", "eps", "eps_root"))(
            learning_rate=1.0, eps=program.eps, b2=program.b2
        )
    return faulty(inner, program.layers, program.frozen)


def objective(architecture: Architecture, plan: Plan) -> Any:
    """The model and its loss with one run's dropout, cut gradients and small cotangents."""
    rows = {name: i for i, name in enumerate(architecture.layers)}

    class Cut(dict):
        """The parameters, of which a layer's gradient is cut where the model takes it: so the record has its order."""

        def __getitem__(self, layer: str) -> PyTree:
            share = plan.cut[rows[layer]]
            return {
                name: p * share.astype(p.dtype) + jax.lax.stop_gradient(p) * (1 - share).astype(p.dtype)
                for name, p in super().__getitem__(layer).items()
            }

    def apply(params: PyTree, extras: PyTree, batch: Any, *, key: Any, train: bool) -> tuple[jax.Array, PyTree]:
        def drop(x: jax.Array) -> jax.Array:
            kept = jax.random.uniform(key, x.shape) >= plan.dropout
            return jnp.where(kept, x / (1 - plan.dropout).astype(x.dtype), jnp.zeros_like(x))

        del train
        logits = architecture.apply(Cut(params), batch["inputs"], drop)
        small = plan.cotangent.astype(jnp.float32)
        wide = logits.astype(jnp.float32)
        return wide * small + jax.lax.stop_gradient(wide * (1 - small)), extras

    model = jaxprop.from_functions(lambda key, _: (architecture.init(key), {}), apply)
    return loss_from(model, softmax_cross_entropy)


def batch_at(architecture: Architecture, pool: tuple[jax.Array, jax.Array], plan: Plan, t: jax.Array) -> dict[str, Any]:
    """The batch at position t of one run's stream, with what is wrong with it."""
    size = architecture.batch
    keys = jax.random.split(jax.random.fold_in(jax.random.key(plan.seed), t), 4)
    at = jax.random.randint(keys[0], (size,), 0, pool[0].shape[0])
    x, y = pool[0][at], pool[1][at]
    rows = jnp.arange(size)
    marked = (rows < plan.nans[t]).reshape(-1, *[1] * (x.ndim - 1))
    shifted = (rows < plan.shift[t] * size).reshape(-1, *[1] * (y.ndim - 1))
    y = jnp.where(shifted, (y + 1 + architecture.outputs // 2) % architecture.outputs, y)
    if architecture.tokens:
        junk = rows < plan.outlier[t] * size
        x = jnp.where(junk[:, None], jax.random.randint(keys[1], x.shape, 0, TOKENS), x)
        of_labels = junk.reshape(-1, *[1] * (y.ndim - 1))
        y = jnp.where(of_labels, jax.random.randint(keys[2], y.shape, 0, architecture.outputs), y)
        x = jnp.where(marked, TOKENS, x)
    else:
        x = jnp.where(marked, jnp.nan, x * (1 + plan.outlier[t]))
    return {"inputs": x, "labels": y, "weight": (rows < plan.size[t] * size).astype(jnp.float32)}


class Built(NamedTuple):
    """A program's functions of one run: `start` makes its state, `advance` takes a step at a position of the stream."""

    start: Callable[[Plan], TrainState]
    advance: Callable[..., tuple[TrainState, Measurements, jax.Array]]


def build(program: Program, respond: bool = False) -> Built:
    """Returns a program's functions, pure and not yet compiled."""
    architecture, tx = ARCHITECTURES[program.model], optimizer(program)
    scaling = Scaling(growth_interval=10**9)

    def start(plan: Plan) -> TrainState:
        key = jax.random.key(plan.seed)
        params = architecture.init(key)
        rows = trees.layer_names(params)[1]
        gained = [
            p * plan.gain[row] if path.endswith(("kernel", "embedding")) else p
            for path, p, row in zip(trees.leaf_paths(params), jax.tree.leaves(params), rows, strict=True)
        ]
        params = jax.tree.unflatten(jax.tree.structure(params), gained)
        state = jaxprop.init_state(
            params, tx, key=key, precision=program.precision, scaling=scaling, health=Signals(respond=respond)
        )
        if program.precision == "float16":
            state = state._replace(loss_scale=state.loss_scale._replace(scale=plan.loss_scale))
        return state

    def advance(plan: Plan, pool: Any, state: TrainState, t: jax.Array) -> tuple[TrainState, Measurements, jax.Array]:
        before = state._replace(opt_state=planted_state(plan, state, t))
        batch = batch_at(architecture, pool, plan, t)
        after, m = one_step(program, objective(architecture, plan), tx, scaling, respond)(before, batch)
        moved = [jnp.any(a != b) for a, b in zip(held(before), held(after), strict=True)]
        return after, m, (m.skipped > 0) & jnp.any(jnp.stack(moved))

    return Built(start, advance)


def held(state: TrainState) -> list[jax.Array]:
    """What a skipped step must leave as it was."""
    return jax.tree.leaves((state.params, state.opt_state))


def planted_state(plan: Plan, state: TrainState, t: jax.Array) -> Planted:
    """The optimizer's state with what the plan says of this step, and of position t in the stream."""
    now = jnp.minimum(state.step, plan.rate.shape[0] - 1)
    inner = state.opt_state.inner
    return Planted(
        inner._replace(hyperparams={**inner.hyperparams, "learning_rate": plan.rate[now]}),
        jnp.where(state.step >= plan.keep_from, plan.keep, jnp.ones_like(plan.keep)),
        plan.push * plan.active[t],
        plan.grow * plan.active[t],
    )


def one_step(program: Program, objective: Any, tx: Any, scaling: Scaling, respond: bool) -> Callable:
    """jaxprop's own step, with every signal in every step; the watch is shown the rare ones as rarely as in a run."""
    recipe = step.Recipe(
        objective=objective,
        tx=tx,
        policy=policy(program.precision),
        signals=Signals(eps=program.eps, respond=respond),
        scaling=scaling,
    )
    return functools.partial(step.train_step, recipe, "flush" if program.precision == "float16" else "full")


class Records(NamedTuple):
    """What R runs of S steps reported: packed `[R, S, n]`, how to read it, and the steps that leaked `[R, S]`."""

    packed: np.ndarray
    layout: Layout
    leaked: np.ndarray


class Viewer(NamedTuple):
    """Shows the record of a step as a run would: gradient norms each step, everything and flushes as rarely as there.

    Args:
      full: layout of the packed records.
      float16: whether records hold what float16 flushes.
      hide_rate: do not tell the learning rate.
      every: steps between records of everything: the command line's 10 to 100, the library's 50.
      opening: whether step 1 has one besides, as on the command line.
    """

    full: Layout
    float16: bool = False
    hide_rate: bool = False
    every: int = RARE
    opening: bool = True

    @property
    def known(self) -> dict[str, Any]:
        """What a run's configuration would tell the watch."""
        return {"precision": {"policy": "float16" if self.float16 else "float32"}}

    def at(self, packed: np.ndarray, step: int) -> Measurements:
        """The record `[n]` of a step, counted from 1."""
        rate, flushed = places(self.full)
        if self.hide_rate:
            packed = packed.copy()
            packed[rate] = np.nan
        opens = self.opening and step == 1
        if step % self.every and not opens:
            rows = self.full._replace(rare=False, taps=())
            return Measurements(packed[: rows.length], rows)
        if self.float16 and step % max(FLUSH, self.every) and not opens:
            packed = packed.copy()
            packed[flushed] = np.nan
        return Measurements(packed, self.full)


@functools.lru_cache(maxsize=64)
def places(layout: Layout) -> tuple[int, np.ndarray]:
    """Where in a packed record the learning rate is, and where the shares that float16 flushes are."""
    numbered = Measurements(np.arange(layout.length, dtype=np.float32), layout)
    assert numbered.rare is not None
    flushed = np.asarray(numbered.rare.flushed)
    return int(numbered.learning_rate), flushed[np.isfinite(flushed)].astype(int)


class Simulator:
    """Runs plans of one program; compiled once for each number of runs."""

    def __init__(self, program: Program):
        self.program = program
        self.built = build(program)
        self.layout: Layout | None = None
        self._start = jax.jit(jax.vmap(self.built.start))
        self._chunk = jax.jit(jax.vmap(self._advance, in_axes=(0, 0, 0, None)), donate_argnums=2)

    def _advance(self, plan: Plan, pool: Any, state: TrainState, first: jax.Array) -> Any:
        def one(state: TrainState, t: jax.Array) -> Any:
            state, m, leaked = self.built.advance(plan, pool, state, t)
            self.layout = m.layout
            return state, (m.packed, leaked)

        return jax.lax.scan(one, state, first + jnp.arange(CHUNK))

    def run(self, plan: Plan, steps: int) -> Records:
        """Takes so many steps of the plan's runs."""
        assert steps % CHUNK == 0, steps
        plan = jax.tree.map(jnp.asarray, plan)
        pool = pools(self.program.model, tuple(np.asarray(plan.seed).tolist()))
        state = self._start(plan)
        parts = []
        for first in range(0, steps, CHUNK):
            state, part = self._chunk(plan, pool, state, jnp.int32(first))
            parts.append(jax.device_get(part))
        packed, leaked = (np.concatenate(columns, 1) for columns in zip(*parts, strict=True))
        assert self.layout is not None
        return Records(packed, self.layout, leaked)


def pools(model: str, seeds: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The runs' examples, `[R, N, ...]` each."""
    inputs, labels = zip(*(_pool(model, seed) for seed in seeds), strict=True)
    return jnp.stack(inputs), jnp.stack(labels)


@functools.lru_cache(maxsize=256)
def _pool(model: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return ARCHITECTURES[model].pool(seed)
