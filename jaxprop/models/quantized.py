"""Products in 8 bits: quantized and quantization-aware training of NNX and Linen models, through Qwix. Pure."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprop.config.schema.quantize import Quantize
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError, MissingExtraError, UsageError, did_you_mean, one_of
from jaxprop.models.adapters.quantizing import ROOT, Scope, current_layer, scoped
from jaxprop.types import Batch, Model, PyTree
from jaxprop.untrusted.patterns import fullmatch

DEFAULT = ".*"
TESTED = "0.1.8"  # the version of Qwix that the tests run with
SHOWN = 8  # largest number of layers that an error names
FLOATS = tuple(map(jnp.dtype, (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64)))
# NVIDIA has products of float8 from the compute capability 8.9 on. Earlier TPUs than the seventh generation, and
# AMD's MI300, whose float8 is of another format, convert to a wider type first.
FP8_CAPABILITY, FP8_TPU = 8.9, re.compile(r"TPU ?v?7")


class Recipe(NamedTuple):
    """Dtypes of the operands of a product.

    Args:
      forward: of activations and weights.
      backward: of gradients; None where the backward pass is not quantized.
    """

    forward: Any
    backward: Any | None


RECIPES = {
    "int8": Recipe(jnp.int8, jnp.int8),
    "fp8": Recipe(jnp.float8_e4m3fn, jnp.float8_e5m2),
    "qat_int8": Recipe(jnp.int8, None),
}


def quantized(model: Model, name: str = "int8", *, match: str = DEFAULT, skip: Sequence[str] = ()) -> Model:
    """Returns a model whose layers multiply in 8 bits, with the same parameters.

        y = s_x s_w (q(x / s_x) q(w / s_w)),   s = max |.| / largest value of the 8-bit type

    Each row of the activations and each output channel of the weights has a scale of its own (each example, for a
    convolution), computed anew in every call, so there is no state. Parameters, optimizer state and sums stay as they
    are, and so does everything that is no product.

    Quantized are matrix products and convolutions in the call of a layer that holds a weight of two or more dimensions,
    `nnx.Linear`, `nn.Conv` and the like. Products of activations with each other, as in attention, lie in modules that
    hold no weight. Convolutions in groups are left, and under `fp8` all convolutions.

    Args:
      model: from `from_nnx` or `from_linen`.
      name: `int8`, products of both passes in int8; `fp8`, in float8: e4m3 in the forward pass, and e5m2 for gradients;
        `qat_int8`, quantization-aware training: int8 in the forward pass, and the gradient of the product that is not
        rounded.
      match: regular expression that the whole path of a layer matches, such as `"blocks/.*"`; the module itself is
        `"output"`.
      skip: patterns of layers that are left as they are.

    Returns:
      A `Model`.

    Raises:
      UsageError: Qwix is not installed, there is no such recipe, or a device has no products of float8.
      ConfigError: when called, if a pattern matches no layer, or the model is none of NNX or Linen.

    Example:
      >>> from jaxprop.models.adapters.nnx import from_nnx
      >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> quantized(model, "int4")
      Traceback (most recent call last):
      jaxprop.errors.UsageError: unknown recipe 'int4'; did you mean 'int8'? (known: fp8, int8, qat_int8)

    Reference:
      Zhu et al., Towards Unified INT8 Training for Convolutional Neural Network, 2020,
      https://arxiv.org/abs/1912.12607; Micikevicius et al., FP8 Formats for Deep Learning, 2022,
      https://arxiv.org/abs/2209.05433; Jacob et al., Quantization and Training of Neural Networks for Efficient
      Integer-Arithmetic-Only Inference, 2018, https://arxiv.org/abs/1712.05877; Qwix, https://github.com/google/qwix
    """
    if name not in RECIPES:
        raise UsageError(one_of(name, RECIPES, "recipe"))
    expect_products(name, jax.devices())
    return with_products(model, Quantize.model_validate({"name": name, "match": match, "skip": tuple(skip)}))


def expect_products(name: str, devices: Iterable[Any]) -> None:
    """Raises UsageError where a device has no products of the operands of a recipe.

    Args:
      name: of the recipe.
      devices: that the model runs on.

    Example:
      >>> expect_products("int8", jax.devices())
    """
    if name != "fp8":
        return
    for device in devices:
        if not _has_fp8(device):
            raise UsageError(
                f"precision.quantize: fp8 needs a device with products of float8 (NVIDIA of compute capability "
                f"{FP8_CAPABILITY} or later, such as L4, H100 and B200, or TPU v7), and this one is "
                f"{device.device_kind}; use int8 or qat_int8"
            )


def _has_fp8(device: Any) -> bool:
    if device.platform == "tpu":
        return bool(FP8_TPU.match(device.device_kind))
    # On AMD it is a name, such as gfx942.
    found = re.fullmatch(r"\d+\.\d+", str(getattr(device, "compute_capability", "")))
    return found is not None and float(found[0]) >= FP8_CAPABILITY


def with_products(model: Model, section: Quantize, *, whole: bool = True) -> Model:
    """The same for a section of a configuration, on any device.

    Args:
      model: from `from_nnx` or `from_linen`.
      section: the section `precision.quantize`.
      whole: whether each call calls all of the layers; if not, a pattern that matches none of them is no error.

    Raises:
      UsageError: Qwix is not installed.
      ConfigError: when called, if a pattern matches no layer, or the model is none of NNX or Linen.
    """
    replaced = _replacements(RECIPES[section.name])
    scope = Scope()
    run = _intercepted(replaced, scope)

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        known = _layers_of(params, extras)
        scope.layers = _chosen(known, section, strict=whole)
        with scoped(scope):
            returned = run(lambda: model.apply(params, extras, batch, key=key, train=train))
        if not scope.entered:
            raise ConfigError(
                "precision.quantize: Qwix quantizes Flax NNX and Linen modules, and this model is neither; remove it"
            )
        if whole and not scope.seen:
            raise ConfigError(
                f"precision.quantize: no product or convolution that can be quantized lies in the layers "
                f"{_listed(scope.layers)} ({_there_are(known)})"
            )
        return returned

    return model._replace(apply=apply)


def _layers_of(params: PyTree, extras: PyTree) -> list[str]:
    """Paths of the layers that hold a matrix; among the extras are parameters that are not trained."""
    found: dict[str, None] = {}
    for tree in (params, extras):
        for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True):
            if jnp.ndim(leaf) >= 2:
                found[path.rpartition("/")[0] or ROOT] = None
    return list(found)


def _chosen(known: Sequence[str], section: Quantize, *, strict: bool) -> frozenset[str]:
    matched = [path for path in known if fullmatch(section.match, path)]
    skipped = {pattern: {path for path in known if fullmatch(pattern, path)} for pattern in section.skip}
    if strict:
        for key, pattern, found in [("match", section.match, matched), *(("skip", *item) for item in skipped.items())]:
            if not found:
                near = f"{pattern}/.*"
                whole = f"; write {near!r} for all inside" if any(fullmatch(near, path) for path in known) else ""
                raise ConfigError(
                    f"precision.quantize.{key}: {pattern!r} matches no layer{whole or did_you_mean(pattern, known)} "
                    f"({_there_are(known)})"
                )
    left = frozenset(matched).difference(*skipped.values())
    if strict and not left:
        raise ConfigError("precision.quantize.skip: every layer is skipped, so nothing would be quantized; leave some")
    return left


def _there_are(known: Sequence[str]) -> str:
    return f"layers: {_listed(known)}" if known else "no layer holds a matrix"


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(every[:SHOWN]) + (", ..." if len(every) > SHOWN else "")


# -- through Qwix -----------------------------------------------------------------------------------


def _qwix() -> Any:
    try:
        import qwix
    except ImportError:
        # Part of a configuration, so it ends as one that does not fit.
        raise UsageError(str(MissingExtraError("qwix", "precision.quantize"))) from None
    return qwix


@contextlib.contextmanager
def _known_version() -> Iterator[None]:
    """Tells of a Qwix whose names or arguments are not those of the version that this was written for."""
    try:
        yield
    except (ImportError, AttributeError, TypeError) as error:
        found = importlib.metadata.version("qwix")
        raise UsageError(
            f"precision.quantize uses functions of Qwix {TESTED} that have no public name, and Qwix {found} has others "
            f"({error}); install that one: pip install 'qwix=={TESTED}'"
        ) from error


class _Call(nnx.Module):
    """A module that calls a function: what Qwix intercepts is the call of a module."""

    def __call__(self, function: Callable[[], Any]) -> Any:
        return function()

    def iter_modules(self) -> Iterator[tuple[tuple[()], nnx.Module]]:
        """Itself; Qwix asks for it in a way that Flax warns of."""
        yield (), self


def _intercepted(replaced: dict[str, Callable[..., Any]], scope: Scope) -> Callable[[Callable[[], Any]], Any]:
    """Returns what runs a function with products replaced, in this thread alone."""
    with _known_version():
        provider: Any = _qwix().QuantizationProvider

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def product(*args: Any, **kwargs: Any) -> Any:
            layer = current_layer()
            made = NotImplemented if layer is None else function(*args, **kwargs)
            if made is NotImplemented:
                return getattr(jax.lax, name)(*args, **kwargs)
            scope.seen.setdefault(layer or ROOT, set()).add(name)
            return made

        return product

    class Provider(provider):
        def get_intercept_map(self) -> dict[str, Callable[..., Any]]:
            return super().get_intercept_map() | {
                f"jax.lax.{name}": noting(name, function) for name, function in replaced.items()
            }

    with _known_version():
        return _qwix().quantize_model(_Call(), Provider([]), skip_nnx_init=True)


def _replacements(recipe: Recipe) -> dict[str, Callable[..., Any]]:
    """The products of a recipe by the name of what they replace in `jax.lax`; NotImplemented where they do not apply.

    Qwix's own providers find out from shapes which operand is a weight, and refuse activations of the shape of the
    kernel, such as 64 examples before a dense layer of 64 x 64. Here both operands have the same dtype.
    """
    dtypes = {
        "lhs_qtype": recipe.forward,
        "rhs_qtype": recipe.forward,
        "dlhs_grad_qtype": recipe.backward,
        "drhs_grad_qtype": recipe.backward,
    }
    _qwix()
    with _known_version():
        # Qwix has public products of quantized operands, `qwix.dot_general`, but none that have a gradient other than
        # through `QtProvider`, which finds the weight by its shape.
        from qwix._src.core.conv_general_qt import ConvGeneralQtConfig, conv_general_qt
        from qwix._src.core.dot_general_qt import DotGeneralQtConfig, dot_general_qt

        of_dot = DotGeneralQtConfig(**dtypes, use_original_residuals=recipe.backward is None)
        of_conv = ConvGeneralQtConfig(**dtypes)

    def dot_general(
        lhs: Any, rhs: Any, dimension_numbers: Any, precision: Any = None, preferred_element_type: Any = None,
        **options: Any,
    ) -> Any:  # fmt: skip
        del precision
        if not _fit(lhs, rhs, options):
            return NotImplemented
        (left, right), (left_batch, right_batch) = dimension_numbers
        numbers = ((tuple(left), tuple(right)), (tuple(left_batch), tuple(right_batch)))
        made = _promoting(partial(dot_general_qt, dimension_numbers=numbers, config=of_dot), lhs, rhs)
        return made.astype(preferred_element_type or jnp.promote_types(lhs.dtype, rhs.dtype))

    def conv_general_dilated(
        lhs: Any, rhs: Any, window_strides: Any, padding: Any, lhs_dilation: Any = None, rhs_dilation: Any = None,
        dimension_numbers: Any = None, feature_group_count: int = 1, batch_group_count: int = 1, precision: Any = None,
        preferred_element_type: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        del precision
        # Qwix's backward pass is that of one group, and has no product of two types of float8.
        if feature_group_count * batch_group_count != 1 or recipe.forward != jnp.int8 or not _fit(lhs, rhs, options):
            return NotImplemented
        given = {
            "config": of_conv,
            "window_strides": tuple(window_strides),
            "padding": padding if isinstance(padding, str) else tuple(map(tuple, padding)),
            "lhs_dilation": lhs_dilation and tuple(lhs_dilation),
            "rhs_dilation": rhs_dilation and tuple(rhs_dilation),
            "dimension_numbers": jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers),
        }
        made = _promoting(partial(conv_general_qt, **given), lhs, rhs)
        return made.astype(preferred_element_type or jnp.promote_types(lhs.dtype, rhs.dtype))

    return {"dot_general": dot_general, "conv_general_dilated": conv_general_dilated}


def _fit(lhs: Any, rhs: Any, options: dict[str, Any]) -> bool:
    """Whether both operands are of floats; what is not is integer by nature, or quantized already."""
    return all(x.dtype in FLOATS for x in (lhs, rhs)) and not any(value is not None for value in options.values())


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _promoting(function: Callable[..., jax.Array], lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A product whose two passes are traced under standard dtype promotion: Qwix multiplies integers with scales."""
    with jax.numpy_dtype_promotion("standard"):
        return function(lhs, rhs)


def _forward(function: Callable[..., jax.Array], lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, Any]:
    with jax.numpy_dtype_promotion("standard"):
        return jax.vjp(function, lhs, rhs)


def _backward(function: Callable[..., jax.Array], pull: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    del function
    with jax.numpy_dtype_promotion("standard"):
        return pull(grad)


_promoting.defvjp(_forward, _backward)
