"""Models of the user's own code, of every framework and of none, called with what they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.code.load import load_code
from jaxprop.config.custom import custom_sections
from jaxprop.config.load import load
from jaxprop.errors import ConfigError, JaxpropError
from jaxprop.models.own import LossFunction, checked_outputs, no_outputs, own_model
from jaxprop.types import Spec

MINE = """\
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
import jaxprop


class Nnx(nnx.Module):
    def __init__(self, width: int, *, input_shape, classes, rngs):
        self.hidden = nnx.Linear(input_shape[0], width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, inputs):
        return self.head(self.dropout(self.hidden(inputs)))


class NnxOfBatch(Nnx):
    def __call__(self, batch, deterministic):
        return self.head(self.hidden(batch["inputs"]) * batch["scale"][:, None]) * (1 if deterministic else 2)


class Linen(nn.Module):
    width: int
    classes: int

    @nn.compact
    def __call__(self, inputs, train: bool):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(self.width)(inputs))
        return nn.Dense(self.classes)(x)


class LinenOfBatch(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, batch):
        return nn.Dense(self.classes)(batch["inputs"]) * batch["scale"][:, None]


class Equinox(eqx.Module):
    layer: eqx.nn.Linear

    def __init__(self, *, input_shape, classes, key):
        self.layer = eqx.nn.Linear(input_shape[0], classes, key=key)

    def __call__(self, x):
        return self.layer(x)


class EquinoxOfBatch(Equinox):
    def __call__(self, batch):
        return self.layer(batch["inputs"]) * batch["scale"]


class TwoInputs(Linen):
    def __call__(self, x, scale, train):
        return x * scale


class NoInputs(Equinox):
    def __call__(self, *, key):
        return self.layer(1.0)


class NoCall(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 3, rngs=rngs)


class Several(Nnx):
    def __call__(self, x):
        return self.head(self.hidden(x)), x


def sequence(rngs):
    return nnx.Sequential(nnx.Linear(4, 3, rngs=rngs))


def nnx_function(width, classes, rngs, spec):
    return Nnx(width, input_shape=spec.batch["inputs"].shape, classes=classes, rngs=rngs)


def linen_function(width):
    return Linen(width, 3)


def stateful(key, classes):
    return eqx.nn.make_with_state(WithState)(classes, key)


