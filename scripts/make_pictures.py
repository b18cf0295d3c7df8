"""Makes the pictures of the README and of docs/running.md: trains the runs, draws their reports, and photographs them.

python scripts/make_pictures.py     needs chromium on the PATH and playwright; about 2 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
# A deep network whose rate rises until it diverges.
DIVERGED = """\
task: {name: classify}
data: {name: digits, batch_size: 16}
model: {name: mlp, hidden: [32, 32, 32, 32, 32, 32], activation: gelu}
optimizer: {name: sgd, lr: 0.6, momentum: 0.9, schedule: {name: warmup_cosine, warmup_steps: 300}}
run: {epochs: 6, log_every: 1}
health: {every: 1}
sinks: {console: false}
"""
WIDTH = 1160


def jaxprop(*arguments: str, folder: Path) -> None:
    """Runs a command in a folder; a diverged run is no error here."""
    subprocess.run([sys.executable, "-m", "jaxprop", *arguments], cwd=folder, check=False)


def main(folder: Path) -> None:
    """Makes both pictures."""
    from playwright.sync_api import sync_playwright  # not needed for --help

    (folder / "exploding.yaml").write_text(DIVERGED)
    jaxprop("train", "exploding.yaml", "--run", "exploding", folder=folder)
    jaxprop("report", "exploding", "--out", "exploding.html", folder=folder)
    jaxprop("lesson", "vanishing", "--seeds", "1", folder=folder)
    runs = sorted(str(path.parent) for path in folder.glob("**/*-0/config.yaml"))
    order = sorted(runs, key=lambda run: ["sigmoid", "relu", "gelu"].index(Path(run).name.split("-")[0]))
    jaxprop("report", *order, "--out", "depth.html", folder=folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1630})
        page.goto((folder / "exploding.html").as_uri())
        page.wait_for_selector("html[data-drawn]")
        page.screenshot(path=PICTURES / "report-diverged.png")
        page.goto((folder / "depth.html").as_uri())
        page.wait_for_selector("html[data-drawn]")
        depth = page.locator("section", has=page.locator("h2", has_text="Against depth"))
        depth.scroll_into_view_if_needed()
        box = depth.bounding_box()
        assert box is not None
        x, y = max(box["x"] - 14, 0), max(box["y"] - 6, 0)
        page.screenshot(path=PICTURES / "report-depth.png", clip={"x": x, "y": y, "width": WIDTH - x, "height": 730})
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to train the runs, to keep them; a temporary one by default")
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as made:
        main(Path(made) if chosen is None else chosen.absolute())
