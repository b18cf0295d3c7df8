"""Weights as a safetensors file: arrays by dotted names, and what they belong to as metadata."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.dump import to_builtins
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError
from jaxprop.run.loaded import LoadedRun
from jaxprop.tools.export.format import Made
from jaxprop.version import __version__

FILE = "model.safetensors"
LOADING = """\
from safetensors import safe_open

with safe_open("model.safetensors", "numpy") as file:
    metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
print(metadata["class_names"], {name: array.shape for name, array in weights.items()})
"""
QUANTIZED = (
    "These are the weights as they were trained. In each product they were rounded to 8 bits ({}), so that a program "
    "which does not do so predicts slightly other values."
)


def make_safetensors(run: LoadedRun, batch_size: int | None = None) -> Made:
    """Returns the weights of a run as the content of a safetensors file.

    The names are `params.` or `extras.` and the path of the array with dots. Metadata hold the configuration, the
    names of classes and targets, and where the weights come from, as JSON.

    Args:
      run: the run.
      batch_size: weights have none.

    Raises:
      UsageError: two arrays have one name.

    Reference:
      https://github.com/huggingface/safetensors
    """
    from safetensors.numpy import save

    if batch_size is not None:
        raise UsageError("weights have no batch size; leave --batch-size out")
    quantize = run.opened.config.precision.quantize
    notes = () if quantize is None else (QUANTIZED.format(quantize.name),)
    return Made(FILE, save(named_arrays(run.params, run.extras), metadata_of(run)), LOADING, {}, {}, notes)


def metadata_of(run: LoadedRun) -> dict[str, str]:
    """Returns what a file says of a run's weights: their configuration, names, and where they come from, as JSON."""
    return {
        "format": "np",
        "jaxprop": __version__,
        "task": run.opened.config.task.name,
        "step": str(run.step),
        "checkpoint": run.opened.which,
        "config": json.dumps(to_builtins(run.opened.config)),
        "class_names": json.dumps(run.info.get("class_names")),
        "target_names": json.dumps(run.info.get("target_names")),
        "data_fingerprint": run.opened.prepared.fingerprint,
    }


def named_arrays(params: Any, extras: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of parameters and extras by dotted names; random keys among the extras are left out.

    Args:
      params, extras: of a model.

    Raises:
      UsageError: two arrays have one name.

    Example:
      >>> sorted(named_arrays({"head": {"kernel": jnp.ones((2, 3))}}, {"norm": {"mean": jnp.zeros(2)}}))
      ['extras.norm.mean', 'params.head.kernel']
    """
    arrays: dict[str, np.ndarray] = {}
    for part, tree in (("params", params), ("extras", extras)):
        for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                continue
            name = f"{part}.{path.replace('/', '.')}"
            if name in arrays:
                raise UsageError(f"two arrays of the model are called {name!r}; give them names without dots")
            arrays[name] = np.array(leaf, order="C")
    return arrays
