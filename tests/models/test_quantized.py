"""Products in 8 bits: which ones, with which gradients, and what is told where there can be none."""

import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.config.schema import model as schema
from jaxprop.core.jaxprs.products import products
from jaxprop.errors import ConfigError, UsageError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models import make_model
from jaxprop.models.decoding import make_decoder
from jaxprop.models.quantized import TESTED, Quantize, expect_products, quantized, with_products
from jaxprop.run.compose import compose
from jaxprop.run.train import train
from jaxprop.types import Spec

KEY = jax.random.key(0)


@pytest.fixture
def qwix():
    return pytest.importorskip("qwix")


class Square(nnx.Module):
    """Two layers of the same shapes that write `@`, for which jax keeps one trace."""

    def __init__(self, rngs):
        self.first, self.second = Matrix(rngs), Matrix(rngs)

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(x)))


class Matrix(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (8, 8)))

    def __call__(self, x):
        return x @ self.kernel[...]


class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="first")(x)
        x = nn.Conv(8, (3,), name="conv")(x[None])
        x = nn.Conv(8, (3,), feature_group_count=8, name="depthwise")(x)
        return nn.MultiHeadDotProductAttention(2, name="attention")(x, x)[0]


def loss_of(model, batch, extras):
    return lambda params: jnp.square(model.apply(params, extras, batch, key=KEY, train=True)[0]).sum()


def counted(model, params, extras, batch, grad=True):
    """Products of the gradient by the dtypes of their operands."""
    loss = loss_of(model, batch, extras)
    traced = jax.make_jaxpr(jax.grad(loss) if grad else loss)(params)
    found = Counter()
    for one in products(traced):
        found[one.operands] += one.times
    return found


BATCH = {"inputs": jax.random.normal(jax.random.key(1), (8, 8))}  # the shape of the kernels


@pytest.mark.parametrize("name", ["int8", "qat_int8"])
def test_each_layer_multiplies_as_its_pattern_says_though_its_trace_is_kept(qwix, name):
    model = jaxprop.from_nnx(lambda rngs: Square(rngs))
    params, extras = model.init(KEY, BATCH)
    plain = {"float32": 5}  # the first layer has no gradient of its inputs
    assert counted(model, params, extras, BATCH) == plain
    some = counted(quantized(model, name, skip=["first"]), params, extras, BATCH)
    assert some == ({"int8": 3, "float32": 2} if name == "int8" else {"int8": 1, "float32": 4})
    every = quantized(model, name)
    assert counted(every, params, extras, BATCH, grad=False) == {"int8": 2}
    assert counted(every, params, extras, BATCH, grad=False) == {"int8": 2}  # from the kept traces
    assert counted(model, params, extras, BATCH) == plain


def test_a_linen_module_of_dense_layers_convolutions_and_attention(qwix):
    model = jaxprop.from_linen(Mixed())
    params, extras = model.init(KEY, BATCH)
    # left are the convolution in groups, and the two products of attention
    found = counted(quantized(model, "int8"), params, extras, BATCH, grad=False)
    assert found == {"int8": 6, "float32": 3}
    one = counted(quantized(model, "int8", match="attention/(query|out)"), params, extras, BATCH, grad=False)
    assert one == {"int8": 2, "float32": 7}


def test_float8_has_a_type_for_each_pass_and_leaves_convolutions(qwix):
    model = jaxprop.from_linen(Mixed())
    params, extras = model.init(KEY, BATCH)
    found = counted(with_products(model, Quantize(name="fp8")), params, extras, BATCH)
    assert found["float8_e4m3fn"] == 5
    assert found["float8_e5m2 x float8_e4m3fn"] == 10
    assert found["float32"] == 3 * 4  # two convolutions, two products of attention


BUILT_IN = {
    "mlp": (schema.Mlp(name="mlp", hidden=(8,)), (8, 8, 1), 2),
    "cnn": (schema.Cnn(name="cnn", channels=(4, 4)), (8, 8, 1), 4),
    "vit": (schema.Vit(name="vit", layers=1, width=8, heads=2, patch=4), (8, 8, 1), 6),
    "resnet": (schema.ResNet(name="resnet", depths=(1,), widths=(8,)), (8, 8, 1), 4),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_layers_of_built_in_models(qwix, name):
    section, shape, expected = BUILT_IN[name]
    spec = Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 3})
    batch = {"inputs": jnp.ones((2, *shape))}
    model = make_model(section, spec, remat="full")
    params, extras = jax.jit(model.init)(KEY, batch)
    found = counted(quantized(model), params, extras, batch, grad=False)
    assert found["int8"] == expected, found


