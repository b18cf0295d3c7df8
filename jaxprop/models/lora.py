"""Low-rank adaptation of any model: adapters beside frozen matrices, which may be kept in 8 or 4 bits (QLoRA). Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.config.schema.lora import Lora
from jaxprop.core.jaxprs.lowrank import LowRank, call_with
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError, MissingExtraError, UsageError, did_you_mean, one_of
from jaxprop.types import Batch, Model, PyTree
from jaxprop.untrusted.patterns import fullmatch

ROOT = "output"  # the layer of a model that is one itself
A, B = "_lora_a", "_lora_b"  # end the names of adapters, as Qwix names them
CODES, SCALES = "_codes", "_scales"  # end the names of what a weight in few bits is kept as
BLOCK = 64  # entries of a column that share a scale, as in QLoRA
QTYPES: dict[str, Any] = {"int8": jnp.int8, "int4": jnp.int4, "nf4": "nf4"}
KEYS = 2**31 + 3  # folded into the key of a model's initial values, where that of the adapters must not meet it
SHOWN = 8  # largest number of paths that an error names


def lora(
    model: Model,
    *,
    match: str,
    rank: int = 8,
    alpha: float = 16.0,
    quantize: str | None = None,
    base: PyTree = None,
) -> Model:
    """Returns a model with a trained product of low rank beside each of some frozen matrices.

        y = x W + alpha / rank * (x A) B,   A [in, rank] ~ U(-1 / sqrt(in), 1 / sqrt(in)),   B [rank, out] = 0

    So the model begins as the one that it adapts. Its parameters have `kernel_lora_a` and `kernel_lora_b` beside
    `kernel`; train these alone with `make_train_step(..., trainable=jaxprop.is_adapter)`. Without `trainable`, layers
    that have no adapters are trained, too; W never is, and the derivative by it is not computed. A weight of more than
    two axes is taken as the matrix for which A and B have the fewest entries: that of a convolution as
    `[height * width * in, out]`, that of a projection to heads as `[in, heads * features]`.

    With `quantize`, W is kept as `kernel_codes` and `kernel_scales`: each 64 entries of a column share a scale. It is
    read anew where it is used, in the backward pass too.

    Args:
      model: of any framework, whose parameters are nested dicts.
      match: regular expression that the whole path of a layer matches, such as `"blocks/.*/(qkv|out)"`, or the path of
        a matrix, such as `"head/kernel"`.
      rank: columns of A.
      alpha: scale of the product, divided by `rank`.
      quantize: `int8`, `int4` or `nf4`, through Qwix; None keeps W as it is.
      base: parameters to adapt; by default those that the model draws.

    Returns:
      A `Model`, whose `init` draws the adapters.

    Raises:
      UsageError: `rank` or `alpha` is not positive, there is no such `quantize`, or Qwix is not installed.
      ConfigError: when called, if the pattern matches no matrix, or `rank` is larger than a side of one.

    Example:
      >>> from flax import nnx
      >>> from jaxprop.models.adapters.nnx import from_nnx
      >>> model = lora(from_nnx(lambda rngs: nnx.Linear(6, 4, rngs=rngs)), match="output", rank=2)
      >>> params, extras = model.init(jax.random.key(0), {"inputs": jnp.ones((1, 6))})
      >>> {path: leaf.shape for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params))}
      {'bias': (4,), 'kernel': (6, 4), 'kernel_lora_a': (6, 2), 'kernel_lora_b': (2, 4)}

    Reference:
      Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, https://arxiv.org/abs/2106.09685; Dettmers et
      al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023, https://arxiv.org/abs/2305.14314
    """
    return with_adapters(model, _section(match=match, rank=rank, alpha=alpha, quantize=quantize), base)


def _section(*, match: str, rank: int, alpha: float, quantize: str | None) -> Lora:
    if quantize is not None and quantize not in QTYPES:
        raise UsageError(one_of(quantize, QTYPES, "quantize"))
    if rank < 1 or alpha <= 0:
        raise UsageError(f"expected rank and alpha to be positive, got rank={rank} and alpha={alpha}")
    return Lora.model_validate({"match": match, "rank": rank, "alpha": float(alpha), "quantize": quantize})


def with_adapters(model: Model, section: Lora, base: PyTree = None) -> Model:
    """The same for the section `lora` of a configuration.

    Args:
      model: any.
      section: the section.
      base: parameters to adapt; by default those that the model draws.

    Raises:
      UsageError: Qwix is needed and not installed.
      ConfigError: when called, if the section does not fit the model.
    """
    if section.quantize is not None:
        _qwix()

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PyTree]:
        drawn, extras = model.init(key, batch)
        return adapted(drawn if base is None else base, section, key), extras

    def apply(params: PyTree, extras: PyTree, batch: Batch, *, key: Any, train: bool) -> tuple[Any, PyTree]:
        leaves, structure = jax.tree.flatten(_joined(params, section, partial(_sum, section)), is_leaf=_is_sum)
        at = [i for i, leaf in enumerate(leaves) if _is_sum(leaf)]

        def call(weights: list[Any]) -> Any:
            made = list(leaves)
            for i, weight in zip(at, weights, strict=True):
                made[i] = weight
            return model.apply(jax.tree.unflatten(structure, made), extras, batch, key=key, train=train)

        return call_with(call, [leaves[i] for i in at])

    return Model(init, apply)


def adapted(params: PyTree, section: Lora, key: jax.Array) -> PyTree:
    """Returns the parameters of a model with adapters, and with its frozen weights in few bits where they are so kept.

    Args:
      params: of the model without adapters.
      section: the section `lora`.
      key: of the model's initial values.

    Raises:
      ConfigError: the section does not fit the model.

    Example:
      >>> section = Lora(match="head", rank=1)
      >>> made = adapted({"head": {"kernel": jnp.ones((4, 2))}}, section, jax.random.key(0))
      >>> made["head"]["kernel_lora_b"].tolist()
      [[0.0, 0.0]]
    """
    found = matched(params, section)
    own = jax.random.fold_in(key, KEYS)

    def add(path: str, name: str, weight: Any) -> dict[str, Any]:
        where = _path(path, name)
        if where not in found:
            return {name: weight}
        cut = found[where]
        bound = 1 / math.sqrt(math.prod(weight.shape[:cut]))
        drawn = jax.random.uniform(
            jax.random.fold_in(own, list(found).index(where)), (*weight.shape[:cut], section.rank), weight.dtype,
            -bound, bound,
        )  # fmt: skip
        adapters = {f"{name}{A}": drawn, f"{name}{B}": jnp.zeros((section.rank, *weight.shape[cut:]), weight.dtype)}
        if section.quantize is None:
            return {name: weight, **adapters}
        codes, scales = packed(weight.reshape(math.prod(weight.shape[:cut]), -1), section.quantize)
        return {f"{name}{CODES}": codes, f"{name}{SCALES}": scales, **adapters}

    made = _rebuilt(params, lambda path, layer: _union(add(path, name, leaf) for name, leaf in layer.items()))
    count = sum(path.endswith(A) for path in leaf_paths(made))
    if count != len(found):
        raise ConfigError(
            "lora.match: only matrices in nested dicts can have adapters beside them; hold them in a dict"
        )
    return made


def merged(params: PyTree, section: Lora) -> PyTree:
    """Returns the parameters of the model without adapters that computes the same, up to rounding.

        W + alpha / rank * A B

    Args:
      params: of a model with adapters.
      section: the section `lora` that it was made with.

    Example:
      >>> section = Lora(match="head", rank=1)
      >>> made = adapted({"head": {"kernel": jnp.ones((4, 2))}}, section, jax.random.key(0))
      >>> merged(made, section)["head"]["kernel"].shape
      (4, 2)
    """
    return _joined(params, section, lambda held: _sum(section, held).dense())


def merge_lora(params: PyTree, *, alpha: float = 16.0, quantize: str | None = None) -> PyTree:
    """Returns the parameters of the model that `lora` was given, with the adapters added to the weights.

    Args:
      params: of a model that `lora` has returned.
      alpha, quantize: as given to `lora`.

    Raises:
      UsageError: the weights are kept in other bits than `quantize`, as far as that shows: int4 looks as nf4.

    Example:
      >>> params = {"kernel": jnp.eye(2), "kernel_lora_a": jnp.ones((2, 1)), "kernel_lora_b": jnp.ones((1, 2))}
      >>> merge_lora(params, alpha=0.5)["kernel"].tolist()
      [[1.5, 0.5], [0.5, 1.5]]
    """
    rank = next((leaf.shape[-1] for path, leaf in _by_path(params).items() if path.endswith(A)), 1)
    return merged(params, _section(match=".*", rank=rank, alpha=alpha, quantize=quantize))


def unmerged(params: PyTree, section: Lora) -> dict[str, tuple[Any, Any]]:
    """Returns the adapters alone, A `[in, rank]` and B `[rank, out]` by the path of the weight that they belong to.

    Args:
      params: of a model with adapters.
      section: the section `lora` that it was made with.

    Example:
      >>> section = Lora(match="head", rank=1)
      >>> made = adapted({"head": {"kernel": jnp.ones((4, 2))}}, section, jax.random.key(0))
      >>> {path: (a.shape, b.shape) for path, (a, b) in unmerged(made, section).items()}
      {'head/kernel': ((4, 1), (1, 2))}
    """
    leaves = _by_path(params)
    names = [path.removesuffix(A) for path in leaves if path.endswith(A)]
    return {n: (leaves[n + A].reshape(-1, section.rank), leaves[n + B].reshape(section.rank, -1)) for n in names}


def is_adapter(path: str) -> bool:
    """Whether a parameter is an adapter, by its path; for `trainable` of `make_train_step`.

    Example:
      >>> [path for path in ("head/kernel", "head/kernel_lora_a", "head/kernel_lora_b") if is_adapter(path)]
      ['head/kernel_lora_a', 'head/kernel_lora_b']
    """
    return path.endswith((A, B))


def adapted_weights(paths: Iterable[str]) -> set[str]:
    """Returns the paths of the weights that have adapters, which stay as they are.

    Args:
      paths: of all parameters.

    Example:
      >>> sorted(adapted_weights(["bias", "kernel_codes", "kernel_scales", "kernel_lora_a", "kernel_lora_b"]))
      ['kernel_codes', 'kernel_scales']
    """
    paths = set(paths)
    names = [path.removesuffix(A) for path in paths if path.endswith(A)]
    return paths & {name + end for name in names for end in ("", CODES, SCALES)}


def is_trained(path: str, section: Lora) -> bool:
    """Whether a parameter of a model with adapters is trained: an adapter, or one that `lora.train` matches.

    Args:
      path: of the parameter.
      section: the section `lora`.

    Example:
      >>> section = Lora(match="blocks/.*", train=("head",))
      >>> [is_trained(path, section) for path in ("blocks/0/kernel", "blocks/0/kernel_lora_a", "head/bias")]
      [False, True, True]
    """
    return is_adapter(path) or any(_hit(pattern, path) for pattern in section.train)


def expect_train(params: PyTree, section: Lora) -> None:
    """Raises ConfigError where a pattern of `lora.train` matches nothing, or a weight that has adapters.

    Args:
      params: of the model with adapters, or their shapes.
      section: the section `lora`.
    """
    paths = leaf_paths(params)
    frozen = adapted_weights(paths)
    others = [path for path in paths if path not in frozen and not is_adapter(path)]
    for pattern in section.train:
        twice = next((path for path in paths if path in frozen and _hit(pattern, path)), None)
        if twice is not None:
            weight = twice.removesuffix(CODES).removesuffix(SCALES)
            raise ConfigError(
                f"lora.train: {pattern!r} matches {weight}, which has adapters; leave it out of lora.match or of this"
            )
        if not any(_hit(pattern, path) for path in others):
            layers = [path.rpartition("/")[0] or ROOT for path in others]
            raise ConfigError(
                f"lora.train: {pattern!r} matches no parameter{did_you_mean(pattern, layers)} (layers: "
                f"{_listed(layers)})"
            )


# -- which weights --------------------------------------------------------------------------------


def matched(params: PyTree, section: Lora) -> dict[str, int]:
    """Returns the paths of the weights that a section adapts, and how many of their axes count as inputs.

    Args:
      params: of the model without adapters, or their shapes.
      section: the section `lora`.

    Raises:
      ConfigError: the pattern matches no matrix, or the rank is larger than a side of one.

    Example:
      >>> params = {"conv": {"kernel": jnp.ones((3, 3, 8, 16))}, "head": {"kernel": jnp.ones((16, 10))}}
      >>> matched(params, Lora(match=".*"))
      {'conv/kernel': 3, 'head/kernel': 1}
    """
    shapes = _by_path(params)
    matrices = [
        path for path, leaf in shapes.items() if jnp.ndim(leaf) >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    found = [path for path in matrices if _hit(section.match, path)]
    if not found:
        raise ConfigError(f"lora.match: {section.match!r} {_why_none(section.match, list(shapes), matrices)}")
    cuts = {path: _cut(shapes[path].shape) for path in found}
    for path, cut in cuts.items():
        shape = shapes[path].shape
        sides = math.prod(shape[:cut]), math.prod(shape[cut:])
        if section.rank > min(sides):
            raise ConfigError(
                f"lora.rank: {section.rank} is larger than the smaller side of {path}, {sides[0]} x {sides[1]}; use "
                f"at most {min(sides)}, or leave it out of lora.match"
            )
    return cuts


class _Side(NamedTuple):
    entries: int
    cut: int


def _cut(shape: tuple[int, ...]) -> int:
    """How many axes are inputs, so that A and B have the fewest entries; of equals the most, as of a convolution."""
    sizes = [_Side(math.prod(shape[:cut]) + math.prod(shape[cut:]), -cut) for cut in range(1, len(shape))]
    return -min(sizes).cut


def _hit(pattern: str, path: str) -> bool:
    """Whether a pattern matches a parameter, by its own path or by that of its layer."""
    return any(fullmatch(pattern, name) is not None for name in (path, path.rpartition("/")[0] or ROOT))


def _why_none(pattern: str, paths: list[str], matrices: list[str]) -> str:
    layers = list(dict.fromkeys(path.rpartition("/")[0] or ROOT for path in matrices))
    there_are = f"(layers with one: {_listed(layers)})" if layers else "(the model has none)"
    other = next((path for path in paths if _hit(pattern, path)), None)
    if other is not None:
        return f"matches {other} and no matrix of floats, and only matrices have adapters; name a layer {there_are}"
    near = f"{pattern}/.*"
    whole = f"; write {near!r} for all inside" if any(_hit(near, path) for path in matrices) else ""
    return f"matches no matrix{whole or did_you_mean(pattern, [*layers, *matrices])} {there_are}"


def _listed(names: Iterable[str]) -> str:
    every = list(dict.fromkeys(names))
    return ", ".join(every[:SHOWN]) + (", ..." if len(every) > SHOWN else "")


# -- trees ----------------------------------------------------------------------------------------


def _by_path(params: PyTree) -> dict[str, Any]:
    return dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))


def _path(layer: str, name: Any) -> str:
    return f"{layer}/{name}" if layer else str(name)


def _union(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {name: leaf for part in parts for name, leaf in part.items()}


def _rebuilt(tree: PyTree, change: Callable[[str, dict[Any, Any]], dict[Any, Any]], path: str = "") -> PyTree:
    """The tree with the leaves of each dict changed: `(path, leaves by name) -> leaves by name`."""
    if isinstance(tree, Mapping):
        below = {name: node for name, node in tree.items() if not jax.tree_util.all_leaves([node])}
        own = change(path, {name: node for name, node in tree.items() if name not in below})
        return own | {name: _rebuilt(node, change, _path(path, name)) for name, node in below.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_rebuilt(node, change, _path(path, i)) for i, node in enumerate(tree))
    return tree


class _Held(NamedTuple):
    """A frozen weight as it is kept, with its adapters."""

    base: PyTree
    a: Any
    b: Any


def _joined(params: PyTree, section: Lora, join: Callable[[_Held], Any]) -> PyTree:
    """The tree without adapters: one value in the place of each weight that has some."""

    def change(path: str, layer: dict[Any, Any]) -> dict[Any, Any]:
        names = [name.removesuffix(A) for name in layer if isinstance(name, str) and name.endswith(A)]
        taken = {name + end for name in names for end in ("", A, B, CODES, SCALES)}
        made = {name: leaf for name, leaf in layer.items() if name not in taken}
        for name in names:
            _expect_made_with(section, layer, name, _path(path, name))
            base = layer[name] if section.quantize is None else (layer[name + CODES], layer[name + SCALES])
            made[name] = join(_Held(base, layer[name + A], layer[name + B]))
        return made

    return _rebuilt(params, change)


def _expect_made_with(section: Lora, layer: Mapping[Any, Any], name: str, path: str) -> None:
    """Raises UsageError where a weight was adapted with another rank, or is kept in other bits; int4 looks as nf4."""
    codes, rank = layer.get(name + CODES), layer[name + A].shape[-1]
    kept = "null" if codes is None else "int8" if codes.dtype == jnp.int8 else "int4 or nf4"
    if (section.quantize or "null") not in kept.split(" or "):
        raise UsageError(
            f"{path} is kept with quantize: {kept}, and quantize: {section.quantize or 'null'} was given; give what it "
            "was made with"
        )
    if rank != section.rank:
        raise UsageError(f"{path} has adapters of rank {rank}, and the rank that was given is {section.rank}")


def _sum(section: Lora, held: _Held) -> LowRank:
    scale, dtype = section.alpha / section.rank, held.a.dtype
    if section.quantize is None:
        return LowRank(jax.lax.stop_gradient(held.base), held.a, held.b, scale, _as_it_is)
    shape, rows = (*held.a.shape[:-1], *held.b.shape[1:]), math.prod(held.a.shape[:-1])

    def read(base: tuple[jax.Array, jax.Array]) -> jax.Array:
        return unpacked(*base, section.quantize or "", rows).reshape(shape).astype(dtype)

    return LowRank(jax.lax.stop_gradient(held.base), held.a, held.b, scale, read, again=True)


def _as_it_is(base: jax.Array) -> jax.Array:
    return base


def _is_sum(node: Any) -> bool:
    return isinstance(node, LowRank)


# -- few bits, through Qwix -----------------------------------------------------------------------


def _qwix() -> Any:
    try:
        import qwix
    except ImportError:
        # Part of a configuration, so it ends as one that does not fit.
        raise UsageError(str(MissingExtraError("qwix", "lora.quantize"))) from None
    return qwix


def packed(matrix: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """Returns a matrix in few bits: codes and scales.

    Args:
      matrix: `[in, out]`.
      name: `int8`, `int4` or `nf4`.

    Returns:
      Codes, `[in, out]` in int8, or two rows in each byte, `[in / 2, out]` in uint8; and scales `[in / 64, out]` in
      float32. Rows are filled up with zeros to a multiple of 64.
    """
    rows = -matrix.shape[0] % BLOCK
    filled = jnp.pad(matrix.astype(jnp.float32), ((0, rows), (0, 0)))
    with jax.numpy_dtype_promotion("standard"):
        made = _qwix().quantize(filled, QTYPES[name], channelwise_axes=(1,), tiled_axes={0: BLOCK})
    if name == "int8":
        return made.qvalue, made.scale
    # As JAX has no array of 4 bits that is one on every device and in every file, two are one byte.
    codes = made.qvalue.astype(jnp.int8).astype(jnp.uint8) & jnp.uint8(15)
    return codes[0::2] | (codes[1::2] << jnp.uint8(4)), made.scale


def unpacked(codes: jax.Array, scales: jax.Array, name: str, rows: int) -> jax.Array:
    """Returns the matrix `[rows, out]` that codes and scales of `packed` stand for, in the dtype of the scales.

    Args:
      codes, scales: as `packed` returns them.
      name: `int8`, `int4` or `nf4`.
      rows: of the matrix.
    """
    if name != "int8":
        halves = jnp.stack([codes & jnp.uint8(15), codes >> jnp.uint8(4)], 1).reshape(-1, codes.shape[1])
        # Of int4, the highest of the four bits is the sign.
        signed = (halves ^ jnp.uint8(8)).astype(jnp.int8) - jnp.int8(8)
        codes = halves.astype(jnp.uint4) if name == "nf4" else signed.astype(jnp.int4)
    with jax.numpy_dtype_promotion("standard"):
        array = _qwix().QArray(codes, scales, None, QTYPES[name])
        return _qwix().dequantize(array)[:rows]
