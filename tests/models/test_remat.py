"""Rematerialization changes what is kept, and nothing of what is computed."""

from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.config.schema.run import Run
from jaxprop.core.forms import PLAIN, forms_for
from jaxprop.core.precision import policy
from jaxprop.models import make_model
from jaxprop.models.remat import NONE, POLICIES, call, checkpointed
from jaxprop.train.make import make_train_step
from jaxprop.train.objective import loss_from
from tests.models.test_init import FLOAT, KEY, TEXTS, TOKENS, batch_of, loss_for

CASES = {
    "mlp": (schema.Mlp(name="mlp", hidden=(6, 5), batch_norm=True, dropout=0.2), FLOAT),
    "cnn": (schema.Cnn(name="cnn", channels=(2, 3), convs_per_block=2, hidden=(4,), dropout=0.2), FLOAT),
    "resnet": (schema.ResNet(name="resnet", depths=(1, 1), widths=(2, 3), dropout=0.2), FLOAT),
    "bigru": (schema.Rnn(name="rnn", cell="gru", width=4, bidirectional=True, dropout=0.2), TEXTS),
    "lstm": (schema.Rnn(name="rnn", cell="lstm", width=4, layers=2, dropout=0.2), TOKENS),
    "transformer": (schema.Transformer(name="transformer", layers=2, width=8, heads=2, dropout=0.2), TOKENS),
    "encoder": (
        schema.Transformer(name="transformer", width=8, heads=2, kv_heads=1, norm="rms", feed_forward="swiglu"),
        TEXTS,
    ),
}


def two_steps(case, remat, **options):
    section, spec = CASES[case]
    model, batch = make_model(section, spec, remat), batch_of(spec, size=16)
    step = make_train_step(loss_from(model, loss_for(spec)), optax.adam(1e-2), **options)
    params, extras = jax.jit(model.init)(KEY, batch)
    state = step.init(params, key=KEY, extras=extras)
    state, first = step(state, batch, "full")
    state, second = step(state, batch, "full")
    return state, [first, second]


@cache
def two_steps_with_all_kept(case):
    return two_steps(case, NONE, **accumulation(case))


def accumulation(case):
    return {} if case in ("lstm", "bigru") else {"accumulate": 2}


@pytest.mark.parametrize("remat", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_a_step_measures_and_computes_the_same_under_every_policy(case, remat):
    (state, kept), (same, again) = two_steps_with_all_kept(case), two_steps(case, remat, **accumulation(case))
    assert kept[0].layout == again[0].layout
    assert len(kept[0].layout.taps) >= 3
    for before, after in zip(kept, again, strict=True):  # scalars, rows of layers and rows of taps
        np.testing.assert_allclose(after.packed, before.packed, rtol=2e-5, atol=1e-6)
    trees = zip(jax.tree.leaves((state.params, state.extras)), jax.tree.leaves((same.params, same.extras)), strict=True)
    for before, after in trees:
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("remat", POLICIES)
def test_a_vision_transformer_has_the_same_gradient_under_every_policy(remat):
    """Without rotary positions the gradient of the keys' bias is rounding alone, which the record of a step counts."""
    section = schema.Vit(name="vit", layers=2, width=8, heads=2, patch=5, dropout=0.2)
    batch = batch_of(FLOAT, size=16)

    def gradient(remat):
        model = make_model(section, FLOAT, remat)
        params, extras = jax.jit(model.init)(KEY, batch)
        mean_loss = loss_from(model, loss_for(FLOAT)).mean_loss
        return jax.jit(jax.value_and_grad(lambda p: mean_loss(p, extras, batch, KEY, policy("float32"))[0]))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient(NONE), gradient(remat))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["cnn", "transformer"])
def test_a_step_in_lower_precision_stays_the_same(case, precision):
    (_, kept), (_, again) = (two_steps(case, name, precision=precision) for name in (NONE, "full"))
    np.testing.assert_allclose(again[0].loss, kept[0].loss, rtol=1e-2)
    np.testing.assert_allclose(again[0].grad_norm, kept[0].grad_norm, rtol=5e-2)


def residual_bytes(case, remat):
    """Bytes that the forward pass hands to the backward pass, parameters apart."""
    section, spec = CASES[case]
    section = section.model_copy(update={"dropout": 0.0})
    model, batch = make_model(section, spec, remat), batch_of(spec, size=64)
    params, extras = model.init(KEY, batch)

    def loss(params):
        return model.apply(params, extras, batch, key=KEY, train=True)[0].sum()

    _, backward = jax.vjp(loss, params)
    known = {id(leaf) for leaf in jax.tree.leaves(params)}
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward) if hasattr(leaf, "nbytes") and id(leaf) not in known)


@pytest.mark.parametrize("case", ["cnn", "resnet", "lstm", "transformer"])
def test_the_forward_pass_keeps_less(case):
    kept = {remat: residual_bytes(case, remat) for remat in (NONE, *POLICIES)}
    with forms_for(PLAIN):  # an LSTM computes its gates again even without being asked
        plain = residual_bytes(case, NONE)
    assert kept["full"] < 0.6 * plain
    assert kept[NONE] <= plain
    assert kept["full"] <= kept["dots_no_batch"] <= kept["dots"] <= kept[NONE]


def test_a_scan_over_time_takes_less_memory_once_compiled():
    def temporaries(remat):
        section = schema.Rnn(name="rnn", cell="lstm", width=32)
        model = make_model(section, TOKENS, remat)
        batch = {"inputs": np.zeros((8, 64), np.int32)}
        params, extras = model.init(KEY, batch)

        def loss(params):
            return model.apply(params, extras, batch, key=KEY, train=True)[0].sum()

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    with forms_for(PLAIN):
        plain = temporaries(NONE)
    assert temporaries("full") < 0.7 * plain


def test_the_schema_names_the_policies():
    assert set(get_args(Run.model_fields["remat"].annotation)) == {NONE, *POLICIES}


def test_what_a_call_changes_in_a_module_stays_changed():
    module = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    call(module, "full", "norm", jnp.array([[1.0, 2.0], [3.0, 6.0]]))
    assert module.mean[...].tolist() != [0.0, 0.0]


def test_no_policy_is_the_function_itself():
    assert checkpointed(jnp.sin, NONE) is jnp.sin
