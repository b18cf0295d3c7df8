"""The LSTM of a CPU, whose states are columns, against plain differentiation of the plain loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.forms import PLAIN, forms_for
from jaxprop.core.placing import Places, placing
from jaxprop.core.taps import find
from jaxprop.models import recurrence
from jaxprop.models.lstm import Weights, lstm
from jaxprop.models.recurrence import CELLS, Tapped
from jaxprop.models.rnn import BothWays, RnnLayer

TIME, BATCH, FEATURES, WIDTH = 9, 8, 5, 4


def arguments(time=TIME):
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = (FEATURES, 4 * WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH,)
    weights = Weights(*(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)))
    return {
        "weights": weights,
        "x": jax.random.normal(keys[3], (time, BATCH, FEATURES)),
        "carry": tuple(jax.random.normal(key, (BATCH, WIDTH)) for key in keys[4:]),
    }


def plain(weights, x, carry, mask, reverse):
    moving = {"projected": x @ weights.inputs + weights.bias, "carry": carry, "mask": mask}
    run = partial(recurrence._scan, CELLS["lstm"], jnp.tanh, Tapped("layer", ""), reverse, "none")
    return run(weights.states, None, None, moving)


def scalar(run, given):
    """A number that depends on the last states and on all hidden ones, each in a way of its own."""
    (h, c), hidden = run(**given)
    weights = jnp.sin(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)
    return jnp.sum(hidden * weights) + jnp.sum(jnp.cos(h)) + jnp.sum(jnp.square(c))


@pytest.mark.parametrize("time", [1, 2, TIME])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_value_and_gradient_are_those_of_the_plain_loop(reverse, masked, time):
    # One sequence is whole, one has a single step, one has none.
    mask = jnp.arange(time)[:, None] < jnp.array([time, 1, 0, 2, 3, 1, time, 1]) if masked else None
    sides = [
        partial(plain, mask=mask, reverse=reverse),
        lambda weights, x, carry: lstm(reverse, weights, x, carry, mask),
    ]
    expected, found = (jax.jit(jax.value_and_grad(partial(scalar, run)))(arguments(time)) for run in sides)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), found, expected)


def test_what_is_masked_may_be_anything_finite_and_has_no_gradient():
    given, mask = arguments(), jnp.arange(TIME)[:, None] < jnp.full(BATCH, 4)
    loud = given | {"x": jnp.where(mask[..., None], given["x"], 1e30)}
    sides = [jax.value_and_grad(partial(scalar, partial(lstm, False, mask=mask)))(each) for each in (given, loud)]
    jax.tree.map(np.testing.assert_array_equal, *[(value, grads | {"x": grads["x"][:4]}) for value, grads in sides])
    assert not np.any(sides[1][1]["x"][4:])


def test_curvature_may_be_taken_of_its_gradient():
    given = arguments()
    direction = jax.tree.map(jnp.ones_like, given)
    sides = [partial(plain, mask=None, reverse=False), partial(lstm, False)]
    expected, found = (jax.jvp(jax.grad(partial(scalar, run)), (given,), (direction,))[1] for run in sides)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), found, expected)


def test_it_may_be_mapped_over_examples():
    given = arguments()
    one = jax.grad(lambda x: scalar(partial(lstm, False), given | {"x": x}))
    many = jnp.stack([given["x"], 2 * given["x"]])
    found, expected = jax.vmap(one)(many), jnp.stack([one(x) for x in many])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_gradients_of_the_gates_take_no_memory_of_their_own():
    program = jax.jit(jax.grad(partial(scalar, partial(lstm, False)))).lower(arguments()).compile().as_text()
    gates = f"f32[{TIME},{4 * WIDTH},{BATCH}]"
    assert gates in program
    assert not [line for line in program.splitlines() if gates in line.split("(")[0] and " copy(" in line]


# -- when a layer takes it -----------------------------------------------------------------------


def layer_of(remat="none", **options):
    config = schema.Rnn(name="rnn", width=WIDTH, **{"cell": "lstm"} | options)
    return RnnLayer("layer", FEATURES, config, rngs=nnx.Rngs(0), remat=remat)


def taken(layer, x):
    return "name=lstm" in str(jax.make_jaxpr(lambda x: layer(x))(x))


def inputs(batch=BATCH, time=TIME, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), (batch, time, FEATURES), dtype)


def test_a_layer_takes_it_on_a_cpu_alone():
    layer, x = layer_of(), inputs()
    with forms_for("cpu"):
        assert taken(layer, x)
    for platform in (PLAIN, "gpu", "tpu"):
        with forms_for(platform):
            assert not taken(layer, x)


@pytest.mark.parametrize(
    "options", [{"cell": "gru"}, {"cell": "elman"}, {"activation": "relu"}, {"remat": "full"}], ids=str
)
def test_a_layer_does_not_take_it_where_it_is_another(options):
    with forms_for("cpu"):
        assert not taken(layer_of(**options), inputs())


@pytest.mark.parametrize("shape", [{"batch": 7}, {"time": 7}], ids=str)
def test_a_layer_does_not_take_it_for_inputs_that_gain_nothing(shape):
    with forms_for("cpu"):
        assert not taken(layer_of(), inputs(**shape))


def test_a_layer_does_not_take_it_in_16_bits():
    layer = layer_of()
    graph, state = nnx.split(layer)
    narrow = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    with forms_for("cpu"):
        assert not taken(narrow, inputs(dtype=jnp.bfloat16))


def test_a_layer_does_not_take_it_where_its_hidden_states_are_measured():
    layer, x = layer_of(), inputs()
    with forms_for("cpu"):
        taps, jaxpr = find(lambda x: layer(x), x)
    assert [tap.name for tap in taps] == ["layer"]
    assert "name=lstm" not in str(jaxpr)


def test_a_layer_does_not_take_it_over_a_product_that_another_has_for_itself():
    layer = layer_of()
    layer.input.__class__ = type("Quantized", (nnx.Linear,), {})
    with forms_for("cpu"):
        assert not taken(layer, inputs())


def test_a_layer_does_not_take_it_where_its_batch_is_split():
    for axes, whole in ((frozenset(), True), (frozenset({"data"}), False)):
        places = Places(axes, shards=None, gather=None, scatter=None, constrain=lambda x, names: x)
        with forms_for("cpu"), placing(places):
            assert taken(layer_of(), inputs()) == whole


@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_of_both_directions_is_the_plain_one(masked):
    config = schema.Rnn(name="rnn", cell="lstm", width=WIDTH)
    layer, x = BothWays("layer", FEATURES, config, rngs=nnx.Rngs(0)), inputs()
    mask = jnp.arange(TIME) < jnp.arange(2, 2 + BATCH)[:, None] if masked else None
    graph, state = nnx.split(layer)

    def loss(state, x):
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(x, mask)))

    sides = []
    for platform in (PLAIN, "cpu"):
        with forms_for(platform):
            sides.append(jax.value_and_grad(lambda *given: loss(*given), (0, 1))(state, x))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), sides[1], sides[0])


def test_a_sequence_may_be_read_in_stretches():
    layer, x = layer_of(), inputs(time=2 * TIME)
    with forms_for("cpu"):
        whole, last = layer.extend(x, None)
        first, carry = layer.extend(x[:, :TIME], None)
        second, after = layer.extend(x[:, TIME:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, rtol=1e-5, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after, last)