def test_rematerialization_changes_no_more_than_the_order_of_sums(qwix):
    section, shape, expected = BUILT_IN["mlp"]
    spec = Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 3})
    batch, grads = {"inputs": jax.random.normal(KEY, (2, *shape))}, []
    for remat in ("none", "full"):
        model = quantized(make_model(section, spec, remat=remat))
        params, extras = jax.jit(model.init)(KEY, batch)
        loss = loss_of(model, batch, extras)
        assert ("remat" in str(jax.make_jaxpr(jax.grad(loss))(params))) == (remat == "full")
        assert counted(model, params, extras, batch)["int8"] >= 3 * expected
        grads.append(jax.jit(jax.grad(loss))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), *grads)


def test_what_is_written_token_by_token_is_multiplied_as_in_training(qwix):
    spec = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.int32)}, {"vocabulary": 11})
    section = schema.Transformer(name="transformer", layers=1, width=8, heads=2)
    batch, rules = {"inputs": jnp.arange(6)[None] % 11}, Quantize(name="int8", skip=("blocks/0/mlp/.*",))
    plain = make_model(section, spec)
    params, extras = jax.jit(plain.init)(KEY, batch)
    whole, _ = with_products(plain, rules).apply(params, extras, batch, key=None, train=False)
    decoder = make_decoder(section, spec, rules)
    held, parts, extend = decoder.room(params, extras, 1, 6), [], jax.jit(decoder.extend)
    for at in range(6):
        logits, held = extend(params, extras, batch["inputs"][:, at : at + 1], held, jnp.int32(at))
        parts.append(logits)
    # Each token has a scale of its own, so it does not matter what else is read with it, but for sums in another order.
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=2e-4)
    for one, expected in ((decoder, 2), (make_decoder(section, spec), 0)):
        traced = jax.make_jaxpr(one.extend)(params, extras, batch["inputs"], held, jnp.int32(0))
        assert sum(made.times for made in products(traced) if made.operands == "int8") == expected


def test_the_values_and_gradients_of_a_product_are_those_of_rounded_operands(qwix):
    x, w = jax.random.normal(KEY, (4, 6)), jax.random.normal(jax.random.key(2), (6, 3))

    def rounded(a, axis):
        scale = np.abs(a).max(axis, keepdims=True) / 127.5
        return np.clip(np.round(a / scale), -127, 127) * scale

    model = jaxprop.from_linen(nn.Dense(3, use_bias=False))
    for name in ("int8", "qat_int8"):
        apply = partial(quantized(model, name).apply, extras={}, key=None, train=True)
        got, pull = jax.vjp(lambda w, x, apply=apply: apply({"kernel": w}, batch={"inputs": x})[0], w, x)
        np.testing.assert_allclose(got, rounded(x, 1) @ rounded(w, 0), rtol=1e-5, atol=1e-6)
        g = jax.random.normal(jax.random.key(3), (4, 3))
        dw, dx = pull(g)
        if name == "qat_int8":
            np.testing.assert_allclose(dw, x.T @ g, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(dx, g @ w.T, rtol=1e-5, atol=1e-6)
        else:
            for found, exact in ((dw, x.T @ g), (dx, g @ w.T)):
                error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
                assert 1e-4 < error < 0.03


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(32)(x)))


def net(rngs):
    return nnx.Sequential(nnx.Linear(8, 32, rngs=rngs), jax.nn.relu, nnx.Linear(32, 3, rngs=rngs))


FRAMEWORKS = {"nnx": lambda: jaxprop.from_nnx(net), "linen": lambda: jaxprop.from_linen(Net())}


@pytest.mark.parametrize(("framework", "precision"), [("nnx", "float32"), ("linen", "bfloat16")])
def test_training_reaches_the_loss_of_training_without_it(qwix, framework, precision):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    y = (np.tanh(x @ rng.normal(size=(8, 8))) @ rng.normal(size=(8, 3))).argmax(1).astype(np.int32)
    batch, plain, losses = {"inputs": x, "labels": y}, FRAMEWORKS[framework](), {}
    for name in ("", "int8", "qat_int8"):
        model = quantized(plain, name) if name else plain
        loss = jaxprop.loss_from(model, softmax_cross_entropy)
        step = jaxprop.make_train_step(loss, optax.adam(1e-2), precision=precision, health=False)
        params, extras = model.init(KEY, batch)
        state = step.init(params, key=KEY, extras=extras)
        for _ in range(100):
            state, m = step(state, batch)
        losses[name] = float(m.loss)
    assert losses[""] < 0.15
    assert losses["int8"] == pytest.approx(losses[""], abs=0.03)
    assert losses["qat_int8"] == pytest.approx(losses[""], abs=0.03)
    assert len(set(losses.values())) == 3


