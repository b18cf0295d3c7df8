"""Configurations for images with boxes: a COCO JSON, or a folder of images that holds one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jaxprop.data.kinds import kind_of
from jaxprop.data.readers.annotations import Image, class_names, images_of, read_json
from jaxprop.data.readers.images.decode import UnreadableError, size_of
from jaxprop.errors import UsageError, printable
from jaxprop.tools.init.written import FEW, batch_size_for, epochs_for, quoted, split_of

_DEPTH = 2  # folders below each other that are looked into
_LOOKED = 64  # images that are looked for, and whose sizes are read where the JSON says none
_LISTED = 8  # classes that are named
_LARGEST, _SIDE, _MULTIPLE = 512, 256, 32  # longest side that is kept; what it is resized to; what a side is one of
_SMALL = 96  # pixels of the longest side of images for which a small model is enough
_RESIZED = "every image becomes this; a larger size finds smaller objects"
_TEST = "measured once, at the end; 'jaxprop retrain' compares by it"
_SMALL_MODEL = "{name: detector, widths: [16, 48, 96], levels: 2, pyramid: 48}"
_MODEL = "{name: detector, widths: [32, 64, 128, 192], levels: 3}"


def objects(path: str, name: str) -> str:
    """Returns the text of a configuration for images with boxes; see `jaxprop.tools.init.starter`.

    Args:
      path: a COCO JSON, or a folder with one, or with one for each split.
      name: of the configuration.

    Raises:
      UsageError: several files could be meant, or the images are not found.
      DataError: the JSON is damaged.
    """
    files = _annotations(path)
    held = read_json(files["train"])
    images = images_of(files["train"], held)
    folders = {split: _folder_of(file, path, images if split == "train" else None) for split, file in files.items()}
    size = _size(images, folders["train"])
    splits = len(images) >= FEW and "validation" not in files
    kept = len(images) * (0.85 if splits else 1)
    small = max(size) <= _SMALL
    batch_size = batch_size_for(kept, 32 if small else 16)
    return "\n".join(
        [
            *_told(files["train"], held, images),
            "#",
            "#     pip install pillow faster-coco-eval",
            f"#     jaxprop train {name}.yaml",
            "",
            "task: {name: detect}",
            "",
            "data:",
            "  name: coco",
            *[f"  {split}: {quoted(file)}" for split, file in files.items()],
            *_images(files, folders),
            f"  size: {list(size)}           # {_RESIZED}",
            *(["  validation: 0.15           # chooses the best checkpoint"] if splits else []),
            *([] if "test" in files else [f"  # test: FILE.json          # {_TEST}"]),
            f"  batch_size: {batch_size}",
            "",
            f"model: {_SMALL_MODEL if small else _MODEL}",
            "",
            "optimizer: {name: adamw, lr: 1e-3, weight_decay: 1e-2, grad_clip: {norm: 10.0}}",
            "",
            f"run: {{epochs: {epochs_for(kept, batch_size)}}}",
            *(["", "checkpoint: {best: map}"] if splits or len(files) > 1 else []),
            "",
        ]
    )  # fmt: skip


def _annotations(path: str) -> dict[str, str]:
    """The COCO JSON of each split: the file itself with those beside it, or what a folder holds."""
    place = Path(path).expanduser()
    if not place.is_dir():
        split = split_of(place.stem)
        beside = [] if split != "train" else [place.with_name(file.name) for file in place.parent.glob("*.json")]
        others = _by_split([file for file in sorted(beside) if file != place and kind_of(file) == "coco"])
        return {"train": path} | {split: file for split, file in others.items() if split != "train"}
    found = [file for file in _below(place)[1] if file.suffix.lower() == ".json" and kind_of(file) == "coco"]
    by_split = _by_split(found)
    if "train" in by_split:
        return by_split
    if len(found) == 1:
        return {"train": str(found[0])}
    listed = ", ".join(str(file.relative_to(place)) for file in found[:3])
    raise UsageError(
        f"{path}: has several COCO JSON files ({listed}); name the one to train on: jaxprop init {found[0]}"
    )


def _by_split(files: Sequence[Path]) -> dict[str, str]:
    """The first file of each split, by its name or that of its folder."""
    found: dict[str, str] = {}
    for file in files:
        split = split_of(file.stem) or split_of(file.parent.name)
        if split is not None:
            found.setdefault(split, str(file))
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder and a little below it."""
    found: tuple[list[Path], list[Path]] = ([], [])
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(place).relative_to(folder).parts) >= _DEPTH:
            folders.clear()
        found[0].extend(Path(place, name) for name in folders)
        found[1].extend(Path(place, name) for name in sorted(names) if not name.startswith("."))
    return found


