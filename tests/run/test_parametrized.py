"""Rates and initial values of whole runs by their width, of built-in models and of anyone's."""

import jax
import numpy as np
import pytest

from jaxprop.cli import main
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError
from jaxprop.run.compose import compose
from jaxprop.run.initial import begin
from jaxprop.run.loaded import load as load_run

DIGITS = {"task": {"name": "classify"}, "data": {"name": "digits"}, "run": {"steps": 4}}
TEXT = {
    "task": {"name": "language"}, "data": {"name": "stdlib_text", "sequence_length": 16, "batch_size": 8},
    "run": {"steps": 4},
}  # fmt: skip


def mup(model, base_width=8, sections=DIGITS, **optimizer):
    keys = {"name": "adam", "lr": 0.01, "parametrization": "mup", "base_width": base_width, **optimizer}
    return compose(build({**sections, "model": model, "optimizer": keys}, code=["nets.py"]))


def plain(model, sections=DIGITS, **optimizer):
    return compose(build({**sections, "model": model, "optimizer": {"name": "adam", "lr": 0.01, **optimizer}}))


def table(experiment):
    """By path, the root mean square of the initial values, and the factor on the rate."""
    params = experiment.init(0).params
    squares = [float(np.sqrt(np.mean(np.square(leaf)))) for leaf in jax.tree.leaves(params)]
    return dict(zip(leaf_paths(params), zip(squares, experiment.optimizer.lr_scales, strict=True), strict=True))


MODELS = {
    "mlp": ({"name": "mlp", "hidden": [64, 64], "init": "lecun_normal"}, DIGITS),
    "cnn": ({"name": "cnn", "channels": [32, 64], "hidden": [64]}, DIGITS),
    "resnet": ({"name": "resnet", "depths": [1, 1], "widths": [32, 64]}, DIGITS),
    "vit": ({"name": "vit", "width": 64, "heads": 4, "layers": 1}, DIGITS),
    "transformer": ({"name": "transformer", "width": 64, "heads": 4, "layers": 1}, TEXT),
    "rnn": ({"name": "rnn", "width": 64}, TEXT),
}
HIDDEN, OUTPUT, INPUT = (8**-0.5, 1 / 8), (1 / 8, 1 / 8), (1, 1)  # of initial values, and of rates
EXPECTED = {
    "mlp": {"layers/0/dense/kernel": INPUT, "layers/1/dense/kernel": HIDDEN, "head/kernel": OUTPUT},
    "cnn": {"blocks/0/0/conv/kernel": INPUT, "blocks/1/0/conv/kernel": HIDDEN, "head/kernel": OUTPUT},
    "resnet": {"stem/conv/kernel": INPUT, "stages/1/0/layers/1/conv/kernel": HIDDEN, "head/kernel": OUTPUT},
    "vit": {"embed/kernel": INPUT, "blocks/0/attn/qkv/kernel": HIDDEN, "positions/embedding": INPUT},
    "transformer": {"embed/embedding": INPUT, "blocks/0/mlp/down/kernel": HIDDEN, "final_norm/scale": INPUT},
    "rnn": {"embed/embedding": INPUT, "layers/0/recurrent/kernel": HIDDEN, "head/kernel": OUTPUT},
}


