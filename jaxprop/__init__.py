"""jaxprop: training on JAX that measures how gradients behave in every layer.

`make_train_step` makes a compiled train step from a loss function and an optax optimizer. `from_nnx`, `from_linen`,
`from_equinox` and `from_functions` turn a model of another framework into a pair of pure functions, and `loss_from`
binds it to a loss. `fit` runs the loop of the command line around them, and `load` opens a trained run for predictions
and analysis. `jaxprop.health` has the early warning and `find_nonfinite`, which finds the origin of a NaN.

Public names are imported on first use, so that `jaxprop --help` and `jaxprop validate` do not import jax.
"""

from __future__ import annotations

import os
import sys

# `python -m jaxprop` puts the working directory in front of everything that is installed. Where that is a run's folder,
# a `jax.py` in it would be run in place of jax. Python's own -P does the same, from its start.
if sys.argv[:1] == ["-m"] and sys.path and not sys.flags.safe_path and os.path.abspath(sys.path[0]) == os.getcwd():
    sys.path.pop(0)
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == os.getcwd():
        sys.path.append(os.getcwd())  # a checkout that may not be installed, behind everything else

import importlib
from typing import TYPE_CHECKING, Any

from jaxprop.version import __version__ as __version__

if TYPE_CHECKING:
    from jaxprop.core.measurements import Measurements
    from jaxprop.core.precision import Override, Policy, Scaling, policy
    from jaxprop.core.taps import tap
    from jaxprop.models.adapters.equinox import from_equinox
    from jaxprop.models.adapters.functions import from_functions
    from jaxprop.models.adapters.linen import from_linen
    from jaxprop.models.adapters.nnx import from_nnx
    from jaxprop.models.lora import is_adapter, lora, merge_lora
    from jaxprop.models.quantized import quantized
    from jaxprop.parallel.mesh import make_mesh
    from jaxprop.parallel.placement import place_batch
    from jaxprop.parallel.rules import Rule
    from jaxprop.run.allocator import restart_with_allocator
    from jaxprop.run.fit import Fitted, fit
    from jaxprop.run.loaded import load
    from jaxprop.run.processes import start_processes
    from jaxprop.tools.gradcheck.check import gradcheck
    from jaxprop.train.averages import Swa
    from jaxprop.train.distillation import Teacher
    from jaxprop.train.estimators import estimator
    from jaxprop.train.eval_step import make_eval_step
    from jaxprop.train.make import make_train_step
    from jaxprop.train.objective import loss_from
    from jaxprop.train.state import init_state
    from jaxprop.types import Model, TrainState

_HOME = {
    "Fitted": "run.fit",
    "Measurements": "core.measurements",
    "Model": "types",
    "Override": "core.precision",
    "Policy": "core.precision",
    "Scaling": "core.precision",
    "Rule": "parallel.rules",
    "Swa": "train.averages",
    "Teacher": "train.distillation",
    "TrainState": "types",
    "estimator": "train.estimators",
    "fit": "run.fit",
    "from_equinox": "models.adapters.equinox",
    "from_functions": "models.adapters.functions",
    "from_linen": "models.adapters.linen",
    "from_nnx": "models.adapters.nnx",
    "gradcheck": "tools.gradcheck.check",
    "init_state": "train.state",
    "is_adapter": "models.lora",
    "load": "run.loaded",
    "lora": "models.lora",
    "loss_from": "train.objective",
    "make_eval_step": "train.eval_step",
    "make_mesh": "parallel.mesh",
    "make_train_step": "train.make",
    "merge_lora": "models.lora",
    "place_batch": "parallel.placement",
    "policy": "core.precision",
    "quantized": "models.quantized",
    "restart_with_allocator": "run.allocator",
    "start_processes": "run.processes",
    "tap": "core.taps",
}

# Rooms that a library user needs besides; each is imported on first use, too.
ROOMS = ("checkpoint", "data", "health", "losses", "metrics", "sinks")

__all__ = [
    "Fitted",
    "Measurements",
    "Model",
    "Override",
    "Policy",
    "Rule",
    "Scaling",
    "Swa",
    "Teacher",
    "TrainState",
    "estimator",
    "fit",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "gradcheck",
    "init_state",
    "is_adapter",
    "load",
    "lora",
    "loss_from",
    "make_eval_step",
    "make_mesh",
    "make_train_step",
    "merge_lora",
    "place_batch",
    "policy",
    "quantized",
    "restart_with_allocator",
    "start_processes",
    "tap",
]


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return importlib.import_module(f"jaxprop.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'jaxprop' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxprop.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
