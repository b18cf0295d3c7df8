"""The loop: batches in, records and checkpoints out. It never waits for the step it has just started."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprop import data, parallel
from jaxprop.checkpoint import Checkpoints
from jaxprop.config.dump import plain
from jaxprop.config.root import Config
from jaxprop.errors import CheckpointError
from jaxprop.sinks import Sink
from jaxprop.step import TrainStep
from jaxprop.types import COLUMNS, Measurements, PyTree, Source, Sums, TrainState


class Experiment(NamedTuple):
    """Everything a configuration stands for, built and ready to step.

    Args:
      config: the configuration.
      step: the compiled train step.
      evaluate: the compiled eval step, `(params, extras, batch) -> {name: (sum, count)}`.
      stream: training batches.
      test: the split to evaluate on, or None.
      derived: metrics of an evaluation -> further figures that follow from them.
      mesh: the devices, or None for a single one.
      total_steps: steps the run takes from start to end.
    """

    config: Config
    step: TrainStep
    evaluate: Callable[[PyTree, PyTree, Mapping[str, Any]], Sums]
    stream: data.Stream
    test: Source | None
    derived: Callable[[Mapping[str, float]], dict[str, float]]
    mesh: Mesh | None
    total_steps: int


class Stop(Protocol):
    """What tells the loop to save and leave; `jaxprop.interrupt.Interrupts` is one."""

    received: Any


class Clock:
    """Examples a second of training alone: compiling, evaluating and saving are taken off."""

    def __init__(self) -> None:
        self.compile_seconds = 0.0
        self.examples, self.seconds = 0.0, 0.0
        self._since = time.perf_counter()
        self._mark = (0.0, 0.0)

    def resume(self) -> None:
        """Goes on counting from now."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Adds the time since the last resume."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def rate(self) -> float | None:
        """Examples a second since the last call, or None if there was no time."""
        self.pause()
        examples, seconds = self.examples - self._mark[0], self.seconds - self._mark[1]
        self._mark = (self.examples, self.seconds)
        return examples / seconds if examples and seconds > 0 else None

    def compiled(self, call: Callable[..., Any], *args: Any) -> Any:
        """Makes the first call of a compiled function and books its time as compiling."""
        self.pause()
        out = jax.block_until_ready(call(*args))
        self.compile_seconds += time.perf_counter() - self._since
        self.resume()
        return out


