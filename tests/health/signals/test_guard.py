"""The guard against spikes, next to a plain Python reference; what it leaves alone; and the responses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.health.signals import guard
from jaxprop.health.signals.settings import Signals
from tests.steps import EXTRAS, assert_same_bits, counting_objective, make_batch, make_params, mean_loss


def series():
    """Norms with a trend, spikes alone and in a row, NaN and infinity, and at last another level for good."""
    rng = np.random.default_rng(0)
    norms = np.exp(0.2 * rng.normal(size=500) - 0.001 * np.arange(500))
    norms[[30, 150, 220, 221, 222, 223]] *= 40
    norms[[50, 160, 225]] = np.nan
    norms[161] = np.inf
    norms[300] = 0
    norms[350:] *= 8
    return norms.astype(np.float32)


class Reference:
    """What the guard does, in Python floats."""

    def __init__(self):
        self.mean, self.variance, self.count = 0.0, 0.0, 0

    def judge(self, norm, spikes):
        if not math.isfinite(norm):
            return 1.0, False
        if norm == 0:  # without a logarithm
            return 1.0, True
        sd = max(math.sqrt(self.variance), 0.02)
        edge = math.exp(self.mean + 6 * sd)
        spike = self.count >= 100 and norm > edge
        delta = math.log(norm) - self.mean
        if self.count >= 100:
            delta = min(max(delta, -3 * sd), 3 * sd)
        share = max(0.02, 1 / (self.count + 1))
        self.mean += share * delta
        self.variance = (1 - share) * (self.variance + share * delta**2)
        self.count += 1
        if not spike:
            return 1.0, True
        return (edge / norm, True) if spikes == "clip" else (0.0, False)


@pytest.mark.parametrize("spikes", ["clip", "skip"])
def test_the_guard_is_its_reference_over_a_series(spikes):
    def turn(history, norm):
        decision = guard.compare(norm, jnp.isfinite(norm), history, spikes, None)
        return decision.history, (decision.factor, decision.take)

    norms, reference = series(), Reference()
    history, (factors, takes) = jax.lax.scan(turn, guard.init_history(), norms)
    expected = [reference.judge(float(norm), spikes) for norm in norms]
    np.testing.assert_allclose(factors, [factor for factor, _ in expected], rtol=1e-3)
    assert takes.tolist() == [take for _, take in expected]
    np.testing.assert_allclose(history, [reference.mean, reference.variance, reference.count], rtol=1e-3)
    caught = [i for i in range(350) if factors[i] < 1]
    assert caught == [150, 220, 221, 222, 223]
    level = [i for i in range(350, 500) if factors[i] < 1]
    assert 1 <= len(level) < 60
    assert max(level) < 450


def test_the_first_steps_are_its_plain_mean_and_variance():
    norms = series()[:30]
    history = guard.init_history()
    for norm in norms:
        history = guard.compare(norm, jnp.array(True), history, "clip", None).history
    np.testing.assert_allclose(history.mean, np.log(norms).mean(), rtol=1e-4)
    np.testing.assert_allclose(history.variance, np.log(norms).var(), rtol=1e-4)


HISTORY = guard.History(jnp.float32(0), jnp.float32(0.01), jnp.int32(200))  # its edge is at exp(0.6) = 1.822
DECISIONS = {  # norm, spikes, limit: factor, take
    "no guard": (10.0, None, None, 1.0, True),
    "below the edge": (1.8, "skip", None, 1.0, True),
    "above the edge": (1.9, "skip", None, 0.0, False),
    "clipped to the edge": (10.0, "clip", None, math.exp(0.6) / 10, True),
    "no limit": (10.0, None, np.inf, 1.0, True),
    "limit": (10.0, None, 4.0, 0.4, True),
    "below the limit": (3.0, None, 4.0, 1.0, True),
    "the smaller of both": (10.0, "clip", 1.0, 0.1, True),
    "the edge, below the limit": (10.0, "clip", 4.0, math.exp(0.6) / 10, True),
    "a skip stays one": (10.0, "skip", 4.0, 0.0, False),
    "nothing": (0.0, "clip", 4.0, 1.0, True),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_decisions(case):
    norm, spikes, limit, factor, take = DECISIONS[case]
    limit = None if limit is None else jnp.float32(limit)
    decision = guard.compare(jnp.float32(norm), jnp.array(True), HISTORY, spikes, limit)
    np.testing.assert_allclose(decision.factor, factor, rtol=1e-5)
    assert bool(decision.take) == take
    assert (int(decision.history.seen) == 201) == (spikes is not None and norm > 0)


@pytest.mark.parametrize("norm", [np.nan, np.inf, 1.0])  # with the last, only the loss is not finite
@pytest.mark.parametrize("spikes", ["clip", "skip", None])
def test_what_is_not_finite_is_not_taken_and_never_remembered(norm, spikes):
    decision = guard.compare(jnp.float32(norm), jnp.array(False), HISTORY, spikes, jnp.float32(0.5))
    assert (float(decision.factor), bool(decision.take)) == (1, False)
    assert_same_bits(decision.history, HISTORY)


# -- in the step ----------------------------------------------------------------------------------


def scaled_objective():
    """The counting objective, its loss times what the batch says."""
    plain = counting_objective()

    def mean(params, extras, batch, key, policy):
        loss, aux = plain.mean_loss(params, extras, batch, key, policy)
        return loss * batch["scale"][0], aux

    return plain._replace(mean_loss=mean)


def armed(state):
    """A copy whose guard has seen 200 norms around 1."""
    state = jax.tree.map(jnp.copy, state)
    return state._replace(health=state.health._replace(spikes=guard.History(*(jnp.copy(x) for x in HISTORY))))


def batch_of(scale):
    return {**make_batch(), "scale": np.full(16, scale, np.float32)}


@pytest.mark.parametrize("detail", ["lean", "full"])
@pytest.mark.parametrize("scale", [1e4, np.nan])
def test_a_skipped_step_leaves_all_but_the_counts_bit_for_bit(scale, detail):
    tx, settings = optax.adamw(1e-2), Signals(spikes="skip")
    step = jaxprop.make_train_step(scaled_objective(), tx, health=settings, ema_decay=0.9, schedule=lambda n: n + 1.0)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), extras=EXTRAS, ema_decay=0.9, health=settings)
    state, _ = step(state, batch_of(0.1), detail)
    before = armed(state)
    after, m = step(armed(before), batch_of(scale), detail)
    for name in ("params", "opt_state", "extras", "ema", "key"):
        assert_same_bits(getattr(after, name), getattr(before, name))
    nonfinite = not np.isfinite(scale)
    assert (int(after.step), float(m.skipped), float(m.skips)) == (2, nonfinite, 1)
    assert float(m.guard) == (1 if nonfinite else 0)
    assert int(after.health.spikes.seen) == (200 if nonfinite else 201)
    if detail == "full":
        assert float(m.update_norm) == 0
        assert not m.layers.update_norm.any()
    _, m = step(after, batch_of(0.1), detail)
    assert (float(m.skips), float(m.learning_rate)) == (1, 2)


def test_a_clipped_spike_is_the_same_step_with_a_smaller_gradient():
    tx = optax.sgd(0.5)
    results = {}
    for spikes in ("clip", None):
        settings = Signals(spikes=spikes)
        step = jaxprop.make_train_step(scaled_objective(), tx, health=settings)
        state = armed(jaxprop.init_state(make_params(), tx, key=jax.random.key(0), extras=EXTRAS, health=settings))
        state, m = step(state, batch_of(1e3), "full")
        moved = jax.tree.map(lambda new, old: np.asarray(new) - old, state.params, make_params())
        results[spikes] = moved, m.host()
    (clipped, m), (plain, whole) = results["clip"], results[None]
    np.testing.assert_allclose(m.grad_norm, whole.grad_norm, rtol=1e-6)
    np.testing.assert_allclose(m.guard, math.exp(0.6) / whole.grad_norm, rtol=1e-5)
    np.testing.assert_allclose(m.layers.grad_norm, whole.layers.grad_norm, rtol=1e-6)
    np.testing.assert_allclose(m.update_norm, 0.5 * math.exp(0.6), rtol=1e-5)
    kernels = [x["dense_0"]["kernel"] for x in (clipped, plain)]
    np.testing.assert_allclose(kernels[0], kernels[1] * m.guard, rtol=1e-2, atol=1e-6)


RESPONSES = {  # lr_scale, rate_limit, grad_limit, respond: update, rate and gradient as shares of the plain ones
    "nothing set": (1.0, np.inf, np.inf, True, 1.0, 1.0, 1.0),
    "rate": (0.25, np.inf, np.inf, True, 0.25, 0.25, 1.0),
    "rate limit": (1.0, 0.1, np.inf, True, 0.2, 0.2, 1.0),
    "the smaller of both": (0.5, 0.1, np.inf, True, 0.2, 0.2, 1.0),
    "rate limit above": (0.5, 0.3, np.inf, True, 0.5, 0.5, 1.0),
    "limit": (1.0, np.inf, 0.1, True, "limit", 1.0, "limit"),
    "both": (0.5, np.inf, 0.1, True, "half limit", 0.5, "limit"),
    "limit above": (1.0, np.inf, 1e6, True, 1.0, 1.0, 1.0),
    "ignored": (0.25, 0.1, 0.1, False, 1.0, 1.0, 1.0),
}


@functools.cache
def responding(respond):
    return jaxprop.make_train_step(mean_loss, optax.sgd(0.5), health=Signals(respond=respond), schedule=lambda n: 0.5)


@pytest.mark.parametrize("case", RESPONSES)
def test_responses_act_as_defined_and_only_where_they_are_asked_for(case):
    lr_scale, rate_limit, grad_limit, respond, update, rate, gradient = RESPONSES[case]
    state = jaxprop.init_state(make_params(), optax.sgd(0.5), key=jax.random.key(0), health=Signals(respond=True))
    levers = {"lr_scale": lr_scale, "rate_limit": rate_limit, "grad_limit": grad_limit}
    health = state.health._replace(**{name: jnp.float32(value) for name, value in levers.items()})
    after, m = responding(respond)(state._replace(health=health), make_batch(), "full")
    norm = float(m.grad_norm)
    assert norm > 0.1
    share = {"limit": 0.1 / norm, "half limit": 0.05 / norm}
    update, gradient = share.get(update, update), share.get(gradient, gradient)
    np.testing.assert_allclose(m.update_norm, 0.5 * norm * update, rtol=1e-5)
    np.testing.assert_allclose(m.guard, gradient, rtol=1e-5)
    np.testing.assert_allclose(m.learning_rate, 0.5 * rate, rtol=1e-6)
    grads = jax.grad(lambda p: mean_loss(p, make_batch(), None))(make_params())
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.5 * update * g, rtol=1e-4, atol=1e-6),
        after.params, make_params(), grads,
    )  # fmt: skip
    assert_same_bits([getattr(after.health, name) for name in levers], [np.float32(value) for value in levers.values()])


def test_a_response_set_on_the_host_compiles_nothing(compilations):
    tx, settings = optax.sgd(0.5), Signals(respond=True, spikes="clip")
    step = jaxprop.make_train_step(mean_loss, tx, health=settings)
    state = jaxprop.init_state(make_params(), tx, key=jax.random.key(0), health=settings)
    batch = make_batch()
    values = jax.device_put((np.float32(0.5), np.float32(2)))
    state, _ = step(state, batch, "rows")
    before = compilations()
    state, _ = step(
        state._replace(health=state.health._replace(lr_scale=values[0], grad_limit=values[1])), batch, "rows"
    )
    assert compilations() == before


@pytest.mark.parametrize("skip_nonfinite", [True, False])
def test_a_skipped_spike_stays_skipped_where_nonfinite_gradients_are_let_through(skip_nonfinite):
    tx = optax.sgd(0.1, momentum=0.9)
    step = jaxprop.make_train_step(scaled_objective(), tx, health=Signals(spikes="skip"), skip_nonfinite=skip_nonfinite)
    before = armed(step.init(make_params(), key=jax.random.key(0), extras=EXTRAS))
    after, m = step(armed(before), batch_of(1e4))
    assert (float(m.guard), float(m.skips)) == (0, 1)
    assert_same_bits((after.params, after.opt_state), (before.params, before.opt_state))
