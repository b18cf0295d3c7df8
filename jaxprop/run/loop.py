"""The loop: batches in, records and checkpoints out. It never waits for the step it has just started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import jax

from jaxprop import data
from jaxprop.checkpoint import Checkpoints, Restored
from jaxprop.checkpoint.environment import environment, other_bits
from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.fit import Settings
from jaxprop.config.tasks import best_mode
from jaxprop.core import trees
from jaxprop.core.measurements import Measurements
from jaxprop.errors import CheckpointError, DataError, UsageError, one_of
from jaxprop.health.respond.levers import SCALE_FACTORS, scaled, tighten
from jaxprop.health.respond.points import point_interval
from jaxprop.health.respond.responder import Responder
from jaxprop.health.watch.advice import Setup
from jaxprop.health.watch.alerts import WatchConfig
from jaxprop.health.watch.watch import Watch
from jaxprop.parallel.flags import SharedFlag
from jaxprop.parallel.hosts import is_first, process_count
from jaxprop.run.averages import evaluate_averages
from jaxprop.run.blackbox import Recorder
from jaxprop.run.cadence import rhythm_of
from jaxprop.run.clock import Clock
from jaxprop.run.compose import Experiment, place
from jaxprop.run.folder import shown
from jaxprop.run.growth import Growth, joined
from jaxprop.run.interrupt import Interrupts
from jaxprop.run.own_code import code_of
from jaxprop.run.pace import Pace
from jaxprop.run.quarantine import Quarantine
from jaxprop.run.records import Interval, is_recorded, layer_rows, train_record
from jaxprop.run.status import Status
from jaxprop.run.stepper import Stepper
from jaxprop.run.stopping import Stopping
from jaxprop.run.unread import Unread
from jaxprop.run.watchdog import Watchdog
from jaxprop.sinks import Sink
from jaxprop.train.lanes import Elsewhere
from jaxprop.types import PyTree, TrainState


class Loop:
    """One run from the state it is given to its last step.

    Args:
      experiment: what is trained.
      state: the state before the first step; taken over, since the step donates it.
      checkpoints: where the run is saved, and where it goes on from.
      stop: asks for an early end.
      recorder: keeps what a failing step was given.
      began: when the session began, by `time.perf_counter`; by default now.
      watchdog: told what the loop does; by default one that does not watch.
    """

    def __init__(
        self, experiment: Experiment, state: TrainState, checkpoints: Checkpoints, stop: Interrupts, recorder: Recorder,
        began: float | None = None, watchdog: Watchdog | None = None,
    ):  # fmt: skip
        self._experiment, self._config = experiment, experiment.config
        self.checkpoints, self._stop, self._recorder = checkpoints, stop, recorder
        self._state: TrainState | Elsewhere = state
        self.step = 0
        self.clock = Clock(began)
        self.metrics: dict[str, float] = {}  # of the newest evaluation
        self.best: dict[str, float] | None = None  # of the best one, with its step
        self.test: dict[str, float] | None = None  # of the best checkpoint on the test split, at the end, with its step
        self.status = Status.COMPLETED  # unless something else becomes of it
        self.stopped: str | None = None  # why it has ended before its last step
        self._stream_state = experiment.stream.state()
        self._unread = Unread()
        self._interval = Interval()
        self._owes_evaluation = False  # one that a stop cut short
        self._has_evaluated = False  # and so has compiled the eval step
        self._saved = 0  # the newest step that needs no saving
        self._hangs = False  # the data source has not returned when a stop came
        config, total, per_call = self._config, experiment.total_steps, self._config.run.per_call
        epoch = experiment.stream.batches_per_epoch or max(1, total // 10)  # batches of no known number have no epoch
        self._rhythm = rhythm_of(config, total, epoch, experiment.validation is not None)
        self._stopping, self._late = Stopping(config), SharedFlag("minutes")
        halves = config.precision.scaled
        self._pace = Pace(config.health, per_call, scaled=halves)
        self._quarantine = Quarantine(experiment.stream, per_call, scaled=halves)
        shapes = getattr(experiment.stream, "shapes", 1)
        self._alone = process_count() == 1
        self.watchdog = watchdog or Watchdog(checkpoints.folder.parent)
        compiling = partial(self.watchdog.doing, "compile")
        self._stepper = Stepper(experiment.step, self._pace, self.clock, per_call, shapes, compiling)
        self._growth = Growth(config.run, config.data.batch_size)
        self._responder = _responder(config, total, experiment.step.trained(state.params), checkpoints.folder.parent)
        self._replaces: Callable[[], bool] = bool

    @property
    def state(self) -> TrainState:
        """The newest state; that of a lane is taken out of those of all lanes when it is asked for."""
        return self._state.fetch() if isinstance(self._state, Elsewhere) else self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state = state

    @property
    def diagnosis(self) -> str | None:
        """Why the run has diverged, and what to do."""
        return self._responder.diagnosis

    def outcome(self, reference: Mapping[str, float]) -> str | None:
        """Says that the run has learned nothing: it is dead, or no better than a trivial predictor; else None.

        Args:
          reference: the figures of trivial predictors.
        """
        return self._responder.outcome(self.metrics, reference)

    @property
    def alert_lines(self) -> int:
        """How many lines of `alerts.jsonl` the state that is resumed from knows of."""
        return self._responder.lines

    def resume(self) -> int | None:
        """Goes back to the newest good checkpoint; returns its step, or None where there is none.

        Raises:
          CheckpointError: the checkpoint does not fit, or lies beyond the run's end, or all are damaged.
        """
        if not self.checkpoints.take_over():
            return None
        restored = self._restore(None)
        note = other_bits(restored.made, environment(self.state)) if restored.made else None
        if note is not None:
            self.checkpoints.tell(note)
        stream = restored.stream
        if self.step > self._experiment.total_steps:
            raise CheckpointError(
                f"the newest checkpoint is of step {self.step}, beyond the run's {self._experiment.total_steps} "
                "steps; raise run.steps or run.epochs, or start over with --fresh"
            )
        self._experiment.stream.restore(stream["data"])
        self._stream_state = stream["data"]
        self._responder.restore(stream["health"])
        self._pace.restore(stream["pace"])
        # Before it had its own place, the time was saved for `run.stop` alone.
        self.clock.goes_on(stream.get("seconds", (stream.get("stop") or {}).get("seconds")))
        self.checkpoints.pinned = self._responder.resumed(self.step)
        self._owes_evaluation = self._rhythm.evaluates(self.step) and not stream["evaluated"]
        return self.step

    def _restore(self, step: int | None) -> Restored:
        # The shapes will do: two states side by side are twice the memory for the length of the run.
        abstract = jax.tree.map(trees.abstract, self.state)
        jax.tree.map(lambda leaf: leaf.delete(), self.state)
        restored = self.checkpoints.restore(abstract, step)
        assert restored is not None
        self.state, self.step, self.metrics = restored.state, restored.step, dict(restored.stream["metrics"])
        # jaxprop 0.1.0 saved neither.
        self.best = restored.stream.get("best")
        self._stopping.restore(restored.stream.get("stop"))
        self._interval.restore(restored.stream.get("interval"))
        self._growth.restore(restored.stream.get("growth"))
        return restored

    def run(self, sink: Sink, replaces: Callable[[], bool] = bool) -> Status:
        """Takes the steps that are left.

        Args:
          sink: where records go.
          replaces: whether an earlier run still lies aside, to come back if this one is interrupted before it has a
            checkpoint; then a stop saves none.

        Returns:
          How the run ended: completed, interrupted or diverged.

        Raises:
          DataError: the training data ended early.
        """
        self._replaces = replaces
        self._watched(sink)
        if self._owes_evaluation and not self._make_up_evaluation(sink):
            return Status.INTERRUPTED
        if self.step and self._rhythm.evaluates(self.step):
            self._end_early(self._stopping.why)
        if self.step < self._rhythm.total and self._stop.received is not None:
            return Status.INTERRUPTED  # before compiling, which may take minutes; what there was is saved already
        if self.step == 0 and self._responder.is_point(0):
            self._save(None, evaluated=True)
        try:
            while self._take_calls(sink):
                # The data are not gone back in: those that come next are others.
                self._experiment.stream.restore(self._stream_state)
        finally:
            self._late.close()
            if isinstance(self._experiment.stream, data.Workers) and not self._hangs:
                self._experiment.stream.close()
        self._read(sink, keep=0)
        # All that is left to wait for is the last checkpoint.
        self.watchdog.enters("save")
        if self.status == Status.COMPLETED and self.step < self._rhythm.total:
            raise DataError(
                f"the training data ended after step {self.step} of {self._experiment.total_steps}; a source gives "
                "its examples as often as it is asked, so its `take` or `__next__` must not raise StopIteration"
            )
        if self.status == Status.COMPLETED and self._responder.give_up(
            int(self.state.health.skips), self.step, self._recorder.began
        ):
            self.status = Status.DIVERGED
        if self.status == Status.COMPLETED and self.stopped is not None:
            sink.note(f"stopped after step {self.step}: {self.stopped}")
        return self.status

    def _take_calls(self, sink: Sink) -> bool:
        """Takes calls up to the run's end, or to a stop; returns early, and True, where the run has gone back."""
        sizes = self._rhythm.call_sizes(self.step)
        group: int | Iterable[int] = 1 if self._rhythm.per_call == 1 else self._rhythm.call_sizes(self.step)
        placing: Callable = partial(place, self._experiment)
        if self._growth.grows:
            group, placing = self._growth.sizes(self.step, self._rhythm.total), joined(placing)
        with data.prefetch(
            self._experiment.stream,
            self._config.data.prefetch,
            placing,
            group,
            self._given_up,
        ) as batches:
            self.clock.resume()
            waited = self.clock.waited(self.watchdog.waiting(batches))
            for size, ((batch, examples), stream_state) in zip(sizes, waited, strict=False):
                parts = self._growth.factor(self.step)
                self._state, measurements = self._stepper.take(
                    self._state, batch, first=self.step + 1, size=size, examples=examples, note=sink.note, parts=parts
                )
                self.step += size
                for line in self._stepper.alerts(self.step):
                    self._responder.lines += 1
                    sink.alert(line)
                self._stream_state = stream_state
                self._recorder.take(self.step, size, batch)
                self._quarantine.take(self.step, size, batch, stream_state, parts)
                self._unread.add(self.step, measurements)
                sink.progress(self.step)
                if self._after_call(sink):
                    return True
                if self.status != Status.COMPLETED or self.step >= self._rhythm.total:
                    break
            if batches.abandoned:
                self._hangs = True
                self._save_between_steps(sink)
                self.status = Status.INTERRUPTED if self.status == Status.COMPLETED else self.status
        return False

    def _given_up(self) -> bool:
        """Whether a batch is no longer waited for; several processes take or leave it together, after the next step."""
        return self._alone and self._stop.asked is not None

    def _watched(self, sink: Sink) -> None:
        """Says what the watchdog has to know of a run that begins to train."""
        self._saved = self.step
        self.watchdog.save_bytes = trees.size_bytes(self.state)
        # One process by itself can save nothing: the others would have to take part.
        self.watchdog.rescue = partial(self._rescue, sink) if self._alone else None
        self.watchdog.enters("step")

    def _rescue(self, sink: Sink) -> str:
        """Saves the state in another thread, while this one's waits for data, compiles or evaluates."""
        saved = self._save_between_steps(sink)
        self.checkpoints.wait()
        sink.close()
        return f"step {self.step} is saved, and the same command goes on from there" if saved else "nothing was lost"

    def _save_between_steps(self, sink: Sink) -> bool:
        """Saves a run that has taken a step and not begun the next; returns whether there was anything to save."""
        self._read(sink, keep=0)
        if self.step == self._saved or not self._config.checkpoint.enabled or self.status == Status.DIVERGED:
            return False
        if self._gives_way():
            return False
        self._save(None, evaluated=not self._rhythm.evaluates(self.step))
        return True

    def _after_call(self, sink: Sink) -> bool:
        """Reads, responds, evaluates, saves and leaves, as is due at this step; returns whether the run went back."""
        if is_first() and self._late.known is None and (overdue := self._stopping.overdue):
            self._late.set(overdue)  # every process has a clock of its own, and one of them decides
        self._end_early(self._late.poll())
        last = self.step == self._rhythm.total
        leaving = self._stop.received is not None
        evaluating, due = self._rhythm.evaluates(self.step), self._rhythm.saves(self.step)
        saving = self._config.checkpoint.enabled and (leaving or due or self._responder.is_point(self.step))
        self.checkpoints.check()
        # One call stays unread, so that the device never waits for the host. Before anything that waits anyway,
        # or leaves, all are read: a record of this step must be out before the step is saved.
        grown = self._growth.is_due(self.step)
        self._read(sink, keep=0 if evaluating or saving or leaving or last or grown else 1)
        if self._respond(sink):
            return True
        if self.status == Status.DIVERGED:
            return False
        grown = (said := self._growth.decide(self.step)) is not None
        if said is not None:
            sink.note(said)
        metrics = self._evaluate(sink) if evaluating else None
        cut_short = evaluating and metrics is None
        if saving and (last or not self._gives_way()):
            self._save(metrics, evaluated=not cut_short)
        # A request that came during an evaluation is met at once too: evaluations are saved.
        if cut_short or ((leaving or (evaluating and self._stop.received is not None)) and not last):
            self.status = Status.INTERRUPTED
        elif evaluating:
            self._end_early(self._stopping.why)
        # Batches that were prepared for the steps to come are of the old size.
        return grown and self.status == Status.COMPLETED and self.step < self._rhythm.total

    def _end_early(self, why: str | None) -> None:
        """Makes this step the run's last one, if there is a reason and it is not the last one anyway."""
        if why is not None and self.step < self._rhythm.total:
            self.stopped, self._rhythm = why, self._rhythm._replace(total=self.step)

    def _gives_way(self) -> bool:
        """Whether a stop has come before this run has a checkpoint, so that the one it was to replace comes back."""
        if self._stop.received is None or not self._replaces():
            return False
        self.checkpoints.wait()  # the first may just be under way
        return self._replaces()

    def _read(self, sink: Sink, keep: int) -> None:
        """Reads the measurements of all but the newest `keep` calls."""
        for step, m in self._unread.read(keep):
            self._read_step(step, m, sink)

    def _read_step(self, step: int, m: Measurements, sink: Sink) -> None:
        alerts = list(self._responder.read(step, m))
        left_out = self._quarantine.read(step, m)
        self._responder.lines += left_out is not None
        for line in alerts if left_out is None else [*alerts, left_out]:
            sink.alert(line)
        if self.diagnosis is not None:
            self.status = Status.DIVERGED  # whatever later steps of the same reading say
        note = self._recorder.read(step, m, lambda: self.state, self.step)
        if note is not None:
            sink.note(note)
        total, log_every = self._rhythm.total, self._config.run.log_every
        self._interval.add(step, m)
        self._growth.read(m)
        if is_recorded(step, log_every, total):
            record = train_record(step, m, self.clock.rate(), self._interval.take())
            sink.write(record | self._growth.told(step))
        # What has led to an alert is written whole, so that the report can show it.
        logged = (True, True) if alerts else self._pace.logged(step, log_every, total)
        rows = list(layer_rows(step, m, *logged))
        if rows:
            sink.layers(rows)

    def _respond(self, sink: Sink) -> bool:
        """Carries out what the alerts have led to and is due; returns whether the run went back."""
        actions = self._responder.due(self.step)
        if not actions:
            return False
        back = [action.to for action in actions if action.to is not None]
        if back and self.status == Status.COMPLETED:
            self._read(sink, keep=0)  # what is read before going back must not depend on what else made the loop wait
        if self.diagnosis is not None:
            self.status = Status.DIVERGED
        elif back:
            self._go_back(back[-1], sink)
            return True
        else:
            self.state = tighten(self.state, self._responder.levers)
            for action in actions:
                self.state = scaled(self.state, action.name) if action.name in SCALE_FACTORS else self.state
        return False

    def _go_back(self, to: int, sink: Sink) -> None:
        """Takes up an earlier state, tightened as far as it has come, and goes on with the data that come next."""
        self.clock.pause()
        # First the checkpoints: a run killed before its records are cut then cuts them when it is resumed.
        with self.watchdog.doing("save"):
            restored = self._restore(to)
            self.checkpoints.clear(after=to)
        sink.rewind(to)
        self._responder.went_back(to, restored.stream["health"])
        self.state = tighten(self.state, self._responder.levers)
        sink.progress(to)
        self.clock.resume()

    def _evaluate(self, sink: Sink) -> dict[str, float] | None:
        """Evaluates and writes the record; None where a stop cuts it short, which may not have time to wait."""
        self.clock.pause()
        clock = None if self._has_evaluated else self.clock
        self._has_evaluated = True
        with self.watchdog.doing("evaluation"):
            metrics = evaluate_averages(
                self._experiment, self.state, clock=clock, stop=self._stop, goes_on=self.watchdog.goes_on
            )
        self._owes_evaluation = metrics is None
        if metrics is not None:
            self._check_names(metrics)
            self.metrics = metrics
            self._note_best(metrics)
            self._stopping.evaluated(self.step, metrics)
            sink.write({"step": self.step, "split": "eval", **metrics})
        self.clock.resume()
        return metrics

    def _check_names(self, metrics: dict[str, float]) -> None:
        """A name that no evaluation has would keep no best checkpoint, and stop a run too early."""
        stop = self._config.run.stop
        wanted = {"checkpoint": self._config.checkpoint.best, "stop": stop.metric if stop else None}
        for key, name in wanted.items():
            if name is not None and name not in metrics:
                raise UsageError(f"{key}: {one_of(name, metrics, 'metric of the evaluation')}")

    def _note_best(self, metrics: dict[str, float]) -> None:
        section = self._config.checkpoint
        name = section.best or "loss"
        value, sign = metrics.get(name, math.nan), 1 if best_mode(self._config) == "min" else -1
        if math.isfinite(value) and (self.best is None or sign * value < sign * self.best[name]):
            self.best = {"step": self.step, **metrics}

    def _make_up_evaluation(self, sink: Sink) -> bool:
        """Evaluates what a stop has cut short, and adds it to the checkpoint, which may be the best; else False."""
        metrics = self._evaluate(sink)
        if metrics is None:
            return False
        stream = {"metrics": metrics, "best": self.best, "stop": self._stopping.state(), "evaluated": True}
        self.checkpoints.amend(self.step, metrics=metrics, stream=stream)
        self.checkpoints.retire()  # the best until now may be kept for nothing
        return True

    def _save(self, metrics: dict[str, float] | None, evaluated: bool) -> None:
        self.clock.pause()
        self.checkpoints.pinned = self._responder.saved(self.step)
        stream = {
            "data": self._stream_state,
            "metrics": self.metrics,
            "best": self.best,
            "stop": self._stopping.state(),
            "seconds": self.clock.earlier + self.clock.session,
            "interval": self._interval.state(),
            "health": self._responder.state(),
            "pace": self._pace.state(),
            "growth": self._growth.state(),
            "evaluated": evaluated,
        }
        with self.watchdog.doing("save"):
            self.checkpoints.save(
                self.step, self.state, stream=stream, config=to_builtins(self._config), metrics=metrics
            )
        self._saved = self.step
        self.clock.resume()


def _responder(config: Config, total_steps: int, trained: PyTree, folder: Path) -> Responder:
    health, per_call = config.health, config.run.per_call
    names = trees.layer_names(trained)[0]
    source = "fit" if isinstance(config, Settings) else "yaml"
    about = Setup(source, to_builtins(config), shown(folder), () if source == "fit" else code_of(config))
    # Initial values by the width are smaller than 1 / sqrt(inputs), and a layer's gradient is another part of them.
    by_width = getattr(getattr(config, "optimizer", None), "parametrization", "standard") == "mup"
    usual = WatchConfig()
    limits = usual._replace(init=math.inf, init_large=math.inf, init_small=math.inf) if by_width else usual
    watch = Watch(names, limits, source=source, run=about.config, folder=about.folder, code=about.code)
    return Responder(
        health.responses, watch if health.watch else None, setup=about, tries=health.tries,
        max_skips=health.max_skips, per_call=per_call, total_steps=total_steps,
        point_every=point_interval(config.checkpoint.every_steps, per_call),
    )  # fmt: skip