def _folder_of(file: str, path: str, images: Sequence[Image] | None) -> str:
    """The folder that most of a file's images lie in."""
    if images is None:
        images = images_of(file, read_json(file))
    place, root = Path(file).expanduser(), Path(path).expanduser()
    root = root if root.is_dir() else place.parent
    roots = [place.parent, root, *([root.parent] if root.name == "annotations" else [])]
    below = [folder for top in roots[1:] for folder in _below(top)[0]]
    names = [image.file for image in images[:_LOOKED]]
    counts = {folder: sum((folder / name).is_file() for name in names) for folder in dict.fromkeys([*roots, *below])}
    best = max(counts, key=lambda folder: counts[folder])
    if not counts[best]:
        raise UsageError(
            f"{file}: none of its images ({', '.join(map(printable, names[:2]))}, ...) lie in {root}, or below; put "
            "them there, or write the configuration by hand with data.images: FOLDER"
        )
    return str(best)


def _images(files: Mapping[str, str], folders: Mapping[str, str]) -> list[str]:
    """The lines that say where the images are, as far as that does not follow from the other lines."""
    own = {split: Path(file).expanduser().parent for split, file in files.items()}
    if all(Path(folders[split]) == own[split] for split in files):
        return []
    return [
        f"  {'images' if split == 'train' else f'{split}_images'}: {quoted(folder)}"
        for split, folder in folders.items()
        if split == "train" or folder != folders["train"]
    ]


def _size(images: Sequence[Image], folder: str) -> tuple[int, int]:
    """The height and width that images become: their own where all are alike, and else one of their usual shape."""
    sizes = [image.size for image in images if image.size is not None] or [
        size for image in images[:_LOOKED] if (size := _read_size(Path(folder, image.file))) is not None
    ]
    if not sizes:
        return _SIDE, _SIDE
    if len(set(sizes)) == 1 and max(sizes[0]) <= _LARGEST:
        return sizes[0]
    longest = min(_SIDE, max(max(size) for size in sizes))
    shape = median(height / width for height, width in sizes)
    return _rounded(longest * min(1, shape)), _rounded(longest * min(1, 1 / shape))


def _rounded(side: float) -> int:
    return max(_MULTIPLE, _MULTIPLE * round(side / _MULTIPLE))


def _read_size(file: Path) -> tuple[int, int] | None:
    try:
        return size_of(file.expanduser().read_bytes())
    except (OSError, UnreadableError):
        return None


def _told(file: str, held: Mapping[str, Any], images: Sequence[Image]) -> list[str]:
    """What the file holds, as comments."""
    names = {item["id"]: item["name"] for item in held["categories"]}
    classes = class_names(file, held)
    boxes = Counter(
        names.get(item["category_id"])
        for item in held["annotations"]
        if isinstance(item, dict) and isinstance(item.get("category_id"), int)
    )
    counts = [f"{printable(name)} {boxes[name]:,}" for name in classes[:_LISTED]]
    more = [f"and {len(classes) - _LISTED} more"] if len(classes) > _LISTED else []
    return [
        f"# Made by 'jaxprop init' of {quoted(Path(file).name)}, which has {len(images):,} images and "
        f"{len(held['annotations']):,} boxes.",
        f"# Classes with their boxes: {', '.join([*counts, *more])}.",
    ]