class WithState(eqx.Module):
    layer: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, classes, key):
        self.layer = eqx.nn.Linear(4, classes, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.layer(x), state


def init(key, batch):
    return {"w": jnp.ones((batch["inputs"].shape[-1], 3))}, {}


def apply(params, extras, batch, *, key, train):
    return batch["inputs"] @ params["w"], extras


def pair():
    return init, apply


def model():
    return jaxprop.from_functions(init, apply)


def loss_fn(params, batch, key):
    return jnp.mean((batch["inputs"] @ params["w"]) ** 2)


def loss():
    return (lambda key, batch: init(key, batch)[0]), loss_fn


def number(width: int = 1):
    return width


def triple():
    return 1, 2


def fails(key):
    return jnp.ones(3) @ jnp.ones(4)
"""
YAML = "task: {name: classify}\ndata: {name: digits}\noptimizer: {name: sgd, lr: 0.1}\nrun: {steps: 1}\n"
BATCH = {"inputs": np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4), "scale": np.arange(6, dtype=np.float32)}
SPEC = Spec({name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in BATCH.items()}, {"classes": 3})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the model of a name in the file."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(MINE)
    (folder / "mine.yaml").write_text(YAML + "model: {class: mine.py:Nnx, width: 5}\n")

    def model(name, **arguments):
        keys = ", ".join([f"class: {folder / 'mine.py'}:{name}", *(f"{k}: {v}" for k, v in arguments.items())])
        (folder / "mine.yaml").write_text(YAML + f"model: {{{keys}}}\n")
        section = custom_sections(load(folder / "mine.yaml").config)["model",]
        return own_model(load_code(section, ("model",)), SPEC)

    return model


KINDS = {
    "Nnx": {"width": 5}, "NnxOfBatch": {"width": 5}, "Linen": {"width": 5}, "LinenOfBatch": {}, "Equinox": {},
    "EquinoxOfBatch": {}, "nnx_function": {"width": 5}, "linen_function": {"width": 5}, "stateful": {}, "pair": {},
    "model": {}, "sequence": {},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model(made, name):
    model = made(name, **KINDS[name])
    params, extras = jax.jit(model.init)(jax.random.key(0), BATCH)
    other, _ = jax.jit(model.init)(jax.random.key(1), BATCH)
    outputs, again = jax.jit(model.apply, static_argnames="train")(
        params, extras, BATCH, key=jax.random.key(2), train=True
    )
    assert outputs.shape == (6, 3)
    assert jax.tree.structure(again) == jax.tree.structure(extras)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, other)
    assert all(jax.tree.leaves(same)) == (name in ("pair", "model"))
    quiet, _ = model.apply(params, extras, BATCH, key=None, train=False)
    assert np.isfinite(quiet).all()


@pytest.mark.parametrize("name", ["NnxOfBatch", "LinenOfBatch", "EquinoxOfBatch"])
def test_a_call_with_a_parameter_batch_receives_the_batch(made, name):
    model = made(name, **KINDS[name])
    params, extras = model.init(jax.random.key(0), BATCH)
    outputs, _ = model.apply(params, extras, BATCH, key=None, train=False)
    scaled, _ = model.apply(params, extras, BATCH | {"scale": 2 * BATCH["scale"]}, key=None, train=False)
    assert not np.allclose(outputs, scaled)


def test_the_mode_is_given(made):
    model = made("NnxOfBatch", width=5)
    params, extras = model.init(jax.random.key(0), BATCH)
    train, evaluate = (model.apply(params, extras, BATCH, key=jax.random.key(0), train=mode)[0] for mode in (1, 0))
    np.testing.assert_allclose(train, 2 * evaluate, rtol=1e-6)


def test_a_loss_function_has_no_outputs(made):
    found = made("loss")
    assert isinstance(found, LossFunction)
    model = found.model()
    params, extras = model.init(jax.random.key(0), BATCH)
    assert extras == {}
    assert jnp.shape(found.loss_fn(params, BATCH, None)) == ()
    assert model.apply is no_outputs
    with pytest.raises(JaxpropError, match=r"a loss function, which has no outputs; .* return \(init, apply\)"):
        model.apply(params, extras, BATCH, key=None, train=False)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("number", r"expected mine.py:number to return an NNX, .* got int"),
        ("triple", "expected mine.py:triple to return .* got tuple"),
        ("TwoInputs", r"TwoInputs\.__call__ \(mine\.py:\d+\) also needs scale, but it is called with the inputs alone"),
        ("NoInputs", r"NoInputs\.__call__ \(mine\.py:\d+\) takes no inputs, but it is called with the inputs alone"),
        ("NoCall", "NoCall has no __call__; give it one"),
        ("fails", r"model.class: mine.py:fails raised TypeError on line \d+ of mine.py: "),
    ],
)
def test_what_is_no_model(made, name, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        made(name, **({"width": 5} if name == "TwoInputs" else {}))
    assert "\n" not in str(caught.value)


def test_a_tuple_of_outputs_is_told_where_the_loss_is_not_ones_own(made):
    model = made("Several", width=5)
    params, extras = model.init(jax.random.key(0), BATCH)
    section = custom_sections(load(made.__closure__[0].cell_contents / "mine.yaml").config)["model",]
    checked = checked_outputs(model, load_code(section, ("model",)))
    told = (
        r"mine\.py:Several to give the outputs, .*; its call \(mine\.py:\d+\) returned a tuple of 2; return one array"
    )
    with pytest.raises(ConfigError, match=told):
        checked.apply(params, extras, BATCH, key=None, train=False)
