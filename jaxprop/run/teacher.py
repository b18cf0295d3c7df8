"""The teacher that `task.teacher` names: opened, and checked against the run that learns from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.checkpoint import stored_config
from jaxprop.checkpoint.digests import digest
from jaxprop.code.load import load_code
from jaxprop.config.custom import custom_sections
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.teacher import CustomTeacher, RunTeacher
from jaxprop.core.trees import leaf_paths
from jaxprop.data.alike import alike_of, class_names
from jaxprop.errors import CheckpointError, ConfigError, JaxpropError, UsageError
from jaxprop.parallel.placement import gathered
from jaxprop.run.folder import find_run
from jaxprop.run.opened import Opened, open_run
from jaxprop.run.prepared import prepared_of
from jaxprop.tasks.task import SIZES
from jaxprop.train.distillation import Teacher
from jaxprop.types import Model, PyTree, Source

KEY = "task.teacher"
_COUNTED = {"classes": "classes", "targets": "targets", "vocabulary": "tokens"}
_TOLD = {  # what a reader has learned, in words
    "tokenizer": "another tokenizer",
    "scale": "inputs that are standardized otherwise",
    "target_scale": "targets that are standardized otherwise",
}


def open_teacher(config: Config, train: Source) -> tuple[Config, Teacher | None]:
    """Opens the teacher of a configuration, and checks that it answers what the run is to learn.

    Args:
      config: the configuration.
      train: its training data.

    Returns:
      The configuration with the digest of the teacher's arrays, and the teacher; None where it names none.

    Raises:
      UsageError: there is no such run, or its arrays are not those of the digest that the configuration has.
      ConfigError: the teacher was trained for another task, other answers or other inputs.
      CheckpointError: the teacher has no checkpoint.
    """
    section = config.task.teacher
    if section is None:
        return config, None
    if isinstance(section, CustomTeacher):
        model, params, extras = _own(section, train)
    else:
        model, params, extras = _of_run(section, config, train)
    _check_answers(config, section, train, model, params, extras)
    found = _digest(params, extras)
    if section.digest not in (None, found):
        raise UsageError(
            f"{KEY}: {section.shown} is not the teacher that this run began with: its arrays have another digest; "
            "restore that one, or use --run DIR for a new run or --fresh to start this one over"
        )
    teacher = Teacher(model, params, extras, section.temperature, section.weight)
    return _with(config, section.model_copy(update={"digest": found})), teacher


def resolved_teacher(config: Config, folder: Path) -> Config:
    """Returns a configuration whose teacher is named by an absolute path, so that it means the same in any folder.

    Args:
      config: the configuration.
      folder: of the run that learns.

    Raises:
      UsageError: there is no such run, or the run is its own teacher.
    """
    section = config.task.teacher
    if not isinstance(section, RunTeacher):
        return config
    itself = Path(section.run).expanduser()
    path = itself if itself.resolve() == folder.resolve() else _told(lambda: find_run(Path(section.run))).absolute()
    if path.resolve() == folder.resolve():
        raise UsageError(f"{KEY}: {folder} is the run itself; name another run as its teacher, or another --run DIR")
    return _with(config, section.model_copy(update={"run": str(path)}))


def with_digest(config: Config, folder: Path) -> Config:
    """Returns a configuration with the digest of the teacher that the folder's run began with, if it has one.

    Args:
      config: the configuration.
      folder: of the run; it need not exist.
    """
    section = config.task.teacher
    if section is None or section.digest is not None:
        return config
    try:
        stored = stored_config(folder / "checkpoints")
    except CheckpointError:
        return config
    known = (stored.get("task", {}).get("teacher") or {}).get("digest")
    return config if known is None else _with(config, section.model_copy(update={"digest": known}))


def _with(config: Config, section: RunTeacher | CustomTeacher) -> Config:
    return config.model_copy(update={"task": config.task.model_copy(update={"teacher": section})})


def _told(read: Any) -> Any:
    """What is read, or the error with the key that it is about."""
    try:
        return read()
    except JaxpropError as error:
        raise type(error)(f"{KEY}: {error}") from error


def _own(section: CustomTeacher, train: Source) -> tuple[Model, PyTree, PyTree]:
    code = load_code(section, ("task", "teacher"))
    made = code(**{name: train.info[name] for name in SIZES if name in train.info})
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], Model):
        raise code.wrong(
            f"expected {section.name} to return (model, params) or (model, params, extras), with a jaxprop.Model such "
            f"as jaxprop.from_nnx makes; got {type(made).__name__}"
        )
    return made[0], *(_on_host(tree) for tree in (*made[1:], {})[:2])


def _of_run(section: RunTeacher, config: Config, train: Source) -> tuple[Model, PyTree, PyTree]:
    # What this run may do, its teacher may as well.
    permitted = tuple(one.target.where for one in custom_sections(config).values() if one.permitted)
    folder = _told(lambda: find_run(Path(section.run)))
    _refuse_fit(section, folder)
    opened = _told(lambda: open_run(folder, code=permitted))
    _check_data(section, opened, config, train)
    model, step, mesh = opened.experiment.task.model, opened.experiment.step, opened.experiment.mesh
    if model is None:
        raise ConfigError(f"{KEY}: the model of {section.shown} is a loss function, which has no outputs to learn from")
    trees = step.eval_params(opened.state), step.eval_extras(opened.state)
    return model, *(_on_host(tree if mesh is None else gathered(tree, mesh)) for tree in trees)


def _refuse_fit(section: RunTeacher, folder: Path) -> None:
    try:
        is_fit = "model" not in stored_config(folder / "checkpoints")
    except CheckpointError:
        return
    if is_fit:
        raise UsageError(
            f"{KEY}: {section.shown} is a run of jaxprop.fit, whose model is Python code; name a function with class: "
            "that returns (model, params)"
        )


def _check_data(section: RunTeacher, opened: Opened, config: Config, train: Source) -> None:
    """Raises ConfigError where the teacher's data have other answers or are prepared otherwise."""
    name, own = section.shown, prepared_of(train)
    if opened.config.task.name != config.task.name:
        raise ConfigError(
            f"{KEY}: {name} has learned the task {opened.config.task.name}, and this run learns {config.task.name}; "
            "use a teacher of the same task"
        )
    for size, what in _COUNTED.items():
        here, there = own.info.get(size), opened.prepared.info.get(size)
        if here != there:
            raise ConfigError(
                f"{KEY}: {name} knows {there or 'no'} {what}, and the data here have {here or 'none'}; use a teacher "
                f"that was trained for the same {what}"
            )
    here, there = (class_names(info, config.task.name) for info in (own.info, opened.prepared.info))
    if here != there:
        raise ConfigError(
            f"{KEY}: the classes of {name} have other names or another order, {_few(there)} and here {_few(here)}; "
            f"{_alike(name)}"
        )
    seen, known = (
        {key: (list(leaf.shape), np.dtype(leaf.dtype).name) for key, leaf in _flat(one.example) if _is_input(key)}
        for one in (own, opened.prepared)
    )
    if seen != known:
        raise ConfigError(
            f"{KEY}: {name} was trained on {_shapes(known)}, and the data here have {_shapes(seen)}; use a teacher "
            "that was trained on inputs of the same shape"
        )
    _check_prepared(name, own.info, own.prepared, opened)


