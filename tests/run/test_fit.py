"""`jaxprop.fit`: the loop of the command line around one's own loss, optimizer and batches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop import losses, metrics
from jaxprop.data.stream import Stream
from jaxprop.errors import DataError, UsageError
from jaxprop.run.fit import fit, promise
from jaxprop.sinks import Sink
from jaxprop.tools.replay import replay_run
from jaxprop.types import Source

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0], np.float32)).astype(np.float32)


def loss_fn(params, batch, key):
    error = batch["x"] @ params["w"] - batch["y"]
    return jnp.mean(error**2), {"absolute": jnp.mean(jnp.abs(error))}


def batches(size=16):
    return [{"x": X[i : i + size], "y": Y[i : i + size]} for i in range(0, 64, size)]


def start():
    return {"w": jnp.zeros(4)}


def run(folder, steps=20, given=None, **options):
    options = {"params": start(), "evaluate": batches(), "eval_every": 5, "log_every": 5, "quiet": True} | options
    return fit(loss_fn, optax.adam(0.1), batches() if given is None else given, run=folder, steps=steps, **options)


def records(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_run_has_everything_that_the_command_line_writes(tmp_path):
    fitted = run(tmp_path / "run")
    assert (fitted.status, fitted.summary["step"]) == ("completed", 20)
    kinds = {(record["step"], record["split"]) for record in records(tmp_path / "run")}
    assert {(5, "eval"), (20, "eval"), (5, "train"), (20, "train")} <= kinds
    assert {row["layer"] for row in records(tmp_path / "run", "layers.jsonl")} == {"w"}
    for name in ("config.yaml", "summary.json", "checkpoints"):
        assert (tmp_path / "run" / name).exists()
    whole = np.mean((X @ np.asarray(fitted.params["w"]) - Y) ** 2)
    assert fitted.metrics["loss"] == pytest.approx(whole, rel=1e-4)
    assert set(fitted.metrics) == {"loss", "absolute"}


def test_the_report_shows_it(tmp_path):
    from jaxprop.report.read import Reader

    run(tmp_path / "run")
    assert Reader(tmp_path / "run").read().train["loss"].step.tolist()[-1] == 20


def test_it_equals_a_loop_by_hand(tmp_path):
    fitted = run(tmp_path / "run", steps=9, evaluate=None, eval_every=None)
    step = jaxprop.make_train_step(loss_fn, optax.adam(0.1))
    _, key = jax.random.split(jax.random.key(0))
    state = step.init(start(), key=key)
    for i in range(9):
        state, _ = step(state, batches()[i % 4])
    np.testing.assert_array_equal(fitted.params["w"], state.params["w"])


STREAMS = {
    "a list": lambda: batches(),
    "a generator": lambda: (one for _ in range(99) for one in batches()),
    "a stream": lambda: Stream(Source(64, lambda i: {"x": X[i], "y": Y[i]}, {}, "f00d"), batch_size=16, seed=3),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("per_call", [1, 3])
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path, kind, per_call):
    options = {"eval_every": 6, "steps_per_call": per_call}
    whole = run(tmp_path / "whole", 18, STREAMS[kind](), **options)
    run(tmp_path / "parts", 6, STREAMS[kind](), **options)
    parts = run(tmp_path / "parts", 18, STREAMS[kind](), **options)
    np.testing.assert_array_equal(whole.params["w"], parts.params["w"])
    assert whole.metrics == parts.metrics


def test_a_completed_run_is_given_back_without_a_step(tmp_path):
    first = run(tmp_path / "run")
    again = run(tmp_path / "run")
    assert again.summary == first.summary
    np.testing.assert_array_equal(first.params["w"], again.params["w"])


def test_the_best_state_is_what_comes_back(tmp_path):
    """A rate so high that the loss rises again: the best evaluation is not the last."""
    fitted = fit(
        loss_fn, optax.sgd(optax.piecewise_constant_schedule(0.1, {10: 30.0})), batches(), run=tmp_path / "run",
        steps=14, params=start(), evaluate=batches(), eval_every=2, quiet=True, health={"watch": False},
    )  # fmt: skip
    best = fitted.summary["best"]
    assert fitted.step == best["step"] < 14
    assert np.mean((X @ np.asarray(fitted.params["w"]) - Y) ** 2) == pytest.approx(best["loss"], rel=1e-4)
    assert fitted.metrics == {name: value for name, value in best.items() if name != "step"}


def test_a_model_makes_its_own_parameters_and_keeps_extras(tmp_path):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(self.dense(x))))

    labels = (Y > 0).astype(np.int32)
    source = Source(64, lambda i: {"inputs": X[i], "labels": labels[i]}, {}, "f00d")
    objective = jaxprop.loss_from(jaxprop.from_nnx(Net), losses.softmax_cross_entropy, {"accuracy": metrics.accuracy})
    fitted = fit(
        objective, optax.adam(0.02), Stream(source, batch_size=16, seed=0), run=tmp_path / "run", steps=40,
        evaluate=source, batch_size=30, ema_decay=0.9, quiet=True,
    )  # fmt: skip
    assert fitted.metrics["accuracy"] > 0.8
    assert jax.tree.leaves(fitted.state.extras)


def test_alerts_and_the_place_of_a_nan_are_told(tmp_path):
    def bad(params, batch, key):
        with jax.named_scope("root"):
            return jnp.mean(jnp.sqrt(params["w"][0] + batch["x"][:, 0]))

    told = []
    fitted = fit(
        bad, optax.sgd(0.1), batches(), run=tmp_path / "run", steps=60, params={"w": jnp.full(4, -9.0)}, quiet=True,
        sinks=[Sink(note=told.append)], health={"max_skips": 5},
    )  # fmt: skip
    assert fitted.status == "diverged"
    assert any("sqrt" in line and "test_fit.py" in line for line in told)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"params": None}, "does not say what its parameters are; give fit params="),
        ({"evaluate": (one for one in batches())}, "begins anew, or a jaxprop.data.Source; got generator"),
        ({"evaluate": Source(64, lambda i: {"x": X[i], "y": Y[i]}, {}, "")}, "give batch_size, such as batch_size=256"),
        ({"health": {"on_alrt": "stop"}}, "fit: health.on_alrt: "),
        ({"precision": "float8"}, "fit: precision.policy: "),
        ({"steps": 0}, "fit: steps: "),
        ({"steps_per_call": "auto"}, "fit: steps_per_call: expected a whole number, at least 1, got 'auto'"),
        (
            {"checkpoint": {"best": "f1"}},
            "fit: checkpoint: whether a larger f1 is better only you know; add its key mode",
        ),
        ({"stop": {"metric": "f1", "patience": 2}, "evaluate": batches()}, "fit: stop: whether a larger f1 is better"),
        ({"checkpoint": {"best": "acuracy", "mode": "max"}, "evaluate": batches()}, "checkpoint: .*acuracy"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        run(tmp_path / "run", **options)


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(tmp_path / "run", steps=5)
    with pytest.raises(UsageError, match=r"run.accumulate: 1 -> 2"):
        run(tmp_path / "run", steps=10, accumulate=2)
    assert run(tmp_path / "run", steps=10, accumulate=2, fresh=True).summary["step"] == 10


def test_what_a_resume_promises():
    assert promise(STREAMS["a stream"]()) == "a resume goes on with the exact next batch"
    assert "draws the batches that were used already" in promise(batches())


class Silent:
    """A stream of the user's own, which says nothing of a resume."""

    def __init__(self):
        self.at = 0

    def __next__(self):
        self.at += 1
        return batches()[self.at % 4]

    def __iter__(self):
        return self

    batches_per_epoch = 4

    def state(self):
        return self.at

    def restore(self, state):
        self.at = state


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        (batches, {}, 1),
        (batches, {"quiet": True}, 0),
        (batches, {"checkpoint": False}, 0),
        (STREAMS["a stream"], {}, 0),
        (Silent, {}, 0),
    ],
    ids=["a list", "quiet", "not saved", "a stream", "its own stream"],
)
def test_what_a_resume_promises_is_told_once_at_the_start(tmp_path, capfd, given, options, told):
    run(tmp_path / "run", steps=5, given=given(), **{"quiet": False} | options)
    lines = capfd.readouterr().err.splitlines()
    assert [promise(batches()) in line for line in lines].count(True) == told
    if not options:
        run(tmp_path / "run", steps=10, given=given(), quiet=False)
        assert promise(batches()) not in (err := capfd.readouterr().err)
        assert "resumed from step 5" in err


