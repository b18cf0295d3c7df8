"""What the records of a run show: alerts, the guard inside the step, and the signs of a fault in both. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxprop.core.measurements import Measurements
from jaxprop.health.respond.actions import Sign, action_line
from jaxprop.health.respond.fault import RELATED
from jaxprop.health.respond.history import History
from jaxprop.health.respond.ladder import OF_THE_SCALE
from jaxprop.health.watch.alerts import Alert
from jaxprop.health.watch.outcome import trivial
from jaxprop.health.watch.watch import Watch

LASTING = 10  # steps in a row that the guard in the step may hold an alert before more is done


class Seen(NamedTuple):
    """What one record shows: lines for `alerts.jsonl`, and what is to be acted on."""

    lines: list[dict[str, Any]]
    signs: list[Sign]


class Observer:
    """Reads every record in step order, and remembers of them what later decisions rest on.

    Args:
      watch: gives the alerts; None: there are none.

    Attributes:
      history: the good steps.
      advised: cause -> step and first sign of the newest advice.
      guarded: steps in a row that the guard inside the step has changed.
      scale: the newest loss scale.
    """

    def __init__(self, watch: Watch | None):
        self._watch = watch
        self.history = History()
        self.advised: dict[str, list[int]] = {}
        self.guarded = 0
        self.scale = 1.0

    def read(self, step: int, m: Measurements, grad_limit: float) -> Seen:
        """Takes in a record.

        Args:
          step: its number.
          m: its measurements, on the host.
          grad_limit: the response's own limit on the gradient norm, which is no news.
        """
        alerts = self._watch.update(step, m) if self._watch is not None else []
        lines = [alert.record() for alert in alerts]
        skipped, self.scale = bool(m.skipped), float(m.loss_scale)
        guarded = not skipped and float(m.guard) < _explained(float(m.grad_norm), grad_limit)
        if guarded and not self.guarded:
            lines.append(_guard_line(step, float(m.guard), float(m.grad_norm)))
        self.guarded = self.guarded + 1 if guarded else 0
        signs = []
        if not (skipped or guarded):
            self.history.add(step, m)
            signs = [self._sign(alert) for alert in alerts if alert.severity == "act"]
        elif skipped:  # an overflow is no fault but of the loss scale, if that does not settle
            signs = [self._sign(alert) for alert in alerts if alert.cause in OF_THE_SCALE]
        self.advised |= {alert.cause: [step, alert.since] for alert in alerts if alert.severity != "act"}
        if self.guarded == LASTING:
            why = f"the gradient norm has stood above its history for {LASTING} steps in a row"
            signs.append(Sign(step, None, step - LASTING + 1, "unstable", why))
        return Seen(lines, signs)

    def _sign(self, alert: Alert) -> Sign:
        """What an alert says, counted from the first advice of the same cause if that was lately."""
        at, since = self.advised.get(alert.cause, (0, alert.since))
        since = min(alert.since, since) if alert.step - at <= RELATED else alert.since
        return Sign(alert.step, alert.layer, since, alert.cause, alert.message)

    def rearm(self, step: int) -> None:
        """What lasts is told once more."""
        if self._watch is not None:
            self._watch.rearm(step)

    def outcome(self, metrics: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
        """Says that the run has learned nothing; see `Watch.outcome`."""
        return trivial(metrics, reference) if self._watch is None else self._watch.outcome(metrics, reference)

    @property
    def exploded(self) -> bool:
        """Whether what is not finite came after exploding losses; False where nothing watches."""
        return self._watch is not None and self._watch.exploded

    def watch_state(self) -> dict[str, Any] | None:
        """Returns the watch's own state; None where there is no watch."""
        return None if self._watch is None else self._watch.state()

    def restore_watch(self, state: dict[str, Any] | None) -> None:
        """Takes the watch back to a state of its own, where there are both."""
        if self._watch is not None and state is not None:
            self._watch.restore(state)

    def forget(self, after: int) -> None:
        """Drops what was seen in steps that are undone."""
        self.history.forget(after)
        self.advised = {cause: seen for cause, seen in self.advised.items() if seen[0] <= after}
        self.guarded = 0


def _explained(norm: float, grad_limit: float) -> float:
    """The factor that the response's own limit explains, less rounding; below it, the guard saw a spike."""
    limited = min(1.0, grad_limit / norm) if norm > 0 else 1.0
    return min(limited * 0.999, 1.0)


def _guard_line(step: int, factor: float, norm: float) -> dict[str, Any]:
    name, what = ("skip", "the step is skipped") if factor == 0 else ("clip", f"clipped to {factor:.3g} of it")
    why = f"gradient norm {norm:.4g} stands above its history; {what}"
    return action_line(Sign(step, None, step, "bad_batch", why), name, factor, step, why)
