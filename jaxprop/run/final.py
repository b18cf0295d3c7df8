"""The end of a completed run: its best checkpoint, and what that one reaches on the test split."""

from __future__ import annotations

import jax

from jaxprop.checkpoint import Checkpoints
from jaxprop.core import trees
from jaxprop.run.averages import for_evaluation
from jaxprop.run.compose import Experiment
from jaxprop.run.evaluate import evaluate
from jaxprop.run.interrupt import Interrupts
from jaxprop.run.loop import Loop
from jaxprop.sinks import Sink
from jaxprop.types import TrainState


def evaluate_test(loop: Loop, experiment: Experiment, checkpoints: Checkpoints, sink: Sink, stop: Interrupts) -> None:
    """Evaluates the best checkpoint of a completed run on the test split, where evaluations used another one.

    Args:
      loop: the run; its `test` is set.
      experiment: what was trained.
      checkpoints: of the run.
      sink: takes the record.
      stop: asks for an early end; then the test is left to `jaxprop eval`.
    """
    if experiment.test is None:
        return
    step, state = best_state(loop, experiment, checkpoints)
    with loop.watchdog.doing("evaluation"):
        figures = evaluate(experiment, state, stop=stop, source=experiment.test, goes_on=loop.watchdog.goes_on)
    if figures is not None:
        loop.test = {"step": step, **figures}
        sink.write({"step": step, "split": "test", **figures})


def best_state(loop: Loop, experiment: Experiment, checkpoints: Checkpoints) -> tuple[int, TrainState]:
    """Returns the step and the state of the best checkpoint; the newest where none was saved with an evaluation.

    Args:
      loop: the run.
      experiment: what was trained.
      checkpoints: of the run.
    """
    checkpoints.wait()
    best = checkpoints.best()
    if best is None or best == loop.step:
        return loop.step, for_evaluation(experiment, loop.state, loop.metrics)
    restored = checkpoints.restore(jax.tree.map(trees.abstract, loop.state), best)
    assert restored is not None
    return restored.step, for_evaluation(experiment, restored.state, restored.stream["metrics"])
