"""jaxprop: functional training on JAX.

Public names load on first use, so that the command line can answer `--help` and `validate` without importing jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprop.eval_step import make_eval_step
    from jaxprop.gradient_check.check import gradcheck
    from jaxprop.losses import loss_from
    from jaxprop.models.adapters import from_equinox, from_functions, from_linen, from_nnx
    from jaxprop.parallel import make_mesh
    from jaxprop.state import init_state
    from jaxprop.step import make_train_step
    from jaxprop.taps import tap
    from jaxprop.types import Measurements, Model, TrainState

__version__ = "0.1.0"

_HOME = {
    "Measurements": "types",
    "Model": "types",
    "TrainState": "types",
    "from_equinox": "models.adapters",
    "from_functions": "models.adapters",
    "from_linen": "models.adapters",
    "from_nnx": "models.adapters",
    "gradcheck": "gradient_check.check",
    "init_state": "state",
    "loss_from": "losses",
    "make_eval_step": "eval_step",
    "make_mesh": "parallel",
    "make_train_step": "step",
    "tap": "taps",
}

__all__ = [
    "Measurements",
    "Model",
    "TrainState",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "gradcheck",
    "init_state",
    "loss_from",
    "make_eval_step",
    "make_mesh",
    "make_train_step",
    "tap",
]


def __getattr__(name: str) -> Any:
    if name == "health":
        return importlib.import_module("jaxprop.health")
    if name not in _HOME:
        raise AttributeError(f"module 'jaxprop' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxprop.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
