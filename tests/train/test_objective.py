"""Objectives: a model bound to a loss, what is cast, and what a plain loss may take and return."""

import typing
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprop
from jaxprop.config.schema.model import Mlp
from jaxprop.core.precision import Policy, policy
from jaxprop.errors import ShapeError, UsageError
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error
from jaxprop.metrics.accuracy import accuracy
from jaxprop.models import from_functions, make_model
from jaxprop.train.objective import as_objective, loss_from
from jaxprop.types import Spec
from tests.losses.cases import CLASSES, LOGITS, RNG, log_softmax, softmax_reference


def linear(outputs_dtypes):
    def apply(params, extras, batch, *, key, train):
        outputs = batch["inputs"] @ params["w"]
        outputs_dtypes.append((batch["inputs"].dtype, outputs.dtype, train))
        return outputs, {"seen": extras["seen"] + (1 if train else 0)}

    return from_functions(lambda key, batch: ({"w": jnp.ones((3, 3))}, {"seen": jnp.float32(0)}), apply)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_an_objective_casts_by_policy_and_keeps_extras(precision):
    seen = []
    objective = loss_from(linear(seen), softmax_cross_entropy, {"accuracy": accuracy})
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    dtypes = policy(precision)
    params, extras = {"w": jnp.eye(3)}, {"seen": jnp.float32(0)}
    loss, (weight, new, sums) = objective.mean_loss(params, extras, batch, jax.random.key(0), dtypes)
    assert seen == [(dtypes.compute, dtypes.compute, True)]
    assert loss.dtype == weight.dtype == new["seen"].dtype == jnp.float32
    assert (weight, new["seen"], sums["accuracy"][1]) == (4, 1, 4)
    expected = softmax_reference(LOGITS, CLASSES) @ CLASSES["weight"] / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-6 if precision == "float32" else 2e-2)
    evaluated = objective.sums(params, extras, batch, dtypes)
    np.testing.assert_allclose(evaluated["loss"][0] / evaluated["loss"][1], loss, rtol=1e-6)
    assert seen[-1][2] is False
    assert evaluated["accuracy"] == sums["accuracy"]


