"""A small network, its batches, and a few steps with it, for the tests of the step and of what it measures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop
from jaxprop.types import Objective

SIZES = (5, 7, 3)


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"dense_{i}": {"kernel": rng.normal(size=(n, m)).astype(np.float32) / 2, "bias": np.zeros(m, np.float32)}
        for i, (n, m) in enumerate(itertools.pairwise(SIZES))
    }


def make_batch(seed=0, size=16, weight=None):
    rng = np.random.default_rng(seed)
    return {
        "inputs": rng.normal(size=(size, SIZES[0])).astype(np.float32),
        "labels": rng.integers(0, SIZES[-1], size).astype(np.int32),
        "weight": np.ones(size, np.float32) if weight is None else np.asarray(weight, np.float32),
    }


def forward(params, inputs):
    hidden = jnp.tanh(inputs @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
    return hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]


def per_example(params, batch):
    logits = forward(params, batch["inputs"]).astype(jnp.float32)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])


def masked_loss(params, batch, key):
    weight = batch["weight"].astype(jnp.float32)
    total = jnp.sum(weight)
    safe = jnp.where(total > 0, total, 1.0)
    return jnp.sum(weight * per_example(params, batch)) / safe, {"weight": total}


def mean_loss(params, batch, key):
    return jnp.mean(per_example(params, batch))


def counting_objective():
    """Masked loss whose extras count the calls and hold a running mean, as batch statistics do."""

    def mean(params, extras, batch, key, policy):
        loss, aux = masked_loss(params, batch, key)
        extras = {"calls": extras["calls"] + 1, "mean": 0.9 * extras["mean"] + 0.1 * jnp.mean(batch["inputs"])}
        return loss, (aux["weight"], extras, {"loss_again": (loss * aux["weight"], aux["weight"])})

    return Objective(mean, lambda params, extras, batch, policy: {})


EXTRAS = {"calls": np.int32(0), "mean": np.float32(0)}


def run(loss_fn, tx, batches, *, extras=None, prec="float32", params=None, detail=None, **options):
    if isinstance(batches[0], dict) and "inputs" in batches[0] and not isinstance(loss_fn, Objective):
        options.setdefault("cast", ("inputs",))
    train = jaxprop.make_train_step(loss_fn, tx, prec, **options)
    state = train.init(make_params() if params is None else params, key=jax.random.key(0), extras=extras)
    records = []
    for batch in batches:
        state, m = train(state, batch, detail)
        records.append(m.host())
    return train, state, records


def one_step(loss_fn=mean_loss, tx=None, detail="full", params=None, batch=None, **options):
    tx = optax.sgd(0.1) if tx is None else tx
    kept = {n: options[n] for n in ("precision", "scaling", "health") if n in options}
    state = jaxprop.init_state(make_params() if params is None else params, tx, key=jax.random.key(0), **kept)
    step = jaxprop.make_train_step(loss_fn, tx, **options)
    return step(state, make_batch() if batch is None else batch, detail)[1].host()


def entries(tree):
    """All entries of each layer, float64."""
    return [np.concatenate([np.asarray(x, np.float64).ravel() for x in layer.values()]) for layer in tree.values()]


def assert_same_bits(a, b):
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        x, y = (
            np.asarray(jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v) for v in (x, y)
        )
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(np.uint8) if x.ndim else x, y.view(np.uint8) if y.ndim else y)


def assert_close(a, b, rtol=1e-6, atol=1e-7):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


MASKS = {
    "all ones": np.ones(16),
    "unequal": [1] * 5 + [0] * 9 + [1] * 2,
    "one microbatch empty": np.tile([1, 0, 1, 1], 4),
    "fractional": np.linspace(0.1, 2, 16),
}
