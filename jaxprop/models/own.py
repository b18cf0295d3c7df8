"""A model of the user's own code: a module of any framework, a `Model`, or a pair of functions. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import nnx

from jaxprop.code.load import Code
from jaxprop.errors import JaxpropError
from jaxprop.models.adapters.equinox import from_equinox
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.linen import from_linen
from jaxprop.models.adapters.nnx import from_nnx
from jaxprop.models.adapters.shared import MODES, parameters_of
from jaxprop.types import Batch, Model, PyTree, Spec

KINDS = (
    "an NNX, Linen or Equinox module, a jaxprop Model, a pair (init, apply), or a pair (init, loss_fn) where "
    "loss_fn(params, batch, key) is the loss"
)

# Arguments of a `__call__` that the adapters give by name, besides those of `MODES`.
GIVEN = (*MODES, "rngs", "key", "state")


class LossFunction(NamedTuple):
    """A model that is its own loss.

    Args:
      init: `(key, batch) -> params`.
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`, as `jaxprop.make_train_step` takes it.
    """

    init: Callable[..., PyTree]
    loss_fn: Callable[..., Any]

    def model(self) -> Model:
        """Returns a `Model` that makes the parameters and has no outputs."""
        return Model(lambda key, batch: (jax.tree.map(jax.numpy.asarray, self.init(key, batch)), {}), no_outputs)


def no_outputs(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> Any:
    """Raises JaxpropError: a loss function has no outputs to be shown or predicted with."""
    del params, extras, batch, key, train
    raise JaxpropError(
        "the model is a loss function, which has no outputs; for predictions, return (init, apply) instead, with "
        "apply(params, extras, batch, *, key, train) -> (outputs, extras)"
    )


def own_model(code: Code, spec: Spec) -> Model | LossFunction:
    """Makes a model of what a class or function of the user's returns.

    It is called with the arguments of its section, and with those of `rngs` (NNX), `key` (Equinox), `spec`, `classes`,
    `targets`, `vocabulary` and `input_shape` that its signature has.

    Args:
      code: the class or function.
      spec: what the data look like.

    Returns:
      A `Model`; or a `LossFunction`, where it returns one.

    Raises:
      ConfigError: it raises an error, or returns something else.
    """
    shape = getattr(spec.batch.get("inputs"), "shape", None)
    known = {"spec": spec, **spec.sizes} | ({} if shape is None else {"input_shape": tuple(shape)})

    def make(**drawn: Any) -> Any:
        return code(**known, **drawn)

    made = _kind_of(make)
    if isinstance(made, nnx.Module | nn.Module) or _is_equinox(made):
        _check_call(code, made[0] if isinstance(made, tuple) else made)
    if isinstance(made, nnx.Module):
        return from_nnx(lambda rngs: make(rngs=rngs))
    if isinstance(made, nn.Module):
        return from_linen(make())
    if _is_equinox(made):
        return from_equinox(lambda key: make(key=key))
    if isinstance(made, Model | tuple):
        # Anew, since what was made above may hold on to a trace that has ended.
        made = make(rngs=nnx.Rngs(0), key=jax.random.key(0))
    if isinstance(made, Model):
        return made
    if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
        init, function = made
        return from_functions(init, function) if _is_apply(function) else LossFunction(init, function)
    raise code.wrong(f"expected {code.section.name} to return {KINDS}; got {type(made).__name__}")


def _check_call(code: Code, module: Any) -> None:
    """Raises ConfigError where a module's `__call__` cannot be called with the inputs, or with the batch, alone."""
    kind = type(module)
    if not any("__call__" in vars(base) for base in kind.__mro__):
        raise code.wrong(f"{kind.__name__} has no __call__; give it one that takes the inputs, as in __call__(self, x)")
    function = kind.__call__
    parameters = [p for p in [*inspect.signature(function).parameters.values()][1:] if p.name not in GIVEN]
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    more = [p.name for p in parameters if p not in taken[:1] and p.default is p.empty and p.kind not in optional]
    if taken and not more:
        return
    what = f"also needs {', '.join(more)}" if taken else "takes no inputs"
    raise code.wrong(
        f"{kind.__name__}.__call__{line_of(function)} {what}, but it is called with the inputs alone; let it take one "
        "argument, and call that batch where it needs more than batch['inputs']"
    )


def line_of(function: Any) -> str:
    """Returns where a function, or the call of a class, begins: ` (net.py:7)`; empty where that is not known."""
    if isinstance(function, type):
        function = vars(function).get("__call__")
    source = getattr(inspect.unwrap(function), "__code__", None)
    if source is None:
        return ""
    file = source.co_filename.rsplit("/", 1)[-1]
    return f" ({file}:{source.co_firstlineno})"


def checked_outputs(model: Model, code: Code) -> Model:
    """Returns a model whose outputs must be what the losses of jaxprop take, and no tuple.

    Args:
      model: of the user's own.
      code: that made it.

    Raises:
      ConfigError: when traced, if the outputs are a tuple.
    """

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> Any:
        outputs, extras = model.apply(params, extras, batch, key=key, train=train)
        if type(outputs) is tuple:  # Linen's sown values come in a tuple of their own
            raise code.wrong(
                f"expected {code.section.name} to give the outputs, such as logits [B, classes]; its call"
                f"{line_of(code.target)} returned a tuple of {len(outputs)}; return one array, or set task.loss to a "
                "function of your own"
            )
        return outputs, extras

    return model._replace(apply=apply)


def _kind_of(make: Callable[..., Any]) -> Any:
    """What `make` returns, made in a trace, so that no array is computed for it."""
    made = []

    def trace() -> None:
        made.append(make(rngs=nnx.Rngs(0), key=jax.random.key(0)))

    jax.eval_shape(trace)
    return made[0]


def _is_equinox(made: Any) -> bool:
    """Whether this is an Equinox module, alone or with a state; told by the classes, since Equinox may be missing."""
    if type(made) is tuple and len(made) == 2 and type(made[1]).__name__ == "State":
        made = made[0]
    return any(kind.__module__.partition(".")[0] == "equinox" for kind in type(made).__mro__)


def _is_apply(function: Callable[..., Any]) -> bool:
    """Whether this is `apply(params, extras, batch, *, key, train)`, and not `loss_fn(params, batch, key)`."""
    return "train" in parameters_of(function) or "extras" in parameters_of(function)