def test_a_batch_of_padding_has_loss_and_gradient_zero():
    objective = loss_from(linear([]), softmax_cross_entropy)
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES, "weight": np.zeros(4, np.float32)}

    def loss(params):
        return objective.mean_loss(params, {"seen": jnp.float32(0)}, batch, jax.random.key(0), policy("float32"))[0]

    value, grads = jax.value_and_grad(loss)({"w": jnp.eye(3)})
    assert value == 0
    np.testing.assert_array_equal(grads["w"], np.zeros((3, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_a_masked_example_holds_reaches_no_gradient(bad, accumulate):
    """0 x NaN: without its outputs, an input would still reach the gradient of the weights it is multiplied by."""
    rng, mask = np.random.default_rng(0), np.array([1, 0, 1, 1], bool)
    model = from_functions(
        lambda key, batch: ({"w": jnp.ones((3, 2))}, {}),
        lambda params, extras, batch, *, key, train: (batch["inputs"] @ params["w"], extras),
    )
    inputs = rng.normal(size=(4, 5, 3)).astype(np.float32)
    tokens = np.ones((4, 5), bool)
    tokens[1], tokens[2, 3:] = False, False
    cases = {"rows": (inputs[:, 0], mask, ()), "tokens": (inputs, tokens, (5,))}
    for name, (clean, kept, shape) in cases.items():
        found = []
        for x in (clean, np.where(kept[..., None], clean, bad).astype(np.float32)):
            batch = {"inputs": x, "labels": np.ones((4, *shape), np.int32), "mask": kept}
            step = jaxprop.make_train_step(
                loss_from(model, softmax_cross_entropy), optax.sgd(0.1), accumulate=accumulate
            )
            state, m = step(step.init(model.init(None, batch)[0], key=jax.random.key(0)), batch)
            found.append((state.params, m.loss, m.grad_norm))
        jax.tree.map(partial(np.testing.assert_array_equal, err_msg=name), *found)


def test_an_entry_that_is_masked_is_still_an_input_of_the_others():
    model = from_functions(
        lambda key, batch: ({"w": jnp.ones(())}, {}),
        lambda params, extras, batch, *, key, train: (params["w"] * jnp.cumsum(batch["inputs"], axis=1), extras),
    )
    prompt = {"inputs": np.array([[[3.0], [4.0]]], np.float32), "labels": np.full((1, 2, 1), 7.0, np.float32)}
    batch = {**prompt, "mask": np.array([[0, 1]], np.float32)}
    loss, _ = loss_from(model, squared_error).mean_loss({"w": jnp.ones(())}, {}, batch, None, policy("float32"))
    assert float(loss) == 0


def test_unequal_masks_aggregate_by_their_weights():
    objective = loss_from(linear([]), softmax_cross_entropy)
    batch = {"inputs": RNG.normal(size=(4, 2, 3)).astype(np.float32), "labels": RNG.integers(0, 3, (4, 2))}
    batch |= {
        "labels": batch["labels"].astype(np.int32),
        "mask": np.array([[1, 1], [1, 1], [1, 0], [0, 0]], np.float32),
    }

    def mean_loss(rows):
        part = {name: x[rows] for name, x in batch.items()}
        out = objective.mean_loss(
            {"w": jnp.eye(3)}, {"seen": jnp.float32(0)}, part, jax.random.key(0), policy("float32")
        )
        return float(out[0]), float(out[1][0])

    (first, w1), (second, w2), (whole, w) = (mean_loss(slice(*rows)) for rows in ((0, 2), (2, 4), (0, 4)))
    assert (w1, w2, w) == (4, 1, 5)
    assert whole == pytest.approx((4 * first + second) / 5, rel=1e-6)
    assert whole != pytest.approx((first + second) / 2, rel=1e-3)


@pytest.mark.parametrize("returned", [lambda o: jnp.sum(o), lambda o: (o[:, 0], jnp.float32(1)), lambda o: (o, o)])
def test_a_loss_that_returns_something_else(returned):
    objective = loss_from(linear([]), lambda outputs, batch: returned(outputs))
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    with pytest.raises(
        ShapeError, match=r"expected the loss to return \(per_example \[B\], weight \[B\]\), got shapes"
    ):
        objective.sums({"w": jnp.eye(3)}, {"seen": jnp.float32(0)}, batch, policy("float32"))


def test_two_layers_against_the_backward_pass_by_hand(x64):
    spec = Spec({"inputs": jax.ShapeDtypeStruct((3,), jnp.float32)}, {"classes": 4})
    model = make_model(Mlp(name="mlp", hidden=(5,), activation="tanh"), spec)
    rng = np.random.default_rng(2)
    w1, b1, w2, b2 = (rng.normal(size=s) for s in ((3, 5), (5,), (5, 4), (4,)))
    params = {"layers": {0: {"dense": {"kernel": w1, "bias": b1}}}, "head": {"kernel": w2, "bias": b2}}
    batch = {
        "inputs": rng.normal(size=(6, 3)),
        "labels": rng.integers(0, 4, 6),
        "weight": np.array([1, 1, 0, 2, 1, 1.0]),
    }

    h = np.tanh(batch["inputs"] @ w1 + b1)  # [B, 5]
    logits = h @ w2 + b2  # [B, 4]
    share = batch["weight"][:, None] / batch["weight"].sum()
    d_logits = share * (np.exp(log_softmax(logits)) - np.eye(4)[batch["labels"]])
    d_hidden = (d_logits @ w2.T) * (1 - h**2)
    by_hand = {
        "layers": {0: {"dense": {"kernel": batch["inputs"].T @ d_hidden, "bias": d_hidden.sum(0)}}},
        "head": {"kernel": h.T @ d_logits, "bias": d_logits.sum(0)},
    }

    mean_loss = loss_from(model, softmax_cross_entropy).mean_loss
    loss, grads = jax.jit(
        jax.value_and_grad(lambda p: mean_loss(p, {}, batch, jax.random.key(0), policy("float64"))[0])
    )(jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(loss, (share[:, 0] * softmax_reference(logits, batch)).sum(), rtol=1e-12)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14), grads, by_hand)


KEY = jax.random.key(0)
X, Y = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.full(8, 1001, np.float32)
W = {"w": np.ones(3, np.float32)}


def evaluated(loss_fn, batch, precision="float32", params=W, extras=None, **options):
    objective = as_objective(loss_fn, **options)
    return jax.jit(lambda p, e, b: objective.mean_loss(p, e, b, KEY, policy(precision)))(params, extras or {}, batch)


# -- casting --------------------------------------------------------------------------------------


class Graph(typing.NamedTuple):
    nodes: typing.Any
    edges: typing.Any


BATCHES = {
    "dict": ({"x": X, "y": Y}, lambda b: (b["x"], b["y"]), ("x",), r'\("x",\)'),
    "nested": ({"in": {"x": X}, "y": Y}, lambda b: (b["in"]["x"], b["y"]), ("in/x",), r'\("in",\)'),
    "tuple": ((X, Y), lambda b: b, (0,), r"\(0,\)"),
    "graph": (Graph(X, Y), lambda b: (b.nodes, b.edges), ("nodes",), r'\("nodes",\)'),
    "array": (X, lambda b: (b, Y), True, "True"),
}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", BATCHES)
def test_only_what_is_named_is_cast(case, precision):
    batch, split, cast, _ = BATCHES[case]
    seen = []

    def loss_fn(params, batch, key):
        x, y = split(batch)
        seen.append((x.dtype, y.dtype, params["w"].dtype))
        return jnp.mean(x @ params["w"]).astype(jnp.float32) + jnp.max(y)

    loss, _ = evaluated(loss_fn, batch, precision, cast=cast)
    assert set(seen) == {(jnp.dtype(precision), jnp.dtype("float32"), jnp.dtype(precision))}
    assert float(loss) == pytest.approx(1001 + X.sum(1).mean(), abs=0.05)


@pytest.mark.parametrize("case", BATCHES)
def test_an_input_that_widens_the_computation_is_told_once_with_the_fix(case):
    batch, split, _, fix = BATCHES[case]

    def loss_fn(params, batch, key):
        x, y = split(batch)
        return jnp.mean((x @ params["w"] - y) ** 2)

    objective = as_objective(loss_fn)
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            jax.eval_shape(lambda: objective.mean_loss(W, {}, batch, KEY, policy("bfloat16")))
    assert len(told) == 1
    with pytest.warns(UserWarning, match=rf"\n    make_train_step\(..., cast={fix}\)\n"):
        warnings.warn(told[0].message, stacklevel=1)


def quiet_losses():
    def targets(p, b, k):
        return jnp.mean((jnp.sum(p["w"]).astype(jnp.float32) - b["y"]) ** 2)

    def weighted(p, b, k):
        each = (b["ids"][:, None].astype(jnp.bfloat16) * p["w"]).sum(1).astype(jnp.float32) - b["y"]
        return jnp.vdot(b["weight"], each)

    def convolved(p, b, k):
        return jnp.sum(jnp.tanh(b["ids"].astype(p["w"].dtype)[:, None] @ p["w"][None]))

    return {"targets": targets, "a weighted sum": weighted, "integers": convolved}


@pytest.mark.parametrize("case", quiet_losses())
def test_what_is_only_compared_is_no_reason_to_speak(case):
    batch = {"y": Y, "weight": np.ones(8, np.float32), "ids": np.arange(8, dtype=np.int32)}
    loss, _ = evaluated(quiet_losses()[case], batch, "bfloat16")
    assert np.isfinite(loss)


@pytest.mark.parametrize("x", [X, X[:, 0]], ids=["product", "elementwise"])
def test_a_parameter_that_is_widened_is_told_too(x):
    with jax.numpy_dtype_promotion("standard"), pytest.warns(UserWarning, match="batch's x is float32"):
        evaluated(
            lambda p, b, k: jnp.mean(b["x"] * p["w"]), {"x": x}, "bfloat16", {"w": np.ones(x.shape[1:], np.float32)}
        )


def test_float64_in_a_float32_policy_is_told(x64):
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.warns(UserWarning, match="computed in float64, although the precision of the step is float32"),
    ):
        evaluated(lambda p, b, k: jnp.mean(b["x"] @ p["w"]), {"x": X.astype(np.float64)}, "float32")


def test_an_empty_cast_leaves_everything_and_says_nothing():
    with jax.numpy_dtype_promotion("standard"):
        loss, _ = evaluated(lambda p, b, k: jnp.mean(b["x"] @ p["w"]), {"x": X}, "bfloat16", cast=())
    np.testing.assert_allclose(loss, X.sum(1).mean(), rtol=1e-6)


def test_a_model_computes_with_its_inputs_by_default_and_may_name_others():
    seen = {}

    def apply(params, extras, batch, *, key, train):
        seen.update({name: value.dtype for name, value in batch.items()})
        return (batch["a" if "a" in batch else "inputs"] @ params["w"])[:, None], extras

    model = jaxprop.from_functions(lambda key, batch: (W, {}), apply)
    for name, options in (("inputs", {}), ("a", {"cast": ("a",)})):
        batch = {name: X, "labels": Y[:, None], "more": Y}
        loss_from(model, squared_error, **options).mean_loss(W, {}, batch, KEY, policy("bfloat16"))
        assert seen == {name: jnp.bfloat16, "labels": np.float32, "more": np.float32}
        seen.clear()
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.warns(UserWarning, match=r'loss_from\(model, loss, cast=\("a",\)\)'),
    ):
        loss_from(model, squared_error).mean_loss(W, {}, {"a": X, "labels": Y[:, None]}, KEY, policy("bfloat16"))


