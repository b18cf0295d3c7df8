"""A loss scale of float16 that is stuck, in a run: `raise_scale` and `lower_scale` act, and training recovers."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprop.errors import UsageError
from jaxprop.run.fit import fit
from jaxprop.sinks import Sink
from tests.benches import bits

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = np.tanh(X @ RNG.normal(size=(4, 8)) / 2).sum(1).astype(np.float32) / 2
PARAMS = {"a": RNG.normal(size=(4, 8)).astype(np.float32) / 2, "b": RNG.normal(size=8).astype(np.float32) / 2}
GROWS = 60  # the step from which on gradients are larger; the detector forgives what overflows in the first 50


def loss_fn(params, batch, key):
    """The loss times a factor of the batch, which is that of its gradients."""
    with jax.numpy_dtype_promotion("standard"):
        error = jnp.tanh(batch["x"] @ params["a"]) @ params["b"] - batch["y"]
        loss = jnp.mean(jnp.square(error.astype(jnp.float32)))
    return loss * batch["factor"][0], {"error": loss}


def batches(factors):
    return [{"x": X.astype(np.float16), "y": Y, "factor": np.full(64, factor, np.float32)} for factor in factors]


def trained(folder, factors, *actions, stop=None, **precision):
    """A run, stopped as by Ctrl-C where that is asked for; resumed where the folder holds a part of it."""

    def interrupt(step):
        if step == stop:
            signal.raise_signal(signal.SIGINT)

    section = {"policy": "float16", "growth_interval": 10**6, **precision}
    fitted = fit(
        loss_fn, optax.adam(1e-2, eps=1e-15), batches(factors), run=folder, steps=len(factors), seed=1,
        params={name: jnp.asarray(value) for name, value in PARAMS.items()}, precision=section, log_every=1,
        eval_every=len(factors), health={"on_alert": actions or ("log",), "every": 1, "rare_every": 5}, quiet=True,
        sinks=[Sink(progress=interrupt)],
    )  # fmt: skip
    lines = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "alerts")
    }
    records = [line for line in lines["metrics"] if line["split"] == "train"]
    return fitted, records, [line for line in lines["alerts"] if line["kind"] == "action"]


def error_of(fitted):
    """The error without a factor, in float32."""
    batch = {"x": X, "y": Y, "factor": np.ones(64, np.float32)}
    return float(loss_fn(fitted.params, batch, None)[0])


TINY = [1e-7] * 160  # gradients of about 1e-9, where the smallest number of float16 is 6e-8
BEFORE = float(loss_fn(PARAMS, {"x": X, "y": Y, "factor": np.ones(64, np.float32)}, None)[0])


def test_a_scale_far_too_low_is_raised_and_the_network_learns(tmp_path):
    stuck, records, _ = trained(tmp_path / "log", TINY, loss_scale=1.0)
    assert error_of(stuck) == pytest.approx(BEFORE)  # every gradient is flushed to zero
    assert {record.get("loss_scale", 1.0) for record in records} == {1.0}

    fitted, records, actions = trained(tmp_path / "raised", TINY, "raise_scale", loss_scale=1.0)
    assert {line["action"] for line in actions} == {"raise_scale"}
    assert error_of(fitted) < 0.2 * BEFORE
    scales = [record.get("loss_scale", 1.0) for record in records]
    first = actions[0]
    assert scales[first["due"] - 1] == 1
    assert scales[first["due"]] == 1024  # from the step after the one it is due at
    assert first["value"] == 1024


HUGE = [1.0] * (GROWS - 1) + [2.0**17] * 60


def test_a_scale_that_falls_and_falls_is_lowered_at_once(tmp_path):
    slow, records, none = trained(tmp_path / "log", HUGE)
    fitted, sooner, actions = trained(tmp_path / "lowered", HUGE, "lower_scale")
    assert [line["action"] for line in actions] == ["lower_scale"]
    assert not none
    first = actions[0]
    assert first["step"] >= GROWS + 4  # five halvings
    scales = {record["step"]: record.get("loss_scale", 1.0) for record in sooner}
    assert scales[first["due"] + 1] in (scales[first["due"]] / 16, scales[first["due"]] / 32)
    assert records[-1]["skips"] > 8  # the scale was stuck for as many steps
    assert sooner[-1]["skips"] <= records[-1]["skips"] - 2
    assert error_of(fitted) < 0.2 * BEFORE
    assert fitted.status == slow.status == "completed"


def test_where_the_scale_cannot_fall_the_next_response_is_taken(tmp_path):
    factors = [2.0**20] * 40  # overflows without any scale
    fitted, _, actions = trained(tmp_path / "run", factors, "lower_scale", "stop", loss_scale=16.0)
    assert [line["action"] for line in actions] == ["stop"]
    assert fitted.status == "diverged"
    assert "overflows at its smallest" in actions[0]["message"]


@pytest.mark.parametrize(
    ("factors", "action", "scale"), [(TINY[:60], "raise_scale", 1.0), (HUGE[: GROWS + 20], "lower_scale", 2.0**15)]
)
def test_a_run_stopped_around_the_response_goes_on_with_the_same_bits(tmp_path, factors, action, scale):
    whole, records, actions = trained(tmp_path / "whole", factors, action, loss_scale=scale)
    assert {line["action"] for line in actions} == {action}
    for stop in (actions[0]["step"], actions[0]["due"] + 3):
        folder = tmp_path / str(stop)
        assert trained(folder, factors, action, stop=stop, loss_scale=scale)[0].status == "interrupted"
        parts, again, others = trained(folder, factors, action, loss_scale=scale)
        assert bits(parts.state) == bits(whole.state)
        assert [record["loss"] for record in again] == [record["loss"] for record in records]
        assert others == actions


@pytest.mark.parametrize("scale", [0.5, 2.0**25, 1e39])
def test_a_first_scale_beyond_the_bounds_is_refused(scale, tmp_path):
    with pytest.raises(UsageError, match=r"precision.loss_scale: .* equal to (1|16777216); got"):
        trained(tmp_path, [1.0] * 2, loss_scale=scale)
