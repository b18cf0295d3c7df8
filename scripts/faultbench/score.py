"""What the runs say of the watch: divergence, lead, detection, cause, layer, false alarms. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

BEFORE = 200  # steps before a fault whose median loss is what divergence is measured against
PERSIST = 20  # steps the loss has to stay high
SUDDEN = 20  # steps within which a sudden fault has to be seen
WINDOW = 300  # steps within which a fault that never diverges has to be seen
ACT_WITHIN = 10  # an alert to act this soon after the first alert speaks for it
HARMLESS, WIDE = 0.05, 100  # how far above its twin's a loss is no harm, over how many steps
RESCUED, FLOOR = 1.1, 0.02  # of the twin's final loss; more than it, where that is next to nothing
LAST = 50  # steps whose mean loss is the final one


class Case(NamedTuple):
    """One faulty run. Steps are counted from 1; `onset` and `nonfinite` are None where there was none.

    Args:
      family, kind, program, severity, seed: what was planted where; kind is `sudden`, `gradual` or `structural`.
      layer: the layer the fault is in, or None.
      start: first faulty step.
      onset: first step of the divergence.
      nonfinite: first step that was not finite.
      leaked: whether a step that was not finite changed the state.
      harmless: whether the loss was no more than 5 % above the undisturbed twin's all the same.
    """

    family: str
    kind: str
    program: str
    severity: int
    seed: int
    layer: str | None
    start: int
    onset: int | None
    nonfinite: int | None
    leaked: bool
    harmless: bool


def usual_loss(loss: np.ndarray, start: int, twin: np.ndarray) -> float:
    """m: median of the 200 losses before the fault; of the undisturbed twin's first 20 where nothing came before.

    Args:
      loss: of the run, by step, `[S]`.
      start: first faulty step, counted from 1.
      twin: losses of the undisturbed run.
    """
    before = loss[max(start - 1 - BEFORE, 0) : start - 1]
    return float(np.median(before if len(before) >= PERSIST else twin[:PERSIST]))


def divergence(loss: np.ndarray, start: int, usual: float) -> int | None:
    """First step of the divergence, counted from 1: a loss that is not finite, or `PERSIST` in a row that are high.

    loss > max(1.5 m, m + 0.5)

    Args:
      loss: by step, `[S]`.
      start: first faulty step.
      usual: m.
    """
    broken = ~np.isfinite(loss)
    high = broken | (loss > max(1.5 * usual, usual + 0.5))
    high[: start - 1] = broken[: start - 1] = False
    if len(high) < PERSIST:
        return int(np.flatnonzero(broken)[0]) + 1 if broken.any() else None
    runs = np.convolve(high, np.ones(PERSIST, int), "valid") == PERSIST
    lasting = np.flatnonzero(runs)
    first = [*np.flatnonzero(broken)[:1], *lasting[:1]]
    return int(min(first)) + 1 if first else None


def deadline(case: Case) -> int:
    """Last step at which an alert still counts as detection.

    The step itself for a batch that is NaN; 20 steps for what is sudden; the last step before the onset of a
    divergence, or 20 steps after the fault where it diverges sooner; 300 steps for a fault that never diverges.
    """
    if case.nonfinite == case.start:
        return case.start
    if case.kind == "sudden":
        return case.start + SUDDEN
    if case.onset is None:
        return case.start + WINDOW
    return max(case.onset - 1, case.start + SUDDEN)


class Verdict(NamedTuple):
    """What the watch made of one faulty run; each is None where there is nothing to be right about.

    Args:
      detected: whether an alert began in time.
      lead: onset less the step of the first alert; of divergences whose fault was detected.
      cause, layer: whether the right ones were named.
      before: alerts before the fault began.
      first, spoke: the first alert, and the one that speaks for it.
    """

    detected: bool
    lead: int | None
    cause: bool | None
    layer: bool | None
    before: int
    first: Mapping[str, Any] | None
    spoke: Mapping[str, Any] | None


def judge(case: Case, alerts: Sequence[Mapping[str, Any]], causes: Sequence[str]) -> Verdict:
    """Holds a run's alerts against what was planted.

    The first alert to act speaks for the fault if it comes within 10 steps of the first alert, else the first alert.
    Where it names no layer, the first that does within these 10 steps is asked for it.

    Args:
      case: the run.
      alerts: in order; `step`, `kind`, `layer`, `severity`, `cause` of each.
      causes: those that are right.
    """
    last = float("inf") if case.kind == "quiet" else deadline(case)
    inside = [alert for alert in alerts if case.start <= alert["step"] <= last]
    before = sum(alert["step"] < case.start for alert in alerts)
    if not inside:
        return Verdict(False, None, None, None, before, None, None)
    first = inside[0]
    acts = [alert for alert in alerts if alert["severity"] == "act" and alert["step"] >= case.start]
    spoke = acts[0] if acts and acts[0]["step"] <= first["step"] + ACT_WITHIN else first
    lead = None if case.onset is None else case.onset - first["step"]
    soon = [alert for alert in [spoke, *inside] if alert["layer"] and alert["step"] <= first["step"] + ACT_WITHIN]
    layer = None if case.layer is None else bool(soon) and same_layer(soon[0]["layer"], case.layer)
    return Verdict(True, lead, spoke["cause"] in causes, layer, before, first, spoke)


def same_layer(found: str, planted: str) -> bool:
    """Whether an alert names a layer, or what holds it or is held by it, as `block_0` holds `block_0/up`."""
    return found == planted or planted.startswith(f"{found}/") or found.startswith(f"{planted}/")


def harmless(loss: np.ndarray, twin: np.ndarray, start: int) -> bool:
    """Whether a run's loss never averages more than 5 % above its twin's over 100 steps, from the fault on.

    Steps whose loss is not finite are left out: they are skipped.
    """
    for i in range(start - 1, len(loss) - WIDE + 1, WIDE):
        finite = loss[i : i + WIDE][np.isfinite(loss[i : i + WIDE])]
        if not len(finite) or finite.mean() > (1 + HARMLESS) * twin[i : i + WIDE].mean():
            return False
    return True


def final(loss: Iterable[float]) -> float:
    """Mean loss of the last 50 steps."""
    return float(np.mean(list(loss)[-LAST:]))


def rescued(final_loss: float, twin_final: float) -> bool:
    """Whether a run ended within 10 % of its undisturbed twin, or within 0.02 where the loss is next to nothing."""
    return bool(final_loss <= max(RESCUED * twin_final, twin_final + FLOOR))


def share(values: Iterable[Any]) -> float:
    """Mean of what is not None; NaN of nothing."""
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def percentile(values: Iterable[Any], q: float) -> float:
    """Percentile of what is not None; NaN of nothing."""
    known = [float(value) for value in values if value is not None]
    return float(np.percentile(known, q)) if known else float("nan")