@pytest.mark.parametrize("name", ["X", ("x", "z")])
def test_a_key_that_the_batch_does_not_hold(name):
    with pytest.raises(UsageError, match=r"cast: unknown key of the batch '[Xz]'.*\(known: x, y\)"):
        evaluated(lambda p, b, k: jnp.sum(p["w"]), {"x": X, "y": Y}, cast=name)


def test_an_objective_has_said_what_is_cast():
    objective = as_objective(lambda p, b, k: 0.0, cast=("x",))
    assert as_objective(objective) is objective
    assert objective.cast == ("x",)
    with pytest.raises(UsageError, match="belong to a plain loss function"):
        as_objective(objective, cast=("x",))


def test_integers_stay_integers_whatever_is_cast():
    seen = []
    batch = {"x": {"tokens": np.arange(3, dtype=np.int32), "mask": np.ones(3, bool)}}
    evaluated(lambda p, b, k: seen.extend(jax.tree.leaves(b)) or jnp.sum(p["w"]), batch, "bfloat16", cast=True)
    assert [leaf.dtype for leaf in seen] == [bool, np.int32]


# -- batches --------------------------------------------------------------------------------------

EVERY_BATCH = {
    "tuple": (X, Y),
    "array": X,
    "graph": Graph(X, Y[:5]),
    "scalar": {"x": X, "clip": np.float32(0.2)},
    "only a scalar": np.float32(3),
    "empty": {},
    "nothing": None,
    "a scalar weight": {"x": X, "weight": np.float32(1)},
    "a weight of other things": {"x": X, "weight": np.zeros(5, np.float32)},
}


