"""A configuration made ready to be measured: its step compiled twice, its state, and batches on the device."""

from __future__ import annotations

import itertools
import tempfile
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import partial_eval

from jaxprop.bench.device.compiling import cache_in
from jaxprop.bench.document import Fact
from jaxprop.config.schema.config import Config
from jaxprop.core.jaxprs.products import Product, products
from jaxprop.run import compose
from jaxprop.run.precision import policy_of
from jaxprop.run.vocabulary import with_chunks
from jaxprop.train.memory import predict
from jaxprop.types import TrainState

BATCHES = 4  # on the device, taken in turn
LONG = 1_000_000  # steps of the run that a step is measured for
DETAIL = "rows"  # what most steps of a run measure: the gradient norm of every layer


class Made(NamedTuple):
    """One configuration, ready.

    Args:
      experiment: as a run has it.
      state: before the first step.
      batches: on the devices.
      products: of loss and gradient.
      facts: sizes, and what compiling took and planned.
    """

    experiment: compose.Experiment
    state: TrainState
    batches: list[Any]
    products: list[Product]
    facts: dict[str, Fact]


def make(config: Config, *, twice: bool = True) -> Made:
    """Builds a configuration and compiles its step.

    Args:
      config: with the precision and the batch size to be measured.
      twice: whether the step is compiled a second time, from a filled cache, to see how long that takes.

    Raises:
      JaxpropError: its parts do not fit together.
    """
    config = single(config)
    experiment = compose.compose(config)
    stream = itertools.islice(experiment.stream, BATCHES)
    # Put there even where jit would take NumPy's arrays as they are: their transfer is no part of the step.
    batches = [jax.device_put(compose.place(experiment, batch)[0]) for batch in stream]
    state = experiment.init(config.run.seed)
    found = _products(experiment, state, batches[0])
    facts = _sizes(config, state, batches[0])
    facts["flops_formula"] = sum(one.flops * one.times for one in found) * config.run.accumulate
    with tempfile.TemporaryDirectory(prefix="jaxprop-bench-") as folder, cache_in(folder):
        compiled, facts["compile_cold_s"] = _compiled(experiment, state, batches[0])
        if twice:
            again = compose.compose(config)
            jax.eval_shape(again.init, config.run.seed)  # a step knows what it compiles for from its first state
            _, facts["compile_warm_s"] = _compiled(again, state, batches[0])
        facts |= planned(compiled)
        # The program that the calls will use comes out of the cache too.
        state, _ = jax.block_until_ready(experiment.step(state, batches[0], DETAIL))
    return Made(experiment, state, batches, found, facts)


def single(config: Config) -> Config:
    """A configuration whose step is called once for each batch, in a run of any length.

    With a larger batch, an epoch has fewer steps, and a schedule might not fit into them.
    """
    changes = {"steps_per_call": 1, "steps": LONG, "epochs": None}
    return config.model_copy(update={"run": config.run.model_copy(update=changes)})


def planned(compiled: Any) -> dict[str, Fact]:
    """What the compiler says of a program: the bytes of memory that it takes at most, and its operations."""
    memory, cost = predict(compiled), compiled.cost_analysis() or {}
    return {"flops_compiled": cost.get("flops"), "planned_bytes": memory.peak if memory else None}


def _compiled(experiment: compose.Experiment, state: TrainState, batch: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    compiled = experiment.step.lower(state, batch, DETAIL).compile()
    return compiled, round(time.perf_counter() - start, 3)


def _products(experiment: compose.Experiment, state: TrainState, batch: Any) -> list[Product]:
    """Products of one microbatch's loss and of its gradient by what is trained.

    As written: without what rematerialization would repeat, and without what nothing depends on.
    """
    config = experiment.config
    once = {"remat": "none", "vocabulary_chunks": "none"}
    plain = config.model_copy(update={"run": config.run.model_copy(update=once)})
    chunks = with_chunks(config, experiment.sources["train"], experiment.mesh).run.vocabulary_chunks
    repeats = config.run.remat != "none" or chunks not in (1, "none")
    objective = (compose.compose(plain) if repeats else experiment).task.objective
    dtypes = policy_of(config)
    size = config.data.batch_size // config.run.accumulate
    micro = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *np.shape(x)[1:]), x.dtype), batch)
    key = jax.eval_shape(partial(jax.random.key, 0))
    leaves, treedef = jax.tree.flatten(state.params)
    assert experiment.optimizer is not None
    trained = [scale != 0 for scale in experiment.optimizer.lr_scales]

    def loss(moving: list[Any], fixed: list[Any], extras: Any, batch: Any, key: Any) -> jax.Array:
        of = {True: iter(moving), False: iter(fixed)}
        params = jax.tree.unflatten(treedef, [next(of[one]) for one in trained])
        return objective.mean_loss(params, extras, batch, key, dtypes)[0]

    moving, fixed = (
        [leaf for leaf, one in zip(leaves, trained, strict=True) if one is which] for which in (True, False)
    )
    traced = jax.make_jaxpr(jax.value_and_grad(loss))(moving, fixed, state.extras, micro, key)
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return products(used)


def _sizes(config: Config, state: TrainState, batch: Any) -> dict[str, Fact]:
    labels = batch.get("labels")
    tokens = (
        int(labels.size)
        if labels is not None and labels.ndim > 1 and config.task.name in ("language", "translate")
        else None
    )
    return {
        "precision": config.precision.policy, "batch": config.data.batch_size, "tokens": tokens,
        "parameters": sum(int(x.size) for x in jax.tree.leaves(state.params)),
    }  # fmt: skip


def planned_bytes(config: Config) -> float:
    """Bytes that the compiler plans for a step at most, without making its state.

    Args:
      config: with the batch size in question.
    """
    config = single(config)
    experiment = compose.compose(config)
    state = jax.eval_shape(experiment.init, config.run.seed)
    batch = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, next(experiment.stream)))
    found = planned(experiment.step.lower(state, batch, DETAIL).compile()).get("planned_bytes")
    return float(found or 0)
