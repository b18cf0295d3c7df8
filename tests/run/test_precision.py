"""The section `precision` of a configuration, in a run and in what is done with one afterwards."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.config.build import build
from jaxprop.core.precision import Override, policy
from jaxprop.errors import ConfigError, UsageError
from jaxprop.run.compose import compose
from jaxprop.run.loaded import load
from jaxprop.run.precision import policy_of
from jaxprop.run.train import train
from jaxprop.tools.generate import Sampling, Writer
from tests.benches import BASE, merged

TEXT = {
    "task": {"name": "language"},
    "data": {"name": "random", "shape": [16], "vocabulary": 11, "examples": 32, "batch_size": 8},
    "optimizer": {"name": "adam", "lr": 0.01},
    "parallel": {"devices": 1},
    "health": {"layers": False},
    "run": {"steps": 4},
}
MODELS = {
    "transformer": {"name": "transformer", "layers": 1, "width": 16, "heads": 2, "positions": "learned"},
    "rnn": {"name": "rnn", "width": 8},
}
MIXED = {"policy": "bfloat16", "params": "bfloat16"}


def test_the_section_is_the_policy():
    section = {"policy": "float16", "params": "bfloat16", "overrides": [{"match": "norm|head", "dtype": "float32"}]}
    config = build(merged(BASE, {"precision": section}))
    assert policy_of(config) == policy("float16", params="bfloat16", overrides=[("norm|head", "float32")])
    assert policy_of(config).overrides == (Override("norm|head", jnp.dtype("float32")),)
    assert config.precision.scaled
    assert policy_of(build(BASE)) == policy("float32")
    part = {"precision": {"overrides": [{"match": "head", "dtype": "float16"}]}}
    assert build(merged(BASE, part)).precision.scaled
    assert not build(BASE).precision.scaled


@pytest.mark.parametrize("name", MODELS)
def test_a_run_trains_evaluates_and_writes_in_several_dtypes(name, tmp_path):
    softmax = [{"match": "softmax", "dtype": "bfloat16"}] if name == "transformer" else []
    section = {**MIXED, "overrides": [{"match": "norm|head|layers/0", "dtype": "float32"}, *softmax]}
    trained = train(build({**TEXT, "model": MODELS[name], "precision": section}), tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert trained.summary["status"] == "completed"
    assert all(np.isfinite(line["loss"]) for line in lines)
    run = load(tmp_path / "run")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(run.params)} == {"bfloat16"}
    written = list(Writer(run, Sampling(temperature=0)).tokens(np.array([1, 2]), 4, seed=0))
    assert len(written) == 4
    assert run.predict({"inputs": np.zeros((3, 16), np.int32)})["token"].shape[0] == 3


def test_an_override_that_matches_nothing_is_told_before_a_run_begins(tmp_path):
    section = {"policy": "bfloat16", "overrides": [{"match": "haed", "dtype": "float32"}]}
    with pytest.raises(
        UsageError, match=r"^precision\.overrides: 'haed' matches no module and no parameter; did you mean"
    ):
        train(build(merged(BASE, {"precision": section})), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_mlp_has_no_softmax_of_attention():
    section = {"policy": "bfloat16", "overrides": [{"match": "softmax", "dtype": "float32"}]}
    with pytest.raises(UsageError, match="'softmax' matches no module and no parameter; there are "):
        compose(build(merged(BASE, {"precision": section})))


def test_tf32_is_refused_on_a_cpu_before_a_run_begins_and_not_where_nothing_is_trained(tmp_path):
    config = build(merged(BASE, {"precision": {"policy": "tf32"}}))
    with pytest.raises(UsageError, match="precision tf32 needs an NVIDIA GPU"):
        train(config, tmp_path / "run", quiet=True)
    assert compose(config).evaluate is not None


def test_what_sets_the_loss_scale_needs_one():
    over = {"health": {"on_alert": ["raise_scale"]}}
    with pytest.raises(ConfigError, match="raise_scale sets the loss scale, and precision float32 has none"):
        build(merged(BASE, over))
    assert build(merged(BASE, {**over, "precision": {"policy": "float16"}})).health.responses == ("raise_scale",)


def test_a_loop_in_python_takes_the_same_keys(tmp_path):
    section = {"policy": "bfloat16", "params": "bfloat16", "overrides": [{"match": "w", "dtype": "float32"}]}
    seen = set()

    def loss(params, batch, key):
        seen.add(params["w"].dtype.name)
        return jnp.mean(jnp.square(params["w"] * batch["x"] - 3))

    x = np.ones(8, np.float32)
    options = {"steps": 3, "params": {"w": jnp.zeros(())}, "quiet": True, "precision": section}
    ran = jaxprop.fit(loss, optax.sgd(0.1), [{"x": x}], run=str(tmp_path / "run"), **options)
    assert (ran.status, seen, ran.params["w"].dtype.name) == ("completed", {"float32"}, "bfloat16")
