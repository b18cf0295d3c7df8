"""Runs with adapters: what they begin from, train, keep and export, and how much they learn."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open
from sklearn.datasets import load_digits

from jaxprop.config.build import build
from jaxprop.config.load import load as load_config
from jaxprop.core.trees import leaf_paths
from jaxprop.data import one_pass
from jaxprop.errors import ConfigError, UsageError
from jaxprop.models.lora import merged
from jaxprop.run.adapted import merged_run
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.run.initial import DRAWN, begin, read_weights
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.export import export_run
from jaxprop.tools.generate import Sampling, Writer
from jaxprop.tools.info import describe
from jaxprop.tools.replay import replay_run
from tests.benches import bits
from tests.run.trained import FEATURES, sections, write_arrays

X = np.random.default_rng(1).normal(size=(5, FEATURES)).astype(np.float32)
KINDS = [None, "nf4"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with arrays, and with a run on them in `base`."""
    pytest.importorskip("qwix")
    folder = tmp_path_factory.mktemp("home")
    write_arrays(folder)
    train(build(changed(folder, None)), folder / "base", quiet=True)
    return folder


def changed(home, quantize, **changes):
    """The configuration of a run that adapts the first layer of the base, and trains the head with it."""
    lora = {"match": "layers/.*", "rank": 2, "quantize": quantize, "train": ["head"]}
    run = {"steps": 4, "eval_every": 2, "log_every": 1, "ema_decay": None, **changes.pop("run", {})}
    if (home / "base").exists():
        changes = {"lora": lora, **changes}
        run = {"init_from": str(home / "base"), **run}
    return sections(home, run=run, health={"layers": True, "watch": False}, **changes)


@pytest.fixture(scope="module", params=KINDS)
def run(request, home):
    path = home / f"run-{request.param}"
    assert train(build(changed(home, request.param)), path, quiet=True).exit_code == 0
    return load(path)


def test_before_the_first_step_it_is_the_base_to_the_bit(home):
    experiment = compose(build(changed(home, None)))
    state, notes = begin(experiment)
    base = load(home / "base").opened
    expected = evaluate(experiment=compose(base.config), state=base.state)
    assert evaluate(experiment, state)["loss"] == expected["loss"]
    assert notes[0].startswith("initial weights of ")


def test_only_adapters_and_what_is_listed_are_trained(home, run):
    held = dict(zip(leaf_paths(run.params), jax.tree.leaves(run.params), strict=True))
    base = dict(zip(*((f(load(home / "base").params)) for f in (leaf_paths, jax.tree.leaves)), strict=True))
    moved = {path for path, leaf in held.items() if path in base and not np.array_equal(leaf, base[path])}
    assert moved == {"head/bias", "head/kernel"}
    assert np.abs(held["layers/0/dense/kernel_lora_b"]).max() > 0
    state = run.opened.state.opt_state
    trained = [leaf for path, leaf in held.items() if "_lora_" in path or path.startswith("head/")]
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == 2 * sum(leaf.size for leaf in trained)
    layers = run.layers
    rows = {layer for layer, norm in zip(layers["layer"], layers["grad_norm"], strict=True) if norm > 0}
    assert rows == {"head", "layers/0/dense"}


def test_a_weight_in_few_bits_is_kept_so_in_the_checkpoint(home, run):
    layer = run.opened.state.params["layers"][0]["dense"]
    assert ("kernel_codes" in layer) == (run.config.lora.quantize is not None)
    if run.config.lora.quantize is not None:
        assert layer["kernel_codes"].dtype == np.uint8
        assert "kernel" not in layer


def test_the_merged_file_is_the_base_configuration_with_equal_outputs(run, tmp_path):
    export_run(run, "safetensors", tmp_path)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        section = json.loads(file.metadata()["config"])
    assert section.get("lora") is None
    section["run"]["init_from"] = {"from": str(tmp_path / "model.safetensors")}
    again = compose(build(section))
    state, _ = begin(again)
    batch = {"inputs": X}
    one = again.task.model.apply(state.params, state.extras, batch, key=None, train=False)[0]
    other = run.model.apply(run.params, run.extras, batch, key=None, train=False)[0]
    np.testing.assert_allclose(one, other, atol=1e-5)
    found = merged_run(run).predict(X)
    np.testing.assert_allclose(found["probabilities"], run.predict(X)["probabilities"], atol=1e-5)