def narrow(model):
    """The model of an eighth of the widths."""
    widths = {key: value for key, value in model.items() if key in ("hidden", "channels", "widths", "width")}
    return model | {
        key: value // 8 if isinstance(value, int) else [one // 8 for one in value] for key, value in widths.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_initial_values_and_rates_are_those_of_the_paper_whatever_the_initializer(name):
    model, sections = MODELS[name]
    wide, base = table(mup(model, sections=sections)), table(plain(narrow(model), sections))
    assert wide.keys() == base.keys()
    for path, (init, rate) in EXPECTED[name].items():
        assert wide[path][0] / base[path][0] == pytest.approx(init, rel=0.2), path
        assert wide[path][1] == pytest.approx(rate), path


def test_at_the_base_width_nothing_changes():
    model = {"name": "mlp", "hidden": [16, 16]}
    ours, usual = (
        mup(model, base_width=16, weight_decay=0.1, name="adamw"),
        plain(model, name="adamw", weight_decay=0.1),
    )
    states = [ours.init(0), usual.init(0)]
    batch = next(usual.stream)
    for _ in range(3):
        states = [one.step(state, batch, "lean")[0] for one, state in zip((ours, usual), states, strict=True)]
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sgd_has_the_rates_of_its_own():
    found = table(mup({"name": "mlp", "hidden": [64, 64]}, name="sgd"))
    rates = {path: rate for path, (_, rate) in found.items()}
    assert rates == {
        "layers/0/dense/kernel": 8, "layers/0/dense/bias": 8, "layers/1/dense/kernel": 1, "layers/1/dense/bias": 8,
        "head/kernel": 1 / 8, "head/bias": 1,
    }  # fmt: skip


def test_weight_decay_takes_as_much_at_every_width():
    """In a step without gradients, rate times decay is what a parameter loses."""
    experiment = mup({"name": "mlp", "hidden": [64, 64]}, name="adamw", lr=0.1, weight_decay=0.5)
    tx, params = experiment.optimizer.tx, experiment.init(0).params
    with jax.numpy_dtype_promotion("standard"):  # as optax counts
        updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    for update, value in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(update, -0.05 * value, rtol=1e-5)


def test_groups_multiply_the_rates():
    found = table(mup({"name": "mlp", "hidden": [64]}, groups=[{"match": "head/.*", "lr_scale": 0.5}]))
    assert (found["head/kernel"][1], found["head/bias"][1]) == (1 / 16, 0.5)


def test_loaded_weights_are_taken_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["run.epochs=null", "run.steps=3", "run.eval_every=3", "optimizer.schedule.warmup_steps=1"]
    assert main(["train", "digits_mlp", *words, "--run", "first", "--quiet"]) == 0
    wide = ["optimizer.parametrization=mup", "optimizer.base_width=64", "run.init_from={from: first}"]
    loaded = compose(load("digits_mlp", [*words, *wide]).config)
    given, _ = begin(loaded)
    kept = load_run("first").params
    np.testing.assert_array_equal(given.params["head"]["kernel"], kept["head"]["kernel"])
    assert np.std(loaded.init(0).params["head"]["kernel"]) < 0.6 * np.std(kept["head"]["kernel"])


OWN = """
import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx


class OfNnx(nnx.Module):
    def __init__(self, width: int = 64, *, classes, rngs):
        self.hidden, self.head = nnx.Linear(64, width, rngs=rngs), nnx.Linear(width, classes, rngs=rngs)
        self.middle = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, inputs):
        x = nnx.relu(self.hidden(inputs.reshape(len(inputs), -1)))
        return self.head(nnx.relu(self.middle(x)))


class OfLinen(linen.Module):
    classes: int
    width: int = 64

    @linen.compact
    def __call__(self, inputs):
        x = linen.relu(linen.Dense(self.width, name="hidden")(inputs.reshape(len(inputs), -1)))
        return linen.Dense(self.classes, name="head")(linen.relu(linen.Dense(self.width, name="middle")(x)))


class OfEquinox(eqx.Module):
    hidden: eqx.nn.Linear
    middle: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, width: int = 64, *, classes, key):
        first, second, third = jax.random.split(key, 3)
        self.hidden, self.middle = eqx.nn.Linear(64, width, key=first), eqx.nn.Linear(width, width, key=second)
        self.head = eqx.nn.Linear(width, classes, key=third)

    def __call__(self, inputs):
        return self.head(jax.nn.relu(self.middle(jax.nn.relu(self.hidden(inputs.reshape(-1))))))
"""


@pytest.mark.parametrize("name", ["OfNnx", "OfLinen", "OfEquinox"])
def test_a_model_of_any_framework_has_the_same_factors(name, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    found = table(mup({"class": f"nets.py:{name}", "width": 64}))
    kernels = {path.split("/")[0]: rate for path, (_, rate) in found.items() if path.endswith(("kernel", "weight"))}
    assert kernels == {"hidden": 1, "middle": 1 / 8, "head": 1 / 8}
    biases = {rate for path, (_, rate) in found.items() if path.endswith("bias")}
    assert biases == {1}


def test_a_model_without_the_argument_width_names_its_own(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(OWN.replace("width", "features"))
    monkeypatch.chdir(tmp_path)
    model = {"class": "nets.py:OfNnx", "features": 64}
    with pytest.raises(ConfigError, match=r"has no argument width; .*optimizer\.base: \{features: 64\}"):
        mup(model)
    found = table(mup(model, None, base={"features": 8}))
    assert found["middle/kernel"][1] == 1 / 8


def test_a_table_that_is_the_output_layer_too_needs_a_model_that_scales_it(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text("""
from flax import nnx
class Tied(nnx.Module):
    def __init__(self, width: int = 64, *, vocabulary, rngs):
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs)
    def __call__(self, inputs):
        return self.embed.attend(self.embed(inputs))
""")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="embed/embedding is used along axis 1 both as a table"):
        mup({"class": "nets.py:Tied", "width": 64}, sections=TEXT)


def test_a_base_that_has_other_parameters_is_told():
    with pytest.raises(ConfigError, match="the model has a parameter layers/1/dense/bias, and the base model has none"):
        mup({"name": "mlp", "hidden": [64, 64]}, None, base={"hidden": [8]})


def test_a_group_has_the_rates_of_its_own_optimizer():
    groups = [{"match": "layers/1/.*", "optimizer": {"name": "sgd", "lr": 0.5}}]
    found = table(mup({"name": "mlp", "hidden": [64, 64]}, groups=groups))
    assert (found["layers/1/dense/kernel"][1], found["layers/1/dense/bias"][1]) == (1, 8)
    assert (found["layers/0/dense/bias"][1], found["head/kernel"][1]) == (1, 1 / 8)
    with pytest.raises(ConfigError, match="how rates of novograd depend on the width is not known"):
        mup({"name": "mlp"}, groups=[groups[0] | {"optimizer": {"name": "novograd", "lr": 0.5}}])


def test_muon_keeps_its_rates_for_hidden_matrices():
    """Its updates have norm 1 whatever the width; what it leaves to AdamW has the rates of Adam."""
    found = table(mup({"name": "mlp", "hidden": [64, 64, 64]}, name="muon"))
    rates = {path: rate for path, (_, rate) in found.items()}
    assert (rates["layers/1/dense/kernel"], rates["layers/2/dense/kernel"]) == (1, 1)
    assert (rates["layers/0/dense/kernel"], rates["layers/1/dense/bias"], rates["head/kernel"]) == (1, 1, 1 / 8)


def test_a_healthy_wide_model_has_no_advice_on_its_initial_values_or_epsilon(tmp_path, monkeypatch):
    """Rates and initial values that are smaller by the width are no sign of a small second moment or a bad start."""
    from jaxprop.run.train import train

    (tmp_path / "nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    keys = {"name": "adam", "lr": 0.002, "parametrization": "mup", "base_width": 16}
    config = build(
        {**DIGITS, "model": {"class": "nets.py:OfNnx", "width": 256}, "optimizer": keys, "run": {"steps": 30}},
        code=["nets.py"],
    )
    train(config, tmp_path / "run", quiet=True)
    alerts = (tmp_path / "run" / "alerts.jsonl").read_text() if (tmp_path / "run" / "alerts.jsonl").exists() else ""
    assert "bad_init" not in alerts
    assert "adam_eps" not in alerts
    records = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"lr/lowest_by_width": 0.000125' in records


def test_the_lowest_rate_is_that_of_a_parameter_with_its_own_optimizer_and_scale():
    groups = [
        {"match": "layers/1/.*", "optimizer": {"name": "sgd", "lr": 0.5}},
        {"match": "head/.*", "lr_scale": 0.5},
    ]
    experiment = mup({"name": "mlp", "hidden": [64, 64]}, groups=groups)
    found = dict(experiment.optimizer.rates)["lr/lowest_by_width"](0)
    assert float(found) == pytest.approx(0.01 * 0.5 / 8)  # the head's kernel; not 0.5 of SGD, nor 0.01


def test_a_plan_draws_nothing_to_compare_initial_values(monkeypatch):
    monkeypatch.setattr("jaxprop.run.parametrized._laws", lambda *_: pytest.fail("drawn"))
    experiment = mup({"name": "mlp", "hidden": [64, 64]})
    assert jax.eval_shape(lambda: experiment.init(0)).params["head"]["kernel"].shape == (64, 10)
