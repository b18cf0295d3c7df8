"""Planted faults are found and named, correct rules not accused, and what cannot be checked is left out and said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprop
from jaxprop.errors import ShapeError, UsageError
from tests.tools.gradcheck.planted import FAULTS, FUNCTIONS, PLACES, loss_of

X = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}
W = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)}
CASES = [(name, fault) for fault in FAULTS for name in FUNCTIONS]


def check(loss_fn, params=W, batch=X, **options):
    with jax.numpy_dtype_promotion("standard"):
        return jaxprop.gradcheck(
            loss_fn, params, batch, jax.random.key(0), **{"entries": 4, "directions": 1, **options}
        )


@pytest.mark.parametrize(("name", "fault"), CASES, ids=lambda x: x)
def test_a_wrong_rule_is_found_and_named(name, fault):
    report = check(*loss_of(name, fault, PLACES[fault]))
    assert not report.ok
    (rule,) = report.rules
    assert not rule.agrees
    assert "planted.py:" in rule.where
    assert any(rule.where in problem and "that may be meant" in problem for problem in report.problems)
    assert any(leaf.wrong for leaf in report.leaves)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("place", sorted(set(PLACES.values())))
def test_its_correct_twin_is_not_accused(name, place):
    report = check(*loss_of(name, "right", place))
    assert report.ok, report.problems
    assert [rule.compared for rule in report.rules] == [True]
    assert all(leaf.checked and not leaf.wrong for leaf in report.leaves)


def test_what_a_rule_does_is_said():
    says = {fault: check(*loss_of("affine", fault, "plain"), entries=1).rules[0].says for fault in FAULTS}
    assert says["sign"] == "for argument 1 of the call it gives -1 times its function's gradient"
    assert says["factor"] == "for argument 2 of the call it gives 2 times its function's gradient"
    assert says["stop_gradient"] == "for argument 1 of the call it gives no gradient, where its function has one"
    assert "% away" in says["transposed"]


def test_a_straight_through_estimator_differs_and_is_said_to_be_maybe_meant():
    rounded = jax.custom_vjp(lambda x: jnp.round(x))
    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
    report = check(lambda p, b, key: jnp.sum(rounded(3 * p["w"]) ** 2))
    assert not report.ok
    assert (
        "gives a gradient where its function has none; that may be meant, as in a straight-through"
        in report.problems[0]
    )


def test_a_forward_rule_with_another_value_is_named():
    double = jax.custom_vjp(lambda x: 2 * x)
    double.defvjp(lambda x: (2.5 * x, None), lambda _, g: (2 * g,))
    report = check(lambda p, b, key: jnp.sum(double(p["w"]) ** 2))
    assert "its forward rule returns values" in report.problems[0]


def test_a_wrong_jvp_rule_is_named():
    cube = jax.custom_jvp(lambda x: x**3)
    cube.defjvp(lambda primals, tangents: (primals[0] ** 3, 2 * primals[0] ** 2 * tangents[0]))
    report = check(lambda p, b, key: jnp.sum(cube(p["w"])))
    assert [(rule.kind, rule.agrees) for rule in report.rules] == [("custom_jvp", False)]
    assert "0.6667 times" in report.rules[0].says


def test_a_stop_gradient_that_accounts_for_the_difference_is_named():
    def loss_fn(params, batch, key):
        out = batch["x"] @ params["w"]
        return jnp.mean((out - 0.5 * jax.lax.stop_gradient(out)) ** 2)

    report = check(loss_fn)
    assert not report.ok
    (stop,) = report.stops
    assert "test_check.py:" in stop.where
    assert report.problems[0].startswith(f"the stop_gradient at {stop.where} accounts for a difference")


def tied(x):
    return jnp.max(jnp.stack([x, x]), 0)


# Not differentiable somewhere, or in a way that is easily mistaken for it: each may be left out, none is wrong.
HARMLESS = {
    "relu": lambda p, b: jnp.sum(jax.nn.relu(b["x"] @ p["w"]) ** 1),
    "relu at 0": lambda p, b: jnp.sum(jax.nn.relu(p["z"])) + jnp.sum(p["w"] ** 2),
    "abs at 0": lambda p, b: jnp.sum(jnp.abs(p["z"])) + jnp.sum(p["w"] ** 2),
    "max of ties": lambda p, b: jnp.max(p["z"]) + jnp.sum(tied(p["w"])),
    "where": lambda p, b: jnp.sum(jnp.where(p["w"] > 0, p["w"] ** 2, -p["w"])),
    "safe square root": lambda p, b: jnp.sum(jnp.where(p["w"] > 0, jnp.sqrt(jnp.where(p["w"] > 0, p["w"], 1)), 0)),
    "argmax": lambda p, b: jnp.sum((b["x"] @ p["w"])[jnp.arange(4), jnp.argmax(b["x"] @ p["w"], -1)]),
    "sort": lambda p, b: jnp.sum(jnp.sort(p["w"].ravel()) * jnp.arange(6.0)),
    "rounded, no gradient": lambda p, b: jnp.sum(jnp.round(p["w"])) + jnp.sum(p["w"]),
    "float32 inside": lambda p, b: jnp.mean(jnp.tanh((b["x"] @ p["w"]).astype(jnp.float32)) ** 2),
    "bfloat16 inside": lambda p, b: jnp.mean(jnp.tanh((b["x"] @ p["w"]).astype(jnp.bfloat16)).astype(jnp.float32) ** 2),
    "large": lambda p, b: 1e12 + jnp.sum(p["w"] ** 2),
    "steep": lambda p, b: jnp.sum(jnp.exp(8 * p["w"])),
    "sinc": lambda p, b: jnp.sum(jnp.sinc(p["w"])) + jnp.sum(jnp.sinc(p["z"])),
    "logsumexp": lambda p, b: jax.nn.logsumexp(30 * p["w"]),
    "softmax": lambda p, b: jnp.sum(jax.nn.softmax(b["x"] @ p["w"]) ** 2),
    "softplus": lambda p, b: jnp.sum(jax.nn.softplus(100 * p["w"])),
    "cond": lambda p, b: jax.lax.cond(p["w"][0, 0] > 0, lambda w: jnp.sum(jax.nn.relu(w)), jnp.sum, p["w"]),
    "linear, cancelling": lambda p, b: jnp.sum(b["x"] @ p["w"]),
    "dead": lambda p, b: jnp.sum(jax.nn.relu(p["w"] - 100.0)) + jnp.sum(p["z"] ** 2),
    "clip": lambda p, b: jnp.sum(jnp.clip(p["w"], -0.5, 0.5) ** 2),
    "norm": lambda p, b: jnp.linalg.norm(p["w"]),
    "determinant": lambda p, b: jnp.linalg.slogdet(p["w"].T @ p["w"])[1],
    "while in a stopped branch": lambda p, b: jnp.sum(p["w"] ** 2) * jax.lax.while_loop(
        lambda x: x < 3, lambda x: x + 1, jnp.int32(0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_no_false_accusation(name):
    params = {**W, "z": jnp.zeros(3)}
    report = check(lambda p, b, key: HARMLESS[name](p, b), params, entries=8)
    assert report.ok, report.problems
    assert any(leaf.checked or leaf.noise for leaf in report.leaves)


def test_entries_without_a_derivative_are_counted_and_said():
    params = {"z": jnp.array([0.0, 1.0, 0.0, -1.0])}
    report = check(lambda p, b, key: jnp.sum(jnp.abs(p["z"])), params)
    (leaf,) = report.leaves
    assert (leaf.checked, leaf.kinks) == (2, 2)
    assert report.notes[0] == "2 entries left out, where the loss is not differentiable at the point"
    assert "random directions left out" in report.notes[1]


def test_a_fault_in_one_entry_of_many_shows_in_a_direction():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)}
    square = jax.custom_vjp(lambda w: jnp.sum(w**2))
    square.defvjp(lambda w: (jnp.sum(w**2), w), lambda w, g: ((2 * g * w).at[17, 23].multiply(1.01),))
    report = check(lambda p, b, key: square(p["w"]), params, entries=2)
    assert not any(not entry.agrees for leaf in report.leaves for entry in [leaf.worst] if entry.place is not None)
    assert [entry.agrees for entry in report.directions] == [False]
    assert not report.rules[0].agrees


def test_dropout_is_the_same_in_every_evaluation():
    def loss_fn(params, batch, key):
        kept = jax.random.bernoulli(key, 0.5, (4, 2))
        return jnp.mean(jnp.where(kept, batch["x"] @ params["w"], 0) ** 2)

    assert check(loss_fn).ok


def test_integer_leaves_are_not_differentiated():
    params = {**W, "table": jnp.arange(3)}
    report = check(lambda p, b, key: jnp.sum(p["w"][p["table"]] ** 2), params)
    assert [leaf.path for leaf in report.leaves] == ["w"]
    assert report.notes[0] == "not differentiated, since not floating-point: table"


def test_a_leaf_that_no_gradient_reaches_is_said_and_a_nudge_reaches_it():
    def loss_fn(params, batch, key):
        return jnp.sum((batch["x"] @ params["w"]) @ params["head"]) ** 2 + jnp.sum(params["head"])

    params = {**W, "head": jnp.zeros((2, 2))}
    assert "no gradient reaches w: a rule behind a factor of 0 cannot be checked" in check(loss_fn, params).notes
    assert check(loss_fn, params, nudge=0.01).notes == ()


def test_a_gradient_that_is_not_finite_at_a_finite_loss_is_wrong():
    report = check(lambda p, b, key: jnp.linalg.norm(p["z"]) + jnp.sum(p["w"]), {**W, "z": jnp.zeros(3)})
    assert not report.ok
    assert report.problems[0].startswith("the loss is finite, but the gradient of z is not")


def test_worst_is_the_largest_error_for_its_tolerance():
    report = check(*loss_of("affine", "sign", "plain"))
    assert not report.worst.agrees
    assert report.worst.leaf == "first"
    assert report.worst.reverse == pytest.approx(-report.worst.difference, rel=1e-6)
    assert report.worst.forward == pytest.approx(report.worst.difference, rel=1e-6)


def test_nothing_is_left_switched():
    check(lambda p, b, key: jnp.sum(p["w"] ** 2))
    assert jnp.ones(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def turned(params, batch, key):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 100, lambda x: 2 * x, jnp.abs(params["w"])).sum()


BAD = [
    (lambda p, b, key: p["w"] ** 2, ShapeError, "expected the loss function to return a scalar, got shape (3, 2)"),
    (lambda p, b, key: jnp.argmax(p["w"]), UsageError, "expected a floating-point loss, got int"),
    (lambda p, b, key: np.sum(np.asarray(p["w"])), UsageError, "hands a traced value to NumPy; use jax.numpy"),
    (lambda p, b, key: jnp.sum(p["w"]) if p["w"][0, 0] > 0 else 0.0, UsageError, "needs the value of a traced array"),
    (turned, UsageError, "reverse mode cannot pass the loop at "),
    (lambda p, b, key: jnp.sum(p["w"]) * jnp.nan, UsageError, "the loss is nan at these parameters"),
    (lambda p, b, key: "loss", UsageError, "expected the loss function to return a scalar, got str"),
    (lambda p, b, key: jnp.sum(p["w"] @ p["w"]), UsageError, "the loss cannot be traced in float64: dot_general"),
]


@pytest.mark.parametrize(("loss_fn", "error", "sentence"), BAD, ids=[row[2][:30] for row in BAD])
def test_what_cannot_be_checked(loss_fn, error, sentence):
    with pytest.raises(error) as caught:
        check(loss_fn)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not jax.config.jax_enable_x64


def test_parameters_without_a_floating_point_leaf():
    with pytest.raises(UsageError, match="there is nothing to differentiate"):
        check(lambda p, b, key: 1.0, {"n": jnp.arange(3)})
