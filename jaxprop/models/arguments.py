"""What a built-in model is handed of a batch besides its inputs. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.core.examples import row_weights
from jaxprop.errors import ShapeError
from jaxprop.models.adapters.shared import parameters_of
from jaxprop.models.layers import each_token, is_integer
from jaxprop.types import Batch, Spec


def token_mask(batch: Batch) -> jax.Array | None:
    """Returns which positions of the inputs are real, boolean `[B, T]`; None where all are.

    Args:
      batch: `inputs` `[B, T, ...]`; if present, `input_mask` `[B, T]`; else `mask` `[B, T]`, which is of the inputs
        where these are tokens of the same shape, and otherwise `lengths` `[B]`, the number of real positions, which
        come first.

    Example:
      >>> batch = {"inputs": jnp.zeros((2, 3), jnp.int32), "lengths": jnp.array([1, 3])}
      >>> token_mask(batch).tolist()
      [[True, False, False], [True, True, True]]
    """
    inputs, mask, lengths = jnp.asarray(batch["inputs"]), batch.get("mask"), batch.get("lengths")
    if batch.get("input_mask") is not None:
        return jnp.asarray(batch["input_mask"]) != 0
    if mask is not None and is_integer(inputs.dtype) and jnp.shape(mask) == inputs.shape:
        return jnp.asarray(mask) != 0
    if lengths is None:
        return None
    lengths = jnp.asarray(lengths)
    if lengths.shape != inputs.shape[:1] or inputs.ndim < 2:
        raise ShapeError(
            f"expected lengths {list(inputs.shape[:1])}, one for each sequence of the inputs {list(inputs.shape)}, "
            f"got {list(lengths.shape)}"
        )
    return jnp.arange(inputs.shape[1], dtype=lengths.dtype) < lengths[:, None]


def masks_tokens(spec: Spec) -> bool:
    """Whether a batch's `mask` says which tokens of the inputs are real, rather than which answers count.

    It is so where an example has one answer, and the mask has the shape of its tokens.

    Args:
      spec: what the data look like.

    Example:
      >>> tokens, mask = jax.ShapeDtypeStruct((5,), jnp.int32), jax.ShapeDtypeStruct((5,), jnp.float32)
      >>> masks_tokens(Spec({"inputs": tokens, "mask": mask}, {"vocabulary": 9, "classes": 2}))
      True
      >>> masks_tokens(Spec({"inputs": tokens, "mask": mask}, {"vocabulary": 9}))
      False
    """
    inputs, mask = spec.batch.get("inputs"), spec.batch.get("mask")
    if inputs is None or mask is None or each_token(spec):
        return False
    return len(inputs.shape) == 1 and is_integer(inputs.dtype) and mask.shape == inputs.shape


def categories(batch: Batch) -> jax.Array | None:
    """Returns the batch's `categories`, integers `[B, K]`, or None.

    Example:
      >>> categories({"inputs": jnp.zeros((2, 3))}) is None
      True
    """
    return batch.get("categories")


def targets(batch: Batch) -> jax.Array:
    """Returns the tokens that were written before each label, `[B, T]`.

    Example:
      >>> targets({"inputs": jnp.zeros((1, 3), jnp.int32), "targets": jnp.array([[0, 7]])}).tolist()
      [[0, 7]]
    """
    return batch["targets"]


def _held(name: str) -> Callable[[Batch], jax.Array | None]:
    return lambda batch: batch.get(name)


# By the name of the argument in a module's call, what it is given.
ARGUMENTS: dict[str, Callable[[Batch], jax.Array | None]] = {
    "targets": targets,
    "weight": row_weights,
    "mask": token_mask,
    "categories": categories,
    "token_types": _held("token_types"),
    "input_lengths": _held("input_lengths"),  # of audio, in samples
    "masked_bands": _held("masked_bands"),  # of `jaxprop.data.augment.spec_augment`
    "masked_times": _held("masked_times"),
}


def arguments_of(module: Any) -> tuple[str, ...]:
    """Returns the names of `ARGUMENTS` that the call of a module's class has.

    Example:
      >>> from jaxprop.models.mlp import Mlp
      >>> arguments_of(Mlp)
      ('weight', 'categories')
    """
    accepted = parameters_of(module.__call__)
    return tuple(name for name in ARGUMENTS if name in accepted)


def caller(names: tuple[str, ...]) -> Callable[[Any, Batch], Any]:
    """Returns how a module is called that is handed these arguments: `(module, batch) -> outputs`.

    Args:
      names: of `ARGUMENTS`.

    Example:
      >>> caller(("weight",))(lambda x, weight: weight, {"inputs": jnp.ones(2), "weight": jnp.zeros(2)}).tolist()
      [0.0, 0.0]
    """

    def call(module: Any, batch: Batch) -> Any:
        return module(batch["inputs"], **{name: ARGUMENTS[name](batch) for name in names})

    return call


def expect_read(names: tuple[str, ...], spec: Spec, model: str) -> None:
    """Raises ShapeError where the data have categories, or padding among their tokens, that the model would not read.

    Example:
      >>> expect_read(("categories",), Spec({}, {"categories": (3, 5)}), "mlp")
    """
    if "categories" in spec.sizes and "categories" not in names:
        raise ShapeError(
            f"model {model} does not read categories, and the data have {len(spec.sizes['categories'])} columns of "
            "them; use model.name: mlp"
        )
    if masks_tokens(spec) and "mask" not in names:
        raise ShapeError(
            f"model {model} does not read tokens, and the data are padded sequences of them; use model.name: rnn or "
            "transformer"
        )
