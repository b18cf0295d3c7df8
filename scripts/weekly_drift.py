"""Writes four weeks of images with boxes, as COCO JSON, that drift: what a weekly retraining has to cope with.

    python scripts/weekly_drift.py weeks
    jaxprop train weeks/detect.yaml --run runs/digits
    jaxprop retrain runs/digits --data weeks/week2

Images are those of `data.name: digit_scenes`. Week 1 is the base, without the digit 9. Week 2 has clutter that week 1
does not: grids, rings and stripes. In week 3 the digit 9 appears as well. Week 4 is like week 3, with the wrong class
in 30 % of its training boxes; its test split is correct, and `wrong.json` lists the annotations that are not.

A week has `train.json`, `test.json` and the folder `images`. No glyph of a test split is in a training split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxprop.data.readers.digit_scenes import draw_scene, load_glyphs
from jaxprop.data.splits import stratified_split

TEST_FRACTION = 0.2  # of the glyphs
LATE = 9  # the class that the first weeks do not have
CONFIG = """\
# A small detector on the first week; each later week is for: jaxprop retrain RUN --data weekN

task: {{name: detect}}

data:
  name: coco
  train: {root}/week1/train.json
  test: {root}/week1/test.json
  size: [{side}, {side}]
  validation: 0.1
  batch_size: 32

model: {{name: detector, widths: [16, 32, 64], levels: 2, pyramid: 32}}

optimizer:
  name: adamw
  lr: 3e-3
  weight_decay: 2e-2
  decay_mask: matrices
  grad_clip: {{norm: 10.0}}
  schedule: {{name: warmup_cosine, warmup_steps: 50}}

run: {{epochs: {epochs}, ema_decay: 0.99}}

checkpoint: {{best: map}}
"""


class Week(NamedTuple):
    """How a week differs from the first one.

    Args:
      clutter: whether it has shapes that the first week does not.
      late: whether it has the class that the first weeks do not.
      wrong: share of the training boxes whose class is wrong.
    """

    clutter: bool = False
    late: bool = False
    wrong: float = 0.0


WEEKS = (Week(), Week(clutter=True), Week(clutter=True, late=True), Week(clutter=True, late=True, wrong=0.3))


def main() -> None:
    """Parses the arguments, and writes the weeks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--train", type=int, default=1500, help="training images of a week")
    parser.add_argument("--test", type=int, default=250, help="test images of a week")
    parser.add_argument("--side", type=int, default=64, help="height and width of an image in pixels")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the configuration of the first week")
    parser.add_argument("--seed", type=int, default=0, help="of all scenes")
    args = parser.parse_args()
    write_weeks(args.out, {"train": args.train, "test": args.test}, args.side, args.seed)
    (args.out / "detect.yaml").write_text(
        CONFIG.format(root=args.out, side=args.side, epochs=args.epochs), encoding="utf-8"
    )
    print(f"wrote {len(WEEKS)} weeks and detect.yaml to {args.out}")


def write_weeks(out: Path, counts: Mapping[str, int], side: int, seed: int) -> None:
    """Writes a folder for each week.

    Args:
      out: folder to write to.
      counts: images of `train` and of `test`.
      side: of an image in pixels.
      seed: of all scenes.
    """
    glyphs, labels = load_glyphs()
    parts = dict(zip(("train", "test"), stratified_split(labels, TEST_FRACTION, seed), strict=True))
    for number, week in enumerate(WEEKS, 1):
        folder = out / f"week{number}"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for place, (split, count) in enumerate(counts.items()):
            rows = parts[split] if week.late else parts[split][labels[parts[split]] != LATE]
            held: dict[str, Any] = {"images": [], "annotations": [], "categories": categories(week)}
            for index in range(count):
                rng = np.random.default_rng([seed, number, place, index])
                add_scene(held, folder, f"{split}-{index:04}.png", glyphs[rows], labels[rows], side, week, rng)
            if split == "train" and week.wrong:
                wrong = mislabel(held, week.wrong, np.random.default_rng([seed, number]))
                (folder / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
            (folder / f"{split}.json").write_text(json.dumps(held), encoding="utf-8")


def categories(week: Week) -> list[dict[str, Any]]:
    """Returns the classes of a week."""
    return [{"id": digit + 1, "name": str(digit)} for digit in range(10) if week.late or digit != LATE]


def add_scene(
    held: dict[str, Any],
    folder: Path,
    name: str,
    glyphs: np.ndarray,
    labels: np.ndarray,
    side: int,
    week: Week,
    rng: np.random.Generator,
) -> None:
    """Draws an image, and adds it with its boxes to the object of a COCO JSON."""
    scene = draw_scene(glyphs, labels, side, rng)
    pixels = cluttered(scene.pixels, rng) if week.clutter else scene.pixels
    Image.fromarray(pixels).save(folder / "images" / name)
    image = len(held["images"]) + 1
    held["images"].append({"id": image, "file_name": f"images/{name}", "height": side, "width": side})
    for slot in np.flatnonzero(scene.mask).tolist():
        x0, y0, x1, y1 = scene.boxes[slot].tolist()
        held["annotations"].append({
            "id": len(held["annotations"]) + 1,
            "image_id": image,
            "category_id": int(scene.labels[slot]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        })  # fmt: skip


def cluttered(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an image with a grid, rings or stripes laid over it, through which its digits can still be read.

    Args:
      pixels: uint8 `[S, S]`.
      rng: decides which.
    """
    side = len(pixels)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    canvas = pixels.astype(np.float32)
    for _ in range(int(rng.integers(1, 4))):
        kind, grey, width = rng.integers(3), rng.uniform(0, 255), rng.uniform(0.8, 1.6)
        if kind == 0:  # a ring
            centre, radius = rng.uniform(0, side, 2), rng.uniform(side / 10, side / 3)
            distance = np.abs(np.hypot(x - centre[0], y - centre[1]) - radius)
        elif kind == 1:  # parallel lines
            angle, step = rng.uniform(0, np.pi), rng.uniform(side / 10, side / 4)
            distance = np.abs((np.cos(angle) * x + np.sin(angle) * y) % step - step / 2)
        else:  # a grid
            step, shift = rng.uniform(side / 8, side / 4), rng.uniform(0, side, 2)
            distance = np.minimum(
                *(np.abs((axis + by) % step - step / 2) for axis, by in ((x, shift[0]), (y, shift[1])))
            )
        canvas += 0.55 * np.clip(width - distance, 0, 1) * (grey - canvas)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def mislabel(held: dict[str, Any], share: float, rng: np.random.Generator) -> list[int]:
    """Gives a share of the annotations another class; returns their ids, ascending."""
    annotations, known = held["annotations"], [item["id"] for item in held["categories"]]
    chosen = np.sort(rng.permutation(len(annotations))[: round(share * len(annotations))]).tolist()
    for place in chosen:
        others = [identity for identity in known if identity != annotations[place]["category_id"]]
        annotations[place]["category_id"] = int(rng.choice(others))
    return [annotations[place]["id"] for place in chosen]


if __name__ == "__main__":
    main()
