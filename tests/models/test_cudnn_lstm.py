"""cuDNN's LSTM: packing and order of the gates against its reference, its custom calls, and where it is not taken.

No GPU is here. The reference stands in for the binding's two functions, and for what asks cuDNN for sizes a number.
"""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import rnn
from jax.interpreters import mlir
from jaxlib import gpu_rnn

from jaxprop.config.schema import model as schema
from jaxprop.core.forms import PLAIN, forms_for
from jaxprop.models import cudnn_lstm as module
from jaxprop.models import rnn as layers
from jaxprop.models.cudnn_lstm import cudnn_lstm, has_cudnn_lstm, packed
from jaxprop.models.lstm import Weights
from jaxprop.models.rnn import RnnLayer

TIME, BATCH, FEATURES, WIDTH = 9, 3, 5, 4


def arguments():
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = (FEATURES, 4 * WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH,)
    weights = Weights(*(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)))
    carry = tuple(jax.random.normal(key, (BATCH, WIDTH)) for key in keys[4:])
    return {"weights": weights, "x": jax.random.normal(keys[3], (TIME, BATCH, FEATURES)), "carry": carry}


def plain(reverse, weights, x, carry):
    """The equations, step by step."""
    h, c = carry
    hidden = []
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        i, f, o, g = jnp.split(x[t] @ weights.inputs + h @ weights.states + weights.bias, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        hidden.append(h)
    return (h, c), jnp.stack(hidden[::-1] if reverse else hidden)


def referred(x, h, c, flat, lengths, input_size, hidden_size, num_layers, dropout, bidirectional, precision):
    """`rnn.lstm_fwd` by the reference, on cuDNN's vector of parameters."""
    split = rnn.unpack_lstm_weights(flat, input_size, hidden_size, num_layers, bidirectional)
    sizes = (input_size, hidden_size, num_layers, dropout, bidirectional)
    return rnn.lstm_ref(x, h, c, *split, lengths, *sizes), (x, h, c, flat, lengths)


def referred_back(*, residuals, gradients, **sizes):
    *moving, lengths = residuals
    _, pull = jax.vjp(lambda *moving: referred(*moving, lengths, **sizes)[0], *moving)
    return (*pull(gradients), jnp.zeros_like(lengths))


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.setattr(rnn, "lstm_fwd", referred)
    monkeypatch.setattr(rnn, "lstm_bwd", referred_back)


def scalar(run, given):
    (h, c), hidden = run(**given)
    weights = jnp.sin(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)
    return jnp.sum(hidden * weights) + jnp.sum(jnp.cos(h)) + jnp.sum(jnp.square(c))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.usefixtures("reference")
def test_value_and_gradient_are_those_of_the_equations(reverse):
    sides = [partial(run, reverse) for run in (plain, cudnn_lstm)]
    expected, found = (jax.jit(jax.value_and_grad(partial(scalar, run)))(arguments()) for run in sides)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), found, expected)


def test_the_packed_vector_is_as_long_as_cudnns_and_has_each_parameter_once():
    flat = packed(
        jax.tree.map(lambda x: jnp.arange(1, 1 + x.size, dtype=jnp.float32).reshape(x.shape), arguments()["weights"])
    )
    assert flat.size == rnn.get_num_params_in_lstm(FEATURES, WIDTH, 1, False)
    second = 4 * WIDTH
    assert not np.any(flat[-second:])
    inputs, states, bias = np.split(flat[:-second], np.cumsum([FEATURES * second, WIDTH * second]))
    for part in (inputs, states, bias):
        assert sorted(part) == list(range(1, 1 + part.size))


