"""Models that go on writing: what was read is kept, so that a further token costs no second reading. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.config.schema import model as schema
from jaxprop.config.schema.quantize import Quantize
from jaxprop.errors import UsageError
from jaxprop.models import module_of
from jaxprop.models.adapters.nnx import from_nnx
from jaxprop.models.arguments import token_mask
from jaxprop.models.quantized import with_products
from jaxprop.types import Batch, Model, PyTree, Spec

DECODERS = ("transformer", "rnn")
WRITERS = ("seq2seq_transformer", "seq2seq_rnn")


class Decoder(NamedTuple):
    """A language model that goes on reading.

    Args:
      room: `(params, extras, size, length) -> held`, before the first of `length` tokens of `size` sequences.
      extend: `(params, extras, tokens [B, t], held, start) -> (logits [B, t, V], held)`; `start` tokens came before.
    """

    room: Callable[[PyTree, PyTree, int, int], Any]
    extend: Callable[[PyTree, PyTree, jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


def make_decoder(
    section: schema.ModelSection, spec: Spec, quantize: Quantize | None = None, base: schema.ModelSection | None = None
) -> Decoder:
    """Builds the decoder of a built-in language model; its parameters are those of `make_model`.

    Args:
      section: the section `model`.
      spec: tokens `[T]` as `inputs`, and their `vocabulary`.
      quantize: the section `precision.quantize`.
      base: as of `jaxprop.models.make_model`.

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
        return module_of(section, spec, rngs, base)

    extending = _quantized(from_nnx(module, lambda module, batch: module.extend(*batch), taps=False), quantize)

    def room(params: PyTree, extras: PyTree, size: int, length: int) -> Any:
        making = from_nnx(module, lambda module, _: module.room(size, length), taps=False)
        return making.apply(params, extras, (), key=None, train=False)[0]

    def extend(params: PyTree, extras: PyTree, tokens: jax.Array, held: Any, start: jax.Array) -> tuple[jax.Array, Any]:
        logits, kept = extending.apply(params, extras, (tokens, held, start), key=None, train=False)[0]
        return logits, _as_before(kept, held)

    return Decoder(room, extend)


class Writer(NamedTuple):
    """A model that reads a source, and writes a target from it.

    Args:
      read: `(params, extras, batch, length) -> (source, held)`: what is kept of the sources, and of the targets before
        the first of their `length` tokens, trees of arrays `[B, ...]`. Targets and labels of the batch are not read.
      extend: `(params, extras, tokens [B, t], source, held, start) -> (logits [B, t, V], held)`; `start` tokens came
        before.
      attend: `(params, extras, batch) -> shares [B, T, S]`, how much each token of `targets` attends to each of
        `inputs`; None for a model that does not say.
    """

    read: Callable[[PyTree, PyTree, Batch, int], tuple[PyTree, PyTree]]
    extend: Callable[[PyTree, PyTree, jax.Array, PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]]
    attend: Callable[[PyTree, PyTree, Batch], jax.Array] | None


def make_writer(
    section: schema.ModelSection, spec: Spec, model: Model, quantize: Quantize | None = None,
    base: schema.ModelSection | None = None,
) -> Writer:  # fmt: skip
    """Builds the writer of a model of pairs; its parameters are those of `make_model`.

    A model of the user's own is applied to the whole target for each of its tokens.

    Args:
      section: the section `model`.
      spec: tokens `[S]` as `inputs` and `[T]` as `targets`, and their `vocabulary`.
      model: of the section.
      quantize: the section `precision.quantize`.
      base: as of `jaxprop.models.make_model`.

    Example:
      >>> from jaxprop.models import make_model
      >>> tokens = {"inputs": jax.ShapeDtypeStruct((8,), jnp.int32), "targets": jax.ShapeDtypeStruct((5,), jnp.int32)}
      >>> section, spec = schema.Seq2SeqRnn(name="seq2seq_rnn", width=4), Spec(tokens, {"vocabulary": 11})
      >>> batch, model = {"inputs": jnp.ones((2, 8), jnp.int32)}, make_model(section, spec)
      >>> params, extras = model.init(jax.random.key(0), batch)
      >>> writer = make_writer(section, spec, model)
      >>> source, held = writer.read(params, extras, batch, 5)
      >>> writer.extend(params, extras, jnp.array([[3], [4]]), source, held, jnp.int32(0))[0].shape
      (2, 1, 11)
    """
    name = getattr(section, "name", "class")
    if name not in WRITERS:
        return _reading_again(model)

    def module(rngs: Any) -> Any:
        return module_of(section, spec, rngs, base)

    def applied(call: Callable[..., Any], params: PyTree, extras: PyTree, given: Any) -> Any:
        applying = _quantized(from_nnx(module, call, taps=False), quantize)
        return applying.apply(params, extras, given, key=None, train=False)[0]

    def read(params: PyTree, extras: PyTree, batch: Batch, length: int) -> tuple[PyTree, PyTree]:
        return applied(lambda m, b: m.read(b["inputs"], token_mask(b), length), params, extras, _source(batch))

    def extend(
        params: PyTree, extras: PyTree, tokens: jax.Array, source: PyTree, held: PyTree, start: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        logits, kept = applied(lambda m, given: m.extend(*given), params, extras, (tokens, source, held, start))
        return logits, _as_before(kept, held)

    def attend(params: PyTree, extras: PyTree, batch: Batch) -> jax.Array:
        source = {**_source(batch), "targets": batch["targets"]}
        return applied(lambda m, b: m.attend(b["inputs"], b["targets"], token_mask(b)), params, extras, source)

    return Writer(read, extend, attend)


def _as_before(kept: PyTree, held: PyTree) -> PyTree:
    """What a model keeps, in the dtypes of before: a layer with one of its own hands its states on as they are."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), kept, held)


def _quantized(model: Model, quantize: Quantize | None) -> Model:
    """The model with the products that it was trained with; one call of it calls a part of its layers."""
    return model if quantize is None else with_products(model, quantize, whole=False)


def _source(batch: Batch) -> Batch:
    """What of a batch is known before its target; `mask` is of the labels."""
    return {name: value for name, value in batch.items() if name not in ("targets", "labels", "mask")}


def _reading_again(model: Model) -> Writer:
    def read(params: PyTree, extras: PyTree, batch: Batch, length: int) -> tuple[PyTree, PyTree]:
        del params, extras
        return _source(batch), jnp.zeros((jnp.shape(batch["inputs"])[0], length), jnp.int32)

    def extend(
        params: PyTree, extras: PyTree, tokens: jax.Array, source: PyTree, held: PyTree, start: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        held = jax.lax.dynamic_update_slice(held, tokens, (0, start))
        logits, _ = model.apply(params, extras, {**source, "targets": held}, key=None, train=False)
        return jax.lax.dynamic_slice_in_dim(logits, start, tokens.shape[1], 1), held

    return Writer(read, extend, None)