def test_a_run_ends_early(tmp_path):
    fitted = run(tmp_path / "run", steps=200, stop={"target": 0.5})
    assert fitted.status == "completed"
    assert fitted.step < 200
    assert fitted.summary["stopped"].endswith("has reached the target 0.5")
    again = run(tmp_path / "run", steps=200, stop={"target": 0.5})
    assert (again.step, again.summary["stopped"]) == (fitted.step, fitted.summary["stopped"])
    with pytest.raises(UsageError, match="stop has patience or target, which are about evaluations; give"):
        run(tmp_path / "other", evaluate=None, eval_every=None, stop={"patience": 1})


def test_a_run_that_was_never_finite_has_diverged_and_nothing_is_advised_that_it_cannot_do(tmp_path):
    """Fewer steps than `health.max_skips`, each of them skipped."""

    def bad(params, batch, key):
        with jax.named_scope("root"):
            return jnp.mean(jnp.sqrt(params["w"][0] + batch["x"][:, 0]))

    fitted = fit(
        bad, optax.sgd(0.1), batches(), run=tmp_path / "run", steps=8, params={"w": jnp.full(4, -9.0)}, quiet=True
    )  # fmt: skip
    assert fitted.status == "diverged"
    error = fitted.summary["error"]
    assert error.startswith("loss or gradients were not finite in 8 of 8 steps. Such steps change nothing")
    assert "The first: step 1 was not finite: forward pass: sqrt at " in error
    alert = records(tmp_path / "run", "alerts.jsonl")[0]
    assert (alert["cause"], alert["fix"]) == (
        "not_finite", "see what the run says of step 1, which names the operation and the line"
    )  # fmt: skip
    assert "jaxprop replay" not in error + alert["message"]
    with pytest.raises(UsageError, match=r"is a run of jaxprop\.fit, whose loss is Python code") as refused:
        replay_run(tmp_path / "run")
    assert "\n" not in str(refused.value)


