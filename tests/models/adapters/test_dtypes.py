"""Overrides in models of every framework: dtypes inside and outside of modules, under remat and scan, and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.core.overrides import cast_params, computing
from jaxprop.core.precision import policy
from jaxprop.errors import UsageError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.train.objective import loss_from

BATCH = {
    "inputs": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
    "labels": np.arange(8, dtype=np.int32) % 2,
}
SEEN = {}


def see(name, x):
    SEEN[name] = x.dtype.name
    return x


def normed(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + jnp.asarray(1e-6, x.dtype)) * scale


class LinenNorm(nn.Module):  # Flax's own norms ask for implicit promotion
    @nn.compact
    def __call__(self, x):
        return normed(x, see("scale", self.param("scale", nn.initializers.ones, (4,))))


class NnxNorm(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return normed(x, see("scale", self.scale[...]))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        y = see("norm", LinenNorm(name="norm")(x))
        return x + see("dense", nn.Dense(4, name="dense")(y)), None


class LinenNet(nn.Module):
    kind: str = "plain"

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="embed")(x)
        if self.kind == "scan":
            many = nn.scan(LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            x, _ = many(name="block")(x, None)
        else:
            x, _ = (nn.remat(LinenBlock) if self.kind == "remat" else LinenBlock)(name="block")(x)
        return see("head", nn.Dense(2, name="head")(x))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.dense = NnxNorm(), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return x + see("dense", self.dense(see("norm", self.norm(x))))


class NnxNet(nnx.Module):
    def __init__(self, kind, rngs):
        self.kind, self.embed, self.head = kind, nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        make = nnx.vmap(NnxBlock, in_axes=0, out_axes=0) if kind == "scan" else NnxBlock
        self.block = make(rngs.split(2) if kind == "scan" else rngs)

    def __call__(self, x):
        x = self.embed(x)
        if self.kind == "scan":
            x = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.block)
        else:
            x = (nnx.remat(lambda block, x: block(x)) if self.kind == "remat" else lambda block, x: block(x))(
                self.block, x
            )
        return see("head", self.head(x))


def linen(kind):
    return jaxprop.from_linen(LinenNet(kind))


def flax_nnx(kind):
    return jaxprop.from_nnx(lambda rngs: NnxNet(kind, rngs))


def equinox(kind):
    eqx = pytest.importorskip("equinox")

    class Block(eqx.Module):
        norm: eqx.nn.LayerNorm
        dense: eqx.nn.Linear

        def __call__(self, x):
            return x + see("dense", self.dense(see("norm", self.norm(x))))

    class Net(eqx.Module):
        embed: eqx.nn.Linear
        block: list
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.embed, self.head = eqx.nn.Linear(4, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[2])
            self.block = [Block(eqx.nn.LayerNorm(4), eqx.nn.Linear(4, 4, key=keys[1]))]

        def __call__(self, x):
            call = jax.checkpoint(lambda x: self.block[0](x)) if kind == "remat" else self.block[0]
            return see("head", self.head(call(self.embed(x))))

    return jaxprop.from_equinox(Net)


MODELS = {"linen": linen, "nnx": flax_nnx, "equinox": equinox}
KINDS = [(name, kind) for name in MODELS for kind in ("plain", "remat", "scan") if (name, kind) != ("equinox", "scan")]


def taken(model, precision, *, detail="rows", steps=1):
    step = jaxprop.make_train_step(loss_from(model, softmax_cross_entropy), optax.sgd(0.1), precision)
    params, extras = model.init(jax.random.key(0), BATCH)
    state = step.init(params, key=jax.random.key(1), extras=extras)
    SEEN.clear()
    for _ in range(steps):
        state, m = step(state, BATCH, detail)
    return state, m


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_module_computes_in_its_dtype_and_hands_on_that_of_the_model(name, kind):
    model, mixed = MODELS[name](kind), policy("bfloat16", overrides=[("norm|head", "float32")])
    state, m = taken(model, mixed)
    # What comes out of the norm is narrow again, so that the sum with x is too; the head's output stays wide.
    assert SEEN.pop("scale", "float32") == "float32"
    assert SEEN == {"norm": "bfloat16", "dense": "bfloat16", "head": "float32"}
    plain, narrow = (float(taken(model, precision)[1].loss) for precision in ("float32", "bfloat16"))
    assert abs(float(m.loss) - plain) < 0.02
    assert float(m.loss) != narrow
    measured, full = taken(model, mixed, detail="full")
    assert float(full.loss) == float(m.loss)  # a measuring step computes the same
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(measured.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_a_module_that_is_named_takes_what_is_inside_with_it(name):
    state, _ = taken(MODELS[name]("plain"), policy("bfloat16", overrides=[("^block", "float32")]))
    assert SEEN == SEEN | {"norm": "float32", "dense": "float32", "head": "bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}


@pytest.mark.parametrize("name", MODELS)
def test_a_narrower_part_of_a_wide_model(name):
    taken(MODELS[name]("plain"), policy("float32", overrides=[("dense", "bfloat16")]))
    assert SEEN == SEEN | {"norm": "float32", "dense": "float32", "head": "float32"}


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_computes_as_training_does(name):
    model, mixed = MODELS[name]("plain"), policy("bfloat16", overrides=[("norm|head", "float32")])
    params, extras = model.init(jax.random.key(0), BATCH)
    evaluate = jaxprop.make_eval_step(loss_from(model, softmax_cross_entropy), mixed)
    SEEN.clear()
    found = evaluate.finish([evaluate(params, extras, BATCH)])
    assert SEEN == SEEN | {"norm": "bfloat16", "dense": "bfloat16", "head": "float32"}
    assert found["loss"] == pytest.approx(float(taken(model, mixed)[1].loss), rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_what_matches_nothing_is_told(name):
    with pytest.raises(UsageError, match="'haed' matches no module and no parameter; did you mean 'head'"):
        taken(MODELS[name]("plain"), policy("bfloat16", overrides=[("haed", "float32")]))


# -- what the model returns ---------------------------------------------------------------------------


class NnxClassifier(nnx.Module):
    def __init__(self, rngs, change=lambda y: y):
        self.body, self.classifier = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
        self.change = change

    def __call__(self, x):
        return self.change(see("classifier", self.classifier(see("body", self.body(x)))))


class NnxNested(nnx.Module):
    def __init__(self, rngs):
        self.inner = NnxClassifier(rngs)

    def __call__(self, x):
        return self.inner(x)


class LinenClassifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        return see("classifier", nn.Dense(2, name="classifier")(see("body", nn.Dense(4, name="body")(x))))


def equinox_classifier():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        body: eqx.nn.Linear
        classifier: eqx.nn.Linear

        def __init__(self, key):
            self.body, self.classifier = (eqx.nn.Linear(4, n, key=key) for n in (4, 2))

        def __call__(self, x):
            return see("classifier", self.classifier(see("body", self.body(x))))

    return Net


def of_functions():
    def init(key, batch):
        return {name: {"w": jax.random.normal(key, (4, n))} for name, n in (("body", 4), ("classifier", 2))}, {}

    def apply(params, extras, batch, *, key, train):
        with jax.numpy_dtype_promotion("standard"):
            return see("body", batch["inputs"] @ params["body"]["w"]) @ params["classifier"]["w"], extras

    return jaxprop.from_functions(init, apply)


ENDS = {
    "nnx": lambda: jaxprop.from_nnx(NnxClassifier),
    "nnx, nested": lambda: jaxprop.from_nnx(NnxNested),
    "nnx, a dict": lambda: jaxprop.from_nnx(lambda rngs: NnxClassifier(rngs, lambda y: {"logits": y})),
    "nnx, a call of its own": lambda: jaxprop.from_nnx(
        NnxClassifier, call=lambda m, batch: m.classifier(m.body(batch["inputs"]))
    ),
    "nnx, a tap of its own": lambda: jaxprop.from_nnx(
        lambda rngs: NnxClassifier(rngs, lambda y: jaxprop.tap(y, "logits", "output")), taps=False
    ),
    "sequential": lambda: jaxprop.from_nnx(
        lambda rngs: nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs))
    ),
    "linen": lambda: jaxprop.from_linen(LinenClassifier()),
    "equinox": lambda: jaxprop.from_equinox(equinox_classifier()),
    "equinox, a call of its own": lambda: jaxprop.from_equinox(
        equinox_classifier(), call=lambda m, state, batch, key: (jax.vmap(m)(batch["inputs"]), state)
    ),
    "functions": of_functions,
}
LAST = policy("bfloat16", overrides=[("classifier|layers/1", "float32")])

NARROW = BATCH | {"inputs": BATCH["inputs"].astype(jnp.bfloat16)}


def logits_loss(outputs, batch):
    return softmax_cross_entropy(outputs["logits"] if isinstance(outputs, dict) else outputs, batch)


@pytest.mark.parametrize("case", ENDS)
def test_what_the_last_module_returns_stays_wide_whatever_its_name(case):
    model = ENDS[case]()
    params, extras = model.init(jax.random.key(0), BATCH)
    SEEN.clear()
    with computing(LAST):
        outputs, _ = model.apply(cast_params(params, LAST), extras, NARROW, key=None, train=False)
    (logits,) = jax.tree.leaves(outputs)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, logits.astype(jnp.bfloat16).astype(jnp.float32))  # nor was it rounded before
    assert SEEN.pop("classifier", "bfloat16") == "bfloat16"  # as the model itself sees it, beside what else it has
    assert SEEN.pop("body", "bfloat16") == "bfloat16"


@pytest.mark.parametrize("case", ["nnx", "nnx, a tap of its own", "linen", "equinox"])
def test_a_measuring_step_hands_on_the_same(case):
    step = jaxprop.make_train_step(loss_from(ENDS[case](), logits_loss), optax.sgd(0.1), LAST)
    taken = {}
    for detail in ("lean", "full"):
        params, extras = ENDS[case]().init(jax.random.key(0), BATCH)
        taken[detail] = step(step.init(params, key=jax.random.key(1), extras=extras), BATCH, detail)
    (state, m), (measured, full) = taken.values()
    assert float(full.loss) == float(m.loss)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(measured.params), strict=True):
        np.testing.assert_array_equal(a, b)
    # A tap on what is handed on lies on the way of the gradient.
    assert len(full.taps.grad_rms) == (1 if "tap" in case else 2)
    assert all(float(rms) > 0 for rms in full.taps.grad_rms)


def test_what_the_model_itself_changes_is_computed_in_its_own_dtype():
    model = jaxprop.from_nnx(lambda rngs: NnxClassifier(rngs, lambda y: y * 2))
    params, extras = model.init(jax.random.key(0), BATCH)
    with computing(LAST):
        outputs, _ = model.apply(cast_params(params, LAST), extras, NARROW, key=None, train=False)
    assert outputs.dtype == jnp.bfloat16
