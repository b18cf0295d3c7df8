"""Weights to start from: of another run, or of safetensors files, in one piece or in several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError
from jaxprop.run.adapted import merged_params
from jaxprop.run.folder import expanded, is_run
from jaxprop.run.loaded import load
from jaxprop.untrusted.files import check_safetensors, read_json

SUFFIX, INDEX, WHOLE = ".safetensors", ".safetensors.index.json", "model.safetensors"
# Of programs that write weights otherwise; most of them are pickles, which run code when they are read.
OTHERS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".npz", ".gguf")
CONVERT = (
    "jaxprop reads safetensors only; in a program that trusts the file, convert it with "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)


class Weights(NamedTuple):
    """Arrays by the paths of their leaves.

    Args:
      params, extras: of a model.
      where: what they come from, for messages.
      names: what arrays are called there, where rules have named them.
      cut: paths of arrays of which the first rows may be taken.
      left: names there of arrays that no rule takes.
    """

    params: dict[str, Any]
    extras: dict[str, Any]
    where: str
    names: Mapping[str, str] = {}
    cut: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()


class Listed(NamedTuple):
    """The arrays of a source by name, with / in place of the dots, which are read one by one.

    Args:
      names: of all.
      read: `name -> array`.
      where: what they come from, for messages.
      config: what a `config.json` beside them holds; empty where there is none.
    """

    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]
    where: str
    config: Mapping[str, Any]


def read_weights(source: str, code: Sequence[str] = ()) -> Weights:
    """Reads the weights of a run, of its best checkpoint and as its evaluations use them, or of safetensors files.

    Args:
      source: folder of a run, path of a file, or of a folder of files.
      code: of the user's own that a run may name.

    Raises:
      UsageError: there is no such run or file, or it cannot be read.
      CheckpointError: the run has no checkpoint.
    """
    path = expanded(source)
    if _is_checkpoint(path):
        listed = _list_files(path)
        named = {name: listed.read(name) for name in listed.names}
        parts = {part: {n.removeprefix(f"{part}/"): a for n, a in named.items() if n.startswith(f"{part}/")}
                 for part in ("params", "extras")}  # fmt: skip
        if sum(map(len, parts.values())) == len(named):  # as `jaxprop export` names them
            return Weights(parts["params"], parts["extras"], listed.where)
        return Weights(named, named, listed.where)
    run = load(path, code=code)
    where = f"{source} ({run.opened.which} checkpoint, step {run.step})"
    params, extras = (
        dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)) for tree in (merged_params(run), run.extras)
    )
    return Weights(params, extras, where)


def list_weights(source: str, code: Sequence[str] = ()) -> Listed:
    """Lists the arrays of a source without reading those of files; arguments and errors are those of `read_weights`."""
    path = expanded(source)
    if _is_checkpoint(path):
        return _list_files(path)
    if path.is_dir() and not is_run(path) and not is_run(Path("runs") / path):
        raise UsageError(f"run.init_from: {path} has no .safetensors file, and is no run's folder")
    run = read_weights(source, code)
    arrays = {**run.params, **run.extras}
    return Listed(tuple(arrays), lambda name: np.asarray(arrays[name]), run.where, {})


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is of files of weights rather than of a run; raises UsageError for those of another kind."""
    if path.suffix in OTHERS:
        raise UsageError(f"run.init_from: {path} is no safetensors file: {CONVERT}")
    if path.suffix == SUFFIX or path.name.endswith(INDEX):
        return True
    if not path.is_dir() or is_run(path):
        return False
    names = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith((SUFFIX, INDEX)) for name in names):
        return True
    others = [name for name in names if Path(name).suffix in OTHERS]
    if others:
        raise UsageError(f"run.init_from: {path} has {others[0]} and no .safetensors file: {CONVERT}")
    if "config.json" in names:
        raise UsageError(
            f"run.init_from: {path} has a config.json and no .safetensors file; copy the weights into it, too"
        )
    return False


def _list_files(path: Path) -> Listed:
    files = _files(path)
    held: dict[str, tuple[Path, str]] = {}
    for file in files:
        for name in _names(file):
            here = name.replace(".", "/")
            if here in held:
                other = held[here][1]
                how = "in two of its files" if other == name else f"also as {other}"
                raise UsageError(f"run.init_from: {path} has {name} {how}; rename one of them")
            held[here] = file, name
    return Listed(tuple(held), lambda name: _array(*held[name]), str(path), _config(path))


def _files(path: Path) -> list[Path]:
    """The safetensors files that a path stands for."""
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.name.endswith((SUFFIX, INDEX)))
        whole = [entry for entry in found if entry.name == WHOLE] or [f for f in found if f.name.endswith(INDEX)]
        if len(whole or found) > 1:
            names = ", ".join(entry.name for entry in (whole or found)[:4])
            raise UsageError(f"run.init_from: {path} has {names}; name the one that is meant")
        (path,) = whole or found
    if not path.name.endswith(INDEX):
        return [path]
    try:
        index = read_json(path.resolve())  # a cache of downloads has links
        parts = sorted(set(index["weight_map"].values()))
        assert all(isinstance(part, str) for part in parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise UsageError(f"run.init_from: {path} is no index of safetensors files: {error!r}") from None
    for part in parts:
        if Path(part).name != part or not part.endswith(SUFFIX):
            raise UsageError(f"run.init_from: {path} names {part!r}, which is no .safetensors file beside it")
        if not (path.parent / part).is_file():
            raise UsageError(f"run.init_from: {path} names {part}, which is missing; copy it there, too")
    return [path.parent / part for part in parts]


def _names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        check_safetensors(path)
        with safe_open(path, "np") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise UsageError(f"run.init_from: {path} cannot be read as a safetensors file: {error}") from error


def _array(path: Path, name: str) -> np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.get_tensor(name)
    except (OSError, SafetensorError, TypeError, KeyError) as error:  # such as a dtype that NumPy has not
        raise UsageError(f"run.init_from: {name} of {path} cannot be read: {error!r}") from error


def _config(path: Path) -> dict[str, Any]:
    """What the config.json beside files of weights holds, as `transformers` writes it."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = read_json(file.resolve())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
