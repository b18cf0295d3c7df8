"""Size of a long run's report, and the time a browser takes to draw it.

    python scripts/bench_report.py [--steps N] [--layers N] [--loads N] [--keep FILE]

Makes a run's folder with rows of every layer, and of a tap beside it, at every step; times reading and rendering;
and loads the page in headless Chromium, each time in a new context. The time to drawn is what the page itself notes
when its last canvas is drawn, counted from the start of the navigation; what is reported is its median and its range.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.report.page import render, write
from jaxprop.report.payload import payload
from jaxprop.report.read import Reader
from jaxprop.run.status import Status

EVERY_EVAL = 100


def records(steps: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Records of a loss that falls, with noise and one spike."""
    for step in range(1, steps + 1):
        loss = 5 / step**0.3 + 0.1 * rng.random()
        spike = 40.0 if step == steps * 2 // 3 else 1.0
        yield {
            "step": step, "split": "train", "loss": loss, "grad_norm": spike * float(rng.lognormal()),
            "lr": 1e-3 * (1 - step / steps), "output_max": 3.0, "examples_per_second": 1000.0,
        }  # fmt: skip
        if step % EVERY_EVAL == 0:
            yield {"step": step, "split": "eval", "loss": loss + 0.05, "accuracy": 1 - 1 / step}


def rows(steps: int, layers: int, rng: np.random.Generator) -> Iterator[str]:
    """Lines of `layers.jsonl` as a run writes them: one a layer and one a tap, at every step."""
    for step in range(1, steps + 1):
        values = rng.lognormal(size=(layers, 9)).tolist()
        for i, (a, b, c, d, e, f, g, h, k) in enumerate(values):
            row = {"step": step, "layer": f"blocks/{i}/dense", "grad_norm": a, "param_norm": b, "update_norm": c}
            row |= {
                "nonfinite": 0.0,
                "zero_fraction": 0.01,
                "adam_lag": d,
                "grad_rms": e * 1e-3,
                "update_ratio": f * 1e-3,
            }
            yield json.dumps(row)
            yield json.dumps(
                {"step": step, "tap": f"blocks/{i}", "grad_rms": g * 1e-4, "rms": h, "abs_max": k, "dead": 0.1}
            )


def make(folder: Path, steps: int, layers: int) -> None:
    """Writes the run's folder."""
    rng = np.random.default_rng(0)
    (folder / "config.yaml").write_text("data: {name: digits, batch_size: 64}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records(steps, rng)))
    with open(folder / "layers.jsonl", "w") as file:
        file.writelines(line + "\n" for line in rows(steps, layers, rng))
    at = steps * 2 // 3
    alert = {"step": at, "kind": "gradient_spike", "layer": "blocks/3/dense", "severity": "act", "value": 12.0}
    alert |= {
        "threshold": 4.5,
        "since": at,
        "cause": "rate_too_high",
        "fix": "optimizer.lr=0.0003",
        "message": "a spike",
    }
    (folder / "alerts.jsonl").write_text(json.dumps(alert) + "\n")
    (folder / "summary.json").write_text(json.dumps({"status": Status.COMPLETED, "step": steps}))


def drawn(page_file: Path, loads: int) -> list[float]:
    """Seconds from navigation to drawn, of each load."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        found = []
        for _ in range(loads):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(page_file.as_uri())
            # Not playwright's own waiting, which evaluates strings: the page's policy forbids that.
            while not (milliseconds := page.evaluate("document.documentElement.dataset.drawn")):
                page.wait_for_timeout(20)
            found.append(float(milliseconds) / 1000)
            context.close()
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--loads", type=int, default=7, help="loads of the page")
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        make(folder, options.steps, options.layers)
        written = (folder / "layers.jsonl").stat().st_size
        start = time.perf_counter()
        run = Reader(folder).read()
        read = time.perf_counter() - start
        text = render(payload([run], ["run"]))
        rendered = time.perf_counter() - start - read
        page = options.keep or folder / "report.html"
        write(page, text)
        seconds = drawn(page, options.loads)
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{platform.platform()}, {options.steps:,} steps, {options.layers} layers and as many taps")
        print(f"layers.jsonl {written / 1e6:.0f} MB, {2 * options.steps * options.layers:,} rows")
        print(f"read {read:.2f} s, rendered {rendered:.2f} s, page {page.stat().st_size / 1e6:.3f} MB")
        print(f"drawn in {middle:.2f} s, median of {options.loads} loads ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
