"""The state before the first step: drawn, or filled with the weights of another run or of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.custom import custom_sections
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.initial import MAPS, InitialWeights, WeightMap
from jaxprop.config.schema.lora import Lora
from jaxprop.config.weight_maps import SUFFIXES, weight_map
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.models.lora import is_trained
from jaxprop.run.compose import Experiment
from jaxprop.run.folder import expanded, find_run, is_run
from jaxprop.run.held import of_frozen_layers
from jaxprop.run.pretrained import expect_name, fitting_map, fix, model_of, told, unlike
from jaxprop.run.served import PREFIX
from jaxprop.run.weight_files import OTHERS, SUFFIX, Weights, list_weights, read_weights
from jaxprop.run.weight_rules import apply_rules
from jaxprop.types import PyTree, TrainState
from jaxprop.untrusted.patterns import expand, fullmatch

DRAWN = "warning: lora adapts weights that are drawn, and which stay as they are; name those of a run in run.init_from"
NAMED = 6  # layers that a note names


class Filled(NamedTuple):
    """A tree filled with given arrays, and what became of each of its leaves, by path.

    Args:
      tree: the tree.
      loaded, skipped, drawn: paths of its leaves.
      extended: of those loaded, the ones that are larger than what was given.
      cut: of those loaded, the ones of which only the first rows were taken.
    """

    tree: PyTree
    loaded: list[str]
    skipped: list[str]
    drawn: list[str]
    extended: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


class Given(NamedTuple):
    """Weights by the names that they have in this model.

    Args:
      weights: the arrays.
      notes: what is to be said of them besides what is taken.
      fix: `(path, shape there, shape here) -> ` what makes them fit, or an empty text; None where nothing is known.
    """

    weights: Weights
    notes: list[str]
    fix: Callable[[str, tuple[int, ...], tuple[int, ...]], str] | None = None


def begin(experiment: Experiment, seed: int | None = None) -> tuple[TrainState, list[str]]:
    """Returns the state before a run's first step, with the weights that `run.init_from` names.

    Args:
      experiment: the run.
      seed: of the parameters that are drawn, and of the random stream; by default the run's.

    Returns:
      The state, and lines that say what was loaded, skipped, drawn and frozen; none where everything is drawn.

    Raises:
      UsageError: the weights cannot be read, or do not fit.
    """
    run = experiment.config.run
    seed, section = run.seed if seed is None else seed, run.init_from
    if section is None:
        return experiment.init(seed), [] if experiment.config.lora is None else [DRAWN]
    own = custom_sections(experiment.config).values()
    permitted = tuple(one.target.where for one in own if one.permitted)  # what this run may do, its source may as well
    rules = weight_map(section.map)
    found = _by_names(section, permitted) if rules is None else _by_rules(experiment.config, section, rules, permitted)
    given = found.weights
    notes: list[str] = []

    def change(params: PyTree, extras: PyTree) -> tuple[PyTree, PyTree]:
        _check_skipped(section, [*leaf_paths(params), *leaf_paths(extras)])
        filled = fill(params, given.params, section, given.where, found)
        beside = fill(extras, given.extras, section, given.where, found)
        _check_used(section, filled, given)
        if experiment.config.lora is not None:
            _check_adapted(experiment.config.lora, filled, given)
        notes[:] = [*_notes(section, filled, beside, given), *found.notes]
        return filled.tree, beside.tree

    return experiment.init(seed, change), notes


def _by_names(section: InitialWeights, permitted: Sequence[str]) -> Given:
    read, turned = transposed(read_weights(section.source, permitted), section.transpose)
    return Given(renamed(read, section.names), list(_of_torch(turned, square_weights(read, section))))


def _by_rules(config: Config, section: InitialWeights, made: WeightMap, permitted: Sequence[str]) -> Given:
    listed = list_weights(section.source, permitted)
    try:
        given = apply_rules(listed, made.rules)
    except UsageError:
        other = fitting_map(listed) if section.map in MAPS else section.map
        if other in (None, section.map):
            raise
        raise UsageError(
            f"run.init_from.map: {section.map} does not fit the arrays of {listed.where}; write map: {other}"
        ) from None
    if not made.model:
        return Given(given, [])
    wanted = model_of(made, given, listed.config)
    expect_name(config, wanted, given)
    notes = [*told(config, made, wanted), *unlike(made, listed.config)]
    return Given(given, notes, partial(fix, config, wanted))


def resolved(config: Config) -> Config:
    """Returns a configuration whose `run.init_from` is an absolute path, so that it means the same in any folder."""
    section = config.run.init_from
    if section is None:
        return config
    champion = section.source.startswith(PREFIX)
    path = find_run(Path(section.source)) if champion else expanded(section.source)
    # A folder of that name may lie here too, such as the data that the run was trained on.
    if (
        len(path.parts) == 1
        and path.suffix not in (SUFFIX, *OTHERS)
        and (not path.exists() or (not is_run(path) and is_run(Path("runs") / path)))
    ):
        path = Path("runs") / path
    update: dict[str, Any] = {"from": str(path.absolute())}
    if isinstance(section.map, str) and Path(section.map).suffix in SUFFIXES:
        update["map"] = str(expanded(section.map).absolute())
    section = section.model_copy(update=update)
    return config.model_copy(update={"run": config.run.model_copy(update={"init_from": section})})


def renamed(given: Weights, patterns: Mapping[str, str]) -> Weights:
    """Returns weights by the names that they have in another model.

    Args:
      given: by their own names.
      patterns: `run.init_from.map`; the first pattern that matches a whole name gives the new one.

    Raises:
      UsageError: a pattern matches nothing, a replacement cannot be filled in, or two arrays get one name.

    Example:
      >>> renamed(Weights({"encoder/w": 1, "bias": 2}, {}, "a.safetensors"), {"encoder/(.*)": r"backbone/\\1"}).params
      {'backbone/w': 1, 'bias': 2}
    """
    unused = set(patterns)

    def rename(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            match = next(((p, found) for p in patterns if (found := fullmatch(p, name))), None)
            if match is not None:
                unused.discard(match[0])
                try:
                    name = expand(match[1], patterns[match[0]])
                except ValueError as error:
                    raise UsageError(
                        f"run.init_from.map: {patterns[match[0]]!r} cannot be filled in: {error}"
                    ) from error
            yield name

    parts = []
    for arrays in (given.params, given.extras):
        names = list(rename(arrays))
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"run.init_from.map: two arrays of {given.where} get the name {twice}; map one of them")
        parts.append(dict(zip(names, arrays.values(), strict=True)))
    for pattern in unused:
        raise UsageError(f"run.init_from.map: {pattern!r} matches no array of {given.where}{_some(given.params)}")
    return Weights(parts[0], parts[1], given.where)


def transposed(given: Weights, patterns: Sequence[str]) -> tuple[Weights, list[str]]:
    """Returns weights with some arrays `[out, in, ...]`, as PyTorch holds them, turned into `[..., in, out]`.

    Args:
      given: by their own names.
      patterns: `run.init_from.transpose`.

    Returns:
      The weights, and the names of those that were turned.

    Raises:
      UsageError: a pattern matches nothing, or an array of fewer than two axes.

    Example:
      >>> found, names = transposed(Weights({"fc/weight": np.ones((3, 2))}, {}, "a.safetensors"), ["fc/.*"])
      >>> found.params["fc/weight"].shape, names
      ((2, 3), ['fc/weight'])
    """
    names = [name for name in given.params if _matches(patterns, name)]
    for pattern in patterns:
        if not _matches([pattern], *given.params):
            raise UsageError(
                f"run.init_from.transpose: {pattern!r} matches no array of {given.where}{_some(given.params)}"
            )
    flat = next((name for name in names if np.ndim(given.params[name]) < 2), None)
    if flat is not None:
        raise UsageError(
            f"run.init_from.transpose: {flat} has {np.ndim(given.params[flat])} axes; name arrays of 2 or more"
        )
    turned = {name: _turned(given.params[name]) for name in names}
    return given._replace(params=given.params | turned), names


def _turned(array: Any) -> Any:
    return jnp.transpose(array, (*range(2, np.ndim(array)), 1, 0))


def square_weights(given: Weights, section: InitialWeights) -> dict[str, str]:
    """Returns arrays called `weight` that fit a `kernel` either way, by their names there, with their names here.

    PyTorch calls an array `[out, in, ...]` so, and where both sizes are the same nothing else tells it from a kernel.

    Args:
      given: by their own names.
      section: says what is renamed and turned.
    """
    found = {}
    for name, array in given.params.items():
        shape = np.shape(array)
        if not name.endswith("weight") or len(shape) != 2 or shape[0] != shape[1] or _matches(section.transpose, name):
            continue
        (here,) = renamed(Weights({name: array}, {}, given.where), _mapping(section.names, name)).params
        if here.endswith("kernel"):
            found[name] = here
    return found


def _mapping(patterns: Mapping[str, str], name: str) -> dict[str, str]:
    """The pattern that renames an array: the first that matches."""
    first = next((pattern for pattern in patterns if fullmatch(pattern, name)), None)
    return {} if first is None else {first: patterns[first]}


def _of_torch(turned: Sequence[str], square: Mapping[str, str]) -> Iterator[str]:
    if turned:
        yield f"transposed from [out, in, ...]: {_some_of(turned)}"
    if square:
        first = next(iter(square))
        yield (
            f"warning: {_some_of(square)} {'is' if len(square) == 1 else 'are'} square, so shapes do not tell whether "
            "the axes are PyTorch's, [out, in], or a kernel's, [in, out]; the values were taken as they are: where the "
            f"file comes from PyTorch, add transpose: ['{first}']"
        )


def _some_of(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def fill(
    tree: PyTree, given: Mapping[str, Any], section: InitialWeights, where: str, found: Given | None = None
) -> Filled:
    """Puts arrays into a tree, by path.

    Args:
      tree: parameters or extras as they were drawn.
      given: arrays by path.
      section: says what is skipped.
      where: what the arrays come from.
      found: what is known of arrays that rules have named.

    Raises:
      UsageError: an array has another shape or kind of numbers.
    """
    flat, structure = jax.tree.flatten(tree)
    found = Given(Weights({}, {}, where), []) if found is None else found
    leaves, loaded, skipped, drawn, larger, cut = [], [], [], [], [], []
    for path, leaf in zip(leaf_paths(tree), flat, strict=True):
        if any(fullmatch(pattern, path) for pattern in section.skip):
            skipped.append(path)
        elif path not in given or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            drawn.append(path)
        elif _matches(section.extend, path) and is_larger(leaf, given[path]):
            leaf = extended(leaf, given[path])
            loaded.append(path)
            larger.append(path)
        else:
            array = given[path]
            if (
                path in found.weights.cut
                and array.ndim
                and array.shape[1:] == leaf.shape[1:]
                and len(array) > len(leaf)
            ):
                array = array[: len(leaf)]
                cut.append(f"{path.rpartition('/')[0]} ({len(leaf)} of {len(given[path])} rows)")
            leaf = _fitting(path, array, leaf, found)
            loaded.append(path)
        leaves.append(leaf)
    return Filled(jax.tree.unflatten(structure, leaves), loaded, skipped, drawn, tuple(larger), tuple(cut))


def is_larger(leaf: Any, array: Any) -> bool:
    """Whether a leaf is larger than an array along some axes, and smaller along none.

    Example:
      >>> is_larger(np.zeros((4, 3)), np.zeros((4, 2))), is_larger(np.zeros((4, 2)), np.zeros((4, 2)))
      (True, False)
    """
    here, there = np.shape(leaf), np.shape(array)
    return here != there and len(here) == len(there) and all(a >= b for a, b in zip(here, there, strict=True))


def extended(leaf: Any, array: Any) -> Any:
    """Returns a leaf whose first entries along each axis are those of an array, and whose others are its own.

    Example:
      >>> extended(jnp.zeros((2, 3)), np.ones((2, 2))).tolist()
      [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    first = tuple(slice(size) for size in np.shape(array))
    return jnp.asarray(leaf).at[first].set(jnp.asarray(array, leaf.dtype))


def _fitting(path: str, array: Any, leaf: Any, found: Given) -> Any:
    name = found.weights.names.get(path)
    where = found.weights.where + (f" ({name})" if name else "")
    there, here = (f"{np.dtype(x.dtype).name}{list(x.shape)}" for x in (array, leaf))
    same = array.dtype == leaf.dtype or all(jnp.issubdtype(x.dtype, jnp.floating) for x in (array, leaf))
    if array.shape != leaf.shape or not same:
        layer = path.rpartition("/")[0]
        pattern = f"{layer}/.*" if layer else path
        known = found.fix(path, array.shape, leaf.shape) if found.fix is not None and same else ""
        if known:
            raise UsageError(f"run.init_from: {path} is {there} in {where} and {here} in this model; {known}")
        if array.ndim > 1 and same and _turned(array).shape == leaf.shape:
            raise UsageError(
                f"run.init_from: {path} is {there} in {where} and {here} in this model, which is the same with the "
                "axes in PyTorch's order, [out, in, ...]; add transpose: [PATTERN], with its name there, or "
                "transpose: [1, 0] to its rule"
            )
        raise UsageError(
            f"run.init_from: {path} is {there} in {where} and {here} in this model; draw it anew with "
            f"skip: ['{pattern}']"
        )
    return jnp.asarray(array, leaf.dtype)


def _check_skipped(section: InitialWeights, paths: Sequence[str]) -> None:
    for pattern in section.skip:
        if not any(fullmatch(pattern, path) for path in paths):
            raise UsageError(f"run.init_from.skip: {pattern!r} matches no parameter{_some(paths)}")


def _check_used(section: InitialWeights, params: Filled, given: Weights) -> None:
    paths = [*params.loaded, *params.skipped, *params.drawn]
    if not params.loaded:
        raise UsageError(
            f"run.init_from: no parameter of this model is in {given.where}, which has {_listed(given.params)}; this "
            f"model has {_listed(paths)}; {_advised(section)}"
        )
    stuck = [path for path in (*params.drawn, *params.skipped) if _matches(section.freeze, path)]
    if stuck:
        raise UsageError(
            f"run.init_from.freeze: {stuck[0]} is not loaded, so it would stay as it was drawn; load it with map, or "
            "leave it out of freeze"
        )


def _check_adapted(section: Lora, params: Filled, given: Weights) -> None:
    """Raises UsageError where a new parameter, such as the head of other classes, would be frozen."""
    stuck = next((path for path in (*params.drawn, *params.skipped) if not is_trained(path, section)), None)
    if stuck is not None:
        layer = stuck.rpartition("/")[0] or stuck
        raise UsageError(
            f"lora: {stuck} is not loaded from {given.where}, and would stay as it was drawn; train it with "
            f"lora.train: ['{layer}'] and leave it out of lora.match, or load it with run.init_from.map"
        )


def _advised(section: InitialWeights) -> str:
    name = None if section.map else _known(section.source)
    return "give the names there that are meant with map" if name is None else f"write map: {name}"


def _known(source: str) -> str | None:
    try:
        return fitting_map(list_weights(source))
    except JaxpropError:
        return None


def _notes(section: InitialWeights, params: Filled, extras: Filled, given: Weights) -> list[str]:
    size = sum(int(np.size(given.params[path])) for path in params.loaded)
    beside = f", and {len(extras.loaded)} beside the parameters" if extras.loaded else ""
    notes = [f"initial weights of {given.where}: {size:,} values of {_listed(params.loaded)}{beside}"]
    if params.extended or extras.extended:
        notes.append(f"extended, and the rest drawn: {_listed([*params.extended, *extras.extended])}")
    if params.cut:
        notes.append(f"cut to the length of this model's: {', '.join(params.cut)}")
    if params.skipped:
        notes.append(f"skipped and drawn: {_listed(params.skipped)}")
    if params.drawn:
        notes.append(f"not in there and drawn: {_listed(params.drawn)}")
    unused = [path for path in given.params if path not in {*params.loaded, *extras.loaded, *params.skipped}]
    if unused or given.left:
        notes.append(f"not used of them: {_listed([*unused, *given.left])}")
    frozen = [path for path in params.loaded if _matches(section.freeze, path)]
    if frozen:
        every = [*params.loaded, *params.skipped, *params.drawn]
        statistics = of_frozen_layers(section.freeze, every, [*extras.loaded, *extras.skipped, *extras.drawn])
        notes.append(f"frozen: {_listed(frozen)}{_statistics(statistics, section.freeze_statistics)}")
    return notes


def _statistics(paths: Sequence[str], held: bool) -> str:
    if not paths:
        return ""
    layers = _listed(paths)
    if held:
        return f", with the statistics of {layers}"
    return f"; but the statistics of {layers} follow the data, unless init_from.freeze_statistics is true"


def _matches(patterns: Sequence[str], *paths: str) -> bool:
    return any(fullmatch(pattern, path) for pattern in patterns for path in paths)


def _listed(paths: Iterable[str]) -> str:
    """Paths by the layers that hold them."""
    layers = list(dict.fromkeys(path.rpartition("/")[0] or path for path in paths))
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return ", ".join(layers[:NAMED]) + more


def _some(paths: Iterable[str]) -> str:
    return f"; there are: {_listed(paths)}"
