"""The reader `coco`: images with boxes from COCO JSON, decoded when they are asked for where they are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import Coco
from jaxprop.data.bad import BadRecords
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.annotations import Annotated, Image, annotated, class_names, images_of, read_json
from jaxprop.data.readers.images.decode import Form, UnreadableError, size_of
from jaxprop.data.readers.images.folder import records_of
from jaxprop.data.readers.images.labels import Labels
from jaxprop.data.readers.images.objects import object_inputs
from jaxprop.data.readers.images.open import (
    Learned,
    Split,
    checked,
    divided,
    first_look,
    learn,
    learned_of,
    standardization,
    stored,
    weigher,
)
from jaxprop.data.readers.images.pixels import sample_of, statistics
from jaxprop.data.readers.images.records import Records
from jaxprop.data.stored import as_bytes, standardized
from jaxprop.errors import DataError, printable
from jaxprop.types import Reader, Source

_SPLITS = ("train", "validation", "test")
_LISTED = 8  # names of classes that a note lists


class _Objects(NamedTuple):
    """The boxes of all images, one after the other, in the pixels of the images as the model sees them.

    Args:
      boxes: float32 `[n, 4]`.
      labels: int32 `[n]`.
      crowd: boolean `[n]`.
      ends: of each image's boxes among them, int64 `[N]`.
      most: boxes that an image has at most, and at least 1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    ends: np.ndarray
    most: int