class Loop:
    """One run from the state it is given to its last step.

    Args:
      experiment: what is trained.
      state: the state before the first step; taken over, since the step donates it.
      checkpoints: where the run is saved, and where it goes on from.
      stop: asks for an early end.
    """

    def __init__(self, experiment: Experiment, state: TrainState, checkpoints: Checkpoints, stop: Stop):
        self._experiment, self._config = experiment, experiment.config
        self._checkpoints, self._stop = checkpoints, stop
        self.state = state
        self.step = 0
        self.clock = Clock()
        self.metrics: dict[str, float] = {}  # of the newest evaluation
        self.status = "completed"
        self._stream_state = experiment.stream.state()
        self._pending: deque[tuple[int, Measurements]] = deque()
        self._skipped_in_a_row = 0
        self._owes_evaluation = False  # one that a stop cut short
        self._called: set[str] = set()

    def resume(self) -> int | None:
        """Goes back to the newest checkpoint; returns its step, or None where there is none.

        Raises:
          CheckpointError: the checkpoint does not fit, or lies beyond the run's end.
        """
        if self._checkpoints.latest() is None:
            return None
        # The shapes will do: two states side by side are twice the memory for the length of the run.
        abstract = jax.tree.map(_abstract, self.state)
        jax.tree.map(lambda leaf: leaf.delete(), self.state)
        restored = self._checkpoints.restore(abstract)
        assert restored is not None
        if restored.step > self._experiment.total_steps:
            raise CheckpointError(
                f"the newest checkpoint is of step {restored.step}, beyond the run's {self._experiment.total_steps} "
                "steps; raise run.steps or run.epochs, or start over with --fresh"
            )
        self._experiment.stream.restore(restored.stream["data"])
        self.state, self.step, self._stream_state = restored.state, restored.step, restored.stream["data"]
        self.metrics = dict(restored.stream["metrics"])
        self._skipped_in_a_row = restored.stream["skipped_in_a_row"]
        self._owes_evaluation = self._is_evaluation_due() and not restored.stream["evaluated"]
        return restored.step

    def run(self, sink: Sink) -> str:
        """Takes the steps that are left; returns `completed`, `interrupted` or `diverged`."""
        if self._owes_evaluation and self._evaluate(sink) is None:
            return "interrupted"
        if self.step < self._experiment.total_steps and self._stop.received is not None:
            return "interrupted"  # before compiling, which may take minutes; what there was is saved already
        group: int | Iterable[int] = 1 if self._config.run.steps_per_call == 1 else self._call_sizes()
        with data.prefetch(self._experiment.stream, self._config.data.prefetch, self._place, group) as batches:
            self.clock.resume()
            for size, ((batch, examples), stream_state) in zip(self._call_sizes(), batches, strict=False):
                self._take(batch, size, examples, sink)
                self._stream_state = stream_state
                self._after_call(sink)
                if self.status != "completed":
                    break
        self._drain(sink, 0)
        return self.status

    def _call_sizes(self) -> Iterator[int]:
        step, size, total = self.step, self._config.run.steps_per_call, self._experiment.total_steps
        while step < total:
            # A run that goes on from a short last call first gets back to whole calls, which the rhythms count in.
            taken = min(size - step % size, total - step)
            yield taken
            step += taken

    def _place(self, batch: dict[str, np.ndarray]) -> tuple[Any, float]:
        examples = float(batch["weight"].sum())
        mesh, several = self._experiment.mesh, self._config.run.steps_per_call
        # On one device jit takes NumPy as it is; a transfer of its own would only cost another dispatch on CPU.
        if mesh is None:
            return (batch if jax.default_backend() == "cpu" else jax.device_put(batch)), examples
        return parallel.place_batch(batch, mesh, several), examples

    def _take(self, batch: Any, size: int, examples: float, sink: Sink) -> None:
        """One call of the compiled step; its measurements are read later."""
        if self._was_called(f"train {size}"):
            self.state, measurements = self._experiment.step(self.state, batch)
            self.clock.examples += examples
        else:
            before = self.clock.compile_seconds
            self.state, measurements = self.clock.compiled(self._experiment.step, self.state, batch)
            sink.note(f"compiled in {self.clock.compile_seconds - before:.1f} s")
        self.step += size
        if isinstance(measurements.packed, jax.Array):
            measurements.packed.copy_to_host_async()
        self._pending.append((self.step, measurements))
        sink.progress(self.step)

    def _was_called(self, function: str) -> bool:
        """Whether a compiled function has been called before; its first call compiles it."""
        before = function in self._called
        self._called.add(function)
        return before

    def _after_call(self, sink: Sink) -> None:
        """What is due at this step: reading measurements, evaluating, saving, leaving."""
        last = self.step == self._experiment.total_steps
        leaving = self._stop.received is not None
        evaluating = self._is_evaluation_due()
        saving = self._config.checkpoint.enabled and (evaluating or last or leaving or self._is_save_due())
        # One call stays unread, so that the device never waits for the host. Before anything that waits anyway,
        # or leaves, all are read: a record of this step must be out before the step is saved.
        self._drain(sink, 0 if evaluating or saving or leaving else 1)
        if self.status == "diverged":
            return
        metrics = self._evaluate(sink) if evaluating else None
        cut_short = evaluating and metrics is None
        if saving:
            self._save(metrics, evaluated=not cut_short)
        # A request that came during an evaluation is met at once too: evaluations are saved.
        if cut_short or ((leaving or (evaluating and self._stop.received is not None)) and not last):
            self.status = "interrupted"

    def _is_evaluation_due(self) -> bool:
        last = self.step == self._experiment.total_steps
        return self._experiment.test is not None and (last or self.step % self._eval_every() == 0)

    def _is_save_due(self) -> bool:
        every = self._config.checkpoint.every_steps
        if every is None:
            return self._experiment.test is None and self.step % self._an_epoch() == 0
        return self.step % every == 0

    def _eval_every(self) -> int:
        return self._config.run.eval_every or self._an_epoch()

    def _an_epoch(self) -> int:
        """Steps of an epoch, rounded to whole calls; never 0."""
        per_call = self._config.run.steps_per_call
        return max(1, round(self._experiment.stream.batches_per_epoch / per_call)) * per_call

    def _drain(self, sink: Sink, keep: int) -> None:
        while len(self._pending) > keep:
            last_step, measurements = self._pending.popleft()
            host = measurements.host()
            records = [host] if host.packed.ndim == 1 else [host.at(i) for i in range(len(host.packed))]
            for i, record in enumerate(records):
                self._read(last_step - len(records) + 1 + i, record, sink)

    def _read(self, step: int, m: Measurements, sink: Sink) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if m.skipped else 0
        if self._skipped_in_a_row >= self._config.health.max_skips:
            self.status = "diverged"  # whatever later steps of the same reading say
        if step % self._config.run.log_every == 0 or step == self._experiment.total_steps:
            sink.write(_record(step, m, self.clock.rate()))
            sink.layers(list(_layer_rows(step, m)))

    def _evaluate(self, sink: Sink) -> dict[str, float] | None:
        """Evaluates and writes the record; None where a stop cuts it short, which may not have time to wait."""
        self.clock.pause()
        clock = None if self._was_called("evaluate") else self.clock
        metrics = evaluate(self._experiment, self.state, clock, self._stop)
        self._owes_evaluation = metrics is None
        if metrics is not None:
            self.metrics = metrics
            sink.write({"step": self.step, "split": "eval", **metrics})
        self.clock.resume()
        return metrics

    def _save(self, metrics: dict[str, float] | None, evaluated: bool) -> None:
        self.clock.pause()
        stream = {
            "data": self._stream_state,
            "metrics": self.metrics,
            "skipped_in_a_row": self._skipped_in_a_row,
            "evaluated": evaluated,
        }
        self._checkpoints.save(self.step, self.state, stream=stream, config=plain(self._config), metrics=metrics)
        self.clock.resume()


