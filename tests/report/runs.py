"""Run folders made by hand."""

import json
from pathlib import Path

import numpy as np

LAYERS = ("layers/0/dense", "layers/1/dense", "layers/2/dense", "head")
TAPS = ("layers/0", "layers/1", "layers/2", "head")
EVIL = "</script><img src=x onerror=alert(1)>"
CONFIG = """\
task: {name: classify}
data: {name: digits, batch_size: 64}
model: {name: mlp, hidden: [8, 8, 8]}
optimizer: {name: sgd, lr: 0.1}
health: {layers: true}
"""
ALERT = {
    "step": 60, "kind": "gradient_spike", "layer": "layers/1/dense", "severity": "act", "value": 12.0, "threshold": 4.5,
    "since": 55, "evidence": {}, "cause": "rate_too_high", "fix": "optimizer.lr=0.01",
    "message": "layers/1/dense: the gradient norm is far above its own history (z-score): 12 against 4.5",
}  # fmt: skip
ACTION = {
    "step": 60, "kind": "action", "action": "cut_lr", "layer": "layers/1/dense", "severity": "act", "value": 0.5,
    "threshold": None, "message": "learning rate x 0.5 after step 62: and so on", "since": 55,
    "cause": "rate_too_high", "due": 62,
}  # fmt: skip
FINDING = {
    "step": 60, "phase": "forward", "primitive": "log", "layer": "layers/1", "file": "model.py", "line": 12,
    "index": [3, 5], "examples": [3], "affected": ["layers/0/dense/kernel", "head/bias"], "message": "log of -0.5",
    "path": [
        {"primitive": "log", "layer": "layers/1", "file": "model.py", "line": 12, "bad": 1, "size": 512},
        {"primitive": "dot_general", "layer": "head", "file": "model.py", "line": 20, "bad": 10, "size": 640},
        {"primitive": "reduce_sum", "layer": "loss", "file": "loss.py", "line": 7, "phase": "forward", "bad": 1},
    ],
}  # fmt: skip
RATES = np.logspace(-5, 0, 60)
LR_FIND = {
    "lr": RATES.tolist(), "loss": (2.3 - 1.8 / (1 + (0.01 / RATES) ** 1.5) + 40 * RATES**3).tolist(),
    "smoothed": (2.3 - 1.8 / (1 + (0.01 / RATES) ** 1.5) + 40 * RATES**3).tolist(),
    "suggested": 0.02, "why": "the loss falls fastest there", "flat": False,
}  # fmt: skip


def train_records(steps=100, first=1, spike=None):
    for step in range(first, first + steps):
        yield {
            "step": step, "split": "train", "loss": 2.0 / step**0.3, "grad_norm": 50.0 if step == spike else 1.0,
            "lr": 0.1, "output_max": 3.0,
        }  # fmt: skip
        if step % 20 == 0:
            yield {"step": step, "split": "eval", "loss": 2.1 / step**0.3, "accuracy": 1 - 1 / step}


def rows(steps=100, first=1, layers=LAYERS, taps=TAPS, every=5):
    for step in range(first, first + steps):
        for i, layer in enumerate(sorted(layers)):
            norm = 10.0 ** (i % 12 - 3)
            yield {
                "step": step,
                "layer": layer,
                "grad_norm": norm,
                "grad_rms": norm / 8,
                "update_ratio": 1e-3 * (i + step % 7),
            }
        for i, tap in enumerate(taps if step % every == 0 else ()):
            yield {
                "step": step,
                "tap": tap,
                "grad_rms": 10.0 ** (i - 4),
                "rms": 1.0 + i,
                "abs_max": 4.0,
                "dead": 0.1 * i,
            }


def summary(step=100, status="completed"):
    return {"status": status, "step": step, "metrics": {"loss": 0.5}, "seconds": 1.0}


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def make_run(
    folder, *, metrics=None, layers=None, alerts=(), ended="completed", config=CONFIG, finding=None, lr_find=None
):
    """Writes a run's folder: 100 steps with rows at each unless other records are given."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text(lines(train_records() if metrics is None else metrics))
    (folder / "layers.jsonl").write_text(lines(rows() if layers is None else layers))
    (folder / "alerts.jsonl").write_text(lines(alerts))
    if ended:
        (folder / "summary.json").write_text(json.dumps(summary(status=ended)))
    if finding is not None:
        (folder / "blackbox" / "60").mkdir(parents=True)
        (folder / "blackbox" / "60" / "finding.json").write_text(json.dumps(finding))
    if lr_find is not None:
        (folder / "lr_find.json").write_text(json.dumps(lr_find))
    return folder


def evil_run(folder):
    """A run in which every name and message that a file may hold tries to become markup."""
    alert = ALERT | {"layer": EVIL, "message": EVIL, "fix": EVIL, "cause": EVIL, "kind": EVIL}
    operation = dict.fromkeys(("primitive", "layer", "file", "phase"), EVIL)
    finding = {**operation, "step": 60, "message": EVIL, "affected": [EVIL], "path": [operation, operation]}
    return make_run(
        folder,
        metrics=[*train_records(), {"step": 101, "split": "train", "loss": 1.0, EVIL: 1.0}],
        layers=rows(layers=(EVIL, *LAYERS), taps=(EVIL, *TAPS)),
        alerts=[alert, alert | {"kind": "gradient_spike"}, ACTION | {"message": EVIL, "action": EVIL}],
        config=f'{CONFIG}run: {{name: "{EVIL}", "{EVIL}": 1}}\n',
        finding=finding,
        lr_find=LR_FIND | {"why": EVIL},
    )
