"""The loop: batches in, records and checkpoints out. It never waits for the step it has just started."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import jax

from jaxprop import data
from jaxprop.checkpoint import Checkpoints, Restored
from jaxprop.config.dump import to_builtins
from jaxprop.core import trees
from jaxprop.core.measurements import Measurements
from jaxprop.errors import CheckpointError
from jaxprop.health.respond.levers import tighten
from jaxprop.health.respond.points import point_interval
from jaxprop.health.respond.responder import Responder
from jaxprop.health.watch.watch import Watch
from jaxprop.run.cadence import rhythm_of
from jaxprop.run.clock import Clock, timed
from jaxprop.run.compose import Experiment, Stop, place
from jaxprop.run.evaluate import evaluate
from jaxprop.run.pace import Pace, rows_seconds
from jaxprop.run.records import layer_rows, train_record
from jaxprop.sinks import Sink
from jaxprop.types import TrainState


class Recorder(Protocol):
    """Keeps what a failing step was given; `jaxprop.run.blackbox.Recorder` is one."""

    def take(self, step: int, size: int, batch: Any) -> None: ...

    def read(self, step: int, m: Measurements, state: TrainState, now: int) -> str | None: ...


class Loop:
    """One run from the state it is given to its last step.

    Args:
      experiment: what is trained.
      state: the state before the first step; taken over, since the step donates it.
      checkpoints: where the run is saved, and where it goes on from.
      stop: asks for an early end.
      recorder: keeps what a failing step was given.
    """

    def __init__(
        self, experiment: Experiment, state: TrainState, checkpoints: Checkpoints, stop: Stop, recorder: Recorder
    ):
        self._experiment, self._config = experiment, experiment.config
        self._checkpoints, self._stop, self._recorder = checkpoints, stop, recorder
        self.state = state
        self.step = 0
        self.clock = Clock()
        self.metrics: dict[str, float] = {}  # of the newest evaluation
        self.status = "completed"
        self._stream_state = experiment.stream.state()
        self._pending: deque[tuple[int, Measurements]] = deque()
        self._owes_evaluation = False  # one that a stop cut short
        self._went_back = False  # after the newest call
        self._called: set[str] = set()
        health, per_call = self._config.health, self._config.run.steps_per_call
        total, epoch = experiment.total_steps, experiment.stream.batches_per_epoch
        self._rhythm = rhythm_of(self._config, total, epoch, experiment.test is not None)
        self._pace = Pace(health, per_call, scaled=self._config.precision.policy == "float16")
        self._responder = Responder(
            health.responses, Watch(trees.layer_names(state.params)[0]) if health.watch else None, tries=health.tries,
            max_skips=health.max_skips, per_call=per_call, total_steps=total,
            point_every=point_interval(self._config.checkpoint.every_steps, per_call),
        )  # fmt: skip

    @property
    def diagnosis(self) -> str | None:
        """Why the run has diverged, and what to do."""
        return self._responder.diagnosis

    @property
    def alert_lines(self) -> int:
        """How many lines of `alerts.jsonl` the state that is resumed from knows of."""
        return self._responder.lines

    def resume(self) -> int | None:
        """Goes back to the newest checkpoint; returns its step, or None where there is none.

        Raises:
          CheckpointError: the checkpoint does not fit, or lies beyond the run's end.
        """
        if self._checkpoints.latest() is None:
            return None
        stream = self._restore(None).stream
        if self.step > self._experiment.total_steps:
            raise CheckpointError(
                f"the newest checkpoint is of step {self.step}, beyond the run's {self._experiment.total_steps} "
                "steps; raise run.steps or run.epochs, or start over with --fresh"
            )
        self._experiment.stream.restore(stream["data"])
        self._stream_state = stream["data"]
        self._responder.restore(stream["health"])
        self._pace.restore(stream["pace"])
        self._checkpoints.pinned = self._responder.resumed(self.step)
        self._owes_evaluation = self._rhythm.evaluates(self.step) and not stream["evaluated"]
        return self.step

    def _restore(self, step: int | None) -> Restored:
        # The shapes will do: two states side by side are twice the memory for the length of the run.
        abstract = jax.tree.map(_abstract, self.state)
        jax.tree.map(lambda leaf: leaf.delete(), self.state)
        restored = self._checkpoints.restore(abstract, step)
        assert restored is not None
        self.state, self.step, self.metrics = restored.state, restored.step, dict(restored.stream["metrics"])
        return restored

    def run(self, sink: Sink) -> str:
        """Takes the steps that are left; returns `completed`, `interrupted` or `diverged`."""
        if self._owes_evaluation and self._evaluate(sink) is None:
            return "interrupted"
        if self.step < self._experiment.total_steps and self._stop.received is not None:
            return "interrupted"  # before compiling, which may take minutes; what there was is saved already
        if self.step == 0 and self._responder.is_point(0):
            self._save(None, evaluated=True)
        self._take_all(sink)
        while self._went_back and self.status == "completed":
            # The data are not gone back in: those that come next are others.
            self._experiment.stream.restore(self._stream_state)
            self._take_all(sink)
        self._drain(sink, 0)
        return self.status

    def _take_all(self, sink: Sink) -> None:
        """Takes calls up to the run's end, to a stop, or until the run has gone back."""
        self._went_back = False
        sizes = self._rhythm.call_sizes(self.step)
        group: int | Iterable[int] = 1 if self._rhythm.per_call == 1 else self._rhythm.call_sizes(self.step)
        placing = partial(place, self._experiment)
        with data.prefetch(self._experiment.stream, self._config.data.prefetch, placing, group) as batches:
            self.clock.resume()
            for size, ((batch, examples), stream_state) in zip(sizes, batches, strict=False):
                self._take(batch, size, examples, sink)
                self._stream_state = stream_state
                self._after_call(sink)
                if self._went_back or self.status != "completed":
                    break

    def _take(self, batch: Any, size: int, examples: float, sink: Sink) -> None:
        """One call of the compiled step; its measurements are read later."""
        step, detail = self._experiment.step, self._pace.detail(self.step + 1, self.step + size)
        if not self._was_called(f"train {size} {detail}"):
            before = self.clock.compile_seconds
            self.state, measurements = self.clock.compiled(step, self.state, batch, detail)
            variant = " (all signals)" if detail in ("full", "flush") else ""
            sink.note(f"compiled in {self.clock.compile_seconds - before:.1f} s{variant}")
        else:
            self.clock.examples += examples
            if self._pace.measuring and size == self._rhythm.per_call:
                (self.state, measurements), seconds = timed(step, self.state, batch, detail)
                self._set_pace(detail, seconds, sink)
            else:
                self.state, measurements = step(self.state, batch, detail)
        self.step += size
        self._recorder.take(self.step, size, batch)
        if isinstance(measurements.packed, jax.Array):
            measurements.packed.copy_to_host_async()
        self._pending.append((self.step, measurements))
        sink.progress(self.step)

    def _set_pace(self, detail: str, seconds: float, sink: Sink) -> None:
        """Chooses how often to measure what, once the run's own calls have shown what that costs."""
        if self._pace.book(detail, seconds):
            self.clock.pause()
            sink.note(self._pace.choose(rows_seconds(self.state)))
            self.clock.resume()

    def _was_called(self, function: str) -> bool:
        """Whether a compiled function has been called before; its first call compiles it."""
        before = function in self._called
        self._called.add(function)
        return before

    def _after_call(self, sink: Sink) -> None:
        """What is due at this step: reading measurements, evaluating, saving, leaving."""
        last = self.step == self._rhythm.total
        leaving = self._stop.received is not None
        evaluating, due = self._rhythm.evaluates(self.step), self._rhythm.saves(self.step)
        saving = self._config.checkpoint.enabled and (leaving or due or self._responder.is_point(self.step))
        # One call stays unread, so that the device never waits for the host. Before anything that waits anyway,
        # or leaves, all are read: a record of this step must be out before the step is saved.
        self._drain(sink, 0 if evaluating or saving or leaving or last else 1)
        self._respond(sink)
        if self._went_back or self.status == "diverged":
            return
        metrics = self._evaluate(sink) if evaluating else None
        cut_short = evaluating and metrics is None
        if saving:
            self._save(metrics, evaluated=not cut_short)
        # A request that came during an evaluation is met at once too: evaluations are saved.
        if cut_short or ((leaving or (evaluating and self._stop.received is not None)) and not last):
            self.status = "interrupted"

    def _drain(self, sink: Sink, keep: int) -> None:
        while len(self._pending) > keep:
            last_step, measurements = self._pending.popleft()
            host = measurements.host()
            records = [host] if host.packed.ndim == 1 else [host.at(i) for i in range(len(host.packed))]
            for i, record in enumerate(records):
                self._read(last_step - len(records) + 1 + i, record, sink)

    def _read(self, step: int, m: Measurements, sink: Sink) -> None:
        for line in self._responder.read(step, m):
            sink.alert(line)
        if self.diagnosis is not None:
            self.status = "diverged"  # whatever later steps of the same reading say
        note = self._recorder.read(step, m, self.state, self.step)
        if note is not None:
            sink.note(note)
        total, log_every = self._rhythm.total, self._config.run.log_every
        if step % log_every == 0 or step == total:
            sink.write(train_record(step, m, self.clock.rate()))
        rows = list(layer_rows(step, m, *self._pace.logged(step, log_every, total)))
        if rows:
            sink.layers(rows)

    def _respond(self, sink: Sink) -> None:
        """Carries out what the alerts have led to and is due."""
        actions = self._responder.due(self.step)
        if not actions:
            return
        back = [action.to for action in actions if action.to is not None]
        if back and self.status == "completed":
            self._drain(sink, 0)  # what is read before going back must not depend on what else made the loop wait
        if self.diagnosis is not None:
            self.status = "diverged"
        elif back:
            self._go_back(back[-1], sink)
        else:
            self.state = tighten(self.state, self._responder.levers)

    def _go_back(self, to: int, sink: Sink) -> None:
        """Takes up an earlier state, tightened as far as it has come, and goes on with the data that come next."""
        self.clock.pause()
        # First the checkpoints: a run killed before its records are cut then cuts them when it is resumed.
        restored = self._restore(to)
        self._checkpoints.clear(after=to)
        sink.rewind(to)
        self._responder.went_back(to, restored.stream["health"])
        self.state = tighten(self.state, self._responder.levers)
        self._went_back = True
        sink.progress(to)
        self.clock.resume()

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
        self._checkpoints.pinned = self._responder.saved(self.step)
        stream = {
            "data": self._stream_state,
            "metrics": self.metrics,
            "health": self._responder.state(),
            "pace": self._pace.state(),
            "evaluated": evaluated,
        }
        self._checkpoints.save(self.step, self.state, stream=stream, config=to_builtins(self._config), metrics=metrics)
        self.clock.resume()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    # An uncommitted array follows the arrays it meets, and so shall the one restored in its place.
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding if leaf.committed else None)
