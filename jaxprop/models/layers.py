"""Pieces the built-in models share: activations, initializers, dense layers, normalization, pooling.

Layers compute in the dtype of their parameters and inputs, which the train step casts beforehand;
statistics are taken in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from jaxprop.core.overrides import computed_dtype, head_dtype
from jaxprop.core.placing import splits
from jaxprop.core.precision import wide_dtype
from jaxprop.errors import ShapeError
from jaxprop.models.multipliers import current, times
from jaxprop.types import Spec

Initializer = Callable[..., jax.Array]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "gelu_exact": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,
}

# How a tap after the activation looks at it: units of a relu die, tanh and sigmoid saturate.
TAP_KINDS = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}

INITS: dict[str, Initializer] = {
    "glorot_uniform": initializers.glorot_uniform(),
    "glorot_normal": initializers.glorot_normal(),
    "he_uniform": initializers.he_uniform(),
    "he_normal": initializers.he_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "lecun_normal": initializers.lecun_normal(),
    "orthogonal": initializers.orthogonal(),
    "normal": initializers.normal(0.02),
    "truncated_normal": initializers.truncated_normal(0.02),
    "zeros": initializers.zeros,
}


def scaled(init: Initializer, factor: float) -> Initializer:
    """Returns an initializer whose values are `factor` times those of another.

    Example:
      >>> scaled(initializers.ones, 0.5)(jax.random.key(0), (2,), jnp.float32).tolist()
      [0.5, 0.5]
    """

    def init_scaled(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
        return init(key, shape, dtype) * jnp.asarray(factor, dtype)

    return init_scaled


def dense(n_in: int, n_out: int, init: Initializer, *, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """Makes a dense layer, `y = x W + b` over the last axis, as one product of two matrices.

    Args:
      n_in, n_out: features in and out.
      init: initializer of the kernel `[n_in, n_out]`.
      rngs: random streams of the module.
      **options: passed to `nnx.Linear`.

    Returns:
      An `nnx.Linear`.

    Example:
      >>> dense(3, 2, INITS["he_normal"], rngs=nnx.Rngs(0))(jnp.ones((4, 5, 3))).shape
      (4, 5, 2)
    """
    return nnx.Linear(n_in, n_out, kernel_init=init, rngs=rngs, dot_general=_flat_dot_general, **options)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x W` over the last axis of `x [..., D]`, computed on `[N, D]` in the dtype of `W`, in the dtype of `x`.

    On CPU the gradient of a product with two leading axes takes twice the time. Where the second of them is split over
    devices, one axis of both would have to be gathered, and stays two.

    Example:
      >>> product(jnp.ones((2, 3, 4)), jnp.ones((4, 5))).shape
      (2, 3, 5)
    """
    wide = x.astype(kernel.dtype)  # the parameters of a layer may have a dtype of their own
    if splits("sequence"):
        return (wide @ kernel).astype(x.dtype)
    flat = wide.reshape(-1, x.shape[-1]) @ kernel
    return flat.reshape(*x.shape[:-1], kernel.shape[-1]).astype(x.dtype)


