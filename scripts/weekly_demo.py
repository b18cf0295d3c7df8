"""Four weeks of retraining a detector on data that drift; writes docs/four-weeks.md and its picture from the records.

    python scripts/weekly_demo.py [FOLDER]

Trains and retrains in FOLDER, by default a temporary one, with the commands that the page shows. Every figure of the
page comes from `promotion.json`, `suspects.jsonl` and `summary.json` of the runs. It takes about 8 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs" / "four-weeks.md", ROOT / "scripts" / "pictures" / "weeks-suspects.png"
FIRST_EPOCHS, EPOCHS, SHOWN = 36, 8, 4
REFUSED = "refused.json"  # what the command said that is refused
COMMANDS = (
    "train weeks/detect.yaml --run runs/digits",
    f"retrain runs/digits --data weeks/week2 run.epochs={EPOCHS}",
    f"retrain champion:digits --data weeks/week3 run.epochs={EPOCHS}",
    f"retrain champion:digits --data weeks/week3 --new-classes run.epochs={EPOCHS}",
    f"retrain champion:digits --data weeks/week4 run.epochs={EPOCHS}",
)
TEXT = """\
# Four weeks of a detector

Made by `python scripts/weekly_demo.py`, which runs the commands below; do not edit. Figures come from the records of
the runs. [retraining.md](retraining.md) says what a retraining does.

A small detector finds digits in generated scenes of {side} x {side} pixels. Each week brings {train:,} labelled images
for training and {test} for testing, of other glyphs:

| week | data |
|---|---|
| 1 | the base, without the digit 9 |
| 2 | new clutter: grids, rings and stripes |
| 3 | the digit 9, which no earlier week has |
| 4 | as week 3, but {wrong:.0%} of the boxes for training have a wrong class; those for testing are correct |

```text
python scripts/weekly_drift.py weeks --epochs {first_epochs}
{commands}
```

The third command ends with exit code {code}, and changes nothing:

```text
{refused}
```

## What was decided

COCO's mAP of the version that serves and of its challenger, on the new test set and on all earlier ones together, with
the 95 % interval of the gain by the paired bootstrap:

| week | test set | images | champion | challenger | gain | 95 % interval | decision |
|---|---|---|---|---|---|---|---|
{rows}

{reasons}

Version {serving} serves after the four weeks.

## Wrong labels

Before it trains, a retraining looks for wrong labels. The suspects are images with a box that is contradicted by
{method}. In weeks 2 and 3 no
label is wrong: what is suspected there is an error of the champion, which contradicts boxes of its own test images
as well. Looked at are the training images but for the tenth that is held out for validation, and of week 3 those
without the new digit, which the champion cannot judge.

| week | suspects | of its own test images | with a wrong box | of these suspected | of the suspects, with a wrong box |
|---|---|---|---|---|---|
{suspects}

The {shown} worst of week 4: above as they were labelled, below as the champion sees them.

