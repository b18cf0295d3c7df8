"""What is done with a run whose products are in 8 bits: export, prediction, a NaN that is looked for, the same bits."""

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.errors import UsageError
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.export import export_run
from jaxprop.tools.replay import replay_run
from tests.benches import bits
from tests.run.trained import FEATURES, sections, trained, write_arrays

X = np.random.default_rng(1).normal(size=(5, FEATURES)).astype(np.float32)
NAMES = ("int8", "qat_int8")


@pytest.fixture(scope="module", autouse=True)
def qwix():
    return pytest.importorskip("qwix")


@pytest.fixture(scope="module", params=NAMES)
def run(request, tmp_path_factory):
    return load(trained(tmp_path_factory.mktemp("home"), precision={"quantize": request.param}))


def test_a_program_for_any_number_of_examples_multiplies_as_the_run_does(run, tmp_path):
    from jax import export

    export_run(run, "stablehlo", tmp_path)
    program = export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    found, mine = program.call({"inputs": X}), run.predict({"inputs": X})
    assert "xi8>" in program.mlir_module()
    np.testing.assert_allclose(found["probabilities"].max(-1), mine["probability"], rtol=1e-5)
    assert "in 8 bits" in (tmp_path / "README.md").read_text()


def test_weights_are_those_that_are_trained_and_say_how_they_are_multiplied(run, tmp_path):
    from safetensors import safe_open

    export_run(run, "safetensors", tmp_path)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    np.testing.assert_array_equal(weights["params.head.kernel"], run.params["head"]["kernel"])
    assert f'"name": "{run.config.precision.quantize.name}"' in metadata["config"]


def test_the_export_to_onnx_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"^the export to ONNX computes in float32, and this run .* use --format stab"):
        export_run(run, "onnx", tmp_path)


def quick(folder, name, path=None, **changes):
    """A run of three steps without what is not asked for, on arrays that are there already."""
    changes = {"run": {"steps": 3, "eval_every": 3, "log_every": 1, **changes.pop("run", {})}, **changes}
    made = sections(folder, precision={"quantize": name}, model={"batch_norm": False}, **changes)
    return train(build(made), path or folder / "run", quiet=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_is_found_where_it_began(name, tmp_path):
    write_arrays(tmp_path)
    with np.load(tmp_path / "train.npz") as held:
        arrays = dict(held)
    arrays["inputs"][:, 1] = 3e38  # finite, as are the weights: the sum of the products is not
    np.savez(tmp_path / "train.npz", **arrays)
    quick(tmp_path, name, health={"layers": False, "watch": False})
    found = replay_run(tmp_path / "run").finding
    assert found.layer.startswith("layers/0")
    assert found.primitive in ("dot_general", "mul")


@pytest.mark.parametrize("name", NAMES)
def test_the_bits_do_not_depend_on_the_number_of_devices(name, tmp_path):
    """Beyond one: on that, XLA may turn the division of a row by its scale into a product."""
    write_arrays(tmp_path)
    for devices in (2, 4):
        parallel = {"devices": devices, "deterministic": "across_devices"}
        quick(tmp_path, name, tmp_path / str(devices), parallel=parallel, health={"layers": False, "watch": False})
    assert bits(load(tmp_path / "2").params) == bits(load(tmp_path / "4").params)


MIXED = {
    "policy": "bfloat16", "params": "bfloat16", "overrides": [{"match": "head", "dtype": "float32"}],
    "quantize": "qat_int8",
}  # fmt: skip


@pytest.mark.parametrize("section", [MIXED, {"policy": "float16", "quantize": "int8"}], ids=["mixed", "float16"])
def test_a_run_in_two_parts_is_the_run_in_one(section, tmp_path):
    write_arrays(tmp_path)
    for folder, steps in (("whole", 4), ("parts", 2), ("parts", 4)):
        run = {"steps": steps, "eval_every": 2, "log_every": 1}
        made = sections(tmp_path, precision=section, run=run, health={"layers": False, "watch": False})
        train(build(made), tmp_path / folder, quiet=True)
    assert bits(load(tmp_path / "whole").params) == bits(load(tmp_path / "parts").params)