def test_layers_and_taps_are_measured(qwix):
    model = quantized(FRAMEWORKS["nnx"](), "int8")
    batch = {**BATCH, "labels": jnp.arange(8) % 3}
    loss = jaxprop.loss_from(model, softmax_cross_entropy)
    step = jaxprop.make_train_step(loss, optax.adam(1e-2), health=jaxprop.health.Signals(rare_every=1))
    params, extras = model.init(KEY, batch)
    _, m = step(step.init(params, key=KEY, extras=extras), batch)
    assert step.layer_names == ("layers/0", "layers/2")
    assert (np.asarray(m.layers.grad_norm) > 0).all()
    assert [name for name, _ in m.layout.taps] == ["layers/0", "layers/2"]
    assert (np.asarray(m.taps.grad_rms) > 0).all()


# -- a run ----------------------------------------------------------------------------------------


def settings(folder, steps, quantize):
    return build(
        {
            "task": {"name": "classify"},
            "data": {"name": "arrays", "train": str(folder / "train.npz"), "batch_size": 8, "prefetch": 0},
            "model": {"name": "mlp", "hidden": [4], "dropout": 0.2},
            "optimizer": {"name": "adam", "lr": 0.1},
            "precision": {"quantize": quantize},
            "parallel": {"devices": 1},
            "health": {"layers": False, "watch": False},
            "run": {"steps": steps, "log_every": 1},
        }
    )


def test_a_run_goes_on_bit_for_bit_and_predicts_as_it_was_trained(qwix, tmp_path):
    inputs = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=np.arange(20) % 3)
    for folder, steps in (("parts", 3), ("parts", 6), ("whole", 6)):
        assert train(settings(tmp_path, steps, "int8"), tmp_path / folder, quiet=True).summary["step"] == steps
    whole, parts = jaxprop.load(tmp_path / "whole"), jaxprop.load(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    assert whole.config.precision.quantize == Quantize(name="int8")
    spec = Spec({"inputs": jax.ShapeDtypeStruct((5,), jnp.float32)}, {"classes": 3})
    plain = make_model(schema.Mlp(name="mlp", hidden=(4,), dropout=0.2), spec)
    shares = []
    for model in (plain, with_products(plain, Quantize(name="int8"))):
        logits, _ = model.apply(whole.params, whole.extras, {"inputs": inputs}, key=None, train=False)
        shares.append(np.max(jax.nn.softmax(logits), 1))
    found = whole.predict({"inputs": inputs})["probability"]
    np.testing.assert_allclose(found, shares[1], rtol=1e-5)
    assert np.abs(found - shares[0]).max() > 1e-4


def test_a_loss_function_of_ones_own_is_refused(qwix, tmp_path):
    inputs = np.ones((20, 5), np.float32)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=np.arange(20) % 3)
    code = tmp_path / "own.py"
    code.write_text("def make():\n    return (lambda key, batch: {}), (lambda params, batch, key: 0.0)\n")
    own = tmp_path / "own.yaml"
    own.write_text(
        f"task: {{name: classify}}\ndata: {{name: arrays, train: {tmp_path}/train.npz, batch_size: 8}}\n"
        "model: {class: own.py:make}\n"
        "optimizer: {name: sgd, lr: 0.1}\nprecision: {quantize: int8}\nrun: {steps: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"precision.quantize: Qwix quantizes Flax .* the model is a loss function"):
        compose(load(own).config)


def test_float8_is_refused_before_anything_is_compiled(qwix, tmp_path):
    np.savez(tmp_path / "train.npz", inputs=np.ones((20, 5), np.float32), labels=np.arange(20) % 3)
    with pytest.raises(UsageError, match=r"^precision.quantize: fp8 needs a device .* this one is cpu"):
        compose(settings(tmp_path, 1, "fp8"))


# -- what is told ---------------------------------------------------------------------------------


def applied(model):
    params, extras = model.init(KEY, BATCH)
    return jax.eval_shape(lambda: model.apply(params, extras, BATCH, key=KEY, train=True))


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"match": "frist"}, r"match: 'frist' matches no layer; did you mean 'first'\? \(layers: first, second\)"),
        ({"skip": ["secnd"]}, r"skip: 'secnd' matches no layer; did you mean 'second'\? \(layers: first, second\)"),
        ({"skip": [".*"]}, "skip: every layer is skipped"),
    ],
)
def test_a_pattern_that_matches_no_layer(qwix, rules, told):
    with pytest.raises(ConfigError, match=told):
        applied(quantized(jaxprop.from_nnx(lambda rngs: Square(rngs)), "int8", **rules))