@pytest.mark.usefixtures("reference")
def test_it_may_be_mapped_one_by_one():
    given = arguments()
    one = jax.grad(lambda weights: scalar(partial(cudnn_lstm, False), given | {"weights": weights}))
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), given["weights"])
    found, second = jax.vmap(one)(many), one(jax.tree.map(lambda x: 2 * x, given["weights"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5), found, second)


class Descriptor:
    """In place of the plugin's module."""

    @staticmethod
    def build_rnn_descriptor(*sizes):
        return b"descriptor"


@pytest.fixture
def binding(monkeypatch):
    """JAX's own rules of shapes and of lowering, with a number where they ask cuDNN for sizes of its memory."""
    monkeypatch.setattr(gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", lambda *sizes: (64, 128), raising=False)
    rules = [
        (rnn.rnn_fwd_p, gpu_rnn._rnn_fwd_lowering, gpu_rnn.cudnn_rnn_lowering),
        (rnn.rnn_bwd_p, gpu_rnn._rnn_bwd_lowering, gpu_rnn.cudnn_rnn_bwd_lowering),
    ]
    for primitive, rule, _ in rules:
        mlir.register_lowering(primitive, partial(rule, Descriptor, "cu"), platform="cuda")
    yield
    for primitive, _, rule in rules:
        mlir.register_lowering(primitive, rule, platform="cuda")


def layer_of(**options):
    config = schema.Rnn(name="rnn", width=WIDTH, **{"cell": "lstm"} | options)
    return RnnLayer("layer", FEATURES, config, rngs=nnx.Rngs(0))


@pytest.mark.usefixtures("binding")
def test_a_layer_lowered_for_cuda_holds_the_calls_of_cudnn(monkeypatch):
    monkeypatch.setattr(layers, "FEWEST_UNITS", WIDTH)
    monkeypatch.setattr(layers, "has_cudnn_lstm", lambda: True)
    graph, state = nnx.split(layer_of())

    def loss(state, x):
        return jnp.sum(jnp.square(nnx.merge(graph, state)(x)))

    x = jnp.ones((BATCH, TIME, FEATURES))
    with forms_for("gpu"):
        lowered = jax.jit(jax.grad(loss)).trace(state, x).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("@cudnn_rnn_ffi(") == 1
    assert lowered.count("@cudnn_rnn_bwd_ffi(") == 1
    assert "stablehlo.while" not in lowered
    size = rnn.get_num_params_in_lstm(FEATURES, WIDTH, 1, False)
    call = next(line for line in lowered.splitlines() if "@cudnn_rnn_ffi(" in line)
    assert f"tensor<{BATCH}x{TIME}x{FEATURES}xf32>" in call
    assert f"tensor<{size}xf32>" in call


# -- when a layer takes it -----------------------------------------------------------------------


def calls(monkeypatch, layer, x, mask=None, platform="gpu", fewest=WIDTH):
    """How often tracing a layer asks for cuDNN's loop."""
    found = []

    def seen(reverse, weights, x, carry, mask):
        found.append(mask)
        return plain(reverse, weights, x, carry)

    monkeypatch.setattr(layers, "FEWEST_UNITS", fewest)
    monkeypatch.setattr(layers, "has_cudnn_lstm", lambda: True)
    monkeypatch.setattr(layers, "cudnn_lstm", seen)
    with forms_for(platform):
        jax.eval_shape(lambda x: layer(x, mask), x)
    return len(found)


def test_a_layer_takes_it_on_a_gpu_alone(monkeypatch):
    x = jnp.ones((BATCH, TIME, FEATURES))
    found = [calls(monkeypatch, layer_of(), x, platform=each) for each in ("gpu", "cpu", "tpu", PLAIN)]
    assert found == [1, 0, 0, 0]


def test_a_narrow_layer_takes_the_plain_loop(monkeypatch):
    assert calls(monkeypatch, layer_of(), jnp.ones((BATCH, TIME, FEATURES)), fewest=WIDTH + 1) == 0


def test_a_layer_with_a_mask_takes_the_plain_loop(monkeypatch):
    x = jnp.ones((BATCH, TIME, FEATURES))
    assert calls(monkeypatch, layer_of(), x, jnp.ones((BATCH, TIME), bool)) == 0


@pytest.mark.parametrize("options", [{"cell": "gru"}, {"activation": "relu"}], ids=str)
def test_another_layer_takes_the_plain_loop(monkeypatch, options):
    assert calls(monkeypatch, layer_of(**options), jnp.ones((BATCH, TIME, FEATURES))) == 0


def test_without_a_gpu_it_is_not_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not has_cudnn_lstm()


def test_where_the_binding_fails_it_is_said_once(monkeypatch):
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    module._works.cache_clear()
    monkeypatch.setattr(rnn, "lstm_fwd", lambda *given, **sizes: (_ for _ in ()).throw(RuntimeError("no cuDNN")))
    with pytest.warns(UserWarning, match="plain loop") as found:
        assert [has_cudnn_lstm() for _ in range(3)] == [False] * 3
    module._works.cache_clear()
    assert [str(one.message) for one in found] == [
        "LSTM layers take the plain loop: cuDNN's is not to be had at precision None (no cuDNN)."
    ]


@pytest.mark.usefixtures("binding")
def test_it_is_had_at_the_precisions_that_the_binding_has(monkeypatch):
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    module._works.cache_clear()
    found = {}
    for precision in (None, "highest", "tensorfloat32"):
        with jax.default_matmul_precision(precision):
            found[precision] = has_cudnn_lstm()
    with jax.default_matmul_precision("bfloat16"), pytest.warns(UserWarning, match="at precision bfloat16"):
        found["bfloat16"] = has_cudnn_lstm()
    module._works.cache_clear()
    assert found == {None: True, "highest": True, "tensorfloat32": True, "bfloat16": False}
