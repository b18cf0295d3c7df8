"""Weights in a safetensors file: every array by its name, loaded and computed with where there is no jaxprop."""

import json

import jax
import numpy as np
import pytest

from jaxprop.errors import UsageError
from jaxprop.run.loaded import load
from jaxprop.tools.export import export_run
from jaxprop.tools.export.weights import named_arrays
from tests.run.trained import FEATURES, trained
from tests.tools.export.alone import result_of

X = np.random.default_rng(3).normal(size=(6, FEATURES)).astype(np.float32)
FORWARD = """\
import json
import numpy as np
from safetensors import safe_open

with safe_open("model.safetensors", "numpy") as file:
    metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
x = np.load("x.npy")
layer = "params.layers.0"
x = x @ weights[layer + ".dense.kernel"]
mean, var = weights["extras.layers.0.norm.mean"], weights["extras.layers.0.norm.var"]
x = (x - mean) / np.sqrt(var + 1e-5) * weights[layer + ".norm.scale"] + weights[layer + ".norm.bias"]
x = np.maximum(x, 0) @ weights["params.head.kernel"] + weights["params.head.bias"]
print(json.dumps({"class": x.argmax(-1).tolist(), "metadata": metadata, "names": sorted(weights)}))
"""


@pytest.mark.parametrize("ema", [True, False])
def test_a_network_computed_from_the_file_alone(tmp_path, ema):
    run = load(trained(tmp_path), ema=ema)
    export_run(run, "safetensors", tmp_path / "out")
    np.save(tmp_path / "out" / "x.npy", X)
    found = result_of(FORWARD, tmp_path / "out")
    assert found["class"] == run.predict(X)["class"].tolist()
    assert found["names"] == sorted(named_arrays(run.params, run.extras))
    metadata = found["metadata"]
    assert json.loads(metadata["config"])["model"]["hidden"] == [8]
    assert metadata["data_fingerprint"] == run.opened.prepared.fingerprint
    assert (metadata["step"], metadata["checkpoint"]) == (str(run.step), "best")


def test_names_that_collide_and_arrays_that_are_no_numbers():
    with pytest.raises(UsageError, match=r"two arrays of the model are called 'params.a.b'"):
        named_arrays({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, {})
    arrays = named_arrays(
        {"w": jax.numpy.ones((2, 3), jax.numpy.bfloat16)}, {"rng": jax.random.key(0), "n": np.int32(3)}
    )
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "params.w": ("bfloat16", (2, 3)),
        "extras.n": ("int32", ()),
    }


def test_bfloat16_and_scalars_survive_the_file(tmp_path):
    from safetensors.flax import load_file
    from safetensors.numpy import save

    arrays = named_arrays({"w": jax.numpy.ones((2, 3), jax.numpy.bfloat16)}, {"n": np.int32(3)})
    (tmp_path / "a.safetensors").write_bytes(save(arrays))
    back = load_file(tmp_path / "a.safetensors")
    assert back["params.w"].dtype == jax.numpy.bfloat16
    assert back["extras.n"].shape == ()
