"""Annotations of COCO: a JSON file of images, categories and boxes, each checked, and named by its id if it is bad."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.bad import BadRecords
from jaxprop.errors import DataError, did_you_mean, printable

LISTS = ("images", "annotations", "categories")
_LISTED = 8  # class names that a message lists
_FEW = 4  # boxes that may look as they do by chance
_BEYOND = 1.0  # pixels that a box may reach over the edge without a word, which is rounding


class Image(NamedTuple):
    """An image of the list: its id, the path of its file, and its height and width, or None where nothing is said."""

    id: Any
    file: str
    size: tuple[int, int] | None


class Annotated(NamedTuple):
    """The objects of the images of one file.

    Args:
      boxes: of each image, float32 `[n, 4]`, x0, y0, x1, y1 in pixels; crowds are among them.
      labels: of each image, int32 `[n]`, places in the names of the classes.
      crowd: of each image, boolean `[n]`: a region whose objects nobody has told apart.
      notes: what a person is told.
    """

    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    crowd: list[np.ndarray]
    notes: list[str]


class _Counts(NamedTuple):
    """What is said of boxes that are no fault of anyone's."""

    empty: list[str]
    cut: list[str]


def read_json(path: str) -> dict[str, Any]:
    """Reads a file of annotations.

    Args:
      path: of the JSON file.

    Returns:
      Its object, with lists under `images`, `annotations` and `categories`.

    Raises:
      DataError: it is missing, empty, cut short, or another kind of JSON.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        beside = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        what = "is a folder; name the JSON file in it" if place.is_dir() else "no such file"
        raise DataError(f"{path}: {what}{did_you_mean(place.name, beside) if not place.is_dir() else ''}")
    try:
        text = place.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no JSON text in UTF-8 (byte 0x{error.object[error.start]:02x})") from error
    if not text.strip():
        raise DataError(f"{path}: is empty; expected COCO JSON with {', '.join(LISTS)}")
    try:
        held = json.loads(text)
    except json.JSONDecodeError as error:
        early = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        cut = "ends too early, and was cut short" if early else "is no JSON"
        raise DataError(f"{path}:{error.lineno}: {cut} ({error.msg}, column {error.colno}); write it anew") from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply to be COCO JSON") from error
    missing = [name for name in LISTS if not isinstance(held, dict) or not isinstance(held.get(name), list)]
    if missing:
        told = (
            f"an object with {', '.join(map(str, list(held)[:6])) or 'no keys'}"
            if isinstance(held, dict)
            else "another value"
        )
        raise DataError(
            f"{path}: is no COCO JSON, which has lists under images, annotations and categories; it is {told}, without "
            f"{' and '.join(missing)}"
        )
    return held


def class_names(path: str, held: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes, in the order of the categories' ids.

    Args:
      path: of the file, for messages.
      held: from `read_json`.

    Raises:
      DataError: there are no categories, or one has no id or name, or that of another.

    Example:
      >>> class_names("a.json", {"categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]})
      ['cat', 'dog']
    """
    return [name for _, name in sorted(_categories(path, held).items())]


def images_of(path: str, held: Mapping[str, Any]) -> list[Image]:
    """Returns the images of a file, in its order.

    Args:
      path: of the file, for messages.
      held: from `read_json`.

    Raises:
      DataError: there are none, or one has no id or file name, or the id of another.

    Example:
      >>> images_of("a.json", {"images": [{"id": 5, "file_name": "a.png", "width": 9, "height": 6}]})
      [Image(id=5, file='a.png', size=(6, 9))]
    """
    found: list[Image] = []
    seen: set[Any] = set()
    for number, item in enumerate(held["images"]):
        identity = _hashable(item.get("id")) if isinstance(item, dict) else None
        if identity is None or not isinstance(item.get("file_name"), str) or not item["file_name"]:
            raise DataError(
                f"{path}: image {number + 1} of the list needs an id, a whole number or text, and a file_name"
            )
        if identity in seen:
            raise DataError(f"{path}: two images have the id {identity}; give each its own")
        seen.add(identity)
        found.append(Image(identity, item["file_name"], _size(path, number, item)))
    if not found:
        raise DataError(f"{path}: has no images")
    return found


