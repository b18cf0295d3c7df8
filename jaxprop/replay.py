"""A failing step, taken again from its black box, one operation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop import runner
from jaxprop.blackbox import Box, boxes, changed_sources, read_box
from jaxprop.checkpoint import leaves
from jaxprop.config.load import load
from jaxprop.errors import UsageError
from jaxprop.gradients import microbatches
from jaxprop.health.replay import Finding, find_nonfinite
from jaxprop.precision import LossScale, policy
from jaxprop.runfolder import check_run, read_summary, versions, write_text
from jaxprop.sinks.jsonl import encode
from jaxprop.types import Objective, TrainState

NOTED = ("jax", "jaxlib", "flax", "optax")


class Replayed(NamedTuple):
    """What has come out of taking a failing step again.

    Args:
      step: its number.
      finding: where it stopped being finite, or None where it did not.
      notes: what is not as it was when the step failed, a sentence each.
    """

    step: int
    finding: Finding | None
    notes: tuple[str, ...]

    @property
    def message(self) -> str:
        """What has been found, and what to mind about it."""
        clean = "loss and gradients are finite this time"
        found = self.finding.message if self.finding is not None else clean
        return "\n".join([f"step {self.step}: {found}", *self.notes])


def replay_run(folder: Path, step: int | None = None) -> Replayed:
    """Takes a run's failing step again and notes what is found in its black box, as `finding.json`.

    Args:
      folder: the run's folder.
      step: which black box; None for the first.

    Raises:
      UsageError: there is no such run, or it has no such black box.
      RunFolderError: the box cannot be read.
    """
    check_run(folder)
    found = boxes(folder)
    if not found:
        raise UsageError(_without_boxes(folder))
    chosen = found[0] if step is None else folder / "blackbox" / str(step)
    if chosen not in found:
        raise UsageError(f"{folder} has no black box of step {step}; it has {', '.join(path.name for path in found)}")
    replayed = replay(chosen)
    noted = chosen / "finding.json"
    if replayed.finding is None:
        noted.unlink(missing_ok=True)
    else:
        record = {"step": replayed.step, **replayed.finding.record(), "notes": list(replayed.notes)}
        write_text(noted, encode(record) + "\n")
    return replayed


def _without_boxes(folder: Path) -> str:
    if load(folder / "config.yaml").config.health.blackboxes == 0:
        return f"{folder} has no black box, since health.blackboxes is 0; train it again with health.blackboxes=1"
    summary = read_summary(folder)
    if summary is None:
        return f"{folder} has no black box: no step of it has failed so far, and the run has not ended"
    return f"{folder} has no black box to replay: none of its {summary.get('step')} steps was non-finite"


def replay(folder: Path) -> Replayed:
    """Takes the failing step of a black box again.

    Args:
      folder: of the box.

    Raises:
      JaxpropError: the box cannot be read, or its run not be built again.
    """
    box = read_box(folder)
    composed = runner.compose(load(box.folder / "config.yaml").config)
    state = leaves.unpack(box.arrays, box.key_impls, composed.state)
    notes = list(_differences(box))
    finding = None
    for loss_fn, params, batch, key, original in parts(composed, state, box):
        finding = find_nonfinite(loss_fn, params, batch, key)
        if finding is not None:
            finding = finding._replace(examples=tuple(original(i) for i in finding.examples))
            break
    return Replayed(box.step, finding, tuple(notes))


def parts(composed: runner.Composed, state: TrainState, box: Box) -> Iterator[tuple[Any, Any, Any, Any, Callable]]:
    """Yields what a step differentiates, microbatch by microbatch: loss, parameters, batch, key, and its examples."""
    config, objective = composed.experiment.config, composed.task.objective
    count, batch = config.run.accumulate, {name: jnp.asarray(array) for name, array in box.batch.items()}
    key = jax.random.fold_in(state.key, box.step - 1)  # a step is numbered by the state it leaves
    scale = state.loss_scale.scale if isinstance(state.loss_scale, LossScale) else None
    params, extras, computes = state.params, state.extras, policy(config.precision.policy)
    if count == 1:
        yield scaled(objective, extras, computes, scale), params, batch, key, lambda i: i
        return
    split = microbatches(batch, count)
    for k in range(count):
        one, its_key = jax.tree.map(lambda x, k=k: x[k], split), jax.random.fold_in(key, k)
        yield scaled(objective, extras, computes, scale), params, one, its_key, lambda i, k=k: i * count + k
        extras = objective.mean_loss(params, extras, one, its_key, computes)[1][1]


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