def test_averages_are_what_is_merged_and_a_teacher_that_is_gone_is_not_asked(home, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(home / "base", teacher)
    config = changed(home, None, run={"ema_decay": 0.5})
    config["task"] = {**config["task"], "teacher": str(teacher)}
    assert train(build(config), tmp_path / "run", quiet=True).exit_code == 0
    shutil.rmtree(teacher)
    run = load(tmp_path / "run")
    export_run(run, "safetensors", tmp_path / "out")
    assert "Its weights are the moving average that evaluations used." in (tmp_path / "out" / "README.md").read_text()
    found = merged_run(run).predict(X)
    np.testing.assert_allclose(found["probabilities"], run.predict(X)["probabilities"], atol=1e-5)


def test_adapters_alone_have_the_names_of_peft(run, tmp_path):
    made = export_run(run, "safetensors", tmp_path, adapters=True)
    assert "adapter_model.safetensors" in made["files"]
    with safe_open(tmp_path / "adapter_model.safetensors", "numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    prefix = "base_model.model."
    layer = f"{prefix}layers.0.dense."
    assert set(arrays) == {
        f"{layer}lora_A.weight", f"{layer}lora_B.weight", f"{prefix}head.kernel", f"{prefix}head.bias",
    }  # fmt: skip
    assert (metadata["r"], metadata["lora_alpha"], metadata["target_modules"]) == ("2", "16.0", "layers/.*")
    dense = run.params["layers"][0]["dense"]
    added = arrays[f"{layer}lora_B.weight"] @ arrays[f"{layer}lora_A.weight"]
    np.testing.assert_allclose(added.T, dense["kernel_lora_a"] @ dense["kernel_lora_b"], atol=1e-6)
    with pytest.raises(UsageError, match="use --format safetensors"):
        export_run(run, "stablehlo", tmp_path, adapters=True)


def test_a_program_is_of_the_merged_weights(run, tmp_path):
    from jax import export

    export_run(run, "stablehlo", tmp_path)
    program = export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    np.testing.assert_allclose(program.call({"inputs": X})["probabilities"], run.predict(X)["probabilities"], atol=1e-5)


def test_a_run_without_adapters_has_none_to_export(home, tmp_path):
    with pytest.raises(UsageError, match="base was trained without lora, so there are no adapters; leave --adapters"):
        export_run(load(home / "base"), "safetensors", tmp_path, adapters=True)


@pytest.mark.parametrize("quantize", KINDS)
def test_a_run_in_two_parts_is_the_run_in_one(home, quantize, tmp_path):
    for folder, steps in (("whole", 4), ("parts", 2), ("parts", 4)):
        made = changed(home, quantize, run={"steps": steps, "ema_decay": 0.5})
        train(build(made), tmp_path / folder, quiet=True)
    assert bits(load(tmp_path / "whole").params) == bits(load(tmp_path / "parts").params)


def test_another_run_begins_from_the_merged_weights(home, run, tmp_path):
    given = read_weights(str(run.folder))
    assert set(given.params) == set(leaf_paths(load(home / "base").params))
    np.testing.assert_allclose(
        given.params["layers/0/dense/kernel"], merged_run(run).params["layers"][0]["dense"]["kernel"], atol=1e-6
    )


def test_a_nan_is_found_where_it_began(home, tmp_path):
    with np.load(home / "train.npz") as held:
        arrays = dict(held)
    arrays["inputs"][:, 1] = 3e38
    np.savez(tmp_path / "train.npz", **arrays)
    np.savez(tmp_path / "test.npz", **arrays)
    made = changed(home, None)
    made["data"] |= {"train": str(tmp_path / "train.npz"), "test": str(tmp_path / "test.npz")}
    train(build(made), tmp_path / "run", quiet=True)
    found = replay_run(tmp_path / "run").finding
    assert found.layer.startswith("layers/0")


def test_info_counts_what_is_trained(home):
    found = describe(build(changed(home, None)))
    trained = 5 * 2 + 2 * 8 + 8 * 3 + 3
    assert found.parameters - found.frozen == trained
    assert found.adapted == {"layers/0/dense/kernel": 26}


@pytest.mark.parametrize("match", ["layer", "layers/0/norm"])
def test_a_pattern_without_a_match_loses_nothing(home, match, tmp_path):
    made = changed(home, None)
    made["lora"] = {"match": match}
    with pytest.raises(ConfigError, match=f"lora.match: '{match}' matches "):
        train(build(made), tmp_path / "run", quiet=True)
    assert not list(tmp_path.rglob("checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["run.init_from={from: a, freeze: ['head/.*']}"], "lora freezes all but its adapters"),
        (["optimizer.parametrization=mup", "optimizer.base_width=8"], "rates by the width are for the weights"),
        (["lora.rank=0"], "lora.rank: "),
        (["lora.quantize=int3"], "lora.quantize: "),
    ],
)
def test_mistakes_in_a_configuration(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_config("digits_mlp", ["lora.match=head", *changes])


def test_weights_that_are_drawn_are_told(home):
    made = changed(home, None)
    del made["run"]["init_from"]
    assert begin(compose(build(made)))[1] == [DRAWN]


@pytest.mark.parametrize(("skip", "train_too"), [("head/.*", []), ("layers/0/dense/kernel", ["head"])])
def test_a_new_layer_that_would_stay_as_it_was_drawn_is_refused(home, skip, train_too):
    made = changed(home, None, run={"init_from": {"from": str(home / "base"), "skip": [skip]}})
    made["lora"]["train"] = train_too
    layer = skip.rpartition("/")[0]
    with pytest.raises(UsageError, match=rf"{layer}/\w+ is not loaded .* train it with lora.train: \['{layer}'\]"):
        begin(compose(build(made)))


def test_a_new_head_is_trained_beside_adapters(home):
    made = changed(home, None, run={"init_from": {"from": str(home / "base"), "skip": ["head/.*"]}})
    assert "skipped and drawn: head" in begin(compose(build(made)))[1]


def test_the_statistics_of_frozen_layers_are_held_where_that_is_asked_for(home, tmp_path):
    means = []
    for held in (True, False):
        start = {"from": str(home / "base"), "freeze_statistics": held}
        train(build(changed(home, None, run={"init_from": start})), tmp_path / str(held), quiet=True)
        means.append(load(tmp_path / str(held)).extras["layers"][0]["norm"]["mean"])
    before = load(home / "base").extras["layers"][0]["norm"]["mean"]
    assert np.array_equal(means[0], before)
    assert not np.array_equal(means[1], before)


@pytest.mark.timeout(300)
def test_text_is_written_by_the_merged_model(tmp_path):
    made = load_config("stdlib_lm", [
        "model.width=16", "model.layers=1", "model.heads=2", "data.sequence_length=16", "data.max_bytes=20000",
        "lora.match=blocks/.*/(qkv|out|up|down)|embed", "lora.rank=2", "run.steps=2", "run.eval_every=2",
        "optimizer.schedule={name: constant}", "sinks.console=false",
    ]).config  # fmt: skip
    assert train(made, tmp_path / "run", quiet=True).exit_code == 0
    run = load(tmp_path / "run")
    drawn = list(Writer(run, Sampling(temperature=0.0)).tokens(np.array([65]), 3, 0))
    logits = run.model.apply(run.params, run.extras, {"inputs": np.array([[65]])}, key=None, train=False)[0]
    assert drawn[0] == int(logits[0, 0].argmax())


@pytest.mark.timeout(300)
def test_digits_that_are_turned_are_learned_by_few_parameters(tmp_path):
    """A base of upright digits reads turned ones badly; adapters of rank 4 in its layers read most of them."""
    pytest.importorskip("qwix")
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
    for name, inputs in (("upright", images), ("turned", np.rot90(images, axes=(1, 2)))):
        flat = inputs.reshape(-1, 64)
        np.savez(tmp_path / f"{name}.npz", inputs=flat[:1400], labels=labels[:1400])
        np.savez(tmp_path / f"{name}_test.npz", inputs=flat[1400:], labels=labels[1400:])

    def config(name, **changes):
        made = sections(tmp_path, health={"layers": False, "watch": False}, **changes)
        made["data"] |= {"train": str(tmp_path / f"{name}.npz"), "test": str(tmp_path / f"{name}_test.npz")}
        made["model"] = {"name": "mlp", "hidden": [128, 64]}
        made["optimizer"] = {"name": "adam", "lr": 0.01}
        steps = {"steps": 150, "eval_every": 150, "log_every": 50, "ema_decay": None}
        return build({**made, "run": {**steps, **changes.get("run", {})}})

    def accuracy(path):
        with np.load(tmp_path / "turned_test.npz") as held:
            return np.mean(load(path).predict(held["inputs"])["class"] == held["labels"])

    train(config("upright"), tmp_path / "base", quiet=True)
    before = accuracy(tmp_path / "base")
    assert before < 0.3
    for quantize in KINDS:
        lora, start = {"match": "layers/.*", "rank": 4, "quantize": quantize}, {"init_from": str(tmp_path / "base")}
        train(config("turned", lora=lora, run=start), tmp_path / f"turned-{quantize}", quiet=True)
        assert accuracy(tmp_path / f"turned-{quantize}") > before + 0.5


def test_translations_are_those_of_the_merged_model():
    made = load_config("translate_numbers_rnn", [
        "model.width=8", "lora.match=.*", "lora.rank=1", "data.batch_size=4", "parallel.devices=1",
    ]).config  # fmt: skip
    one, other = (compose(config) for config in (made, made.model_copy(update={"lora": None})))
    state = one.init(0)
    leaves = [leaf + 0.5 if "_lora_b" in path else leaf
              for path, leaf in zip(leaf_paths(state.params), jax.tree.leaves(state.params), strict=True)]  # fmt: skip
    params = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
    batch = next(one_pass(one.sources["train"], 4))
    written = one.task.answer(params, state.extras, batch)
    expected = other.task.answer(merged(params, made.lora), state.extras, batch)
    assert set(written) == set(expected)
    assert all(np.array_equal(written[name], expected[name]) for name in written)


@pytest.mark.parametrize("quantize", KINDS)
def test_two_devices_train_what_one_does(home, quantize, tmp_path):
    found = []
    for devices in (1, 2):
        made = changed(home, quantize, parallel={"devices": devices})
        train(build(made), tmp_path / str(devices), quiet=True)
        found.append(jax.tree.leaves(load(tmp_path / str(devices)).params))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=1e-4)
