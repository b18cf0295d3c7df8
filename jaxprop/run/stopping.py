"""Early stopping: when a run has come far enough before its last step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from jaxprop.config.tasks import best_mode, better


class Stopping:
    """Decides whether a run ends early, by `run.stop`. What it knows is saved with each checkpoint.

    Args:
      config: the run's configuration, or the settings of `jaxprop.fit`.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
      >>> sections |= {"optimizer": {"name": "sgd", "lr": 0.1}, "run": {"epochs": 9, "stop": {"patience": 2}}}
      >>> stopping = Stopping(build(sections))
      >>> for step, loss in ((10, 0.5), (20, 0.6), (30, 0.5)):
      ...     stopping.evaluated(step, {"loss": loss})
      >>> stopping.why
      'loss was no better in 2 evaluations than 0.5 at step 10'
    """

    def __init__(self, config: Any):
        section = config.run.stop
        self._patience = section.patience if section else None
        self._target = section.target if section else None
        self._minutes = section.minutes if section else None
        self._metric, self._sign = watched(config)
        self._best: dict[str, float] | None = None  # step and value
        self._since = 0  # evaluations since then
        self._last: float | None = None  # value of the newest evaluation
        self._before, self._started = 0.0, time.monotonic()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes in the metrics of an evaluation.

        Args:
          step: of the evaluation.
          metrics: by name; one that is not finite is no better than any.
        """
        value = metrics.get(self._metric, math.nan)
        self._last = float(value) if math.isfinite(value) else None
        best = self._best
        if math.isfinite(value) and (best is None or self._sign * value < self._sign * best["value"]):
            self._best, self._since = {"step": step, "value": float(value)}, 0
        else:
            self._since += 1

    @property
    def why(self) -> str | None:
        """Why the run ends after the newest evaluation, minutes apart; None where it goes on."""
        last, best = self._last, self._best
        if self._target is not None and last is not None and self._sign * last <= self._sign * self._target:
            return f"{self._metric} {last:.6g} has reached the target {self._target:g}"
        if self._patience is not None and self._since >= self._patience:
            than = f"than {best['value']:.6g} at step {best['step']:.0f}" if best else "than at the start"
            several = f"{self._since} evaluations" if self._since > 1 else "an evaluation"
            return f"{self._metric} was no better in {several} {than}"
        return None

    @property
    def overdue(self) -> str | None:
        """Why the run ends at any step: its minutes are over; else None."""
        if self._minutes is None or self.seconds < 60 * self._minutes:
            return None
        return f"{self._minutes:g} minutes are over"

    @property
    def seconds(self) -> float:
        """Seconds of the run until now, those before it was resumed among them."""
        return self._before + time.monotonic() - self._started

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run has to know, as JSON values."""
        return {"best": self._best, "since": self._since, "last": self._last, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a state; time that has passed since is not taken back.

        Args:
          state: as `state` returns it; None where an older version has saved none.
        """
        if state is None:
            return
        self._best, self._since, self._last = state["best"], state["since"], state["last"]
        passed = self.seconds
        self._before, self._started = max(passed, float(state["seconds"])), time.monotonic()


def watched(config: Any) -> tuple[str, int]:
    """Returns the metric that patience and target are about, and 1 where smaller is better, -1 where larger is.

    Args:
      config: the run's configuration.
    """
    section = config.run.stop
    best = config.checkpoint.best or "loss"
    name = (section.metric if section else None) or best
    task = getattr(config, "task", None)  # a loss of one's own belongs to none
    given = (section.mode if section else None) or (best_mode(config) if name == best else None)
    mode = given or better(name, task.name if task else None)
    return name, 1 if mode == "min" else -1