def annotated(
    path: str, held: Mapping[str, Any], images: Sequence[Image], names: Sequence[str], bad: BadRecords
) -> Annotated:
    """Checks annotations one by one and sorts them by image.

    A box that reaches over the edge is cut there. One without width or height is left out, as the tools of COCO do,
    and so is one that cannot be used, which is counted as bad.

    Args:
      path: of the file, for messages.
      held: from `read_json`.
      images: of the list, with their sizes; boxes in one without a size are taken as they are.
      names: of the classes, which the labels are places in.
      bad: takes the annotations that cannot be used.

    Raises:
      DataError: more are bad than may be, or the boxes are not written as COCO's.

    Example:
      >>> held = {"categories": [{"id": 1, "name": "cat"}]}
      >>> held |= {"annotations": [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [6, 1, 4, 2]}]}
      >>> found = annotated("a.json", held, [Image(5, "a.png", (6, 9))], ["cat"], BadRecords(0.0))
      >>> found.boxes[0].tolist(), found.labels[0].tolist()
      ([[6.0, 1.0, 9.0, 3.0]], [0])
    """
    place = {image.id: i for i, image in enumerate(images)}
    classes, kinds = _categories(path, held), {name: i for i, name in enumerate(names)}
    counts = _Counts([], [])
    rows: list[list[tuple[list[float], int, bool]]] = [[] for _ in images]
    _expect_sizes(path, [
        (item["bbox"], images[place[_hashable(item["image_id"])]].size)
        for item in held["annotations"]
        if isinstance(item, dict) and _hashable(item.get("image_id")) in place and _are_numbers(item.get("bbox"))
    ])  # fmt: skip
    for number, item in enumerate(held["annotations"]):
        where = _where(item, number)
        image = place.get(_hashable(item.get("image_id"))) if isinstance(item, dict) else None
        size = None if image is None else images[image].size
        box, why = (
            (None, "is no object with image_id, category_id and bbox")
            if not isinstance(item, dict)
            else ((None, _no_image(item, place)) if image is None else _box(item, size))
        )
        kind, no_kind = (None, None) if why is not None else _kind(item, classes, kinds)
        if why is None and item.get("iscrowd", 0) not in (0, 1, None):
            why = f"its iscrowd is {printable(repr(item['iscrowd']))}; expected 0 or 1"
        if why is not None or no_kind is not None:
            bad.add(f"{path}: {where}", str(why or no_kind))
            continue
        assert image is not None
        assert box is not None
        assert kind is not None
        if box[2] <= box[0] or box[3] <= box[1]:
            counts.empty.append(where)
            continue
        if size is not None and (min(box[:2]) < -_BEYOND or box[2] > size[1] + _BEYOND or box[3] > size[0] + _BEYOND):
            counts.cut.append(where)
        rows[image].append((box if size is None else _within(box, size), kind, item.get("iscrowd") in (1, True)))
    return Annotated(
        boxes=[np.array([box for box, _, _ in row], np.float32).reshape(-1, 4) for row in rows],
        labels=[np.array([kind for _, kind, _ in row], np.int32) for row in rows],
        crowd=[np.array([crowd for _, _, crowd in row], bool) for row in rows],
        notes=[*bad.notes(len(held["annotations"])), *_notes(path, counts)],
    )


# -- parts ----------------------------------------------------------------------------------------


def _categories(path: str, held: Mapping[str, Any]) -> dict[Any, str]:
    """The names of the categories by their ids."""
    found: dict[Any, str] = {}
    for number, item in enumerate(held["categories"]):
        identity = item.get("id") if isinstance(item, dict) else None
        if not isinstance(identity, int) or not isinstance(item.get("name"), str) or not item["name"].strip():
            raise DataError(f"{path}: category {number + 1} of the list needs an integer id and a name")
        if identity in found or item["name"] in found.values():
            raise DataError(f"{path}: two categories have the id {identity} or the name {printable(item['name'])!r}")
        found[identity] = item["name"]
    if not found:
        raise DataError(f"{path}: has no categories; expected one for each class, with id and name")
    return found


