"""An explained step of a user's own: every kind of loss and state agrees with the step, and a wrong step does not."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.measurements import SCALARS
from jaxprop.core.precision import Scaling
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals
from jaxprop.losses.squared import squared_error
from jaxprop.train.explain import explain
from jaxprop.train.step import train_step

pytestmark = pytest.mark.timeout(300)  # every case compiles several programs

RNG = np.random.default_rng(0)
PARAMS = {name: {"w": RNG.normal(size=size).astype(np.float32)} for name, size in (("a", (3, 5)), ("b", (5, 1)))}
BATCH = {"x": RNG.normal(size=(8, 3)).astype(np.float32), "y": RNG.normal(size=(8, 1)).astype(np.float32)}


def loss_fn(params, batch, key):
    hidden = jaxprop.tap(jnp.tanh(batch["x"] @ params["a"]["w"]), "hidden", "tanh")
    return jnp.mean((hidden @ params["b"]["w"] - batch["y"].astype(hidden.dtype)) ** 2)


def stateful(params, extras, batch, key):
    return loss_fn(params, batch, key) + 0 * extras["n"], ({"n": extras["n"] + 1}, {})


def explained(loss=loss_fn, tx=None, params=PARAMS, batch=BATCH, extras=None, **options):
    step = jaxprop.make_train_step(loss, optax.adamw(1e-2) if tx is None else tx, **options)
    state = step.init(params, key=jax.random.key(0), extras=extras)
    found = step.explain(state, batch)
    step(state, batch if options.get("steps_per_call", 1) == 1 else jax.tree.map(lambda x: x[None], batch))  # is there
    return found


CASES = {
    "plain": {},
    "accumulate": {"accumulate": 4},
    "health off": {"health": False},
    "curvature, guard": {"health": Signals(curvature=True, spikes="clip")},
    "frozen": {"trainable": "b/.*"},
    "bfloat16": {"precision": "bfloat16", "cast": ("x",)},
    "float16": {"precision": "float16", "cast": ("x",), "scaling": Scaling(initial=64.0)},
    "clip": {"tx": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), "clip": 0.1},
    "gradient": {"gradient": lambda loss: jax.value_and_grad(loss, has_aux=True)},
    "stateful": {"loss": stateful, "stateful": True, "extras": {"n": jnp.zeros(())}},
    "several steps": {"steps_per_call": 2},
    "line search": {"tx": optax.lbfgs()},
    "mesh": {"mesh": jaxprop.make_mesh(2)},
}


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_step(case):
    found = explained(**CASES[case])
    assert found.ok, [check for check in found.checks if not check.agrees]
    assert (found.step, found.batch_size, found.taken, found.factor) == (1, 8, True, 1)
    assert {row.path for row in found.parameters} == ({"b/w"} if case == "frozen" else {"a/w", "b/w"})
    assert (found.clip is None) == (case != "clip")
    assert [layer.name for layer in found.layers] == ([] if case == "gradient" else ["hidden"])
    assert found.examples == ()


def model():
    def apply(params, extras, batch, *, key, train):
        return jnp.tanh(batch["inputs"] @ params["a"]["w"]) @ params["b"]["w"], extras

    return jaxprop.from_functions(lambda key, batch: (PARAMS, {}), apply)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("weight", [None, np.array([1, 0, 2, 1, 1, 1, 0.5, 1], np.float32)], ids=["equal", "weights"])
def test_the_losses_of_the_examples_are_known_where_the_loss_takes_weights(weight, accumulate):
    batch = {"inputs": BATCH["x"], "labels": BATCH["y"]} | ({} if weight is None else {"weight": weight})
    found = explained(jaxprop.loss_from(model(), squared_error), batch=batch, accumulate=accumulate)
    outputs = np.tanh(BATCH["x"] @ PARAMS["a"]["w"]) @ PARAMS["b"]["w"]
    own = ((outputs - BATCH["y"]) ** 2)[:, 0] / 2
    assert found.ok
    for example, loss, w in zip(found.examples, own, np.ones(8) if weight is None else weight, strict=False):
        assert example.weight == pytest.approx(w)
        assert w == 0 or example.loss == pytest.approx(loss, rel=1e-3)
    assert len(found.examples) == 6


def test_a_module_of_equinox():
    net = jaxprop.from_equinox(lambda key: eqx.nn.MLP(3, 1, 4, 1, key=key))
    batch = {"inputs": BATCH["x"], "labels": BATCH["y"]}
    params, extras = net.init(jax.random.key(0), batch)
    found = explained(jaxprop.loss_from(net, squared_error), params=params, extras=extras, batch=batch)
    assert found.ok
    assert [layer.name for layer in found.layers] == ["layers/0", "layers/1", "output"]


def test_a_tap_that_is_used_several_times_is_shown_with_all_its_uses():
    """Beside it, one that is used in a loop too hides no other."""

    def loss_fn(params, batch, key):
        once = jaxprop.tap(batch["x"] @ params["a"]["w"], "once")
        shared = [jaxprop.tap(part @ params["b"]["w"][: part.shape[1]], "shared") for part in (once, once[:, :2])]
        looped = jaxprop.tap(shared[0], "looped")
        looped, _ = jax.lax.scan(lambda c, _: (jaxprop.tap(jnp.tanh(c), "looped"), None), looped, None, 3)
        return jnp.mean(looped**2) + jnp.mean(shared[1] ** 2)

    found = explained(loss_fn)
    assert found.ok, [check for check in found.checks if not check.agrees]
    assert any(check.name == "activation RMS at shared" for check in found.checks)
    once, shared, looped = found.layers
    assert (once.shapes, shared.shapes, looped.shapes) == (((8, 5),), ((8, 1), (8, 1)), ())
    a, b = (PARAMS[name]["w"].astype(np.float64) for name in "ab")
    entries = np.concatenate([BATCH["x"] @ a @ b, (BATCH["x"] @ a)[:, :2] @ b[:2]])
    assert shared.mean == pytest.approx(entries.mean(), rel=1e-4)
    assert shared.std == pytest.approx(entries.std(), rel=1e-4)
    assert (looped.mean, looped.std) == (None, None)
    text = str(found)
    assert "[8, 1] and 1 more" in text
    assert "in a loop" in text


def test_a_spike_is_shown_as_skipped():
    step = jaxprop.make_train_step(loss_fn, optax.sgd(1e-3), health=Signals(spikes="skip"))
    state = step.init(PARAMS, key=jax.random.key(0))
    for _ in range(130):
        state, _ = step(state, BATCH)
    found = step.explain(state, {**BATCH, "y": 1e4 * BATCH["y"]})
    assert (found.ok, found.taken) == (True, False)
    assert "skips this update" in str(found)


@pytest.mark.parametrize("what", ["loss", "grad_norm", "params"])
def test_a_step_that_computes_something_else_is_found(what):
    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1))
    take = jax.jit(partial(train_step, step._recipe, "full"))

    def altered(state, batch):
        state, m = take(state, batch)
        if what == "params":
            return state._replace(params=jax.tree.map(lambda x: x + np.float32(1e-3), state.params)), m
        at = {"loss": 0, "grad_norm": SCALARS.index("grad_norm")}[what]
        return state, type(m)(m.packed.at[at].multiply(1.01), m.layout)

    found = explain(step._recipe, altered, step.init(PARAMS, key=jax.random.key(0)), BATCH)
    assert [check.name for check in found.checks if not check.agrees] == [
        {"loss": "loss", "grad_norm": "gradient norm", "params": "new parameters, entry by entry"}[what]
    ]


def test_a_step_that_is_not_finite_says_what_finds_the_reason():
    with pytest.raises(UsageError, match=r"cannot be explained; step.find_nonfinite\(state, batch\)"):
        explained(batch={**BATCH, "x": np.full((8, 3), np.nan, np.float32)})