@pytest.mark.parametrize("case", EVERY_BATCH)
def test_any_batch_reaches_a_plain_loss_and_a_model_as_it_is(case):
    batch, seen = EVERY_BATCH[case], []

    def apply(params, extras, batch, *, key, train):
        seen.append(batch)
        return jnp.sum(params["w"])[None], extras

    model = jaxprop.from_functions(lambda key, batch: (W, {}), apply)
    for objective in (
        as_objective(lambda p, b, k: seen.append(b) or jnp.sum(p["w"])),
        loss_from(model, lambda outputs, batch: (outputs, jnp.ones(1))),
    ):
        loss, (_, _, sums) = objective.mean_loss(W, {}, batch, KEY, policy("float32"))
        total, count = objective.sums(W, {}, batch, policy("float32"))["loss"]
        assert float(loss) == float(total / count) == 3
        assert all("loss" not in name for name in sums)
    assert len(seen) == 4
    for found in seen:
        jax.tree.map(np.testing.assert_array_equal, found, batch)
        assert jax.tree.structure(found) == jax.tree.structure(batch)


# -- a loss with state ----------------------------------------------------------------------------


def running_mean(params, extras, batch, key):
    mean = jnp.mean(batch["x"])
    shown = mean if key is not None else extras["mean"]
    new = {"mean": (0.9 * extras["mean"] + 0.1 * mean).astype(jnp.float32), "calls": extras["calls"] + 1}
    return jnp.sum(params["w"]) * shown, (new, {"mean": mean})