def _check_prepared(name: str, info: Mapping[str, Any], own: Mapping[str, Any], opened: Opened) -> None:
    mine = json.loads(json.dumps(alike_of(info, own).prepared, default=_plain))
    other = json.loads(json.dumps(alike_of(opened.prepared.info, opened.prepared.prepared).prepared, default=_plain))
    changed = sorted(key for key in {*mine, *other} if mine.get(key) != other.get(key))
    if changed:
        what = next((_TOLD[key] for key in changed if key in _TOLD), f"data that are prepared otherwise ({changed[0]})")
        raise ConfigError(f"{KEY}: {name} was trained with {what} than here; {_alike(name)}")


def _check_answers(
    config: Config, section: RunTeacher | CustomTeacher, train: Source, model: Model, params: PyTree, extras: PyTree
) -> None:
    """Raises ConfigError where the teacher cannot take a batch, or its answers are not as many as the data have."""
    size = next((train.info[one] for one in _COUNTED if one in train.info), None)
    batch = dict(train.take(np.zeros(2, np.int64)))
    kept = train.stored
    batch = dict(kept.widen(batch)) if kept is not None else batch
    try:
        outputs = jax.eval_shape(lambda p, e, b: model.apply(p, e, b, key=None, train=False)[0], params, extras, batch)
    except (TypeError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        raise ConfigError(f"{KEY}: {section.shown} cannot take a batch of this run ({why})") from error
    last = getattr(outputs, "shape", ())[-1:]
    if isinstance(section, CustomTeacher) and config.task.name != "language" and last != (size,):
        raise ConfigError(
            f"{KEY}: {section.shown} returns outputs of {last[0] if last else 'no'} numbers, and the data here have "
            f"{size}; use a teacher that was trained for the same answers"
        )


def _digest(params: PyTree, extras: PyTree) -> str:
    """One digest of all arrays and their names, wherever they lie."""
    tree = {"params": params, "extras": extras}
    named = dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
    found = digest({name: leaf for name, leaf in named.items() if isinstance(leaf, np.ndarray)})()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _on_host(tree: PyTree) -> PyTree:
    """Arrays of NumPy, which belong to no device; keys stay as they are."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x), tree)


def _flat(example: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in example.items():
        found += _flat(value, f"{before}{name}/") if isinstance(value, Mapping) else [(f"{before}{name}", value)]
    return found


def _is_input(path: str) -> bool:
    return path.split("/")[0] not in ("labels", "mask", "weight")


def _shapes(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {dtype}{shape}" for name, (shape, dtype) in found.items()) or "no inputs"


def _few(names: list[str] | None) -> str:
    return "none" if names is None else ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _alike(name: str) -> str:
    return (
        f"prepare the data here as there, with data: {{name: mixture, prepared_by: {name}, sources: [the section data "
        "as it is now]}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")
