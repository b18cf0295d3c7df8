"""Logits in stretches of tokens: values, gradients, losses, metrics, signals and taps as of whole logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.precision import policy
from jaxprop.core.vocabulary import ChunkedLogits, chunking, logits_of, over_chunks
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.metrics import accuracy, bytes_per_token
from jaxprop.models.adapters.functions import from_functions
from jaxprop.train.objective import loss_from

RNG = np.random.default_rng(0)
B, T, D, V = 3, 11, 4, 13
BATCH = {
    "inputs": RNG.normal(size=(B, T, D)).astype(np.float32),
    "labels": RNG.integers(0, V, (B, T)).astype(np.int32),
    "bytes": np.array([5.0, 7.0, 2.0], np.float32),
}
MASK = (RNG.random((B, T)) > 0.3).astype(np.float32)
BATCHES = {
    "whole": BATCH,
    "masked": {**BATCH, "mask": MASK, "weight": np.array([1.0, 2.0, 0.5], np.float32)},
    "padding": {**BATCH, "mask": MASK * np.array([[1.0], [0.0], [1.0]], np.float32), "labels": BATCH["labels"]},
    "weights of 0": {**BATCH, "weight": np.array([1.0, 0.0, 3.0], np.float32)},
}
LOSS = partial(softmax_cross_entropy, label_smoothing=0.1, z_loss=0.01)
KEY = jax.random.key(0)


def head(params, extras, batch, *, key, train):
    hidden = jnp.tanh(batch["inputs"] @ params["dense"])
    bias = params.get("bias")
    later = logits_of(hidden, params["head"], bias)
    if later is not None:
        return later, extras
    return jaxprop.tap(hidden @ params["head"] + (0 if bias is None else bias), "head", "output"), extras


MODEL = from_functions(lambda key, batch: ({}, {}), head)
PARAMS = {
    "dense": RNG.normal(size=(D, D)).astype(np.float32),
    "head": RNG.normal(size=(D, V)).astype(np.float32),
    "bias": RNG.normal(size=V).astype(np.float32),
}


def measured(chunks, batch, loss, dtypes="float32", params=PARAMS):
    metrics = {"accuracy": accuracy, "bytes_per_token": bytes_per_token}
    objective = loss_from(MODEL, loss, metrics, vocabulary_chunks=chunks)
    computes = policy(dtypes)

    def trained(params):
        return objective.mean_loss(params, {}, batch, KEY, computes)

    return jax.jit(jax.value_and_grad(trained, has_aux=True))(params), jax.jit(
        lambda params: objective.sums(params, {}, batch, computes)
    )(params)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("chunks", [4, 50])  # stretches of 3 tokens and a last one of 2; no more stretches than tokens
def test_loss_gradient_metrics_and_signals_are_those_of_whole_logits(chunks, name):
    found, whole = (measured(n, BATCHES[name], LOSS) for n in (chunks, 1))
    assert set(found[0][0][1][2]) == {"accuracy", "_output_max", "_output_logsumexp"}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), found, whole)


def test_the_gradient_of_a_kernel_in_16_bits_is_added_up_in_32():
    # Added up in bfloat16, equal terms are rounded off once the sum is 256 times as large.
    tokens = 512
    batch = {"inputs": np.ones((2, tokens, D), np.float32), "labels": np.zeros((2, tokens), np.int32)}
    batch["bytes"] = np.ones(2, np.float32)
    params = {key: PARAMS[key] for key in ("dense", "head")}
    (_, exact), _ = measured(1, batch, softmax_cross_entropy, params=params)
    (_, found), _ = measured(tokens, batch, softmax_cross_entropy, "bfloat16", params)
    np.testing.assert_allclose(found["head"], exact["head"], rtol=0.05, atol=0.02 * np.abs(exact["head"]).max())


def test_a_label_that_is_no_token_makes_the_loss_nan_in_any_stretch():
    labels = BATCH["labels"].copy()
    labels[1, 10] = -100
    ((loss, _), _), _ = measured(4, {**BATCH, "labels": labels}, softmax_cross_entropy)
    assert np.isnan(loss)


def test_the_logits_of_one_stretch_alone_are_in_memory():
    batch = {"inputs": np.zeros((4, 256, D), np.float32), "labels": np.zeros((4, 256), np.int32)}
    params = {"dense": PARAMS["dense"], "head": np.zeros((D, 512), np.float32)}
    temporaries = []
    for chunks in (1, 16):
        objective = loss_from(MODEL, softmax_cross_entropy, vocabulary_chunks=chunks)
        grad = jax.jit(jax.grad(lambda p, o=objective: o.mean_loss(p, {}, batch, KEY, policy("float32"))[0]))
        temporaries.append(grad.lower(params).compile().memory_analysis().temp_size_in_bytes)
    logits = 4 * 4 * 256 * 512
    assert temporaries[0] > logits
    assert temporaries[1] < logits / 2


def test_a_step_measures_the_tap_of_the_head():
    found = []
    for chunks in (1, 4):
        objective = loss_from(MODEL, softmax_cross_entropy, {"accuracy": accuracy}, vocabulary_chunks=chunks)
        step = jaxprop.make_train_step(objective, optax.sgd(0.1))
        state = step.init(PARAMS, key=KEY)
        _, m = step(state, BATCHES["weights of 0"], "full")
        assert m.layout.taps == (("head", "output"),)
        found.append(m.host())
    chunked, whole = found[1], found[0]
    for name in ("rms", "grad_rms"):
        np.testing.assert_allclose(getattr(chunked.taps, name), getattr(whole.taps, name), rtol=1e-5)
    # the mean of the largest of each stretch
    assert 0 < chunked.taps.abs_max[0] <= whole.taps.abs_max[0] == whole.output_max
    np.testing.assert_allclose(chunked.output_max, whole.output_max, rtol=1e-6)
    np.testing.assert_allclose(chunked.layers.grad_norm, whole.layers.grad_norm, rtol=1e-5)


def test_accumulation_and_devices_give_the_same_step():
    batch = {name: np.repeat(x, 4, 0)[:8] for name, x in BATCHES["masked"].items()}
    losses = []
    for chunks, options in ((1, {}), (4, {"accumulate": 2}), (4, {"mesh": jaxprop.make_mesh(4)})):
        objective = loss_from(MODEL, softmax_cross_entropy, {"accuracy": accuracy}, vocabulary_chunks=chunks)
        step = jaxprop.make_train_step(objective, optax.sgd(0.1), **options)
        state, m = step(step.init(PARAMS, key=KEY), batch)
        losses.append((m.host().loss, m.host().grad_norm, jax.device_get(state.params)))
    for other in losses[1:]:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), other, losses[0])


def test_what_is_handed_out_outside_and_inside():
    hidden, kernel = jnp.ones((1, 6, 2)), jnp.ones((2, 3))
    assert logits_of(hidden, kernel) is None
    with chunking(1):
        assert logits_of(hidden, kernel) is None
    with chunking(9):
        later = logits_of(hidden, kernel, jnp.ones(3))
    assert later.chunks == 6
    assert later.whole().tolist() == [[[3.0] * 3] * 6]


def test_arrays_of_another_length_are_given_to_each_stretch_whole():
    seen = []

    def look(logits, batch):
        seen.append({name: jnp.shape(x) for name, x in batch.items()})
        return jnp.sum(logits), jnp.max(logits)

    logits = ChunkedLogits(jnp.ones((2, 6, 1)), jnp.ones((1, 3)), None, 3)
    over_chunks(look, logits, {"labels": jnp.ones((2, 6)), "mask": jnp.ones(2), "weight": jnp.ones(2)})
    assert seen[0] == {"labels": (2, 2), "mask": (2,), "weight": (2,)}
