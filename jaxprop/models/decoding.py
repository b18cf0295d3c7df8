"""Language models read token by token: what was read is kept, so that a further token costs no second reading. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxprop.config.schema import model as schema
from jaxprop.errors import UsageError
from jaxprop.models import MODELS
from jaxprop.models.adapters.nnx import from_nnx
from jaxprop.types import PyTree, Spec

DECODERS = ("transformer", "rnn")


class Decoder(NamedTuple):
    """A language model that goes on reading.

    Args:
      room: `(params, extras, size, length) -> held`, before the first of `length` tokens of `size` sequences.
      extend: `(params, extras, tokens [B, t], held, start) -> (logits [B, t, V], held)`; `start` tokens came before.
    """

    room: Callable[[PyTree, PyTree, int, int], Any]
    extend: Callable[[PyTree, PyTree, jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


def make_decoder(section: schema.ModelSection, spec: Spec) -> Decoder:
    """Builds the decoder of a built-in language model; its parameters are those of `make_model`.

    Args:
      section: the section `model`.
      spec: tokens `[T]` as `inputs`, and their `vocabulary`.

    Raises:
      UsageError: the model is none that reads token by token.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprop.models import make_model
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((16,), jnp.int32)}, {"vocabulary": 11})
      >>> section = schema.Transformer(name="transformer", layers=1, width=8, heads=2)
      >>> params, extras = make_model(section, spec).init(jax.random.key(0), {"inputs": jnp.zeros((1, 16), jnp.int32)})
      >>> decoder = make_decoder(section, spec)
      >>> held = decoder.room(params, extras, 1, 16)
      >>> logits, held = decoder.extend(params, extras, jnp.array([[3, 4]]), held, jnp.int32(0))
      >>> logits.shape
      (1, 2, 11)
    """
    name = getattr(section, "name", "class")
    if name not in DECODERS:
        raise UsageError(
            f"a model {name} writes no text; models that do are {' and '.join(DECODERS)}, of the task language"
        )

    def module(rngs: Any) -> Any:
        return MODELS[name](section, spec, rngs=rngs)

    extending = from_nnx(module, lambda module, batch: module.extend(*batch), taps=False)

    def room(params: PyTree, extras: PyTree, size: int, length: int) -> Any:
        making = from_nnx(module, lambda module, _: module.room(size, length), taps=False)
        return making.apply(params, extras, (), key=None, train=False)[0]

    def extend(params: PyTree, extras: PyTree, tokens: jax.Array, held: Any, start: jax.Array) -> tuple[jax.Array, Any]:
        return extending.apply(params, extras, (tokens, held, start), key=None, train=False)[0]

    return Decoder(room, extend)