EXTRAS = {"mean": np.float32(2), "calls": np.int32(0)}


def test_a_loss_with_state_trains_and_evaluates():
    step = jaxprop.make_train_step(running_mean, optax.sgd(0.1), stateful=True)
    state = jaxprop.init_state(W, optax.sgd(0.1), key=KEY, extras=EXTRAS)
    for _ in range(2):
        state, m = step(state, {"x": X + 1})
    mean = (X + 1).mean()
    assert int(state.extras["calls"]) == 2
    np.testing.assert_allclose(state.extras["mean"], 0.81 * 2 + 0.19 * mean, rtol=1e-6)
    np.testing.assert_allclose(m.metrics["mean"][0], mean, rtol=1e-6)
    evaluate = jaxprop.make_eval_step(running_mean, stateful=True)
    figures = evaluate.finish([evaluate(W, EXTRAS, {"x": X + 1})])
    assert figures == {"loss": 6.0, "mean": pytest.approx(mean)}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda extras: 1.0, r"to return \(loss, \(extras, aux\)\), got float; write return loss, \(extras, {}\)"),
        (lambda extras: (1.0, extras), r"got tuple of 2"),
        (lambda extras: (1.0, extras, {}), r"got tuple of 3"),
        (lambda extras: (1.0, ({}, {})), r"of the structure it was given, .*; give init_state the extras="),
        (
            lambda extras: (1.0, ({**extras, "mean": jnp.ones(3)}, {})),
            r"extras mean to have the shape \(\), got \(3,\)",
        ),
    ],
)
def test_a_stateful_loss_that_returns_something_else(returned, message):
    with pytest.raises(ShapeError, match=message):
        evaluated(lambda p, e, b, k: returned(e), {}, extras=EXTRAS, stateful=True)


def test_extras_keep_their_dtypes():
    half = {"mean": np.float16(1), "calls": np.int32(0)}

    def loss_fn(params, extras, batch, key):
        return jnp.sum(params["w"]), ({"mean": jnp.float32(2), "calls": extras["calls"] + 1}, None)

    _, (_, new, _) = evaluated(loss_fn, {}, extras=half, stateful=True)
    assert (new["mean"].dtype, new["calls"].dtype) == (np.float16, np.int32)


# -- aux ------------------------------------------------------------------------------------------


class Aux(typing.NamedTuple):
    accuracy: typing.Any
    logits: typing.Any


AUX = {
    "None": (None, {}),
    "scalar": (2.0, {"aux": 2}),
    "array": (jnp.array([1.0, 3.0]), {"aux": 2}),
    "dict": ({"a": 1, "b": jnp.float32(2)}, {"a": 1, "b": 2}),
    "nested": ({"a": {"b": jnp.float32(2)}, "c": None}, {"a/b": 2}),
    "tuple": ((jnp.float32(1), jnp.zeros(3)), {"aux/0": 1, "aux/1": 0}),
    "NamedTuple": (Aux(jnp.array([True, False]), jnp.full((2, 3), 4.0)), {"accuracy": 0.5, "logits": 4}),
    "half": ({"a": jnp.full(3, 0.5, jnp.bfloat16)}, {"a": 0.5}),
    "complex": ({"a": jnp.complex64(3 + 4j)}, {"a": 5}),
}


