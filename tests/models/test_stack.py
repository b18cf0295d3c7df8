"""Layers as a scan against the same layers one by one: values, gradients, batch statistics, dropout, taps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.config.build import build
from jaxprop.config.schema import model as schema
from jaxprop.core.forms import PLAIN, forms_for, layers_apart
from jaxprop.core.overrides import cast_params, computing
from jaxprop.core.precision import policy
from jaxprop.errors import ConfigError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.models import make_model, stack
from jaxprop.run.compose import compose
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec

RNG = np.random.default_rng(0)
TOKENS = {"inputs": jax.ShapeDtypeStruct((5,), jnp.int32)}
IMAGES = {"inputs": jax.ShapeDtypeStruct((4, 4, 1), jnp.float32)}
AUDIO = {"inputs": jax.ShapeDtypeStruct((800,), jnp.float32)}
SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 8},
    "optimizer": {"name": "sgd", "lr": 0.1},
}
SMALL = {"layers": 3, "width": 8, "heads": 2, "dropout": 0.3}
CASES = {
    "transformer": (
        schema.Transformer(name="transformer", norm="rms", feed_forward="swiglu", **SMALL),
        Spec(TOKENS, {"vocabulary": 7}),
    ),
    "encoder": (
        schema.Transformer(name="transformer", activation="relu", **SMALL),
        Spec(TOKENS, {"vocabulary": 7, "classes": 3}),
    ),
    "vit": (schema.Vit(name="vit", patch=2, **SMALL), Spec(IMAGES, {"classes": 3})),
    "mlp": (
        schema.Mlp(name="mlp", hidden=(8, 8, 8, 8), batch_norm=True, dropout=0.3, activation="relu"),
        Spec(IMAGES, {"classes": 3}),
    ),
    "conformer": (
        schema.Conformer(name="conformer", layers=2, width=8, heads=2, mels=8, dropout=0.3),
        Spec(AUDIO, {"vocabulary": 7, "sample_rate": 8000}),
    ),
}


@pytest.fixture
def scanning(monkeypatch):
    monkeypatch.setattr(stack, "LAYERS", 1)


def case(name, remat="none"):
    section, spec = CASES[name]
    shape = spec.batch["inputs"]
    tokens = shape.dtype == jnp.int32
    inputs = RNG.integers(0, 7, (2, *shape.shape)) if tokens else RNG.normal(size=(2, *shape.shape))
    batch = {"inputs": inputs.astype(shape.dtype)}
    if name == "encoder":
        batch["mask"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.float32)
    model = make_model(section, spec, remat)
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    return model, jax.tree.map(lambda x: 2 * x, params), extras, batch


def applied(model, params, extras, batch, form):
    """Value, gradient and new extras, in training; and whether there is a scan over the layers."""

    def loss(params):
        with forms_for(form):
            outputs, new = model.apply(params, extras, batch, key=jax.random.key(1), train=True)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        return jnp.sum(jnp.sin(logits)), new

    found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return found, str(jax.make_jaxpr(loss)(params)).count("scan[")


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_statistics_are_those_of_layers_one_by_one(name, scanning):
    made = case(name)
    (found, scans), (plain, none) = (applied(*made, form) for form in ("cpu", PLAIN))
    assert scans > none
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), found, plain)


def test_rematerialization_is_of_the_body(scanning):
    made = case("vit", "full")
    (found, _), (plain, _) = applied(*made, "cpu"), applied(case("vit")[0], *made[1:], PLAIN)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), found, plain)
    with forms_for("cpu"):
        jaxpr = jax.make_jaxpr(lambda p: made[0].apply(p, {}, made[3], key=jax.random.key(1), train=True)[0])(made[1])
    scan = next(equation for equation in jaxpr.jaxpr.eqns if equation.primitive.name == "scan")
    assert "remat" in str(scan.params["jaxpr"]) or "checkpoint" in str(scan.params["jaxpr"])


def test_up_to_24_layers_and_layers_that_are_told_apart_are_no_scan(monkeypatch):
    made = case("vit")
    assert stack.LAYERS == 24
    assert applied(*made, "cpu")[1] == 0
    monkeypatch.setattr(stack, "LAYERS", 1)
    with layers_apart():
        assert applied(*made, "cpu")[1] == 0


def test_by_itself_a_scan_is_of_many_small_layers():
    found = [stack.is_scanned(*size) for size in ((24, 10), (25, stack.NARROW), (25, stack.NARROW + 1))]
    assert found == [False, True, False]
    with stack.scanning(4):
        assert [stack.is_scanned(alike, 10**9) for alike in (4, 5)] == [False, True]
    with stack.scanning(0):
        assert not stack.is_scanned(10**6, 1)


@pytest.mark.parametrize(
    ("layers", "value", "scans"), [(3, "auto", 0), (3, 2, 1), (3, 3, 0), (25, "auto", 1), (25, "none", 0)]
)
def test_a_run_chooses_how_many_layers_are_a_scan(layers, value, scans):
    model, run = {"name": "mlp", "hidden": [8] * (layers + 1)}, {"steps": 1, "scan_layers": value}
    experiment = compose(build({**SECTIONS, "model": model, "run": run}))
    state, batch = experiment.init(0), experiment.sources["train"].take(np.arange(8))
    apply = functools.partial(experiment.task.model.apply, key=None, train=False)
    assert str(jax.make_jaxpr(apply)(state.params, state.extras, batch)).count("scan[") == scans


@pytest.mark.parametrize(("model", "name"), [({"name": "cnn"}, "cnn"), ({"class": "a.py:Net"}, "a model of your own")])
def test_a_number_for_a_model_without_such_layers_is_told_in_a_sentence(model, name):
    sections = {**SECTIONS, "model": model}
    with pytest.raises(ConfigError, match=rf"run.scan_layers: {name} has no layers .*; remove this"):
        build({**sections, "run": {"steps": 1, "scan_layers": 4}})
    build({**sections, "run": {"steps": 1, "scan_layers": "none"}})


def test_layers_that_differ_are_applied_one_by_one_between_those_that_are_alike(scanning):
    section = schema.Mlp(name="mlp", hidden=(8, 8, 8, 6, 6, 4))
    model = make_model(section, CASES["mlp"][1])
    batch = {"inputs": RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)}
    params, extras = jax.jit(model.init)(jax.random.key(0), batch)
    (found, scans), (plain, _) = (applied(model, params, extras, batch, form) for form in ("cpu", PLAIN))
    assert scans == 1  # of the second and third layer; the fourth and fifth take 8 and 6 numbers
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), found, plain)


def test_a_layer_with_a_dtype_of_its_own_is_not_among_those_alike(scanning):
    model, params, extras, batch = case("transformer")
    mixed = policy("bfloat16", overrides=[("blocks/0/mlp_norm", "float32")])

    def outputs(params, form):
        with computing(mixed), forms_for(form):
            return model.apply(cast_params(params, mixed), extras, batch, key=jax.random.key(1), train=True)[0]

    found, plain = (jax.jit(outputs, static_argnums=1)(params, form) for form in ("cpu", PLAIN))
    assert str(jax.make_jaxpr(lambda p: outputs(p, "cpu"))(params)).count("scan[") == 1
    np.testing.assert_allclose(found.astype(jnp.float32), plain.astype(jnp.float32), atol=0.05)


@pytest.mark.parametrize("name", ["encoder", "mlp"])
def test_a_step_measures_each_layer_and_each_tap(name, scanning, monkeypatch):
    model, params, extras, batch = case(name)
    batch = {**batch, "labels": np.array([0, 2], np.int32)}
    objective = loss_from(model, lambda outputs, batch: softmax_cross_entropy(outputs, {"labels": batch["labels"]}))
    found = []
    for limit in (1, 24):
        monkeypatch.setattr(stack, "LAYERS", limit)
        step = jaxprop.make_train_step(objective, optax.sgd(0.1))
        state = step.init(params, key=jax.random.key(0), extras=extras)
        state, m = step(state, batch, "full")
        found.append((step.layer_names, m.layout, m.host(), jax.device_get(state.params)))
    assert found[0][:2] == found[1][:2]
    names = [name for name, _ in found[0][1].taps]
    assert {"blocks/2/attn", "blocks/2"} <= set(names) or {"layers/1", "layers/3"} <= set(names)
    for column in ("rms", "grad_rms", "abs_max", "dead"):
        pair = [getattr(m.taps, column) for _, _, m, _ in found]
        np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-6)
    rms = found[0][2].taps.rms
    assert len(np.unique(rms)) == len(rms)  # each layer its own
    np.testing.assert_allclose(*[m.layers.grad_norm for _, _, m, _ in found], rtol=1e-4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), found[0][3], found[1][3])
