"""Records made by hand, and a healthy run to plant faults in."""

import numpy as np

from jaxprop.core.measurements import SIGNALS, Layout, Measurements

LAYERS = tuple(f"layers/{i}/dense" for i in range(6))
TAPS = tuple((f"layers/{i}", "relu") for i in range(6))
SIZES = (4096,) * 6
LEAN = Layout(("accuracy",), ())
ROWS = Layout(("accuracy",), LAYERS, SIZES)
FULL = Layout(("accuracy",), LAYERS, SIZES, rare=True, taps=TAPS)
PLAIN = {"weight": 64.0, "skipped": 0.0, "skips": 0.0, "guard": 1.0, "loss_scale": 1.0, "learning_rate": 1e-3}
ROW = {"grad_norm": 1.0, "param_norm": 10.0, "update_norm": 0.01, "zero_fraction": 0.1, "adam_lag": 1.0}
RARE = {"tiny_second_moment": 0.0, "swallowed": 0.0, "flushed": np.nan}
TAP = {"grad_rms": 1e-4, "rms": 1.0, "abs_max": 4.0, "dead": 0.1}


def record(layout=LEAN, **values):
    """A record of `layout`: scalars by name, columns as `rows_grad_norm`, rare ones by name, taps as `tap_dead`.

    What a record of this layout does not hold is left out, as the step leaves it out.
    """
    first, rest = [], []
    metrics = [np.asarray(values.pop(name, (0.0, 0.0)), np.float64) for name in layout.metrics]
    for signal in SIGNALS:
        name, prefix = signal.name, {"step": "", "layer": "rows_", "tap": "tap_"}[signal.per]
        if name in RARE:
            prefix = ""
        default = {"step": PLAIN, "layer": ROW | RARE, "tap": TAP}[signal.per].get(name, np.nan)
        width = {"step": 1, "layer": len(layout.layers), "tap": len(layout.taps)}[signal.per]
        given = values.pop(prefix + name, default)
        if layout.rare or not signal.rare:
            part = first if signal.per == "step" and not signal.rare else rest
            part.append(np.broadcast_to(np.asarray(given, np.float64), (width,)))
    assert not values, f"no such values: {sorted(values)}"
    m = Measurements(np.concatenate([*first, *metrics, *rest]).astype(np.float32), layout)
    assert len(m.packed) == layout.length
    return m


def healthy(steps, seed=0, sigma=0.3, adam=True, floor=0.1, full=FULL, warmup=100, restart=0, resize=0, start=1):
    """Yields (step, values, layout) of a run without faults: a falling loss, log-normal gradients, a schedule.

    Args:
      sigma: of the logarithm of gradient norms. floor: what the loss falls to. restart: steps after which the
        cosine starts anew. resize: step at which the batch becomes four times as large.
    """
    rng = np.random.default_rng(seed)
    width = len(full.layers)
    own = rng.normal(0, 0.3, width)
    for step in range(start, steps + 1):
        phase, cycle = (step % restart, restart) if restart else (step, 3000)
        ramp = min(step / warmup, 1.0) if warmup else 1.0
        rate = 1e-3 * ramp * (0.1 + 0.45 * (1 + np.cos(np.pi * min(phase / cycle, 1.0))))
        big = resize and step >= resize
        spread = sigma / 2 if big else sigma
        loss = (
            floor
            + 2.2 * np.exp(-step / 150)
            + (0.05 / (2 if big else 1)) * rng.standard_normal() * (floor + np.exp(-step / 150))
        )
        level = np.exp(-0.3 * np.log1p(step / 50))
        norm = level * np.exp(spread * rng.standard_normal())
        values = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
            "weight": 256.0 if big else 64.0,
            "param_norm": 24.0,
            "update_norm": 150.0 * rate,
            "output_max": 6 + 6 * (1 - np.exp(-step / 1000)) + rng.normal(0, 0.5),
            "output_logsumexp": 9.0,
        }
        layout = full if step % 10 == 0 else full._replace(rare=False, taps=())
        values["rows_grad_norm"] = norm / np.sqrt(width) * np.exp(own + 0.5 * spread * rng.standard_normal(width))
        values["rows_update_norm"] = 58.0 * rate * np.exp(0.05 * rng.standard_normal(width))
        values["rows_adam_lag"] = np.exp(0.25 * rng.standard_normal(width)) if adam else np.nan
        if layout.rare and full.taps:
            values["tap_grad_rms"] = 1e-4 * norm * np.exp(0.2 * rng.standard_normal(len(full.taps)))
            values["tap_dead"] = np.clip(rng.normal(0.15, 0.03, len(full.taps)), 0, 1)
        yield step, values, layout


def alerts_of(watch, run, change=None):
    """Alerts of a run, whose values `change(step, values)` may alter in place."""
    found = []
    for step, values, layout in run:
        if change is not None:
            change(step, values)
        found += watch.update(step, record(layout, **values))
    return found