@pytest.mark.parametrize("case", AUX)
def test_aux_of_any_shape(case):
    aux, expected = AUX[case]
    loss, (weight, _, sums) = evaluated(lambda p, b, k: (jnp.sum(p["w"]), aux), {})
    assert (float(loss), float(weight)) == (3, 1)
    assert {name: float(total / count) for name, (total, count) in sums.items()} == expected


BAD_RETURNS = {
    "words": (
        lambda loss: (loss, {"note": "fine"}),
        "expected aux to be a dict of numbers to report, .* got note: str",
    ),
    "keys": (lambda loss: (loss, {"key": KEY}), "got key: "),
    "three": (lambda loss: (loss, {}, {}), r"expected loss_fn to return loss or \(loss, aux\), got tuple of 3"),
    "a weight an example": (lambda loss: (loss, {"weight": jnp.ones(8)}), r"write jnp.sum\(weight\)"),
    "nothing": (lambda loss: None, "got None; end it with return loss"),
    "a loss an example": (lambda loss: jnp.ones(8), "loss returned by loss_fn to be a scalar, got shape"),
}


@pytest.mark.parametrize("case", BAD_RETURNS)
def test_a_plain_loss_that_returns_something_else(case):
    returned, message = BAD_RETURNS[case]
    with pytest.raises(ShapeError, match=message):
        evaluated(lambda p, b, k: returned(jnp.sum(p["w"])), {})


def test_batch_stats_in_aux_would_be_lost():
    with pytest.raises(UsageError, match=r"aux is only reported, so the batch_stats .*stateful=True"):
        evaluated(lambda p, b, k: (jnp.sum(p["w"]), {"batch_stats": {"mean": jnp.ones(2)}}), {})


OTHER_ARGUMENTS = {
    "no key": (lambda params, batch: 0.0, False, r"\(params, batch, key\), got one of \(params, batch\); write lambda"),
    "extras": (lambda p, e, b, k: 0.0, False, "give stateful=True"),
    "no extras": (lambda p, b, k: 0.0, True, r"\(params, extras, batch, key\), got .*leave out stateful=True"),
    "a key by name": (lambda p, b, *, key: 0.0, False, "write lambda params, batch, key: "),
}


@pytest.mark.parametrize("case", OTHER_ARGUMENTS)
def test_a_loss_function_of_other_arguments(case):
    loss_fn, stateful, message = OTHER_ARGUMENTS[case]
    with pytest.raises(UsageError, match=message):
        as_objective(loss_fn, stateful=stateful)


@pytest.mark.parametrize("loss_fn", [lambda *args: 0.0, lambda p, b, k, more=1: 0.0, jax.jit(lambda p, b, k: 0.0), max])
def test_a_loss_function_that_takes_them_in_its_own_way(loss_fn):
    assert callable(as_objective(loss_fn).mean_loss)


def test_variables_of_flax_may_be_extras():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.dropout = nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(self.norm(x))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params, rest, batch, key):
        net = nnx.merge(graph, params, rest)
        return jnp.mean(jnp.square(net(batch) - 1)), (nnx.state(net, nnx.Not(nnx.Param)), {})

    step = jaxprop.make_train_step(loss_fn, optax.sgd(0.0), stateful=True, accumulate=2)
    state = step.init(params, key=KEY, extras=rest)
    losses = []
    for _ in range(3):
        state, m = step(state, jnp.arange(8.0).reshape(4, 2))
        losses.append(float(m.loss))
    assert len(set(losses)) == 3  # dropout draws anew
    # each microbatch moves the mean by a hundredth: 2, 4, 2, 4, 2, 4 are the means of its first column
    np.testing.assert_allclose(state.extras["norm"]["mean"][...][0], 0.17585, rtol=1e-4)


def test_no_loss_function_at_all():
    with pytest.raises(UsageError, match=r"expected a loss function .* or an Objective, got float"):
        as_objective(0.5)


# -- weights --------------------------------------------------------------------------------------


def masked(params, batch, key):
    count = jnp.sum(batch["mask"])
    mean = jnp.sum(batch["mask"] * batch["x"]) / count
    return mean * params["w"], {"weight": count, "mean": mean}