def added(x: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `x + value`, a parameter such as a bias or positions, in the dtype of `x`.

    Example:
      >>> added(jnp.ones(2, jnp.bfloat16), jnp.ones(2)).dtype.name
      'bfloat16'
    """
    return (x.astype(value.dtype) + value).astype(x.dtype)


def _flat_dot_general(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    assert dimension_numbers == (((lhs.ndim - 1,), (0,)), ((), ()))
    if splits("sequence"):
        return jax.lax.dot_general(lhs, rhs, dimension_numbers, **options)
    flat = jax.lax.dot_general(lhs.reshape(-1, lhs.shape[-1]), rhs, (((1,), (0,)), ((), ())), **options)
    return flat.reshape(*lhs.shape[:-1], rhs.shape[-1])


class Embed(nnx.Module):
    """Table of V vectors, looked up by token; the output has the table's dtype, where Flax's has one of its own.

    Args:
      vocabulary: V.
      features: D.
      stddev: standard deviation of the initial values, which are normal.
      rngs: random streams.

    Example:
      >>> Embed(256, 8, stddev=1.0, rngs=nnx.Rngs(0))(jnp.zeros((2, 3), jnp.int32)).shape
      (2, 3, 8)
    """

    def __init__(self, vocabulary: int, features: int, *, stddev: float, rngs: nnx.Rngs):
        init = initializers.normal(stddev)
        self.embedding = nnx.Param(init(rngs.params(), (vocabulary, features), jnp.float32))
        self.factor = current().logits  # where it is the output layer, too

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens `[...]` to `[..., D]`; a token outside the vocabulary gives NaN."""
        table, tokens = self.embedding[...], tokens.astype(jnp.int32)
        # a negative index would count from the end of the table
        return jnp.take(table, jnp.where(tokens < 0, table.shape[0], tokens), axis=0)


def tied(x: jax.Array, embed: Embed) -> jax.Array:
    """Returns logits `[..., V]` of `x [..., D]` by the table of an embedding, in the dtype of `head`, or the table's.

    Example:
      >>> tied(jnp.ones((1, 8), jnp.bfloat16), Embed(256, 8, stddev=1.0, rngs=nnx.Rngs(0))).dtype.name
      'float32'
    """
    table = embed.embedding[...]
    dtype = head_dtype(table.dtype)
    return product(times(x, embed.factor).astype(dtype), table.astype(dtype).T)


class BatchNorm(nnx.Module):
    """Batch normalization over every axis but the last, which ignores padded examples.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias, with the batch's mean and (biased) variance in
    training and their moving averages in evaluation.

    Args:
      features: size of the last axis, C.
      momentum: of the moving averages, old = momentum * old + (1 - momentum) * batch.
      epsilon: added to the variance.
      scale: initial value of the scale; 0 makes a residual block start as the identity.

    Example:
      >>> norm = BatchNorm(2)
      >>> x = jnp.array([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]])
      >>> norm(x, jnp.array([1.0, 1.0, 0.0]))[:2].round(2).tolist()
      [[-1.0, -1.0], [1.0, 1.0]]

    Reference:
      Ioffe and Szegedy, Batch Normalization, 2015. https://arxiv.org/abs/1502.03167
    """

    def __init__(self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5, scale: float = 1.0):
        self.scale = nnx.Param(jnp.full(features, scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """Normalizes `x [B, ..., C]`; examples with `weight [B]` zero do not enter the statistics."""
        dtype = wide_dtype(x.dtype)
        if self.use_running_average:
            mean, var = self.mean[...].astype(dtype), self.var[...].astype(dtype)
        else:
            if weight is not None:  # a select, and before the products of the gradient: 0 x NaN is NaN
                x = jnp.where((weight != 0).reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))
            mean, var = _moments(x.astype(dtype), weight)
            self._remember(mean, var, weight)
        scale = jax.lax.rsqrt(var + self.epsilon) * self.scale[...].astype(dtype)
        return ((x.astype(dtype) - mean) * scale + self.bias[...].astype(dtype)).astype(x.dtype)

    def _remember(self, mean: jax.Array, var: jax.Array, weight: jax.Array | None) -> None:
        # a microbatch of nothing but padding has no statistics to remember
        share = 1 - self.momentum if weight is None else jnp.where(jnp.any(weight != 0), 1 - self.momentum, 0.0)
        for average, value in ((self.mean, mean), (self.var, var)):
            old = average[...]
            average[...] = old + jnp.asarray(share, old.dtype) * (value.astype(old.dtype) - old)


class LayerNorm(nnx.Module):
    """Layer normalization over the last axis, `y = (x - mean) / sqrt(var + epsilon) * scale + bias`.

    Flax's own asks for implicit promotion of dtypes in bfloat16.

    Args:
      features: size of the last axis, D.
      epsilon: added to the variance.

    Example:
      >>> LayerNorm(2)(jnp.array([[1.0, 3.0]])).round(2).tolist()
      [[-1.0, 1.0]]

    Reference:
      Ba, Kiros and Hinton, Layer Normalization, 2016. https://arxiv.org/abs/1607.06450
    """

    def __init__(self, features: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x [..., D]`."""
        dtype = wide_dtype(x.dtype)
        centred = x.astype(dtype) - x.astype(dtype).mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (centred * factor * self.scale[...].astype(dtype) + self.bias[...].astype(dtype)).astype(x.dtype)


class RmsNorm(nnx.Module):
    """Root-mean-square normalization over the last axis, `y = x / sqrt(mean(x^2) + epsilon) * scale`.

    Args:
      features: size of the last axis, D.
      epsilon: added to the mean square.

    Example:
      >>> RmsNorm(2)(jnp.array([[3.0, -3.0]])).round(2).tolist()
      [[1.0, -1.0]]

    Reference:
      Zhang and Sennrich, Root Mean Square Layer Normalization, 2019. https://arxiv.org/abs/1910.07467
    """

    def __init__(self, features: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x [..., D]`."""
        dtype = wide_dtype(x.dtype)
        factor = jax.lax.rsqrt(jnp.square(x.astype(dtype)).mean(-1, keepdims=True) + self.epsilon)
        return (x.astype(dtype) * factor * self.scale[...].astype(dtype)).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Group normalization: each example and group of channels over all its positions, then a scale and a bias.

    It depends on no other example, so padding and the size of the batch do not matter to it.

    Args:
      features: size of the last axis, C.
      groups: number of groups, a divisor of C.
      epsilon: added to the variance.
      scale: initial value of the scale; 0 makes a residual block start as the identity.

    Example:
      >>> GroupNorm(4, 2)(jnp.array([[[1.0, 3.0, 5.0, 5.0]]])).round(2).tolist()
      [[[-1.0, 1.0, 0.0, 0.0]]]

    Reference:
      Wu and He, Group Normalization, 2018. https://arxiv.org/abs/1803.08494
    """

    def __init__(self, features: int, groups: int, *, epsilon: float = 1e-5, scale: float = 1.0):
        self.scale = nnx.Param(jnp.full(features, scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.groups, self.epsilon = groups, epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x [B, ..., C]`."""
        dtype = wide_dtype(x.dtype)
        grouped = x.astype(dtype).reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        centred = grouped - grouped.mean((1, 3), keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + self.epsilon)
        y = (centred * factor).reshape(x.shape)
        return (y * self.scale[...].astype(dtype) + self.bias[...].astype(dtype)).astype(x.dtype)


def _moments(x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(x.ndim - 1))
    if weight is None:
        return x.mean(axes), x.var(axes)
    real = (weight != 0).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    share = real / (jnp.maximum(real.sum(), 1) * (x[0, ..., 0].size))
    mean = (share * x).sum(axes)
    return mean, (share * jnp.square(x - mean)).sum(axes)


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the maximum over 2 x 2 windows; an odd last row or column is a window of its own.

    The maximum of four slices: on CPU `lax.reduce_window` takes 18 times as long, mostly in its gradient. The gradient
    of a maximum over two axes is slower too, since it counts which of the four are equal to it.

    Args:
      x: `[B, H, W, C]`.

    Returns:
      `[B, ceil(H / 2), ceil(W / 2), C]`.

    Example:
      >>> max_pool(jnp.arange(9.0).reshape(1, 3, 3, 1))[0, :, :, 0].tolist()
      [[4.0, 5.0], [7.0, 8.0]]
    """
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    windows = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    upper, lower = (jnp.maximum(windows[:, :, i, :, 0], windows[:, :, i, :, 1]) for i in range(2))
    return jnp.maximum(upper, lower)


def max_pool_3x3(x: jax.Array) -> jax.Array:
    """Returns the maximum over 3 x 3 windows with a stride of 2; windows that reach over the edge are cut there.

    The maximum of each pair of pixels and the one before it, for the same reason as in `max_pool`.

    Args:
      x: `[B, H, W, C]`.

    Returns:
      `[B, ceil(H / 2), ceil(W / 2), C]`.

    Example:
      >>> max_pool_3x3(jnp.arange(9.0).reshape(1, 3, 3, 1))[0, :, :, 0].tolist()
      [[4.0, 5.0], [7.0, 8.0]]
    """
    for axis in (1, 2):
        if x.shape[axis] % 2:  # an edge is a member of its own window
            x = jnp.pad(x, [(0, 1) if i == axis else (0, 0) for i in range(4)], mode="edge")
        pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
        first, others = jax.lax.slice_in_dim(even, 0, 1, axis=axis), jax.lax.slice_in_dim(odd, 0, -1, axis=axis)
        x = jnp.maximum(jnp.maximum(even, odd), jnp.concatenate([first, others], axis))
    return x


def mean_over(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the mean of `x [B, T, D]` over the positions where `mask [B, T]` is True; 0 where there is none.

    Example:
      >>> mean_over(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]])).tolist()
      [[2.0]]
    """
    if mask is None:
        return x.mean(1)
    share = 1 / jnp.maximum(mask.sum(1, dtype=jnp.int32), 1)[:, None].astype(x.dtype)  # see `attention.softmax`
    # A select, since 0 x NaN is NaN.
    return jnp.where(mask[..., None], x, 0).sum(1) * share


def image_shape(spec: Spec, model: str) -> tuple[int, int, int]:
    """Returns height, width and channels of the inputs, for a model of images.

    Raises:
      ShapeError: the inputs are no images.

    Example:
      >>> image_shape(Spec({"inputs": jax.ShapeDtypeStruct((8, 6), jnp.float32)}, {}), "cnn")
      (8, 6, 1)
    """
    shape = spec.batch["inputs"].shape
    if len(shape) not in (2, 3):
        raise ShapeError(
            f"model {model} expected images [H, W, C] or [H, W], got {list(shape)} an example; use model.name: mlp"
        )
    height, width, channels = (*shape, 1)[:3]
    return height, width, channels


def each_token(spec: Spec) -> bool:
    """Whether every token has an answer, the next token, rather than each example one.

    Example:
      >>> each_token(Spec({}, {"vocabulary": 256})), each_token(Spec({}, {"vocabulary": 256, "classes": 2}))
      (True, False)
    """
    return not spec.sizes.keys() & {"classes", "targets"}


def answers(spec: Spec, model: str) -> int:
    """Returns the number of outputs K of an example, `classes` or `targets`, for a model with one answer an example.

    Raises:
      ShapeError: the data have an answer for every token, or the sizes name neither.

    Example:
      >>> answers(Spec({}, {"classes": 10}), "mlp")
      10
    """
    for name in ("classes", "targets"):
        if name in spec.sizes:
            return spec.sizes[name]
    raise ShapeError(
        f"model {model} expected data with one answer an example (sizes classes or targets), got sizes "
        f"{dict(spec.sizes)}; for an answer a token use model.name: transformer or rnn"
    )


def vocabulary(spec: Spec, model: str) -> int:
    """Returns the number of tokens V, for a model whose inputs are tokens.

    Raises:
      ShapeError: the sizes name no vocabulary.

    Example:
      >>> vocabulary(Spec({}, {"vocabulary": 256}), "transformer")
      256
    """
    if "vocabulary" not in spec.sizes:
        raise ShapeError(
            f"model {model} expected integer inputs to be tokens, with sizes that hold their vocabulary, got sizes "
            f"{dict(spec.sizes)}; if they are measurements, save them as float32 or use model.name: mlp"
        )
    return spec.sizes["vocabulary"]


def expect_pairs(spec: Spec, model: str) -> tuple[int, int]:
    """Returns the lengths S and T of source and target, for a model of pairs of texts.

    Raises:
      ShapeError: the data are no pairs of token sequences.

    Example:
      >>> tokens = {"inputs": jax.ShapeDtypeStruct((8,), jnp.int32), "targets": jax.ShapeDtypeStruct((5,), jnp.int32)}
      >>> expect_pairs(Spec(tokens, {"vocabulary": 256}), "seq2seq_rnn")
      (8, 5)
    """
    shapes = [spec.batch.get(name) for name in ("inputs", "targets")]
    lengths = [x.shape[0] for x in shapes if x is not None and len(x.shape) == 1 and is_integer(x.dtype)]
    if len(lengths) != 2:
        raise ShapeError(
            f"model {model} expected pairs of texts: integer inputs [S] and targets [T], got an example with "
            f"{ {name: list(x.shape) for name, x in spec.batch.items()} }; use model.name: transformer or rnn"
        )
    return lengths[0], lengths[1]


def is_integer(dtype: Any) -> bool:
    """Whether a dtype is of integers.

    Example:
      >>> is_integer(jnp.int32), is_integer(jnp.float32)
      (True, False)
    """
    return jnp.issubdtype(dtype, jnp.integer)


def as_numbers(x: jax.Array, like: jax.Array) -> jax.Array:
    """Returns integers and booleans, such as the pixels of an image, in the dtype that a model computes in.

    Args:
      x: the numbers.
      like: a parameter; its dtype is taken where no precision is set.

    Example:
      >>> as_numbers(jnp.array([3], jnp.uint8), jnp.ones(2, jnp.bfloat16)).dtype.name
      'bfloat16'
    """
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(computed_dtype(like.dtype))
