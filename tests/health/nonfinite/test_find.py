"""The operation, layer, line and examples behind a NaN; planted ones are in planted.py."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.core.precision import policy
from jaxprop.errors import UsageError
from jaxprop.health import find_nonfinite
from jaxprop.losses.softmax import softmax_cross_entropy

KEY = jax.random.key(0)


def _load(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


planted = _load("planted")


@pytest.mark.parametrize("name", planted.FAULTS)
def test_a_planted_fault_is_found(name):
    fault = planted.FAULTS[name]
    batch = fault.batch or planted.make_batch()
    found = find_nonfinite(fault.loss, planted.make_params(), batch, KEY)
    assert (found.phase, found.primitive, found.layer) == (fault.phase, fault.primitive, fault.layer)
    assert (found.file, found.line) == (planted.__file__, planted.line_of(name))
    assert found.path[0].primitive == fault.primitive
    if fault.examples is not None:
        assert found.examples == fault.examples


def test_there_are_as_many_planted_faults_as_are_told():
    assert len(planted.FAULTS) >= 20
    assert sum(fault.phase == "backward" for fault in planted.FAULTS.values()) >= 8


@pytest.mark.parametrize("name", planted.BENIGN)
def test_what_reaches_nothing_is_not_found(name):
    assert find_nonfinite(planted.BENIGN[name], planted.make_params(), planted.make_batch(), KEY) is None


DECOYS = {
    "split": lambda rows: jnp.split(rows, 2)[1],
    "sort": lambda rows: jnp.sort(rows, axis=1)[2:],
    "max": lambda rows: jnp.max(rows, axis=1)[2:],
    "top_k": lambda rows: jax.lax.top_k(rows, 2)[0][2:],
    "cummax": lambda rows: jax.lax.cummax(rows, axis=1)[2:],
    "cumprod": lambda rows: jnp.cumprod(rows, axis=1)[2:],
    "prod": lambda rows: jnp.prod(rows, axis=1)[2:],
    "fft": lambda rows: jnp.abs(jnp.fft.fft(rows))[2:],
    "pool": lambda rows: jax.lax.reduce_window(rows, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID")[2:],
    "cholesky": lambda rows: jnp.linalg.cholesky(rows[:, :, None] * jnp.eye(4))[2:],
    "solve": lambda rows: jnp.linalg.solve(jnp.eye(4) + 0 * rows[:, :, None], rows[:, :, None])[2:],
    "eigh": lambda rows: jnp.linalg.eigh(rows[:, :, None] * jnp.eye(4))[0][2:],
}


@pytest.mark.parametrize("name", DECOYS)
def test_a_row_that_reaches_nothing_is_not_blamed_for_another(name):
    """Rows that stay apart all through an operation: those of the first half are left out after it."""

    def loss_fn(params, batch, key):
        harmless = jnp.log(batch["x"] * params["w"] * 0 - 1)
        cause = jnp.exp(batch["x"] * params["w"])
        cause = 1 / (cause - cause)
        return jnp.sum(DECOYS[name](jnp.concatenate([harmless, cause])) * params["w"])

    found = find_nonfinite(loss_fn, {"w": jnp.float32(1)}, {"x": jnp.ones((2, 4))}, examples=False)
    assert (found.primitive, found.value) == ("div", "inf")


def test_float64_beyond_float32_is_an_infinite_input():
    found = find_nonfinite(lambda p, b, k: p * jnp.sum(b["x"]), jnp.float32(1), {"x": np.array([1.0, 1e39])})
    assert (found.primitive, found.layer, found.at) == ("input", "batch/x", (1,))


def test_complex_numbers():
    def loss_fn(params, batch, key):
        return jnp.sum(jnp.abs(jnp.log((batch["x"] * params).astype(complex))))

    found = find_nonfinite(loss_fn, jnp.float32(1), {"x": jnp.array([1.0, 0.0])})
    assert (found.primitive, found.value, found.operands) == ("log", "(-inf+0j)", ("0+0j",))


# -- what it says -------------------------------------------------------------------------------


def test_the_entry_its_operands_and_the_parameters_affected():
    def loss_fn(params, batch, key):
        return jnp.mean(jnp.log(batch["x"] - params["a"]) * params["b"])

    params = {"a": jnp.float32(1), "b": jnp.ones(3), "c": jnp.ones(2)}
    found = find_nonfinite(loss_fn, params, {"x": jnp.array([[2.0, 3.0, 4.0], [2.0, 0.5, 4.0]])})
    assert (found.at, found.shape, found.bad, found.value) == ((1, 1), (2, 3), 1, "nan")
    assert found.operands == ("-0.5",)
    assert found.affected == ("b",)  # of log(x) at x < 0 the derivative is finite
    assert found.examples == (1,)
    assert "log(-0.5) = nan" in found.message
    assert [hop.primitive for hop in found.path][:2] == ["log", "mul"]


def test_a_nan_in_the_batch_is_named_as_such():
    batch = {"x": jnp.ones((4, 3)).at[2, 1].set(jnp.nan)}
    found = find_nonfinite(lambda params, batch, key: jnp.mean(batch["x"] * params), jnp.float32(1), batch)
    assert (found.primitive, found.layer, found.at, found.examples) == ("input", "batch/x", (2, 1), (2,))
    assert "batch/x holds nan to begin with" in found.message


def test_an_infinite_parameter_is_named_as_such():
    params = {"head": {"w": jnp.ones(3).at[1].set(jnp.inf)}}
    found = find_nonfinite(
        lambda params, batch, key: jnp.mean(jnp.sin(batch["x"] * params["head"]["w"])), params, {"x": jnp.ones((4, 3))}
    )
    assert (found.primitive, found.layer) == ("input", "params/head/w")
    assert found.examples == (0, 1, 2, 3)


def test_an_infinity_that_is_meant_is_not_taken_for_one_that_is_not():
    """The mask holds -inf, and the fault is elsewhere."""

    def loss_fn(params, batch, key):
        scores = jax.nn.softmax(batch["x"] * params + batch["mask"])
        return jnp.mean(jnp.log(scores[:, :1] - 0.5))

    batch = {"x": jnp.ones((2, 3)), "mask": jnp.zeros((2, 3)).at[:, 2].set(-jnp.inf)}
    assert find_nonfinite(loss_fn, jnp.float32(1), batch).primitive == "log"


def test_the_first_of_two_faults_is_told():
    def loss_fn(params, batch, key):
        early = jnp.sqrt(batch["x"] - params["a"])
        late = jnp.log(batch["x"] - params["b"] - 5.0)
        return jnp.sum(late) + jnp.sum(early)

    found = find_nonfinite(loss_fn, {"a": jnp.float32(2), "b": jnp.float32(0)}, {"x": jnp.ones(4)})
    assert (found.primitive, found.layer) == ("sqrt", "a")


def test_long_loops_are_followed_turn_by_turn():
    """More equations in all than are opened one by one."""

    def loss_fn(params, batch, key):
        def turn(carry, i):
            x, dead = carry
            x = x + params["w"] * 1e-3
            for _ in range(10):
                x = x * 1.0 + 0.0
            return (x / jnp.where(i == 2900, 0.0, 1.0), dead), None

        (x, _), _ = jax.lax.scan(turn, (batch["x"], jnp.full(3, -jnp.inf)), jnp.arange(3000))
        return jnp.mean(x)

    found = find_nonfinite(loss_fn, {"w": jnp.ones(())}, {"x": jnp.ones((2, 3))}, examples=False)
    assert (found.phase, found.primitive) == ("forward", "div")


def test_aux_does_not_count():
    def loss_fn(params, batch, key):
        return jnp.mean(batch["x"] * params), {"noted": jnp.log(-params)}

    assert find_nonfinite(loss_fn, jnp.float32(1), {"x": jnp.ones(4)}) is None


def test_randomness_is_that_of_the_key():
    def loss_fn(params, batch, key):
        kept = jax.random.bernoulli(key, 0.5, batch["x"].shape)
        return jnp.mean(jnp.where(kept, batch["x"], 0.0) * jnp.log(params))

    found = find_nonfinite(loss_fn, jnp.float32(-1), {"x": jnp.ones((4, 2))}, KEY)
    assert (found.primitive, found.layer) == ("log", "params")


def test_an_operation_that_cannot_be_looked_into_is_told_with_what_checkify_says():
    def inner(x):
        return jnp.log(x)

    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(inner, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i"))
    found = find_nonfinite(
        lambda params, batch, key: jnp.sum(split(batch["x"] * params)), jnp.float32(-1), {"x": jnp.ones(4)}
    )
    assert found.primitive == "shard_map"
    assert found.detail is not None


def test_the_compiler_is_suspected_where_single_operations_are_finite(monkeypatch):
    from jaxprop.health.nonfinite import find as replay

    monkeypatch.setattr(replay, "_examine", lambda *args: None)
    found = find_nonfinite(lambda params, batch, key: jnp.log(params - 1.0), jnp.float32(1), {"x": jnp.ones(4)})
    assert (found.primitive, found.suspect) == (None, "fusion")
    assert "one operation at a time is" in found.message


def test_the_record_is_plain_json():
    import json

    found = find_nonfinite(lambda p, batch, key: jnp.mean(jnp.log(batch["x"]) * p), jnp.float32(1), {"x": jnp.zeros(2)})
    record = json.loads(json.dumps(found.record()))
    assert record["index"] == [0]
    assert record["examples"] == [0, 1]
    assert record["path"][0]["primitive"] == "log"
    assert record["message"] == found.message


def test_a_linear_solve_is_looked_into():
    def loss_fn(params, batch, key):
        return jnp.sum(jnp.linalg.solve(batch["a"], batch["b"] * params))

    batch = {"a": jnp.stack([jnp.eye(2), jnp.array([[1.0, 2.0], [2.0, 4.0]])]), "b": jnp.ones((2, 2, 1))}
    found = find_nonfinite(loss_fn, jnp.float32(1), batch)
    assert (found.primitive, found.file, found.examples) == ("triangular_solve", __file__, (1,))


def test_a_constant_is_told_to_be_one():
    found = find_nonfinite(lambda params, batch, key: params * 0 + np.inf, jnp.float32(1), {"x": jnp.ones(2)})
    assert found.primitive == "add"
    found = find_nonfinite(lambda params, batch, key: float("nan"), jnp.float32(1), {"x": jnp.ones(2)})
    assert found.primitive == "constant"
    assert "a constant that is not finite" in found.message


def test_python_numbers_are_arrays():
    found = find_nonfinite(lambda p, b, k: jnp.log(p["a"] - b["x"]), {"a": 1.0}, {"x": 1.0})
    assert (found.primitive, found.layer) == ("log", "a")


@pytest.mark.parametrize("check", [jax.debug_nans, jax.debug_infs])
def test_the_checks_of_jax_itself_do_not_get_in_the_way(check):
    with check(True):
        found = find_nonfinite(lambda p, b, k: jnp.log(p - b["x"]), jnp.float32(1), {"x": jnp.float32(1)})
    assert found.primitive == "log"


# -- examples -----------------------------------------------------------------------------------


def test_examples_that_fail_only_together():
    def loss_fn(params, batch, key):
        return params * jnp.log(jnp.std(batch["x"]) - 1.0)  # of one example repeated there is no spread: log(-1)

    found = find_nonfinite(
        lambda p, b, k: p / jnp.prod(b["x"].sum() - 3.0), jnp.float32(1), {"x": jnp.array([1.0, 2.0])}
    )
    assert found.examples == ()


def test_a_batch_that_cannot_be_taken_apart():
    batch = {"x": jnp.zeros(4), "y": jnp.ones(3)}
    found = find_nonfinite(lambda p, b, k: p * jnp.mean(jnp.log(b["x"])) * jnp.sum(b["y"]), jnp.float32(1), batch)
    assert (found.primitive, found.examples) == ("log", ())


def test_what_is_no_example_stays_as_it_is():
    batch = {"x": jnp.array([1.0, 0.0, 1.0]), "y": jnp.ones(3), "scale": jnp.float32(1), "table": jnp.ones((7, 2))}
    found = find_nonfinite(lambda p, b, k: p * jnp.mean(jnp.log(b["x"])) * b["table"].sum(), jnp.float32(1), batch)
    assert (found.examples, found.batch_size) == ((1,), 3)


# -- any framework ------------------------------------------------------------------------------


def test_a_linen_model_is_named_by_its_parameters_and_scopes():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="hidden")(x)
            x = jnp.log(nn.Dense(4, name="middle")(x) * 0.0)
            return nn.Dense(2, name="head")(x)

    batch = {"inputs": jnp.ones((4, 3)), "labels": jnp.zeros(4, jnp.int32)}
    model = jaxprop.from_linen(Net())
    params, extras = model.init(KEY, batch)
    objective = jaxprop.loss_from(model, softmax_cross_entropy)

    def loss_fn(params, batch, key):
        return objective.mean_loss(params, extras, batch, key, policy("float32"))[0]

    found = find_nonfinite(loss_fn, params, batch, KEY)
    assert (found.primitive, found.layer, found.file) == ("log", "middle", __file__)
    assert found.scope.startswith("Net")


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_fn", "params"),
    [
        (lambda p, b, k: jnp.ones(3) * p, jnp.float32(1)),
        (lambda p, b, k: jnp.sum(p), jnp.arange(3)),
        (lambda p, b, k: jax.lax.while_loop(lambda x: x < 3, lambda x: x + p, p), jnp.float32(1)),
    ],
    ids=["vector", "integers", "while"],
)
def test_a_loss_that_cannot_be_differentiated(loss_fn, params):
    with pytest.raises(UsageError, match="the loss cannot be differentiated"):
        find_nonfinite(loss_fn, params, {"x": jnp.ones(4)})


@pytest.mark.parametrize(
    ("loss_fn", "sentence"),
    [
        (lambda p, b, k: float(p), "Abstract tracer value"),
        (lambda p, b: p, "takes 2 positional arguments but 3 were given"),
        (lambda p, b, k: jnp.ones((2, 3)) @ jnp.ones((2, 3)), "contracting dimensions"),
    ],
    ids=["concrete", "arguments", "shapes"],
)
def test_a_loss_that_cannot_be_computed(loss_fn, sentence):
    with pytest.raises(UsageError, match=f"the loss cannot be computed as loss_fn.*{sentence}"):
        find_nonfinite(loss_fn, jnp.float32(1), {"x": jnp.ones(4)})


def test_a_healthy_step_of_optax_losses_with_masks():
    logits = jnp.zeros((2, 5, 4))
    batch = {"labels": jnp.array([[1, 2, 0], [1, 0, 0]]), "pad": jnp.array([[0.0, 0, 1], [0, 1, 1]])}

    def loss_fn(params, batch, key):
        return optax.losses.ctc_loss(logits * params, jnp.zeros((2, 5)), batch["labels"], batch["pad"]).mean()

    assert find_nonfinite(loss_fn, jnp.float32(1), batch) is None
    assert np.isfinite(loss_fn(jnp.float32(1), batch, None))
