"""`jaxprop info`'s figures against ones counted by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.tools import info
from jaxprop.tools.info import describe, describe_devices, describe_layers

CONFIG = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp", "hidden": [16]},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "groups": [{"match": "layers/.*", "freeze": True}]},
    "parallel": {"devices": 1},
    "health": {"layers": False},
    "run": {"epochs": 2, "ema_decay": 0.9},
}
PARAMETERS = 64 * 16 + 16 + 16 * 10 + 10


def with_run(devices=1, **run):
    return build({**CONFIG, "parallel": {"devices": devices}, "run": {**CONFIG["run"], **run}})


@pytest.fixture(scope="module")
def plain():
    return describe(with_run())


def test_layers_and_sizes(plain):
    assert [(layer.name, layer.shapes, layer.dtypes, layer.parameters) for layer in plain.layers] == [
        ("head", {"bias": (10,), "kernel": (16, 10)}, ("float32",), 170),
        ("layers/0/dense", {"bias": (16,), "kernel": (64, 16)}, ("float32",), 1040),
    ]
    assert (plain.parameters, plain.frozen) == (PARAMETERS, 1040)
    assert plain.bytes["params"] == plain.bytes["ema"] == 4 * PARAMETERS
    assert 4 * 170 <= plain.bytes["opt_state"] < 4 * 170 + 64  # the momentum of what is trained, and counters
    assert plain.bytes["extras"] == 0


def test_data_and_reference(plain):
    assert plain.data == {
        "train_examples": 1437,
        "test_examples": 360,
        "batch_size": 64,
        "batches_per_epoch": 23,
        "total_steps": 46,
    }
    assert plain.reference == {"majority_accuracy": pytest.approx(0.1, abs=0.02)}
    assert [(device.platform, device.number) for device in plain.devices] == [("cpu", 1)]


def test_cost(plain):
    # Products alone: two forward, and backward the one for the head's kernel, since what is below it is frozen.
    products = 2 * 64 * (64 * 16 + 16 * 10) + 2 * 64 * 16 * 10
    assert products < plain.cost.flops < 1.3 * products
    assert not plain.cost.loops
    held = 2 * 4 * PARAMETERS + plain.bytes["opt_state"] + 64 * (64 + 1 + 1) * 4
    assert plain.cost.argument_bytes == pytest.approx(held, rel=0.01)
    assert plain.cost.peak_bytes == pytest.approx(plain.cost.argument_bytes + plain.cost.temporary_bytes, rel=0.02)


def test_products_in_8_bits_are_counted(plain):
    pytest.importorskip("qwix")
    assert plain.products == {}
    found = describe(build({**CONFIG, "precision": {"quantize": {"name": "int8", "skip": ["head"]}}}))
    # of each layer one for the outputs, and two for the gradients of kernel and inputs, whether they are used or not
    assert found.products == {"int8": 3, "float32": 3}
    wide = {"policy": "bfloat16", "overrides": [{"match": "head", "dtype": "float32"}]}
    found = describe(build({**CONFIG, "precision": {"quantize": {"name": "int8", "skip": ["head"]}, **wide}}))
    assert found.products == {"int8": 3, "float32": 3}


def test_a_layer_that_is_trained_costs_its_gradient_and_that_of_what_is_above():
    trained = {**CONFIG, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}
    # Backward two products for the head's kernel and input, one for the first kernel.
    products = 2 * 64 * (64 * 16 + 16 * 10) + 2 * 64 * (2 * 16 * 10 + 64 * 16)
    assert products < describe(build(trained)).cost.flops < 1.3 * products


def test_all_microbatches_and_devices_are_counted_and_one_step_of_a_call(plain):
    other = describe(with_run(devices=2, accumulate=4, steps_per_call=2))
    assert other.cost.flops == pytest.approx(plain.cost.flops, rel=0.01)
    assert not other.cost.loops
    half = 32 * (64 + 1 + 1) * 4
    assert plain.cost.argument_bytes - other.cost.argument_bytes == pytest.approx(half, rel=0.01)
    assert [(device.platform, device.number) for device in other.devices] == [("cpu", 2)]
    assert other.data == plain.data


def test_a_recurrent_models_loop_is_told(tmp_path):
    inputs = np.zeros((8, 5, 3), np.float32)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=np.arange(8) % 2)
    arrays = {"name": "arrays", "train": str(tmp_path / "train.npz"), "batch_size": 4}
    model, optimizer = {"name": "rnn", "cell": "elman", "width": 4}, {"name": "sgd", "lr": 0.1}
    found = describe(build({**CONFIG, "data": arrays, "model": model, "optimizer": optimizer, "run": {"steps": 3}}))
    assert found.cost.loops
    assert found.reference == {}
    assert "test_examples" not in found.data


class Backend:
    """A step whose backend tells nothing."""

    compile = lower = lambda self, *arguments: self
    cost_analysis = memory_analysis = lambda self: None
    recipe = SimpleNamespace(gradient=None)

    def __call__(self, state, batch):
        return state


def test_a_backend_that_tells_nothing(monkeypatch):
    compose = info.compose.compose

    def silent(config):
        return compose(config)._replace(step=Backend())

    monkeypatch.setattr(info.compose, "compose", silent)
    assert tuple(describe(with_run()).cost) == (None, False, None, None, None)


def test_layers_of_any_tree():
    tree = {"a": {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}, "scale": jnp.float32(1)}
    assert [tuple(layer) for layer in describe_layers(tree)] == [
        ("a", {"b": (3,), "w": (2, 3)}, ("bfloat16", "float32"), 9),
        ("scale", {"scale": ()}, ("float32",), 1),
    ]


def test_devices_are_counted_by_kind():
    (kind,) = describe_devices(jax.devices())
    assert (kind.platform, kind.number, kind.memory_bytes) == ("cpu", len(jax.devices()), None)


def test_augmentation_is_a_part_of_the_step(plain):
    changes = [{"name": "affine", "degrees": 10}, {"name": "mixup"}]
    found = describe(build({**CONFIG, "data": {**CONFIG["data"], "augment": changes}}))
    assert found.layers == plain.layers
    assert found.cost.flops > plain.cost.flops + 64 * 64 * 8  # four corners of each pixel, weighed and added up
    assert not found.cost.loops


def test_what_moves_which_parameters():
    groups = [{"match": ".*/bias", "lr_scale": 2.0}, {"match": "layers/0/.*", "freeze": True}]
    section = {"name": "muon", "lr": 0.02, "adam_learning_rate": 3e-4, "weight_decay": 0.1, "groups": groups}
    model = {"name": "mlp", "hidden": [16, 16]}
    config = build({**CONFIG, "model": model, "optimizer": section, "run": {"steps": 2}})
    found = {one.paths: one[:5] for one in describe(config).optimizers}
    assert found == {
        ("head/bias", "layers/0/dense/bias", "layers/1/dense/bias"): ("adamw (muon)", ".*/bias", 6e-4, 1.0, 0.0),
        ("head/kernel",): ("adamw (muon)", None, 3e-4, 1.0, 0.0),
        ("layers/0/dense/kernel",): ("frozen", "layers/0/.*", None, 1.0, None),
        ("layers/1/dense/kernel",): ("muon", None, 0.02, 1.0, 0.1),
    }


def test_rates_by_the_width_are_told_with_the_decay_that_they_leave():
    section = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "parametrization": "mup", "base_width": 8}
    model = {"name": "mlp", "hidden": [32, 32]}
    config = build({**CONFIG, "model": model, "optimizer": section, "run": {"steps": 2}})
    found = {path: one for one in describe(config).optimizers for path in one.paths}
    hidden = found["layers/1/dense/kernel"]
    assert (hidden.lr, hidden.by_width, hidden.weight_decay) == pytest.approx((0.0025, 0.25, 0.4))
    assert found["head/bias"][:5] == ("adamw", None, 0.01, 1.0, 0.1)
