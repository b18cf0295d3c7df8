"""Images in a folder with a subfolder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jaxprop.data.fingerprint import fingerprint_of_files
from jaxprop.data.readers.images.decode import SUFFIXES
from jaxprop.data.readers.images.records import Records, read_within
from jaxprop.errors import DataError

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def read_folder(path: str) -> Records:
    """Lists the images of a folder; the name of each subfolder is the class of the images in it, at any depth.

    Hidden files are left out, and so are files that are no images by their names, which the notes count.

    Args:
      path: the folder.

    Returns:
      The records, sorted by their paths.

    Raises:
      DataError: the folder has no subfolders, or one has no image or is a link.
    """
    root = Path(path).expanduser()
    classes = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    _check_classes(path, root, classes)
    files: list[str] = []
    labels: list[str] = []
    others: list[str] = []
    for folder in classes:
        found, not_images = images_below(root, folder)
        if not found:
            raise DataError(f"{path}/{folder.name}: has no image in it; add some, or remove this class's folder")
        files += found
        labels += [folder.name] * len(found)
        others += not_images
    return records_of(root, path, files, labels=labels, others=others)


def records_of(
    root: Path, path: str, files: Sequence[str], *, labels: Sequence[str] | None = None, others: Sequence[str] = ()
) -> Records:
    """Returns the records of image files.

    Args:
      root: the folder that they are in.
      path: its name in messages; what a record is called begins with it, unless it is empty.
      files: their paths, relative to the folder.
      labels: of each.
      others: files that are left out.
    """
    resolved = root.resolve()
    there = [(file, root / file) for file in files if (root / file).is_file()]
    some = ", ".join(os.path.join(path, file) for file in others[:3])
    what = "file is no image by its name" if len(others) == 1 else "files are no images by their names"
    notes = [f"{path}: {len(others)} {what} and is not read: {some}"] if others else []
    return Records(
        length=len(files),
        read=lambda index: read_within(resolved, files[index]),
        name=lambda index: os.path.join(path, files[index]),
        labels=labels,
        digest=fingerprint_of_files(there),
        notes=[note.replace("names and is", "names and are") for note in notes],
    )


def images_below(root: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Lists the files below a folder that are images by their names, and the others; hidden ones are left out.

    Args:
      root: what the paths are relative to.
      folder: in it, or itself.

    Returns:
      Sorted relative paths of both.
    """
    images: list[str] = []
    others: list[str] = []
    for at, folders, files in os.walk(folder):  # links to folders are not followed
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name != "Thumbs.db":
                relative = (Path(at) / name).relative_to(root).as_posix()
                (images if name.lower().endswith(SUFFIXES) else others).append(relative)
    return images, others


def _check_classes(path: str, root: Path, classes: Sequence[Path]) -> None:
    names = {folder.name.lower() for folder in classes}
    if names and names <= _SPLITS:
        first = classes[0].name
        raise DataError(
            f"{path}: holds {' and '.join(folder.name for folder in classes)}, which look like splits, not classes; "
            f"name each by its own key, such as data.train: {path}/{first}"
        )
    if not classes:
        loose = any(name.lower().endswith(SUFFIXES) for name in os.listdir(root))
        what = "holds images, but no subfolder" if loose else "holds neither images nor subfolders"
        raise DataError(
            f"{path}: {what} for each class; put the images of each class into a folder named after it, or list them "
            "with their labels in a CSV file (image,label) and name that"
        )
    for folder in classes:
        if folder.is_symlink():
            raise DataError(
                f"{path}/{folder.name}: is a link to another folder, which is not followed; copy or move that "
                "folder here"
            )
