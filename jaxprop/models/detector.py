"""Anchor-free detector: a convolutional network, a feature pyramid, and heads that its levels share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.core.taps import tap
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.layers import (
    ACTIVATIONS,
    INITS,
    TAP_KINDS,
    GroupNorm,
    Initializer,
    answers,
    as_numbers,
    image_shape,
)
from jaxprop.models.remat import NONE, call
from jaxprop.types import Spec

# A class scores its prior at first, at every point; a box has three strides a side, as those of its level have.
CLASSES_STD, LOG_SIDE = 0.01, math.log(3)


class ConvLayer(nnx.Module):
    """Convolution of 3 x 3 pixels, GroupNorm, activation; `name` is its tap's."""

    def __init__(self, name: str, n_in: int, n_out: int, config: schema.Detector, *, stride: int, rngs: nnx.Rngs):
        self.name, self.kind = name, TAP_KINDS.get(config.activation, "")
        self.conv = nnx.Conv(
            n_in, n_out, (3, 3), (stride, stride),
            padding=((1, 1), (1, 1)), use_bias=False, kernel_init=INITS[config.init], rngs=rngs,
        )  # fmt: skip
        self.norm = GroupNorm(n_out, config.groups)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        return tap(self.activation(self.norm(self.conv(x))), self.name, self.kind)


class Head(nnx.Module):
    """Convolutions with norm and activation, then one without; levels share it, so each tap sees all of them.

    Args:
      name: of its taps.
      init: of the kernel of the last convolution.
      bias: initial values of its bias, one an output.
      config: the section `model`.
      rngs: random streams.
    """

    def __init__(self, name: str, init: Initializer, bias: Sequence[float], config: schema.Detector, *, rngs: nnx.Rngs):
        width = config.pyramid
        self.layers = nnx.List(
            [
                ConvLayer(f"{name}/layers/{i}", width, width, config, stride=1, rngs=rngs)
                for i in range(config.head_depth)
            ]
        )
        self.out = nnx.Conv(
            width, len(bias), (3, 3), kernel_init=init, rngs=rngs,
            bias_init=lambda _key, _shape, dtype: jnp.array(bias, dtype),
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(self.layers):
            x = call(layer, NONE, f"layers/{i}", x)
        with jax.named_scope("out"):
            return self.out(x)


class Detector(nnx.Module):
    """Stages that halve the image, a pyramid over the last of them, and two heads, for classes and for boxes.

    A level of the pyramid adds to the stage's features those of the next coarser level, twice as large. Its outputs are
    levels as `jaxprop.core.detections` reads them.

    Args:
      config: the section `model` of the configuration.
      spec: images `[H, W, C]` or `[H, W]` as `inputs`; `classes` K.
      rngs: random streams.
      remat: policy of rematerialization; its units are the stages.

    Raises:
      ShapeError: the inputs are not images, or smaller than one cell of the coarsest level.
      ConfigError: there are fewer stages than levels, or the groups do not divide a width.

    Example:
      >>> spec = Spec({"inputs": jax.ShapeDtypeStruct((32, 48, 3), jnp.float32)}, {"classes": 5})
      >>> config = schema.Detector(name="detector", widths=(8, 8, 16), pyramid=8, groups=4)
      >>> images = jnp.ones((2, 32, 48, 3))
      >>> levels = nnx.eval_shape(lambda: Detector(config, spec, rngs=nnx.Rngs(0))(images))
      >>> [level["logits"].shape for level in levels], levels[0]["offsets"].shape
      ([(2, 8, 12, 5), (2, 4, 6, 5)], (2, 8, 12, 4))

    Reference:
      Tian et al., FCOS, 2019. https://arxiv.org/abs/1904.01355; Lin et al., Feature Pyramid Networks, 2016.
      https://arxiv.org/abs/1612.03144
    """

    def __init__(self, config: schema.Detector, spec: Spec, *, rngs: nnx.Rngs, remat: str = NONE):
        classes, (height, width, channels) = answers(spec, "detector"), image_shape(spec, "detector")
        _expect_stages(config, height, width)
        self.remat = remat
        stages = []
        for i, features in enumerate(config.widths):
            layers = []
            for j in range(config.depth):
                name, stride = f"stages/{i}/{j}", 1 if j else 2
                layers.append(ConvLayer(name, channels, features, config, stride=stride, rngs=rngs))
                channels = features
            stages.append(nnx.List(layers))
        self.stages = nnx.List(stages)
        init = INITS[config.init]
        self.lateral = nnx.List([
            nnx.Conv(features, config.pyramid, (1, 1), kernel_init=init, rngs=rngs)
            for features in config.widths[-config.levels :]
        ])  # fmt: skip
        # The score of what nothing is known of is the prior, so that background does not swamp the first steps.
        bias = -math.log((1 - config.prior) / config.prior)
        self.classes = Head("classes", nnx.initializers.normal(CLASSES_STD), [bias] * classes, config, rngs=rngs)
        self.boxes = Head("boxes", INITS["lecun_normal"], [0, 0, LOG_SIDE, LOG_SIDE], config, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[dict[str, jax.Array], ...]:
        """Maps `x [B, H, W, C]` to levels of logits `[B, h, w, K]` and offsets `[B, h, w, 4]`, the finest first."""
        x = as_numbers(x, self.classes.out.kernel[...]).reshape(*x.shape[:3], -1)
        features = []
        for i, stage in enumerate(self.stages):
            x = call(stage, self.remat, f"stages/{i}", x, function=_stage)
            features.append(x)
        levels: list[jax.Array] = []
        coarser = None
        for lateral, x in zip(self.lateral[::-1], features[: -len(self.lateral) - 1 : -1], strict=True):
            x = lateral(x)
            coarser = x if coarser is None else x + _twice(coarser, *x.shape[1:3])
            levels.insert(0, coarser)
        outputs = []
        for i, level in enumerate(levels):
            with jax.named_scope("classes"):
                logits = tap(self.classes(level), f"classes/{i}", "output")
            with jax.named_scope("boxes"):
                offsets = tap(self.boxes(level), f"boxes/{i}", "output")
            outputs.append({"logits": logits, "offsets": offsets})
        return tuple(outputs)


def _stage(layers: nnx.List, x: jax.Array) -> jax.Array:
    for j, layer in enumerate(layers):
        x = call(layer, NONE, str(j), x)
    return x


def _twice(x: jax.Array, height: int, width: int) -> jax.Array:
    """Each pixel repeated along both axes, cut to a size: what was rounded up on the way down lies over the edge."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, :height, :width]


def _expect_stages(config: schema.Detector, height: int, width: int) -> None:
    if config.levels > len(config.widths):
        raise ConfigError(
            f"model.levels: expected at most the number of stages, {len(config.widths)} (model.widths), got "
            f"{config.levels}"
        )
    odd = [width for width in (*config.widths, config.pyramid) if width % config.groups]
    if odd:
        raise ConfigError(
            f"model.groups: expected a divisor of every width, got {config.groups}, which does not divide {odd[0]}"
        )
    cell = 2 ** len(config.widths)
    if max(height, width) < cell:
        raise ShapeError(
            f"model detector expected images of at least {cell} pixels for {len(config.widths)} stages, got "
            f"{height} x {width}; use fewer model.widths"
        )