def open_coco(section: Coco, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens images with their boxes.

    Images are resized to `data.size`, which may change their proportions, and boxes with them. The order of the classes
    is that of the ids of the training file's categories. An image without annotations is one without objects.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: not looked at.
      prepared: of an earlier run, whose classes, size and statistics are used; its training images may be missing.

    Returns:
      `train`, and `validation` and `test` where the section names them. Batches have inputs float32 `[B, H, W, C]`,
      standardized; boxes float32 `[B, N, 4]`, x0, y0, x1, y1 in pixels of the inputs; labels int32 `[B, N]`; mask
      float32 `[B, N]`, 1 for an object; crowd float32 `[B, N]`, 1 for a region whose objects nobody has told apart. N
      is the largest number of boxes that an image of the split has.

    Raises:
      DataError: a file is missing or damaged, or more annotations or images are bad than `data.max_bad_fraction`
        allows.
    """
    del task
    learned = None if prepared is None else learned_of(prepared)
    opened: dict[str, Source] = {}
    for split in _SPLITS:
        path = getattr(section, split)
        if not isinstance(path, str):
            if split != "train" and getattr(section, f"{split}_images") is not None:
                raise DataError(f"data.{split}_images: there is no data.{split}, the JSON file of these images")
            continue
        if split == "train" and learned is not None and not Path(path).expanduser().exists():
            continue
        held = read_json(path)
        names = class_names(path, held) if learned is None else list(learned.class_names)
        images, records = _records(path, _folder(section, split, path), images_of(path, held))
        found = annotated(path, held, images, names, BadRecords(section.max_bad_fraction, unit="annotation"))
        told_of_classes = _objects_told(path, found, names, learn_from=split == "train" and learned is None)
        used, form, told = _looked_at(section, path, records, learned, split)
        parts = divided(section, used) if split == "train" else {split: np.arange(len(used.labels.rows))}
        if learned is None:
            learned = learn(used, form, names, statistics([(used.pixels, used.labels.rows[parts["train"]])]))
        elif split != "train":
            used.pixels.check(sample_of(used.labels.rows))
        used.tell()
        objects = _objects(found, images, form)
        notes = [*records.notes, *found.notes, *used.bad.notes(records.length), *told, *told_of_classes]
        for name, rows in parts.items():
            opened[name] = _source(used, objects, rows, learned, notes if name == split else [])
    return opened


def _objects_told(path: str, found: Annotated, names: Sequence[str], *, learn_from: bool) -> list[str]:
    """What there is to say of the classes; raises DataError where there is nothing to learn from."""
    objects = [int(kind) for kinds, crowd in zip(found.labels, found.crowd, strict=True) for kind in kinds[~crowd]]
    missing = [printable(name) for kind, name in enumerate(names) if kind not in set(objects)]
    if not learn_from:
        return [] if objects else [f"{path}: has no object, so that no average precision can be measured"]
    if not objects:
        crowds = sum(int(crowd.sum()) for crowd in found.crowd)
        why = (
            f"all its {crowds} boxes with an area are crowds (iscrowd)" if crowds else "no image has a box with an area"
        )
        raise DataError(f"{path}: has no object to learn from: {why}; label objects in some of its images")
    if not missing:
        return []
    more = f", and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    return [f"{path}: has no object of {len(missing)} of its classes: {', '.join(missing[:_LISTED])}{more}"]


def _folder(section: Coco, split: str, path: str) -> str:
    named = section.images if split == "train" else getattr(section, f"{split}_images") or section.images
    folder = str(Path(path).parent) if named is None else named
    if not Path(folder).expanduser().is_dir():
        raise DataError(f"data.images: {folder}: no such folder; name the folder that the images of {path} lie in")
    return folder


def _records(path: str, folder: str, images: Sequence[Image]) -> tuple[list[Image], Records]:
    """The images as records, and their sizes, read from the files where the JSON says none."""
    root = Path(folder).expanduser()
    if not any((root / image.file).is_file() for image in images):
        raise DataError(
            f"data.images: {folder}: holds none of the {len(images)} images of {path}, such as "
            f"{printable(images[0].file)}; name the folder that their paths begin in"
        )
    records = records_of(root, folder, [image.file for image in images])
    images = [
        image if image.size is not None else image._replace(size=_read_size(records, i))
        for i, image in enumerate(images)
    ]

    def read(index: int) -> bytes | np.ndarray:
        content, size = records.read(index), images[index].size
        assert isinstance(content, bytes)
        real = size_of(content)
        if size is not None and real != size:
            exchanged = "; height and width are exchanged, or those before its EXIF orientation turns it upright"
            turned = exchanged if size == real[::-1] else ""
            raise UnreadableError(
                f"has {real[0]} x {real[1]} pixels (height x width), but {path} says {size[0]} x {size[1]} of image "
                f"{images[index].id}{turned}"
            )
        return content

    return images, records._replace(read=read)


def _read_size(records: Records, index: int) -> tuple[int, int] | None:
    try:
        content = records.read(index)
        assert isinstance(content, bytes)
        return size_of(content)
    except UnreadableError:  # which is told when its pixels are read
        return None


def _looked_at(
    section: Coco, path: str, records: Records, learned: Learned | None, split: str
) -> tuple[Split, Form, list[str]]:
    """The images that can be read, what they become, and what there is to say of that."""
    bad = BadRecords(section.max_bad_fraction, unit="image")
    left_out = learned.left_out if learned is not None and split == "train" else ()
    rows = np.setdiff1d(np.arange(records.length), np.array(left_out, np.int64))
    labels = Labels(rows, np.zeros((len(rows), 1)))  # so that images are held out whatever is in them
    told: list[str] = []
    if learned is None:
        form, told = first_look(section, [path], [records], [(labels, bad)])
    else:
        form = learned.form
    decode_now = learned is None or split != "train"
    return checked(section, path, records, labels, bad, form, decode_now=decode_now), form, told


def _objects(found: Annotated, images: Sequence[Image], form: Form) -> _Objects:
    """Boxes scaled as their images are."""
    assert form.size is not None
    height, width = form.size
    scaled = []
    for image, boxes in zip(images, found.boxes, strict=True):
        rows, columns = image.size or form.size
        scaled.append(boxes * np.array([width / columns, height / rows] * 2, np.float32))
    counts = [len(boxes) for boxes in scaled]
    return _Objects(
        boxes=np.concatenate(scaled),
        labels=np.concatenate(found.labels),
        crowd=np.concatenate(found.crowd),
        ends=np.cumsum(counts),
        most=max(1, *counts),
    )


def _source(images: Split, objects: _Objects, rows: np.ndarray, learned: Learned, notes: Sequence[str]) -> Source:
    """The source of some of a split's images."""
    chosen, prepared = images.labels.rows[rows], stored(learned)
    weigh, (centre, factor) = weigher(images), standardization(learned.mean, learned.std)

    def kept(indices: np.ndarray) -> dict[str, np.ndarray]:
        records = chosen[indices]
        return {"inputs": images.pixels.take(records), **_padded(objects, records), **weigh(records)}

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = kept(indices)
        return batch | {"inputs": standardized(batch["inputs"], centre, factor)}

    names = list(learned.class_names)
    return Source(
        length=len(chosen),
        take=take,
        info={"classes": len(names), "class_names": names} | ({"notes": list(notes)} if notes else {}),
        fingerprint=fingerprint(
            "coco", images.records.digest, repr(sorted(prepared.items())), objects.boxes, objects.labels,
            objects.crowd, objects.ends, chosen,
        ),
        prepared=prepared,
        names=lambda indices: [images.records.name(row) for row in chosen[indices].tolist()],
        stored=as_bytes(kept, take, centre, factor),
    )  # fmt: skip


def _padded(objects: _Objects, records: np.ndarray) -> dict[str, np.ndarray]:
    batch: dict[str, np.ndarray] = {
        "boxes": np.zeros((len(records), objects.most, 4), np.float32),
        "labels": np.zeros((len(records), objects.most), np.int32),
        "mask": np.zeros((len(records), objects.most), np.float32),
        "crowd": np.zeros((len(records), objects.most), np.float32),
    }
    for i, record in enumerate(records.tolist()):
        end = int(objects.ends[record])
        start = int(objects.ends[record - 1]) if record else 0
        count = end - start
        batch["boxes"][i, :count] = objects.boxes[start:end]
        batch["labels"][i, :count] = objects.labels[start:end]
        batch["crowd"][i, :count] = objects.crowd[start:end]
        batch["mask"][i, :count] = ~objects.crowd[start:end]
    return batch


COCO = Reader(open=open_coco, inputs=object_inputs)