def evaluate(
    experiment: Experiment, state: TrainState, clock: Clock | None = None, stop: Stop | None = None
) -> dict[str, float] | None:
    """Evaluates a state on the test split: exact means, padding left out.

    Args:
      experiment: with `test`, the split.
      state: its `ema` is evaluated if there is one, else its `params`.
      clock: books the first call as compiling.
      stop: asks for an early end.

    Returns:
      The mean of every metric, `loss` among them, and what the task derives from them; None where `stop` cut it short.
    """
    config, mesh = experiment.config, experiment.mesh
    assert experiment.test is not None
    size = config.data.eval_batch_size or config.data.batch_size
    if mesh is not None:
        size = -(-size // mesh.size) * mesh.size  # what is added is padding, and masked
    params = state.params if isinstance(state.ema, tuple) and not state.ema else state.ema
    totals: dict[str, np.ndarray] = {}
    for i, batch in enumerate(data.one_pass(experiment.test, size, config.run.eval_batches)):
        if stop is not None and stop.received is not None:
            return None
        placed = batch if mesh is None else parallel.place_batch(batch, mesh)
        call = (params, state.extras, placed)
        sums = clock.compiled(experiment.evaluate, *call) if i == 0 and clock else experiment.evaluate(*call)
        for name, pair in jax.device_get(sums).items():
            # float64 on the host: adding thousands of batches in float32 would lose the last digits
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    # The loss first: what comes out of jit is sorted by name.
    order = sorted(totals, key=lambda name: name != "loss")
    means = {name: float(totals[name][0] / totals[name][1]) if totals[name][1] else math.nan for name in order}
    return means | experiment.derived(means)


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    # An uncommitted array follows the arrays it meets, and so shall the one restored in its place.
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding if leaf.committed else None)


def _record(step: int, m: Measurements, rate: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {"step": step, "split": "train", "loss": float(m.loss)}
    record |= {name: float(total / count) for name, (total, count) in m.metrics.items() if count}
    record |= {"grad_norm": float(m.grad_norm), "lr": float(m.learning_rate)}
    if m.loss_scale != 1:
        record["loss_scale"] = float(m.loss_scale)
    if m.skips:
        record["skips"] = int(m.skips)
    if rate is not None:
        record["examples_per_second"] = rate
    return record


def _layer_rows(step: int, m: Measurements) -> Iterator[dict[str, Any]]:
    columns = {**{name: getattr(m.layers, name) for name in COLUMNS}, "update_ratio": m.layers.update_ratio}
    for i, layer in enumerate(m.layout.layers):
        yield {"step": step, "layer": layer, **{name: float(values[i]) for name, values in columns.items()}}
