"""The step as an object: what it compiles, what it measures when, and the sentences for bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.health.signals.settings import Signals
from tests.steps import (
    EXTRAS,
    counting_objective,
    make_batch,
    make_params,
    mean_loss,
    per_example,
    run,
)

COMPILE_CASES = [
    dict(zip(("prec", "accumulate", "steps_per_call", "ema_decay", "health", "mesh"), case, strict=True))
    for case in [
        ("float32", 1, 1, None, True, None),
        ("float32", 4, 1, 0.9, True, None),
        ("float32", 2, 3, 0.9, False, None),
        ("bfloat16", 1, 1, None, True, None),
        ("float16", 2, 1, 0.9, True, None),
        ("float16", 1, 3, None, False, None),
        ("float32", 2, 1, 0.9, True, 4),
        ("float16", 1, 2, None, True, 8),
    ]
]


@pytest.mark.parametrize("options", COMPILE_CASES, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_compiles_once_and_donates(options, compilations):
    options = {**options, "mesh": options["mesh"] and jaxprop.make_mesh(options["mesh"])}
    tx = optax.adamw(1e-3)
    params = jax.tree.map(jnp.asarray, make_params())
    prec, ema, mesh, several = (options[k] for k in ("prec", "ema_decay", "mesh", "steps_per_call"))
    train = jaxprop.make_train_step(
        counting_objective(), tx, prec, options["accumulate"], several, options["health"], ema_decay=ema, mesh=mesh
    )
    state = jaxprop.init_state(
        params, tx, key=jax.random.key(0), extras=EXTRAS, precision=prec, ema_decay=ema, mesh=mesh
    )
    counts = []
    for i in range(3):
        batch = make_batch(i)
        if several > 1:
            batch = {n: np.stack([x] * several) for n, x in batch.items()}
        old = state
        state, m = train(state, batch)
        counts.append(compilations())
        assert old.params["dense_0"]["kernel"].is_deleted()
    assert counts[0] > 0
    assert counts == [counts[0]] * 3
    assert not params["dense_0"]["kernel"].is_deleted()
    assert train.layer_names == (("dense_0", "dense_1") if options["health"] else ())
    assert int(state.step) == 3 * several
    assert np.all(np.isfinite(m.host().loss))


SMALL = {"x": np.ones((4, 2), np.float32)}


def kinds(records):
    return [("full" if m.rare else "rows" if m.layout.layers else "lean") for m in records]


def small_step(**options):
    tx = optax.sgd(0.1)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean((b["x"] @ p["w"]) ** 2), tx, **options)
    return step, jaxprop.init_state({"w": np.ones(2, np.float32)}, tx, key=jax.random.key(0))


@pytest.mark.parametrize("health", [True, Signals(every=4, rare_every=6)], ids=["default", "sparse"])
def test_a_steps_own_count_decides_what_it_measures_and_each_kind_compiles_once(health, compilations):
    step, state = small_step(health=health)
    records, before = [], compilations()
    counts = []
    for _ in range(24):
        state, m = step(state, SMALL)
        records.append(m)
        counts.append(compilations() - before)
    if health is True:
        expected = ["full" if i % 10 == 0 else "rows" for i in range(1, 25)]
    else:
        expected = ["full" if i % 6 == 0 else "rows" if i % 4 == 0 else "lean" for i in range(1, 25)]
    assert kinds(records) == expected
    changes = [i for i in range(24) if counts[i] > (counts[i - 1] if i else 0)]
    assert changes == [expected.index(kind) for kind in dict.fromkeys(expected)]


def test_only_float16_has_something_to_flush():
    step, state = small_step(health=Signals(rare_every=5, flush_every=2))
    assert kinds([(step(jax.tree.map(jnp.copy, state), SMALL))[1] for _ in range(4)]) == ["rows", "full"] * 2
    assert np.isnan(step(state, SMALL, "flush")[1].rare.flushed).all()


def test_several_steps_in_one_call_measure_everything_in_the_last_where_it_is_due():
    batch = {"x": np.stack([SMALL["x"]] * 4)}
    step, state = small_step(steps_per_call=4)
    single, alone = small_step()
    for call in range(1, 7):
        detail = None if call < 6 else "full"
        stacked = batch if call < 6 else {"x": batch["x"][:1]}  # a run's last call may have fewer
        state, m = step(state, stacked, detail)
        full = call in (3, 5, 6)
        count = 1 if call == 6 else 4
        assert len(m.packed) == count
        assert kinds([m.at(i) for i in range(count)]) == ["rows"] * (count - 1) + ["full" if full else "rows"]
        for i in range(count):
            alone, expected = single(alone, SMALL, "full" if full and i == count - 1 else "rows")
            assert m.at(i).layout == expected.layout
            np.testing.assert_allclose(m.at(i).packed, expected.packed, rtol=1e-6, equal_nan=True)


def test_layer_names_wait_for_a_step_that_measures_layers():
    step, state = small_step(health=Signals(every=2))
    state, _ = step(state, SMALL)
    with pytest.raises(UsageError, match="first call"):
        _ = step.layer_names
    state, _ = step(state, SMALL)
    assert step.layer_names == ("w",)
    step(state, SMALL, "lean")
    assert step.layer_names == ("w",)


def test_an_unknown_detail():
    step, state = small_step()
    with pytest.raises(UsageError, match=r"unknown detail 'rowz'.*rows"):
        step(state, SMALL, "rowz")


def test_a_lowered_step_can_be_looked_at():
    step, state = small_step()
    assert step.lower(state, SMALL, "full").compile().cost_analysis()


X = np.zeros((6, 5), np.float32)


def mismatched(prec, ema_decay, state_prec, state_ema):
    tx = optax.sgd(0.1)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), precision=state_prec, ema_decay=state_ema)
    jaxprop.make_train_step(mean_loss, tx, prec, ema_decay=ema_decay)(state, make_batch())


ERRORS = {
    "unknown precision": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), "float8"), "unknown precision"),
    "float64 without x64": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), "float64"), "jax_enable_x64"),
    "accumulate 0": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), accumulate=0), "at least 1, got 0"),
    "steps_per_call 0": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), steps_per_call=0), "got 0"),
    "loss not a scalar": (
        lambda: run(lambda p, b, k: per_example(p, b), optax.sgd(1.0), [make_batch()]),
        r"got shape \(16,\)",
    ),
    "aux not a scalar": (
        lambda: run(lambda p, b, k: (mean_loss(p, b, k), {"weight": b["weight"]}), optax.sgd(1.0), [make_batch()]),
        r"expected aux\['weight'\] to be a scalar",
    ),
    "batch not a multiple": (
        lambda: run(mean_loss, optax.sgd(1.0), [make_batch(size=6)], accumulate=4),
        "use a batch of 8",
    ),
    "axes disagree": (lambda: run(mean_loss, optax.sgd(1.0), [{"inputs": X, "labels": X[:4]}]), r"labels \(4, 5\)"),
    "half the steps of a call": (
        lambda: run(mean_loss, optax.sgd(1.0), [make_batch()], steps_per_call=4),
        r"expected 4 batches stacked on a leading axis, got arrays with leading axes \[\(16,\)\]",
    ),
    "state without loss scale": (lambda: mismatched("float16", None, "float32", None), "same precision="),
    "state with loss scale": (lambda: mismatched("float32", None, "float16", None), "same precision="),
    "state without average": (lambda: mismatched("float32", 0.9, "float32", None), "same ema_decay="),
    "state with average": (lambda: mismatched("float32", None, "float32", 0.9), "same ema_decay="),
    "aux called loss": (
        lambda: run(lambda p, b, k: (mean_loss(p, b, k), {"loss": 1.0}), optax.sgd(1.0), [make_batch()]),
        "'loss' is taken",
    ),
    "names too early": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0)).layer_names, "first call"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_clear_sentence(case):
    call, message = ERRORS[case]
    with pytest.raises(JaxpropError, match=message):
        call()
