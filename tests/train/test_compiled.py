"""The step as an object: what it compiles, what it measures when, and the sentences for bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprop
from jaxprop.core.precision import Scaling
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.health.signals.settings import Signals
from jaxprop.types import TrainState
from tests.steps import (
    EXTRAS,
    assert_close,
    assert_same_bits,
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
    state = train.init(params, key=jax.random.key(0), extras=EXTRAS)
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
    assert train.layer_names == ("dense_0", "dense_1")
    assert int(state.step) == 3 * several
    assert np.all(np.isfinite(m.host().loss))


SMALL = {"x": np.ones((4, 2), np.float32)}


def kinds(records):
    return [("full" if m.rare else "rows" if m.layout.layers else "lean") for m in records]


def small_step(**options):
    tx = optax.sgd(0.1)
    step = jaxprop.make_train_step(lambda p, b, k: jnp.mean((b["x"] @ p["w"]) ** 2), tx, **options)
    return step, step.init({"w": np.ones(2, np.float32)}, key=jax.random.key(0))


@pytest.mark.parametrize("health", [True, Signals(every=4, rare_every=6)], ids=["default", "sparse"])
def test_a_steps_own_count_decides_what_it_measures_and_each_kind_compiles_once(health, compilations):
    step, state = small_step(health=health)
    records, before = [], compilations()
    counts = []
    for _ in range(60):
        state, m = step(state, SMALL)
        records.append(m)
        counts.append(compilations() - before)
    if health is True:
        expected = ["full" if i % 50 == 0 else "rows" for i in range(1, 61)]
    else:
        expected = ["full" if i % 6 == 0 else "rows" if i % 4 == 0 else "lean" for i in range(1, 61)]
    assert kinds(records) == expected
    changes = [i for i in range(60) if counts[i] > (counts[i - 1] if i else 0)]
    assert changes == [expected.index(kind) for kind in dict.fromkeys(expected)]


def test_only_float16_has_something_to_flush():
    step, state = small_step(health=Signals(rare_every=5, flush_every=2))
    assert kinds([(step(jax.tree.map(jnp.copy, state), SMALL))[1] for _ in range(4)]) == ["rows", "full"] * 2
    assert np.isnan(step(state, SMALL, "flush")[1].rare.flushed).all()


def test_several_steps_in_one_call_measure_everything_in_the_last_where_it_is_due():
    batch = {"x": np.stack([SMALL["x"]] * 4)}
    step, state = small_step(steps_per_call=4, health=Signals(rare_every=10))
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


def test_layer_names_are_known_once_the_step_has_its_state():
    def loss_fn(params, batch, key):  # in another order than the tree's
        return jnp.mean((batch["x"] @ params["z"]["w"] @ params["a"]["w"]) ** 2)

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), health=Signals(every=2))
    with pytest.raises(UsageError, match=r"call step\.init"):
        _ = step.layer_names
    state = step.init({"a": {"w": np.ones((2, 1))}, "z": {"w": np.ones((2, 2))}}, key=jax.random.key(0))
    assert step.layer_names == ("a", "z")
    state, _ = step(state, SMALL)  # measures no layers
    assert step.layer_names == ("a", "z")
    state, m = step(state, SMALL)
    assert step.layer_names == m.layout.layers == ("z", "a")
    step(state, SMALL, "lean")
    assert step.layer_names == ("z", "a")


def test_an_init_of_the_step_is_the_long_form_with_nothing_said_twice():
    tx, scaling, mesh = optax.adam(1e-3), Scaling(initial=8.0), jaxprop.make_mesh(2)
    options = {"ema_decay": 0.9, "scaling": scaling, "mesh": mesh, "trainable": "dense_1/.*"}
    health = Signals(curvature=True)
    step = jaxprop.make_train_step(counting_objective(), tx, "float16", health=health, **options)
    short = step.init(make_params(), key=jax.random.key(3), extras=EXTRAS)
    long = jaxprop.init_state(
        make_params(), tx, key=jax.random.key(3), extras=EXTRAS, precision="float16", health=health, **options
    )
    assert jax.tree.structure(short) == jax.tree.structure(long)
    assert_same_bits(short, long)
    assert [x.sharding for x in jax.tree.leaves(short)] == [x.sharding for x in jax.tree.leaves(long)]


def test_parameters_to_evaluate_with_are_the_average_beside_what_is_not_trained():
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.5), ema_decay=0.9, trainable="dense_1/.*")
    state = step.init(make_params(), key=jax.random.key(0))
    state, _ = step(state, make_batch())
    found = step.eval_params(state)
    assert jax.tree.structure(found) == jax.tree.structure(state.params)
    assert_same_bits(found["dense_0"], state.params["dense_0"])
    assert_same_bits(found["dense_1"], state.ema.params["dense_1"])
    plain = jaxprop.make_train_step(mean_loss, optax.sgd(0.5))
    state = plain.init(make_params(), key=jax.random.key(0), extras=EXTRAS)
    assert_same_bits(plain.eval_params(state), state.params)
    assert_same_bits(plain.eval_extras(state), state.extras)


def test_what_is_not_trained_is_no_origin_of_a_nan():
    """An integer, and a frozen leaf at which the derivative is infinite."""
    params = {"w": jnp.ones(2), "frozen": jnp.zeros(2), "n": jnp.arange(2, dtype=jnp.int32)}

    def loss_fn(p, x, key):
        return jnp.sum(jnp.log(x) * p["w"][p["n"]]) + jnp.sum(jnp.sqrt(p["frozen"]))

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.1), trainable="w|n")
    state = step.init(params, key=jax.random.key(0))
    assert step.find_nonfinite(state, jnp.ones(2)) is None
    assert step.find_nonfinite(state, jnp.zeros(2)).primitive == "log"


def test_an_unknown_detail():
    step, state = small_step()
    with pytest.raises(UsageError, match=r"unknown detail 'rowz'.*rows"):
        step(state, SMALL, "rowz")


def test_a_lowered_step_can_be_looked_at():
    step, state = small_step()
    assert step.lower(state, SMALL, "full").compile().cost_analysis()


X = np.zeros((6, 5), np.float32)


def mismatched(prec, state_prec):
    tx = optax.sgd(0.1)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), precision=state_prec)
    jaxprop.make_train_step(mean_loss, tx, prec)(state, make_batch())


ERRORS = {
    "unknown precision": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), "float8"), "unknown precision"),
    "float64 without x64": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), "float64"), "jax_enable_x64"),
    "accumulate 0": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0), accumulate=0), "at least 1; got 0"),
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
    "axes disagree": (
        lambda: run(mean_loss, optax.sgd(1.0), [{"inputs": X, "labels": X[:4]}], accumulate=2),
        r"labels \(4, 5\)",
    ),
    "half the steps of a call": (
        lambda: run(mean_loss, optax.sgd(1.0), [make_batch()], steps_per_call=4),
        r"expected 4 batches stacked on a leading axis, got arrays with leading axes \[\(16,\)\]",
    ),
    "state without loss scale": (lambda: mismatched("float16", "float32"), "make it with step.init"),
    "state with loss scale": (lambda: mismatched("float32", "float16"), "make it with step.init"),
    "nothing to train": (
        lambda: run(mean_loss, optax.sgd(1.0), [make_batch()], trainable="head/.*"),
        "trainable='head/.*' leaves no floating-point parameter to train; there are: dense_0/bias",
    ),
    "aux called loss": (
        lambda: run(lambda p, b, k: (mean_loss(p, b, k), {"loss": 1.0}), optax.sgd(1.0), [make_batch()]),
        "'loss' is taken",
    ),
    "names too early": (lambda: jaxprop.make_train_step(mean_loss, optax.sgd(1.0)).layer_names, "call step.init"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_clear_sentence(case):
    call, message = ERRORS[case]
    with pytest.raises(JaxpropError, match=message):
        call()


# -- a state that is split over the devices -------------------------------------------------------


def split_matrices(path, leaf):
    """Every matrix, those of the optimizer and of the average too, by the first axis that the two devices divide."""
    del path
    axis = next((i for i, size in enumerate(leaf.shape) if size % 2 == 0), None)
    return P() if leaf.ndim < 2 or axis is None else P(*[None] * axis, "data")


@pytest.mark.parametrize("detail", ["lean", "rows", "full"])
@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_a_state_split_over_devices_trains_as_a_whole_one(steps_per_call, detail, compilations):
    tx, mesh, rng = optax.adamw(1e-2), jaxprop.make_mesh(2), np.random.default_rng(0)
    params = {
        "in": {"w": rng.normal(size=(3, 6)).astype(np.float32)},
        "out": {"b": np.zeros(2, np.float32), "w": rng.normal(size=(6, 2)).astype(np.float32)},
    }
    batch = {"x": rng.normal(size=(4, 3)).astype(np.float32)}
    batch = batch if steps_per_call == 1 else {"x": np.stack([batch["x"]] * 2)}

    def loss_fn(params, batch, key):
        del key
        return jnp.mean((jnp.tanh(batch["x"] @ params["in"]["w"]) @ params["out"]["w"] + params["out"]["b"] - 1) ** 2)

    found = {}
    for sharding in (None, split_matrices):
        step = jaxprop.make_train_step(
            loss_fn, tx, mesh=mesh, state_sharding=sharding, ema_decay=0.9, steps_per_call=steps_per_call
        )
        state = step.init(params, key=jax.random.key(0))
        placed = [x.sharding for x in jax.tree.leaves(state)]
        state, _ = step(state, batch, detail)
        before = compilations()
        state, m = step(state, batch, detail)
        assert compilations() == before
        for old, new in zip(placed, jax.tree.leaves(state), strict=True):
            assert new.sharding.is_equivalent_to(old, new.ndim)
        found[sharding] = state, m
    (whole, expected), (split, m) = found.values()
    divided = [x for x in jax.tree.leaves((split.params, split.opt_state, split.ema)) if split_matrices("", x) != P()]
    assert len(divided) == 8  # both kernels, their moments and their averages
    assert all(x.addressable_shards[0].data.size == x.size // 2 for x in divided)
    assert_close((split.params, split.opt_state, split.ema), (whole.params, whole.opt_state, whole.ema), rtol=1e-5)
    np.testing.assert_allclose(m.loss, expected.loss, rtol=1e-6)
    if detail != "lean":
        np.testing.assert_allclose(m.layers.grad_norm, expected.layers.grad_norm, rtol=1e-5)


def test_shardings_may_be_a_tree_of_the_top_of_the_state_and_evaluation_takes_them():
    mesh = jaxprop.make_mesh(2)
    whole = P()
    sharding = TrainState(
        step=whole, params=P("data"), extras=whole, opt_state=NamedSharding(mesh, whole), key=whole, loss_scale=whole,
        health=whole, ema=whole,
    )  # fmt: skip
    params = {"w": np.ones((4, 3), np.float32)}

    def loss_fn(params, batch, key):
        del key
        return jnp.mean((batch["x"] @ params["w"]) ** 2)

    step = jaxprop.make_train_step(loss_fn, optax.adam(0.1), mesh=mesh, state_sharding=sharding)
    state = step.init(params, key=jax.random.key(0))
    assert state.params["w"].sharding.spec == P("data")
    assert state.opt_state[0].mu["w"].sharding.is_fully_replicated
    batch = {"x": np.ones((2, 4), np.float32)}
    state, m = step(state, batch)
    assert state.params["w"].sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 2)
    np.testing.assert_allclose(m.loss, 16)


WRONG = {
    "no mesh": ({"state_sharding": P()}, "give mesh=jaxprop.make_mesh"),
    "does not divide": ({"state_sharding": lambda path, x: P("data") if x.ndim else P()}, "does not fit .*3"),
    "more axes than the array": ({"state_sharding": P("data")}, "state_sharding does not fit step"),
    "no such axis": ({"state_sharding": lambda path, x: P("model") if x.ndim else P()}, "does not fit .*model"),
    "no sharding": ({"state_sharding": lambda path, x: "data"}, "expected state_sharding to give a PartitionSpec"),
    "another structure": ({"state_sharding": {"w": P()}}, "the structure of the state"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_sharding_that_does_not_fit_is_told(case):
    options, says = WRONG[case]
    options = options if case == "no mesh" else options | {"mesh": jaxprop.make_mesh(2)}

    def make():
        step = jaxprop.make_train_step(lambda p, b, k: jnp.sum(p["w"]), optax.adam(0.1), **options)
        return step.init({"w": np.ones(3, np.float32)}, key=jax.random.key(0))

    with pytest.raises(UsageError, match=says):
        make()


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_a_batch_that_the_devices_do_not_divide_is_told_with_the_size_to_use(steps_per_call):
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), steps_per_call=steps_per_call, mesh=jaxprop.make_mesh(8))
    batch = make_batch(size=30)
    batch = batch if steps_per_call == 1 else jax.tree.map(lambda x: np.stack([x] * 2), batch)
    state = step.init(make_params(), key=jax.random.key(0))
    with pytest.raises(UsageError, match=r"a batch of 30 .* the 8 devices .*; use 32, .*make_mesh\(2\)"):
        step(state, batch)


# -- the one slow call -----------------------------------------------------------------------------


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "jaxprop"]


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_the_call_that_compiles_the_first_full_record_is_announced_once(steps_per_call, caplog):
    health = Signals(rare_every=4, flush_every=8)
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), health=health, steps_per_call=steps_per_call)
    state, batch = step.init(make_params(), key=jax.random.key(0)), make_batch()
    if steps_per_call > 1:
        batch = jax.tree.map(lambda x: np.stack([x] * steps_per_call), batch)
    lines = []
    for _ in range(12 // steps_per_call):
        state, _ = step(state, batch)
        lines.append(len(told(caplog)))
    first = 4 // steps_per_call - 1  # the call that holds step 4
    assert lines == [0] * first + [1] * (len(lines) - first)
    assert "the call of step 4 measures everything for the first time" in told(caplog)[0]


def test_a_full_record_that_was_asked_for_or_comes_first_is_not_announced(caplog):
    batch = make_batch()
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), health=Signals(rare_every=2))
    state, _ = step(step.init(make_params(), key=jax.random.key(0)), batch, "full")
    state, _ = step(state, batch)
    every = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), health=Signals(rare_every=1))
    every(every.init(make_params(), key=jax.random.key(0)), batch)
    never = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), health=False)
    state = never.init(make_params(), key=jax.random.key(0))
    for _ in range(60):
        state, _ = never(state, batch)
    assert told(caplog) == []


# -- calls that cannot work ------------------------------------------------------------------------


def test_a_state_that_was_donated_is_told():
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.1))
    state = step.init(make_params(), key=jax.random.key(0))
    step(state, make_batch())
    with pytest.raises(UsageError, match=r"given to an earlier call .*state, m = step\(state, batch\)"):
        step(state, make_batch())


def test_a_failure_that_has_nothing_to_do_with_donation_is_its_own():
    step = jaxprop.make_train_step(lambda p, b, k: mean_loss(p, b, k) + b["more"], optax.sgd(0.1))
    with pytest.raises(KeyError, match="more"):
        step(step.init(make_params(), key=jax.random.key(0)), make_batch())


def test_a_module_that_the_loss_closes_over_is_told():
    net = nnx.BatchNorm(5, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    step = jaxprop.make_train_step(
        lambda p, b, k: jnp.mean(nnx.merge(graph, p, rest)(b["inputs"]) ** 2), optax.sgd(0.1)
    )
    with pytest.raises(UsageError, match=r"changes a Flax module.*jaxprop\.from_nnx.*stateful=True"):
        step(step.init(params, key=jax.random.key(0)), make_batch())


UNPLACED = {
    "not divisible": (
        make_batch(size=6),
        r"batch of 6 cannot be divided over the 4 devices .*\(inputs has",
    ),
    "a scalar": ({**make_batch(), "scale": np.float32(1)}, r"and scale has the shape \(\); give one value"),
}


@pytest.mark.parametrize("case", UNPLACED)
def test_a_batch_that_the_mesh_cannot_split_is_told(case):
    batch, says = UNPLACED[case]
    step = jaxprop.make_train_step(mean_loss, optax.sgd(0.1), mesh=jaxprop.make_mesh(4))
    with pytest.raises(UsageError, match=says):
        step(step.init(make_params(), key=jax.random.key(0)), batch)


TOGETHER = {
    "float16 has to skip": ({"precision": "float16", "skip_nonfinite": False}, "skip_nonfinite has to stay True"),
    "several steps": ({"tx": optax.MultiSteps(optax.sgd(0.1), 2)}, r"accumulate= .*gradient_transformation\(\); got"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_arguments_that_do_not_go_together(case):
    options, says = TOGETHER[case]
    with pytest.raises(UsageError, match=says):
        jaxprop.make_train_step(mean_loss, **({"tx": optax.sgd(0.1)} | options))
