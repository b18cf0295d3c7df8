"""Models: the built-in ones by name, and the adapters that take a model of any framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.models.adapters.equinox import from_equinox
from jaxprop.models.adapters.functions import from_functions
from jaxprop.models.adapters.linen import from_linen
from jaxprop.models.adapters.nnx import from_nnx
from jaxprop.models.arguments import arguments_of, caller, expect_read
from jaxprop.models.cnn import Cnn
from jaxprop.models.conformer import Conformer
from jaxprop.models.conv_bilstm import ConvBilstm
from jaxprop.models.detector import Detector
from jaxprop.models.mlp import Mlp
from jaxprop.models.multipliers import built_with, multipliers
from jaxprop.models.own import LossFunction, checked_outputs, no_outputs, own_model
from jaxprop.models.remat import NONE
from jaxprop.models.resnet import ResNet
from jaxprop.models.rnn import Rnn
from jaxprop.models.seq2seq_rnn import Seq2SeqRnn
from jaxprop.models.seq2seq_transformer import Seq2SeqTransformer
from jaxprop.models.stack import scanning
from jaxprop.models.transformer import Transformer
from jaxprop.models.vit import Vit
from jaxprop.types import Model, Spec

__all__ = [
    "MODELS",
    "LossFunction",
    "checked_outputs",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "make_model",
    "module_of",
    "no_outputs",
    "own_model",
]  # fmt: skip

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "resnet": ResNet,
    "vit": Vit,
    "rnn": Rnn,
    "transformer": Transformer,
    "seq2seq_transformer": Seq2SeqTransformer,
    "seq2seq_rnn": Seq2SeqRnn,
    "detector": Detector,
    "conv_bilstm": ConvBilstm,
    "conformer": Conformer,
}


def module_of(
    section: schema.ModelSection, spec: Spec, rngs: nnx.Rngs, base: schema.ModelSection | None = None, **options: Any
) -> nnx.Module:
    """Returns the module of a built-in model.

    Args:
      section: the section `model`.
      spec: what the data look like.
      rngs: random streams.
      base: as of `make_model`.
      **options: of the module, such as `remat`.
    """
    with built_with(multipliers(section, base)):
        return MODELS[section.name](section, spec, rngs=rngs, **options)


def make_model(
    section: schema.ModelSection, spec: Spec, remat: str = NONE, scan_layers: int | None = None, *,
    base: schema.ModelSection | None = None,
) -> Model:  # fmt: skip
    """Builds the model a configuration names.

    The module is called with the batch's `inputs` and with those of `jaxprop.models.arguments.ARGUMENTS` that its call
    has: `weight`, `mask`, `categories`.

    Args:
      section: the section `model`.
      spec: what the data look like.
      remat: which activations the backward pass computes again, `run.remat`.
      scan_layers: how many layers that are alike are still compiled one by one, and no scan; 0 for all, None for what
        measured best, see `jaxprop.models.stack.scanning`.
      base: the same model of the width at which it is as usual, for rates that hold at every width; default: this one.

    Returns:
      A `Model`.

    Raises:
      ShapeError: the data's inputs do not suit the model.
      ConfigError: the section's sizes do not fit together.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {"classes": 10})
      >>> model = make_model(schema.Mlp(name="mlp", hidden=(16,)), spec)
      >>> params, extras = jax.jit(model.init)(jax.random.key(0), {"inputs": jnp.ones((2, 8, 8, 1))})
      >>> sorted(params)
      ['head', 'layers']
    """
    make = MODELS[section.name]
    names = arguments_of(make)
    expect_read(names, spec, section.name)
    # Weights keep padded examples out of batch statistics; a model without any has no use for them.
    if not (getattr(section, "batch_norm", False) or getattr(section, "norm", "") == "batch"):
        names = tuple(name for name in names if name != "weight")
    model = from_nnx(lambda rngs: module_of(section, spec, rngs, base, remat=remat), caller(names), taps=False)

    def apply(*args: Any, **options: Any) -> Any:
        with scanning(scan_layers):
            return model.apply(*args, **options)

    return model if scan_layers is None else model._replace(apply=apply)