def _size(path: str, number: int, image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of an image; None where the file does not say, or says 0."""
    height, width = image.get("height"), image.get("width")
    if height in (None, 0) or width in (None, 0):
        return None
    for value in (height, width):
        whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not whole or value <= 0 or value != int(value):
            raise DataError(
                f"{path}: image {number + 1} of the list ({printable(image['file_name'])}) has the height "
                f"{printable(repr(height))} and the width {printable(repr(width))}; expected whole numbers of pixels, "
                'such as "height": 480'
            )
    return int(height), int(width)


def _expect_sizes(path: str, boxes: Sequence[tuple[list[float], tuple[int, int] | None]]) -> None:
    """Raises DataError where boxes look like two corners each, or like shares of their image."""
    known = [(box, size) for box, size in boxes if size is not None and all(math.isfinite(x) for x in box)]
    beyond = sum(x + w > size[1] + _BEYOND or y + h > size[0] + _BEYOND for (x, y, w, h), size in known)
    corners = all(x0 < x1 <= size[1] + _BEYOND and y0 < y1 <= size[0] + _BEYOND for (x0, y0, x1, y1), size in known)
    if corners and beyond >= max(_FEW, len(known) / 2):
        raise DataError(
            f"{path}: {beyond} of {len(known)} boxes reach over the edge of their image as x, y, width, height, which "
            "COCO means, and all fit as corners x0, y0, x1, y1; write width and height as x1 - x0 and y1 - y0"
        )
    if len(known) >= _FEW and all(max(box) <= 1 < min(size) for box, size in known):
        raise DataError(
            f"{path}: no box has a number above 1, as if they were shares of the image; COCO's are in pixels, so "
            "multiply x and width by the image's width, and y and height by its height"
        )


def _are_numbers(value: Any) -> bool:
    four = isinstance(value, list) and len(value) == 4
    return four and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)


def _box(item: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[list[float] | None, str | None]:
    """The edges of a box that is given by its corner and size; or why it is none."""
    value = item.get("bbox")
    if not _are_numbers(value):
        outline = " (its segmentation is not read)" if item.get("segmentation") else ""
        return None, f"has no bbox of four numbers, x, y, width and height{outline}"
    assert isinstance(value, list)
    if not all(math.isfinite(x) for x in value):
        return None, f"its bbox {value} is not finite"
    x, y, width, height = (float(x) for x in value)
    if width < 0 or height < 0:
        return None, f"its bbox {value} has a negative width or height"
    box = [x, y, x + width, y + height]
    if size is not None and width and height and (x >= size[1] or y >= size[0] or box[2] <= 0 or box[3] <= 0):
        return None, f"its bbox {value} lies outside of the image, which is {size[0]} x {size[1]} (height x width)"
    return box, None


def _within(box: list[float], size: tuple[int, int]) -> list[float]:
    height, width = size
    return [max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))]


def _kind(
    item: Mapping[str, Any], classes: Mapping[Any, str], kinds: Mapping[str, int]
) -> tuple[int | None, str | None]:
    given = item.get("category_id")
    identity = _hashable(given)
    if given is None:
        return None, "has no category_id"
    if identity not in classes:
        return None, f"its category_id {_told(given, classes)} is none of the categories"
    name = classes[identity]
    if name not in kinds:
        listed = ", ".join(map(printable, list(kinds)[:_LISTED])) + (", ..." if len(kinds) > _LISTED else "")
        return None, f"its category {printable(name)!r} is no class of the training data ({listed})"
    return kinds[name], None


def _no_image(item: Mapping[str, Any], known: Mapping[Any, int]) -> str:
    identity = item.get("image_id")
    return "has no image_id" if identity is None else f"its image_id {_told(identity, known)} is none of the images"


def _told(value: Any, known: Mapping[Any, Any]) -> str:
    """A value that is none of the known ones, with its type where these look the same."""
    alike = next((one for one in known if str(one) == str(value)), None)
    text = printable(repr(value))
    return text if alike is None else f"{text} ({_kind_of(value)}, where theirs is {_kind_of(alike)})"


def _kind_of(value: Any) -> str:
    return "text" if isinstance(value, str) else "a number"


def _where(item: Any, number: int) -> str:
    identity = item.get("id") if isinstance(item, dict) else None
    return f"annotation {number + 1} of the list" if identity is None else f"annotation {printable(str(identity))}"


def _hashable(value: Any) -> Any:
    """An id; one that a table of floats has passed through is the whole number it was."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) else None


def _notes(path: str, counts: _Counts) -> list[str]:
    notes = []
    for found, what in (
        (counts.empty, "without width or height, left out"),
        (counts.cut, "that reach over the edge of their image, cut there"),
    ):
        if found:
            notes.append(
                f"{path}: {len(found)} boxes {what}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
            )
    return notes