![Four images with the boxes that they were given, and below them the boxes that the champion finds](../{picture})
"""


def jaxprop(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder."""
    env = {**os.environ, "JAXPROP_CHAMPIONS": str(folder / "runs" / "champions")}
    print(f"jaxprop {words}", flush=True)
    command = [sys.executable, "-m", "jaxprop", *words.split(), "-q"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def read(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def weeks_of(folder: Path) -> None:
    """Writes the weeks."""
    script = [sys.executable, str(ROOT / "scripts" / "weekly_drift.py"), "weeks", "--epochs", str(FIRST_EPOCHS)]
    subprocess.run(script, cwd=folder, check=True)


def row(week: int, of: str, record: Mapping[str, Any]) -> str:
    """A row of the table of decisions."""
    one = record["figures"][of]
    low, high = one["interval"]
    decision = record["decision"] if of == "new" else ""
    return (
        f"| {week if of == 'new' else ''} | {of} | {one['examples']} | {one['champion']:.3f} | "
        f"{one['challenger']:.3f} | {one['difference']:+.3f} | {low:+.3f} to {high:+.3f} | {decision} |"
    )


def mislabelled(week: Path) -> set[str]:
    """Names of the training images that have a box with a wrong class."""
    held, wrong = read(week / "train.json"), week / "wrong.json"
    marked = set(read(wrong)) if wrong.exists() else set()
    images = {one["image_id"] for one in held["annotations"] if one["id"] in marked}
    return {Path(one["file_name"]).name for one in held["images"] if one["id"] in images}


def suspect_row(week: int, folder: Path, version: Path, record: Mapping[str, Any]) -> str:
    """A row of the table of suspects."""
    lines = [json.loads(line) for line in (version / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    told = {Path(line["name"]).name for line in lines if line["suspect"]}
    wrong, found = mislabelled(folder / "weeks" / f"week{week}"), record["suspects"]
    hits = len(told & wrong)
    return (
        f"| {week} | {found['share']:.1%} of {found['examples']:,} | {found['usual']:.1%} | {len(wrong) or 'none'} | "
        f"{f'{hits / len(wrong):.0%}' if wrong else ''} | {f'{hits / len(told):.0%}' if wrong and told else ''} |"
    )


def picture(folder: Path, worst: Sequence[Mapping[str, Any]]) -> None:
    """Draws images with the boxes that they were given, and below them those that the champion finds."""
    import numpy as np
    from PIL import Image

    from jaxprop.tools.draw import draw

    week = folder / "weeks" / "week4"
    held = read(week / "train.json")
    names = {one["id"]: one["name"] for one in held["categories"]}
    numbers = {Path(one["file_name"]).name: one["id"] for one in held["images"]}
    tiles = []
    for line in worst:
        name = Path(line["name"]).name
        given = [
            {"class": names[one["category_id"]], "box": [x, y, x + width, y + height]}
            for one in held["annotations"]
            if one["image_id"] == numbers[name]
            for x, y, width, height in [one["bbox"]]
        ]
        found = [box for box in line["champion"]["boxes"] if box["score"] >= 0.5]
        pixels = np.asarray(Image.open(week / "images" / name).convert("L"))[..., None]
        tiles.append([Image.open(BytesIO(draw(pixels, boxes))) for boxes in (given, found)])
    width, height = tiles[0][0].size
    sheet = Image.new("RGB", (len(tiles) * (width + 8) - 8, 2 * (height + 8) - 8), "white")
    for column, pair in enumerate(tiles):
        for line_number, tile in enumerate(pair):
            sheet.paste(tile, (column * (width + 8), line_number * (height + 8)))
    sheet.save(PICTURE)


def write_page(folder: Path) -> None:
    """Writes the page and the picture from what the runs have recorded."""
    home, refused = folder / "runs" / "champions" / "digits", read(folder / REFUSED)
    records = {week: read(home / "versions" / f"{week:04}" / "promotion.json") for week in (2, 3, 4)}
    versions = {week: home / "versions" / f"{week:04}" for week in records}
    held = read(folder / "weeks" / "week4" / "train.json")
    size = held["images"][0]
    share = len(read(folder / "weeks" / "week4" / "wrong.json")) / len(held["annotations"])
    worst = records[4]["suspects"]["worst"][:SHOWN]
    picture(folder, worst)
    method = records[4]["suspects"]["method"]
    PAGE.write_text(
        TEXT.format(
            side=size["width"], train=len(held["images"]), wrong=share, first_epochs=FIRST_EPOCHS, shown=len(worst),
            test=len(read(folder / "weeks" / "week4" / "test.json")["images"]),
            commands="\n".join(f"jaxprop {words}" for words in COMMANDS),
            code=refused["code"], refused=refused["message"].replace(f"{folder}/", ""),
            rows="\n".join(row(week, of, records[week]) for week in records for of in ("new", "old")),
            reasons="\n".join(f"- Week {week}, {r['decision']}: {r['reason']}." for week, r in records.items()),
            serving=read(home / "champion.json")["version"], method=method,
            suspects="\n".join(suspect_row(week, folder, versions[week], records[week]) for week in records),
            picture=PICTURE.relative_to(ROOT),
        ),
        encoding="utf-8",
    )  # fmt: skip


def main() -> None:
    """Runs the four weeks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder to train in")
    parser.add_argument("--page", action="store_true", help="write the page from a folder with finished runs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = (args.folder or Path(made)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if not args.page:
            weeks_of(folder)
            for number, words in enumerate(COMMANDS):
                ran = jaxprop(words, folder)
                if number == 2:
                    told = {"code": ran.returncode, "message": ran.stderr.strip()}
                    (folder / REFUSED).write_text(json.dumps(told), encoding="utf-8")
                elif ran.returncode:
                    sys.exit(f"jaxprop {words} ended with {ran.returncode}:\n{ran.stderr[-2000:]}")
        write_page(folder)
    print(f"wrote {PAGE} and {PICTURE}")


if __name__ == "__main__":
    main()