def test_a_batch_that_is_all_padding_adds_nothing():
    evaluate = jaxprop.make_eval_step(masked)
    batches = [{"x": np.ones(2, np.float32), "mask": np.full(2, k, np.float32)} for k in (1, 0)]
    sums = [evaluate({"w": jnp.float32(2)}, {}, b) for b in batches]
    assert [[float(x) for x in s["loss"]] for s in sums] == [[4, 2], [0, 0]]
    assert evaluate.finish(sums) == {"loss": 2, "mean": 1}


def test_a_microbatch_that_is_all_padding_adds_nothing():
    step = jaxprop.make_train_step(masked, optax.sgd(0.1), accumulate=2)
    state = jaxprop.init_state({"w": jnp.float32(2)}, optax.sgd(0.1), key=KEY)
    batch = {"x": np.ones(4, np.float32), "mask": np.array([1, 0, 1, 0], np.float32)}
    _, m = step(state, batch)
    assert (float(m.loss), bool(m.skipped)) == (2, False)
    assert [float(x) for x in m.metrics["mean"]] == [2, 2]


def test_parameters_in_half_keep_wide_targets():
    half = Policy(jnp.bfloat16, jnp.bfloat16, jnp.float32)
    loss, _ = as_objective(lambda p, b, k: jnp.max(b["y"])).mean_loss(W, {}, {"y": Y}, KEY, half)
    assert float(loss) == 1001


# -- augmentation ---------------------------------------------------------------------------------


def shifted(key, batch):
    """Inputs plus a draw of the key, and labels as shares of the classes."""
    return {**batch, "inputs": batch["inputs"] + jax.random.normal(key), "labels": jax.nn.one_hot(batch["labels"], 3)}


def noisy(seen):
    def apply(params, extras, batch, *, key, train):
        seen.append((batch["inputs"], key))
        return batch["inputs"] @ params["w"], extras

    return from_functions(lambda key, batch: ({"w": jnp.ones((3, 3))}, {}), apply)


def test_augmentation_has_a_key_of_its_own_and_is_of_training_alone():
    seen = []
    objective = loss_from(noisy(seen), softmax_cross_entropy, {"accuracy": accuracy}, augment=shifted)
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    key, params, dtypes = jax.random.key(5), {"w": jnp.eye(3)}, policy("float32")
    loss, (weight, _, sums) = objective.mean_loss(params, {}, batch, key, dtypes)
    models, own = jax.random.split(key)
    inputs, given = seen[-1]
    np.testing.assert_array_equal(inputs[:3], (batch["inputs"] + jax.random.normal(own))[:3])  # the last has weight 0
    assert given == models
    np.testing.assert_allclose(loss, softmax_reference(LOGITS, CLASSES) @ CLASSES["weight"] / 4, rtol=1e-5)
    assert (weight, sums["accuracy"][1]) == (4, 4)
    evaluated = objective.sums(params, {}, batch, dtypes)
    np.testing.assert_array_equal(seen[-1][0][:3], batch["inputs"][:3])
    assert seen[-1][1] is None
    np.testing.assert_allclose(evaluated["loss"][0] / evaluated["loss"][1], loss, rtol=1e-5)


def test_without_a_key_nothing_is_augmented():
    seen = []
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    loss_from(noisy(seen), softmax_cross_entropy, augment=shifted).mean_loss(
        {"w": jnp.eye(3)}, {}, batch, None, policy("float32")
    )
    np.testing.assert_array_equal(seen[-1][0][:3], batch["inputs"][:3])


def test_shares_of_classes_leave_logits_known_as_such():
    batch = {"inputs": LOGITS.astype(np.float32), **CLASSES}
    key, params, dtypes = jax.random.key(5), {"w": jnp.eye(3)}, policy("float32")
    plain, augmented = (
        loss_from(noisy([]), softmax_cross_entropy, augment=augment).mean_loss(params, {}, batch, key, dtypes)[1][2]
        for augment in (None, shifted)
    )
    assert plain.keys() == augmented.keys()
    assert len(plain) == 2
