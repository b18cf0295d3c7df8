"""The verdict on a run, in words: what happened, when, in which layer, why, and which line to change. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprop.health.watch.alerts import OF_THE_LOOP, QUARANTINE, RECOMPILATION, TITLES
from jaxprop.health.watch.outcome import trivial
from jaxprop.report.fields import nested, number, text, whole
from jaxprop.report.read import RunData
from jaxprop.run.status import OPEN, Status, headline

SHORT = {
    "nonfinite": "loss or gradient not finite",
    "rate": "learning rate above what has been stable",
    "damped": "updates held down by Adam's epsilon",
    "adam_lag": "gradients outgrow Adam's second moment",
    "update_ratio": "updates too large for the weights",
    "overshoot": "updates overshoot",
    "vanishing": "vanishing gradients",
    "exploding": "exploding gradients",
    "depth_tilt": "gradients larger near the head",
    "dead": "dead units",
    "saturated": "saturated activations",
    "attention": "large attention logits",
    "entropy": "attention collapses",
    "output": "large output logits",
    "output_trend": "output logits grow",
    "output_drift": "output logits drift",
    "flushed": "gradients too small for float16",
    "swallowed": "updates too small to count",
    "tiny_second_moment": "Adam's epsilon dominates its second moment",
    "frozen": "a layer does not move",
    "init": "a layer starts out of proportion",
    "init_scale": "first weights out of scale",
    "init_output": "first outputs too large",
    RECOMPILATION: "the step was compiled again",
    QUARANTINE: "a batch was left out",
}
CAUSES = {
    "rate_too_high": "the learning rate is too high",
    "vanishing": "the activations pass too little of the gradient back",
    "exploding_recurrence": "the recurrent weights amplify the gradient from step to step",
    "post_norm": "normalization after the residual sum makes the first gradients uneven, and there is no warmup",
    "no_loss_scaling": "the loss scale is too small for float16",
    "loss_scale_falls": "no loss scale suits this model in float16",
    "bad_batch": "one bad batch of data",
    "not_finite": "a value that is not finite; the replay of the step's black box names where it began",
    "label_shift": "the data or their labels have changed",
    "rate_or_data": "a learning rate that rose, which the records do not hold, or data that have changed",
    "dead_relu": "relu units that no example activates anymore",
    "adam_eps": "Adam's epsilon is too large for these gradients",
    "logit_drift": "nothing in the loss limits the logits",
    "frozen_layer": "the layer gets no update",
    "no_gradient": "the loss has no gradient",
    "bad_init": "the initial weights are out of scale",
    "unscaled_inputs": "the inputs are far from a standard deviation of 1",
    "rounded": "the updates are too small for the number format of the parameters",
    # of earlier versions
    "no_warmup": "the learning rate starts at its full value, without warmup",
    "nan_batch": "a batch with values that are not finite, or that become so in the model",
    "unstable": "training is unstable without a clear cause",
}
ENDED: dict[str, str] = {
    Status.COMPLETED: "completed",
    Status.STOPPED_EARLY: "stopped early",
    Status.INTERRUPTED: "interrupted; the same command resumes it",
    Status.DIVERGED: "diverged",
    Status.FAILED: "failed",
    Status.RUNNING: "still being written",
    Status.UNFINISHED: "without a summary: still running elsewhere, or killed",
}
TELLING = 0.05  # decades by which a layer must differ from the others to be listed


class Verdict(NamedTuple):
    """The summary at the top of a report.

    Args:
      tone: `good`, `watch` (advice), `bad`, or `open` for a run that has not ended.
      headline: one sentence.
      facts: labels and their texts.
      worst: up to five layers with the reason, the worst first.
    """

    tone: str
    headline: str
    facts: list[tuple[str, str]]
    worst: list[tuple[str, str]]


def judge(run: RunData) -> Verdict:
    """Returns the verdict on a run.

    Args:
      run: the contents of its folder.
    """
    main = main_alert(run)
    if not run.train and not run.evaluation:
        found = number((run.lr_find or {}).get("suggested")) is not None
        return Verdict("good" if found else "watch", _rate_found(run), _facts(run, None), [])
    return Verdict(_tone(run, main), _headline(run, main), _facts(run, main), worst_layers(run))


def outcome(run: RunData) -> str | None:
    """Says that a run has learned nothing: dead, or no better than a trivial predictor; None if it has, or may yet.

    Args:
      run: the contents of its folder. Its summary's `outcome` is what the run said of itself at its end.
    """
    if run.status in OPEN or run.summary is None:
        return None
    if "outcome" in run.summary:
        return text(run.summary["outcome"]) or None
    return trivial(_mapping(run, "metrics"), _mapping(run, "reference"))  # an older version has written the summary


def _mapping(run: RunData, name: str) -> dict[str, Any]:
    found = (run.summary or {}).get(name)
    return found if isinstance(found, dict) else {}


def _tone(run: RunData, main: dict[str, Any] | None) -> str:
    if (
        run.status in (Status.DIVERGED, Status.FAILED)
        or run.findings
        or outcome(run) is not None
        or (main is not None and main.get("severity") == "act")
    ):
        return "bad"
    if main is not None or _broken_at(run) is not None:
        return "watch"
    return "open" if run.status in OPEN or not _is_watched(run) else "good"


def _is_watched(run: RunData) -> bool:
    return nested(run.config, "health", "watch") is not False


def _broken_at(run: RunData) -> int | None:
    """The first step whose loss or gradient was not finite."""
    columns = [series for series in (run.train.get("loss"), run.train.get("grad_norm")) if series is not None]
    return min((int(s.step[~np.isfinite(s.value)][0]) for s in columns if not np.isfinite(s.value).all()), default=None)


def main_alert(run: RunData) -> dict[str, Any] | None:
    """Returns the first alert to act on, else the first advice, one on the training before others; else None."""
    acts = [alert for alert in run.alerts if alert.get("severity") == "act"]
    training = [alert for alert in run.alerts if alert.get("kind") not in OF_THE_LOOP]
    return next(iter(acts or training or run.alerts), None)


def short(kind: str) -> str:
    """Returns a kind of alert in a few words.

    Example:
      >>> short("gradient_spike"), short("dead")
      ('gradient spike', 'dead units')
    """
    return SHORT.get(kind, kind.replace("_", " "))


def _headline(run: RunData, main: dict[str, Any] | None) -> str:
    said = outcome(run)
    if said is not None and run.status != Status.FAILED:
        return headline(said, run.status, run.last_step)
    if main is None:
        return _without_alert(run)
    layer = text(main.get("layer"))
    where = f" in {layer}" if layer else ""
    what = _capital(f"{short(text(main.get('kind'), 'alert'))}{where} at step {whole(main.get('step')) or 0:,}")
    if run.status == Status.RUNNING:
        return f"{what}; still being written, step {run.last_step:,} so far."
    if run.status == Status.UNFINISHED:
        return f"{what}; the run has not ended, or was killed, at step {run.last_step:,}."
    return headline(what, run.status, run.last_step)


def _without_alert(run: RunData) -> str:
    steps, broken, error = f"{run.last_step:,}", _broken_at(run), _error(run)
    if run.status in OPEN:
        how = "is still being written" if run.status == Status.RUNNING else "has not ended, or was killed"
        return f"No alert up to step {steps}; the run {how}."
    if error:
        return f"{_capital(run.status)} at step {steps}: {error}"
    if run.findings:
        return f"A value that is not finite, at step {whole(run.findings[0].get('step')) or 0:,}."
    if broken is not None:
        what = f"no alert, but loss or gradient were not finite at step {broken:,}"
        return headline(what, run.status, run.last_step)
    how = "" if run.status == Status.COMPLETED else f" ({ENDED.get(run.status, run.status)})"
    if not _is_watched(run):
        return f"{steps} steps without the watch, since health.watch is false{how}."
    return f"Healthy: {steps} steps without an alert{how}."


def _facts(run: RunData, main: dict[str, Any] | None) -> list[tuple[str, str]]:
    facts = list(_alert_facts(run, main)) if main is not None else []
    for finding in run.findings[:1]:
        facts.append(("origin", origin(finding)))
    facts += [("done", _done(action)) for action in run.actions[:6]]
    if stopped := text((run.summary or {}).get("stopped")):
        facts.append(("ended early", stopped))
    if len(run.actions) > 6:
        facts.append(("done", f"and {len(run.actions) - 6} more actions"))
    skips = run.train.get("skips")
    if skips is not None and np.isfinite(skips.value).any():
        facts.append(("skipped", f"{int(np.nanmax(skips.value))} steps that were not finite changed nothing"))
    if run.train or run.evaluation:
        facts.append(("status", _status(run)))
    if run.lr_find is not None and text(run.lr_find.get("why")):
        facts.append(("rate", text(run.lr_find["why"])))
    return facts


def _alert_facts(run: RunData, main: dict[str, Any]) -> list[tuple[str, str]]:
    value, threshold, since = (number(main.get(key)) for key in ("value", "threshold", "since"))
    kind, step, cause = text(main.get("kind")), whole(main.get("step")) or 0, text(main.get("cause"))
    numbers = f": {'not finite' if value is None else f'{value:.3g}'}"
    numbers += f", the limit is {threshold:.3g}" if threshold is not None else ""
    facts = [("what", _capital(TITLES.get(kind, kind.replace("_", " "))) + numbers)]
    began = f", first sign at step {int(since):,}" if since is not None and since != step else ""
    facts.append(("when", f"step {step:,}{began}"))
    if text(main.get("layer")):
        facts.append(("where", text(main["layer"])))
    if cause:
        facts.append(("why", f"likely {cause}: {CAUSES[cause]}" if cause in CAUSES else f"likely {cause}"))
    if text(main.get("fix")):
        facts.append(("fix", text(main["fix"])))
    others = len(run.alerts) - 1
    if others:
        acts = sum(alert.get("severity") == "act" for alert in run.alerts if alert is not main)
        facts.append(("besides", f"{others} more {'alert' if others == 1 else 'alerts'}, {acts} of them to act on"))
    return facts


def _done(action: dict[str, Any]) -> str:
    step, said = whole(action.get("step")) or 0, text(action.get("message"), text(action.get("action"), "an action"))
    return f"step {step:,}: {said.partition(': ')[0]}"  # the alert's own message follows the colon


def _status(run: RunData) -> str:
    said = [f"{ENDED.get(run.status, run.status)}, step {run.last_step:,}"]
    for split, columns in (("train", run.train), ("eval", run.evaluation)):
        for name in ("loss", *run.metrics):
            series = columns.get(name)
            if series is not None:
                last = series.value[-1]
                said.append(f"{split} {name} {last:.4g}" if np.isfinite(last) else f"{split} {name} not finite")
    return ", ".join(said)


def _error(run: RunData) -> str:
    return text((run.summary or {}).get("error"))


def origin(finding: dict[str, Any]) -> str:
    """Returns where the first value that is not finite came from, as far as a finding says.

    Example:
      >>> origin({"primitive": "log", "layer": "head", "file": "m.py", "line": 3, "phase": "forward", "step": 7})
      'log in head (m.py:3), in the forward pass of step 7'
    """
    what = text(finding.get("primitive"), "an operation")
    where = f" in {finding['layer']}" if text(finding.get("layer")) else ""
    line = whole(finding.get("line"))
    place = f" ({finding['file']}{'' if line is None else f':{line}'})" if text(finding.get("file")) else ""
    step = whole(finding.get("step"))
    of_step = "" if step is None else f" of step {step}"
    return f"{what}{where}{place}, in the {text(finding.get('phase'), 'forward')} pass{of_step}"


def _rate_found(run: RunData) -> str:
    suggested = number((run.lr_find or {}).get("suggested"))
    if suggested is None:
        return "A search for the learning rate, without a rate to suggest."
    return f"A search for the learning rate: it suggests {suggested:.3g}."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def worst_layers(run: RunData, count: int = 5) -> list[tuple[str, str]]:
    """Returns the layers to look at first, each with the reason.

    Layers with alerts come first, those of severity act before the others; then layers whose gradient was not finite;
    then layers whose median gradient over the run differs most from that of the other layers.

    Args:
      run: the contents of its folder.
      count: largest number of layers.
    """
    found: dict[str, str] = {}
    for alert in sorted(run.alerts, key=lambda alert: alert.get("severity") != "act"):
        layer = text(alert.get("layer"))
        if layer:
            kind, step = short(text(alert.get("kind"), "alert")), whole(alert.get("step")) or 0
            found.setdefault(layer, f"{kind} at step {step:,}")
    for layer, reason in (*_not_finite(run), *_outliers(run)):
        found.setdefault(layer, reason)
    return list(found.items())[:count]


def _not_finite(run: RunData) -> list[tuple[str, str]]:
    grid = run.layers
    table = None if grid is None else grid.values.get("grad_norm")
    if grid is None or table is None:
        return []
    counts = np.isinf(table).sum(axis=1)
    order = sorted(np.flatnonzero(counts), key=lambda i: -counts[i])
    first = {i: int(grid.steps[np.isinf(table[i]).argmax()]) for i in order}
    return [(grid.names[i], f"gradient not finite in {counts[i]:,} records, first at step {first[i]:,}") for i in order]


def _outliers(run: RunData) -> list[tuple[str, str]]:
    grid, signal = run.layers, gradient_signal(run)
    if grid is None or signal is None or len(grid.names) < 2:
        return []
    table = grid.values[signal]
    table = np.where(np.isfinite(table) & (table > 0), table, np.nan)
    rows = [i for i, row in enumerate(table) if np.isfinite(row).any()]
    if len(rows) < 2:
        return []
    level = np.log10(np.nanmedian(table[rows], axis=1))
    off = level - np.median(level)
    what = "gradient RMS" if signal == "grad_rms" else "gradient norm"
    found = []
    for k in np.argsort(-np.abs(off).round(6), kind="stable").tolist():
        if abs(off[k]) > TELLING:
            side = "above" if off[k] > 0 else "below"
            times = f"{10 ** abs(off[k]):.2g} times {side} the median layer"
            found.append((grid.names[rows[k]], f"{what} {10 ** level[k]:.2g}, {times}"))
    return found


def gradient_signal(run: RunData) -> str | None:
    """Returns the signal by which gradients of layers are compared: the RMS if rows have it, otherwise the norm."""
    values = {} if run.layers is None else run.layers.values
    return next((name for name in ("grad_rms", "grad_norm") if name in values), None)
