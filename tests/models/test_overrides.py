"""Overrides of the precision in every built-in model, at every layer: dtypes of parameters, strict promotion, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.jaxprs.walk import equations
from jaxprop.core.overrides import Dtypes, cast_params
from jaxprop.core.precision import policy
from jaxprop.core.trees import layer_names, leaf_paths
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models import make_model
from jaxprop.models.arguments import masks_tokens
from jaxprop.tasks.tokens import loss_of_sequences
from jaxprop.train.objective import loss_from
from tests.models.test_init import KEY, SMALL, batch_of, name_of, small


def objective_of(case, **changes):
    section, options, spec = SMALL[case]
    options = {"dropout": 0.2} | options | changes
    remat = options.pop("remat", "none")
    model = make_model(section(name=name_of(section), **options), spec, remat)
    loss = loss_of_sequences(softmax_cross_entropy) if masks_tokens(spec) else softmax_cross_entropy
    params, extras = jax.eval_shape(model.init, KEY, batch_of(spec))
    return loss_from(model, loss), params, extras, batch_of(spec)


def products(jaxpr):
    """Dtypes of all products of matrices, and of the convolutions."""
    found = [e for e in equations(jaxpr) if e.primitive.name in ("dot_general", "conv_general_dilated")]
    return [tuple(operand.aval.dtype.name for operand in equation.invars[:2]) for equation in found]


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("case", SMALL)
def test_every_layer_may_have_a_dtype_of_its_own(case, remat):
    objective, params, extras, batch = objective_of(case, remat=remat)
    names = layer_names(params)[0]
    wide = names[:: 2 if remat == "none" else -2]  # from both ends, so that each layer is in one of the two dtypes once
    mixed = policy("bfloat16", overrides=[(f"^{name}$", "float32") for name in wide])

    def loss(params, extras):
        return objective.mean_loss(params, extras, batch, KEY, mixed)[0]

    grads = jax.eval_shape(jax.grad(loss), params, extras)  # strict promotion refuses any operation on two dtypes
    assert [leaf.dtype for leaf in jax.tree.leaves(grads)] == [jnp.float32] * len(jax.tree.leaves(params))
    cast = jax.tree.leaves(jax.eval_shape(lambda params: cast_params(params, mixed), params))
    found = {path.rpartition("/")[0] for path, leaf in zip(leaf_paths(params), cast, strict=True) if leaf.dtype == "f4"}
    assert found == set(wide)


@pytest.mark.parametrize("case", ["cnn", "encoder", "lstm"])
def test_an_override_of_everything_computes_as_that_dtype_does(case):
    objective, _, _, batch = objective_of(case, dropout=0.0)
    params, extras = jax.jit(small(case, dropout=0.0)[0].init)(KEY, batch)

    def loss(*overrides, name="bfloat16"):
        dtypes = policy(name, overrides=overrides)
        return float(jax.jit(lambda params: objective.mean_loss(params, extras, batch, KEY, dtypes)[0])(params))

    wide, narrow = loss(name="float32"), loss()
    # What goes from module to module is rounded, and so are inputs that are no tokens.
    np.testing.assert_allclose(loss((".*", "float32")), wide, rtol=1e-2 if case == "cnn" else 2e-4)
    assert abs(narrow - wide) > 1e-6 * wide


def test_the_head_multiplies_in_its_own_dtype_and_its_output_stays_wide():
    model, batch = small("encoder")
    params, extras = jax.eval_shape(model.init, KEY, batch)
    objective = loss_from(model, loss_of_sequences(softmax_cross_entropy))

    def found(*overrides):
        dtypes = policy("bfloat16", overrides=overrides)
        traced = jax.make_jaxpr(lambda p: objective.sums(p, extras, batch, dtypes)["loss"][0])(params)
        return products(traced)

    assert found()[-1] == ("bfloat16", "bfloat16")
    assert found(("head", "float32"))[-1] == ("float32", "float32")
    assert found()[:-1] == found(("head", "float32"))[:-1]


@pytest.mark.parametrize("case", ["transformer", "seq2seq_transformer"])
def test_the_output_of_a_tied_embedding_is_the_head(case):
    objective, params, _, batch = objective_of(case, tie_embeddings=True)
    assert "head" not in params

    def found(*overrides):
        dtypes = policy("bfloat16", overrides=overrides)
        traced = jax.make_jaxpr(lambda p: objective.sums(p, {}, batch, dtypes)["loss"][0])(params)
        cast = jax.eval_shape(lambda params: cast_params(params, dtypes), params)
        return products(traced), cast["embed"]["embedding"].dtype.name

    narrow, wide = found(), found(("head", "float32"))
    assert (narrow[0][-1], narrow[1]) == (("bfloat16", "bfloat16"), "bfloat16")
    assert (wide[0][-1], wide[1]) == (("float32", "float32"), "float32")  # of weights that were not rounded before
    assert wide[0][:-1] == narrow[0][:-1]  # tokens are looked up for blocks in bfloat16
    product, table = found(("embed", "bfloat16"), ("head", "float32"))
    assert (product[-1], table) == (("float32", "float32"), "bfloat16")  # the first that matches the table counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", ["transformer", "encoder", "seq2seq_transformer", "seq2seq_rnn"])
def test_the_softmax_takes_logits_of_the_dtype_that_is_asked_for(case, dtype):
    objective, params, extras, batch = objective_of(case)
    mixed = policy("bfloat16", overrides=[("softmax", dtype)])
    traced = jax.make_jaxpr(lambda p: objective.sums(p, extras, batch, mixed)["loss"][0])(params)
    softmax = [e for e in equations(traced) if e.primitive.name == "exp" and e.outvars[0].aval.ndim > 1]
    dtypes = {e.invars[0].aval.dtype.name for e in softmax if e.invars[0].aval.shape[-1] in (4, 5)}
    assert dtypes == {dtype}


def test_a_module_in_float32_holds_its_submodules():
    dtypes = Dtypes(policy("bfloat16", overrides=[("blocks/0", "float32")]), ["blocks/0/attn/qkv/kernel"])
    assert dtypes.boundary("blocks/0", "") == (jnp.float32, jnp.bfloat16)
    assert dtypes.boundary("blocks/0/attn", "blocks/0") is None