def test_a_run_with_some_steps_that_were_not_finite_has_completed(tmp_path):
    def sometimes(params, batch, key):
        return loss_fn(params, batch, key)[0] + jnp.where(batch["x"][0, 0] > X[0, 0] - 1e-6, 0.0, jnp.nan)

    fitted = fit(sometimes, optax.sgd(0.01), batches(), run=tmp_path / "run", steps=8, params=start(), quiet=True)
    assert 0 < int(fitted.state.health.skips) < 8
    assert fitted.status == "completed"


def test_parameters_that_are_not_trained_are_there_beside_moving_averages(tmp_path):
    def loss(params, batch, key):
        return jnp.mean((batch["x"] @ params["body"] @ params["head"] - batch["y"]) ** 2)

    params = {"body": 2 * jnp.eye(4), "head": jnp.zeros(4), "count": jnp.int32(3)}
    given = {"params": params, "ema_decay": 0.9, "trainable": "head", "evaluate": batches(), "quiet": True}
    fitted = fit(loss, optax.adam(0.1), batches(), run=tmp_path / "run", steps=20, **given)
    assert (fitted.params["body"] == params["body"]).all()
    assert fitted.params["count"] == 3
    assert (fitted.params["head"] == fitted.state.ema.params["head"]).all()
    assert fitted.metrics["loss"] == pytest.approx(float(loss(fitted.params, {"x": X, "y": Y}, None)), rel=1e-4)


def test_parameters_are_those_that_were_evaluated_where_training_is_schedule_free(tmp_path):
    tx = optax.contrib.schedule_free_adamw(0.1, warmup_steps=5)
    fitted = fit(loss_fn, tx, batches(), run=tmp_path / "run", steps=20, params=start(), evaluate=batches(), quiet=True)
    assert fitted.metrics["loss"] == pytest.approx(float(loss_fn(fitted.params, {"x": X, "y": Y}, None)[0]), rel=1e-4)


def test_a_smaller_last_batch_does_not_fit_in_a_call_of_several_steps(tmp_path):
    with pytest.raises(DataError, match=r"'x': \(24, 4\).* and .*'x': \(16, 4\).*drop_last=True"):
        run(tmp_path / "run", given=batches(24), steps_per_call=5, steps=10)