def test_layers_that_multiply_nothing(qwix):
    class Table(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.second = nnx.Embed(3, 8, rngs=rngs), Matrix(rngs)

        def __call__(self, x):
            return self.second(x + self.embed(jnp.zeros(8, jnp.int32)))

    with pytest.raises(ConfigError, match=r"can be quantized lies in the layers embed \(layers: embed, second\)"):
        applied(quantized(jaxprop.from_nnx(lambda rngs: Table(rngs)), match="embed"))


def test_models_that_are_no_module_of_flax(qwix):
    eqx = pytest.importorskip("equinox")
    models = [
        jaxprop.from_equinox(lambda key: eqx.nn.Linear(8, 8, key=key)),
        jaxprop.from_functions(
            lambda key, batch: ({"w": jnp.ones((8, 8))}, {}),
            lambda params, extras, batch, *, key, train: (batch["inputs"] @ params["w"], extras),
        ),
    ]
    for model in models:
        with pytest.raises(ConfigError, match="quantizes Flax NNX and Linen modules, and this model is neither"):
            applied(quantized(model))


def test_the_module_itself_is_the_layer_output(qwix):
    model = jaxprop.from_linen(nn.Dense(3))
    assert applied(quantized(model, match="output"))[0].shape == (8, 3)


def test_without_qwix(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UsageError, match="needs the package 'qwix', which is not installed; install it with: pip inst"):
        quantized(jaxprop.from_linen(nn.Dense(3)))


def test_another_version_of_qwix_is_told_in_one_sentence(qwix, monkeypatch):
    """One that has moved a private function, and others whose functions take other arguments or are gone."""
    told = rf"^precision.quantize uses functions of Qwix {TESTED} .*; install that one: pip install 'qwix=={TESTED}'$"
    model, private = jaxprop.from_linen(nn.Dense(3)), "qwix._src.core.dot_general_qt"
    quantized(model)  # imports what is patched
    for change in (
        lambda m: m.setitem(sys.modules, private, None),
        lambda m: m.setattr(sys.modules[private], "DotGeneralQtConfig", lambda: None),
        lambda m: m.delattr(qwix, "QuantizationProvider"),
        lambda m: m.setattr(qwix, "quantize_model", lambda module, provider: module),
    ):
        with monkeypatch.context() as patched:
            change(patched)
            with pytest.raises(UsageError, match=told):
                quantized(model)


@pytest.mark.parametrize(
    ("platform", "kind", "capability", "has"),
    [
        ("gpu", "NVIDIA H200", "9.0", True),
        ("gpu", "NVIDIA L4", "8.9", True),
        ("gpu", "NVIDIA B200", "10.0", True),
        ("gpu", "NVIDIA A100-SXM4-80GB", "8.0", False),
        ("gpu", "AMD Instinct MI300X", "gfx942", False),
        ("tpu", "TPU v7x", None, True),
        ("tpu", "TPU7x", None, True),
        ("tpu", "TPU v6 lite", None, False),
        ("cpu", "cpu", None, False),
    ],
)
def test_devices_with_products_of_float8(platform, kind, capability, has):
    device = SimpleNamespace(platform=platform, device_kind=kind)
    if capability:
        device.compute_capability = capability
    expect_products("int8", [device])
    if has:
        expect_products("fp8", [device])
    else:
        with pytest.raises(UsageError, match=f"fp8 needs a device with products of float8 .* this one is {kind}; use"):
            expect_products("fp8", [device])


def test_float8_on_the_devices_of_the_tests():
    with pytest.raises(UsageError, match="this one is cpu; use int8 or qat_int8"):
        quantized(jaxprop.from_linen(nn.Dense(3)), "fp8")
