"""A failing step, taken again from its black box, one operation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop import data
from jaxprop.checkpoint import leaves
from jaxprop.config.diff import mathematical
from jaxprop.config.load import load
from jaxprop.config.schema.config import Config
from jaxprop.core.precision import masters
from jaxprop.core.trees import layer_names
from jaxprop.errors import CheckpointError, ConfigError, RunFolderError, UsageError, printable
from jaxprop.health.nonfinite.find import Finding, find_nonfinite
from jaxprop.run import compose
from jaxprop.run.blackbox import Box, boxes, changed_sources, read_box
from jaxprop.run.folder import expanded, find_run, is_of_fit, read_summary, write_text
from jaxprop.run.precision import policy_of
from jaxprop.sinks.jsonl import encode
from jaxprop.train.gradients import microbatches, value_and_grad
from jaxprop.train.step import loss_scale
from jaxprop.types import Objective, TrainState
from jaxprop.version import versions

NOTED = ("jax", "jaxlib", "flax", "optax")


class Replayed(NamedTuple):
    """What has come out of taking a failing step again.

    Args:
      step: its number.
      finding: where it stopped being finite, or None where it did not.
      notes: what is not as it was when the step failed, a sentence each.
      run: folder of the run whose step it is; None of a black box that was replayed by itself.
    """

    step: int
    finding: Finding | None
    notes: tuple[str, ...]
    run: Path | None = None

    @property
    def message(self) -> str:
        """What has been found, and what to mind about it; without the control characters that a box may hold."""
        clean = "loss and gradients are finite this time"
        found = self.finding.message if self.finding is not None else clean
        return "\n".join(map(printable, [f"step {self.step}: {found}", *self.notes]))


def replay_run(folder: Path, step: int | None = None, *, code: Sequence[str] = ()) -> Replayed:
    """Takes a run's failing step again and notes what is found in its black box, as `finding.json`.

    Args:
      folder: the run's folder, or a black box in it.
      step: which black box; None for the first.
      code: files and modules with code of the user's own that may be run; the box names them, and may be anyone's.

    Raises:
      UsageError: there is no such run, or it has no such black box.
      RunFolderError: the box cannot be read.
    """
    folder = expanded(folder)
    if (folder / "box.json").is_file():  # the box itself
        return _noted(folder, folder.absolute().parents[1], code)
    folder = find_run(folder)
    if is_of_fit(folder):
        raise UsageError(
            f"{folder} is a run of jaxprop.fit, whose loss is Python code that no folder holds, so it cannot be "
            "replayed; while it ran, it told which operation the first NaN came from, and "
            "step.find_nonfinite(state, batch) tells it for a batch of yours"
        )
    found = boxes(folder)
    if not found:
        raise UsageError(_without_boxes(folder))
    chosen = found[0] if step is None else folder / "blackbox" / str(step)
    if chosen not in found:
        raise UsageError(f"{folder} has no black box of step {step}; it has {', '.join(path.name for path in found)}")
    return _noted(chosen, folder, code)


def _noted(chosen: Path, run: Path, code: Sequence[str]) -> Replayed:
    """Replays a box and writes what is found into it."""
    replayed = replay(chosen, code=code)
    replayed = replayed._replace(notes=(*_of_another_run(chosen, run), *replayed.notes), run=run)
    noted = chosen / "finding.json"
    if replayed.finding is None:
        noted.unlink(missing_ok=True)
    else:
        record = {"step": replayed.step, **replayed.finding.record(), "notes": list(replayed.notes)}
        write_text(noted, encode(record) + "\n")
    return replayed


def _of_another_run(box: Path, run: Path) -> Iterator[str]:
    """A note on a box that the run in whose folder it lies has not written."""
    try:
        changes = mathematical(load(box / "config.yaml").config, load(run / "config.yaml").config)
    except ConfigError:
        return  # of a box away from its run there is nothing to compare with
    if changes:
        yield f"the black box is of another run than the one in {run}, which has {'; '.join(map(str, changes[:3]))}"


def _without_boxes(folder: Path) -> str:
    if load(folder / "config.yaml").config.health.blackboxes == 0:
        return f"{folder} has no black box, since health.blackboxes is 0; train it again with health.blackboxes=1"
    summary = read_summary(folder)
    if summary is None:
        return f"{folder} has no black box: no step of it has failed so far, and the run has not ended"
    return f"{folder} has no black box to replay: none of its {summary.get('step')} steps was non-finite"


def replay(folder: Path, *, code: Sequence[str] = ()) -> Replayed:
    """Takes the failing step of a black box again.

    Args:
      folder: of the box.
      code: files and modules with code of the user's own that may be run.

    Raises:
      UsageError: the box names code that is not in `code`.
      JaxpropError: the box cannot be read, or its run not be built again.
    """
    box = read_box(folder)
    config = load(box.folder / "config.yaml", code=code, stored=True).config
    experiment = compose.compose(config)
    state = _state(box, experiment)
    finding = None
    for part in parts(experiment, state, box):
        found = find_nonfinite(part.loss_fn, part.params, part.batch, part.key)
        if found is None:
            continue
        examples = tuple(part.first + i * part.stride for i in found.examples)
        if finding is None:
            finding = found._replace(examples=examples, batch_size=found.batch_size * part.stride)
        else:  # the examples of a later microbatch, whatever fails there
            finding = finding._replace(examples=(*finding.examples, *examples))
    if finding is not None:
        finding = finding._replace(examples=tuple(sorted(finding.examples)))
    return Replayed(box.step, finding or _in_all(experiment, state, box), tuple(_differences(box)))


def _state(box: Box, experiment: compose.Experiment) -> TrainState:
    """The box's state, if it is one of its own config's."""
    needed = next(data.one_pass(experiment.sources["train"], 1))
    fresh = experiment.init(experiment.config.run.seed)
    try:
        places = leaves.check_fit(box.about["leaves"], fresh, str(box.folder))
        state = leaves.unpack(box.arrays, box.key_impls, fresh, places)
        leaves.check_fit(box.about["leaves"], state, str(box.folder))
        fits = needed.keys() == box.batch.keys() and all(
            box.batch[name].shape[1:] == array.shape[1:] for name, array in needed.items()
        )
    except (CheckpointError, KeyError, ValueError, TypeError):
        fits = False
    if not fits:
        raise RunFolderError(
            f"{box.folder} is damaged: its state or its batch does not fit its config.yaml; there is nothing to replay"
        )
    return state


class Part(NamedTuple):
    """What a step differentiates at once, all of its batch or a microbatch of it.

    Args:
      loss_fn, params, batch, key: as `find_nonfinite` takes them.
      first, stride: example i of it is number `first + i * stride` of the step's batch.
    """

    loss_fn: Callable[..., jax.Array]
    params: Any
    batch: Any
    key: Any
    first: int
    stride: int


def parts(experiment: compose.Experiment, state: TrainState, box: Box) -> Iterator[Part]:
    """Yields what a step differentiates, microbatch by microbatch."""
    config, objective, state = experiment.config, experiment.task.objective, _as_differentiated(experiment, state)
    count, batch = _microbatches(config, box), jax.tree.map(jnp.asarray, box.batch)
    key, scale, computes = _key(state, box), loss_scale(state), policy_of(config)
    if count == 1:
        yield Part(scaled(objective, state.extras, computes, scale), state.params, batch, key, 0, 1)
        return
    split, extras = microbatches(batch, count), state.extras
    for k in range(count):
        one, its_key = jax.tree.map(lambda x, k=k: x[k], split), jax.random.fold_in(key, k)
        yield Part(scaled(objective, extras, computes, scale), state.params, one, its_key, k, count)
        extras = objective.mean_loss(state.params, extras, one, its_key, computes)[1][1]


def _in_all(experiment: compose.Experiment, state: TrainState, box: Box) -> Finding | None:
    """What is not finite of the step as a whole although each of its parts is: a sum of them."""
    config = experiment.config

    def step(params: Any, batch: Any) -> tuple[Any, Any]:
        forward, back = value_and_grad(
            experiment.task.objective, policy_of(config), _microbatches(config, box), loss_scale(state),
            params, state.extras, batch, _key(state, box),
        )  # fmt: skip
        return forward.loss, back.params

    state = _as_differentiated(experiment, state)
    loss, grads = jax.jit(step)(state.params, jax.tree.map(jnp.asarray, box.batch))
    if bool(jnp.isfinite(loss)) and all(bool(jnp.isfinite(grad).all()) for grad in jax.tree.leaves(grads)):
        return None
    names, rows = layer_names(grads)
    largest = [float(jnp.max(jnp.abs(grad))) if grad.size else 0.0 for grad in jax.tree.leaves(grads)]
    worst = max(range(len(largest)), key=lambda i: largest[i])
    return Finding("backward", None, names[rows[worst]], None, None, operands=(f"{largest[worst]:.4g}",), suspect="sum")


def _microbatches(config: Config, box: Box) -> int:
    """Of a batch that has grown there are more of them."""
    rows = jax.tree.leaves(box.batch)[0].shape[0]
    grown = 1 if config.run.grow_batch is None else rows // config.data.batch_size
    return config.run.accumulate * grown


def _as_differentiated(experiment: compose.Experiment, state: TrainState) -> TrainState:
    return state._replace(params=masters(state.params, policy_of(experiment.config)))


def _key(state: TrainState, box: Box) -> jax.Array:
    return jax.random.fold_in(state.key, box.step - 1)  # a step is numbered by the state it leaves


def scaled(objective: Objective, extras: Any, computes: Any, scale: Any) -> Callable[..., jax.Array]:
    """The loss that a step differentiates, as a function of parameters, batch and key."""

    def loss_fn(params: Any, batch: Any, key: Any) -> jax.Array:
        loss = objective.mean_loss(params, extras, batch, key, computes)[0]
        return loss if scale is None else loss * scale.astype(loss.dtype)

    return loss_fn


def _differences(box: Box) -> Iterator[str]:
    """What is not as it was when the step failed."""
    then, now = box.about["versions"], versions()
    other = [f"{name} {then[name]}, now {now[name]}" for name in NOTED if name in then and then[name] != now[name]]
    if other:
        yield f"the step failed with {'; '.join(other)}"
    for path in changed_sources(box):
        yield f"jaxprop/{path} has changed since the step failed, so lines and figures may differ"
    device = jax.devices()[0].device_kind
    if box.about["device"] != device:
        yield f"the step failed on {box.about['device']}, and this is {device}"
    if box.updates:
        yield (
            f"the state has seen {box.updates} update{'s' if box.updates > 1 else ''} more, since a step is read while "
            "the next one runs; it need not fail as it did"
        )
