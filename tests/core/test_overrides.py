"""Which override counts for a path, the dtypes at the edges of modules, and sentences on what matches nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core import overrides
from jaxprop.core.overrides import Dtypes, cast_params, check_overrides, computing
from jaxprop.core.precision import Override, needs_scaling, policy
from jaxprop.errors import UsageError
from tests.steps import make_batch, make_params, mean_loss

PATHS = ["embed/embedding", "blocks/0/attn_norm/scale", "blocks/0/attn/qkv/bias", "blocks/0/attn/qkv/kernel", "scale"]
TREE = {"embed": {"embedding": 1.0}, "norm": {"scale": 1.0, "bias": 1.0}, "count": 3}
OF = {
    "a part of a path": ([("norm", "float32")], "blocks/0/attn_norm", jnp.float32),
    "a module beside it": ([("norm", "float32")], "blocks/0/attn", jnp.bfloat16),
    "a module around it": ([("attn$", "float32")], "blocks/0/attn/qkv", jnp.float32),
    "a parameter of its own": ([("kernel", "float16")], "blocks/0/attn/qkv", jnp.float16),
    "a parameter of a module inside": ([("kernel", "float16")], "blocks/0/attn", jnp.bfloat16),
    "the first of two": ([("qkv", "float32"), ("attn", "float16")], "blocks/0/attn/qkv", jnp.float32),
    "the second of two": ([("qkv", "float32"), ("attn$", "float16")], "blocks/0/attn", jnp.float16),
    "the model's own parameter": ([("^scale", "float32")], "", jnp.float32),
}


@pytest.mark.parametrize("case", OF)
def test_the_first_override_that_matches_a_module_counts(case):
    given, module, dtype = OF[case]
    assert Dtypes(policy("bfloat16", overrides=given), PATHS).of(module) == dtype


def test_an_edge_is_where_a_module_differs_from_the_one_that_calls_it():
    dtypes = Dtypes(policy("bfloat16", overrides=[("blocks|head", "float32")]), [*PATHS, "head/kernel"])
    assert dtypes.boundary("blocks/0", "") == (jnp.float32, jnp.bfloat16)
    assert dtypes.boundary("blocks/0/attn", "blocks/0") is None
    assert dtypes.boundary("embed", "") is None
    assert dtypes.boundary("", "") is None
    assert dtypes.boundary("head", "") == (jnp.float32, None)  # what the model ends with stays wide


def test_the_table_of_a_model_without_a_head_is_the_heads():
    given = policy("bfloat16", overrides=[("norm|head", "float32")])
    assert Dtypes(given, PATHS).of("embed") == jnp.float32
    assert Dtypes(given, [*PATHS, "head/kernel"]).of("embed") == jnp.bfloat16
    with computing(given):
        assert (overrides.head_dtype("bfloat16"), overrides.softmax_dtype("bfloat16")) == (jnp.float32, jnp.float32)
    with computing(policy("bfloat16", overrides=[("norm", "float32")])):
        assert overrides.head_dtype("bfloat16") == jnp.bfloat16


def test_only_what_loses_digits_on_its_way_out_is_handed_on_as_it_was():
    with computing(policy("float32", overrides=[("a", "bfloat16")])):
        widened = overrides.rounded_from(jnp.ones(2, jnp.bfloat16), jnp.float32)
        assert overrides.handed_on((widened,))[0] is widened
        narrow = overrides.rounded_from(jnp.ones(2), jnp.float16)
        assert overrides.handed_on({"y": narrow, "n": 3})["y"].dtype == jnp.float32
        assert overrides.handed_on(narrow * 2).dtype == jnp.float16
    assert overrides.handed_on(narrow) is narrow  # what was rounded is forgotten with the trace


def test_parameters_of_one_module_are_cast_together_and_those_of_a_function_one_by_one():
    params = jax.tree.map(jnp.asarray, TREE)
    mixed = policy("bfloat16", overrides=[("norm/scale", "float32")])
    found = cast_params(params, mixed), cast_params(params, mixed, modules=False)
    assert [x["norm"]["scale"].dtype for x in found] == [jnp.float32, jnp.float32]
    assert [x["norm"]["bias"].dtype for x in found] == [jnp.float32, jnp.bfloat16]
    assert [x["count"].dtype for x in found] == [jnp.int32, jnp.int32]


UNMATCHED = {
    "embd": "'embd' matches no module and no parameter; did you mean 'embed'",
    "nrom": "'nrom' matches no module and no parameter; did you mean 'norm'",
    "softmax": "'softmax' matches no module and no parameter; there are count, embed/embedding, norm/bias, norm/scale",
}


@pytest.mark.parametrize("match", UNMATCHED)
def test_an_override_that_matches_nothing_names_the_nearest_path(match):
    mixed = policy("bfloat16", overrides=[("norm", "float32"), (match, "float32")])
    with pytest.raises(UsageError) as error:
        check_overrides(mixed, TREE)
    assert UNMATCHED[match] in str(error.value)
    assert "\n" not in str(error.value)
    check_overrides(mixed, TREE, seen=[match])


def test_a_step_says_what_matches_nothing_when_it_is_traced():
    step = jaxprop.make_train_step(
        mean_loss, optax.sgd(0.1), policy("bfloat16", overrides=[("desne", "float32")]), cast=("inputs",)
    )
    with pytest.raises(UsageError, match=r"precision\.overrides: 'desne' matches no module"):
        step(step.init(make_params(), key=jax.random.key(0)), make_batch())


def test_a_plain_loss_function_gets_what_matches_uncast():
    seen = {}

    def loss(params, batch, key):
        seen.update(jax.tree.map(lambda x: x.dtype.name, params))
        return sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(params))

    mixed = policy("bfloat16", overrides=[("dense_1/bias", "float32")])
    step = jaxprop.make_train_step(loss, optax.sgd(0.1), mixed)
    step(step.init(make_params(), key=jax.random.key(0)), {})
    narrow = {"bias": "bfloat16", "kernel": "bfloat16"}
    assert seen == {"dense_0": narrow, "dense_1": {**narrow, "bias": "float32"}}


BAD = {
    "an unknown dtype": (("head", "float8"), "unknown dtype of an override 'float8'"),
    "no pair": ("head", "expected an override to be a pair such as"),
    "no expression": (("(", "float32"), "expected a regular expression in an override, got '\\('"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_override_is_told_in_one_sentence(case):
    given, message = BAD[case]
    with pytest.raises(UsageError, match=message):
        policy("bfloat16", overrides=[given])


def test_a_part_in_float16_needs_a_loss_scale():
    assert needs_scaling(policy("float32", overrides=[("head", "float16")]))
    assert not needs_scaling(policy("bfloat16", overrides=[("head", jnp.float32)]))
    assert policy("float32", overrides=[("head", jnp.float16)]).overrides == (Override("head", jnp.dtype("float16")),)


@pytest.mark.parametrize(
    ("backend", "name", "wanted"),
    [
        ("gpu", "float32", "highest"),
        ("gpu", "tf32", "tensorfloat32"),
        ("gpu", "bfloat16", None),
        ("cpu", "float32", None),
    ],
)
def test_products_of_float32_are_exact_on_a_gpu_unless_tf32_is_asked_for(monkeypatch, backend, name, wanted):
    monkeypatch.setattr(overrides.jax, "default_backend", lambda: backend)
    with computing(policy(name)):
        assert jax.config.jax_default_matmul_precision == wanted
        (product,) = jax.make_jaxpr(lambda x: x @ x)(np.ones((2, 2), np.float32)).eqns
    assert (product.params["precision"] is None) == (wanted is None)
    with jax.default_matmul_precision("bfloat16"), computing(policy(name)):  # what the user has set stays
        assert jax.config.jax_default_matmul_precision == "bfloat16"
