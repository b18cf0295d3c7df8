"""Draws found boxes on an image, as a PNG."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from jaxprop.data.readers.images.objects import DRAWN
from jaxprop.errors import MissingExtraError, UsageError
from jaxprop.tools.predict import Answer
from jaxprop.untrusted.writes import make_folder, write_whole

SMALLEST = 480  # longest side of a picture at least; the pixels of a smaller image are repeated, so that text has room
_WIDTH = 240  # pixels of the picture for each pixel of a line's width


def draw(pixels: np.ndarray, boxes: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns an image with boxes on it, as the content of a PNG file.

    Args:
      pixels: uint8 `[H, W, 1]` or `[H, W, 3]`.
      boxes: each with `class`, `score` if it has one, and `box`, x0, y0, x1, y1 in pixels.

    Raises:
      MissingExtraError: pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtraError("PIL", "drawing boxes", install="pillow") from error
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    zoom = max(1, SMALLEST // max(image.size))
    image = image.resize((zoom * image.width, zoom * image.height), Image.Resampling.NEAREST)
    width = max(2, max(image.size) // _WIDTH)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(12, 5 * width))
    real = [found for found in reversed(boxes) if _is_real(found["box"])]  # so that the surest lies on top
    for found in real:
        pen.rectangle(
            [zoom * float(edge) for edge in found["box"]], outline=colour_of(str(found["class"])), width=width
        )
    for found in real:  # after all boxes, so that no edge crosses a text
        x0, y0, _, y1 = (zoom * float(edge) for edge in found["box"])
        text = f"{found['class']} {found['score']:.2f}" if "score" in found else str(found["class"])
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        across, height = right - left + 4, bottom - top + 4
        x = max(0.0, min(x0, image.width - across))
        y = y0 - height if y0 >= height else y1 if y1 + height <= image.height else y0
        pen.rectangle((x, y, x + across, y + height), fill=colour_of(str(found["class"])))
        pen.text((x + 2 - left, y + 2 - top), text, fill="white", font=font)
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _is_real(box: Sequence[float]) -> bool:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return x1 > x0 and y1 > y0


def colour_of(name: str) -> tuple[int, int, int]:
    """Returns the colour of a class, the same in every picture, and dark enough for white text.

    Example:
      >>> colour_of("cat") == colour_of("cat") != colour_of("dog")
      True
    """
    red, green, blue = colorsys.hls_to_rgb(zlib.crc32(name.encode()) % 360 / 360, 0.36, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


class Drawings:
    """Writes the pictures of answers: into one folder, or each beside its image.

    Args:
      folder: to write to; None for beside the images, where an answer that comes from no file of its own has none.
    """

    def __init__(self, folder: Path | None):
        self.count = 0
        self.folder = folder
        self._names: dict[str, int] = {}

    def of(self, answers: Sequence[Answer]) -> list[Answer]:
        """Writes the pictures of a batch of answers, and returns them with the path of each picture, `drawn`.

        Raises:
          UsageError: they are to be written to a folder, and the run finds no boxes; or one cannot be written.
        """
        if self.folder is not None and any(answer.pixels is None and not answer.error for answer in answers):
            raise UsageError(
                f"--out {self.folder}: the run finds no boxes to draw; name a .csv or .jsonl file for its answers"
            )
        paths = [self(answer) for answer in answers]
        return [
            answer if path is None else answer._replace(values={**answer.values, "drawn": path})
            for answer, path in zip(answers, paths, strict=True)
        ]

    def __call__(self, answer: Answer) -> str | None:
        """Writes the picture of an answer, and returns its path; None for an answer that has none.

        Raises:
          UsageError: it cannot be written.
        """
        place = self._place(answer)
        if answer.pixels is None or answer.error or place is None:
            return None
        content = draw(answer.pixels(), answer.values["boxes"])
        try:
            make_folder(place.parent)
            write_whole(place, content)
        except OSError as error:
            raise UsageError(
                f"{place} cannot be written ({error.strerror}); name a folder for the pictures with --out DIR"
            ) from error
        self.count += 1
        return str(place)

    def _place(self, answer: Answer) -> Path | None:
        file = Path(answer.input).expanduser()
        if self.folder is None:
            return file.with_name(file.stem + DRAWN) if answer.input != "-" and file.is_file() else None
        stem = "stdin" if answer.input == "-" else file.stem.replace(":", "-") or "image"
        self._names[stem] = self._names.get(stem, 0) + 1
        again = "" if self._names[stem] == 1 else f"-{self._names[stem]}"
        return self.folder / f"{stem}{again}{DRAWN}"
