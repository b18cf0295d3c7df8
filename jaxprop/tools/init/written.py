"""What the configurations of all kinds of data have in common."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

# Names that a target often has, in the order in which they are looked for; without one, it is the last column.
TARGETS = ("target", "label", "labels", "class", "y", "quality", "species", "diagnosis", "outcome", "price")
FEW = 40  # records of which none are held out
_STEPS, _EPOCHS = 2000, (3, 100)  # a run is made about so many steps long, within so many epochs
_PLAIN = re.compile(r"[A-Za-z_][\w ./-]*[\w/]|[A-Za-z_]")
# What splits are called in the names of files and folders.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def batch_size_for(records: float, largest: int = 32) -> int:
    """Returns a power of two that is at most a size, and at most half of the records, so that several devices share it.

    Example:
      >>> batch_size_for(35), batch_size_for(1000), batch_size_for(1)
      (16, 32, 1)
    """
    return 2 ** int(math.log2(max(1, min(largest, records // 2))))


def epochs_for(records: float, batch_size: int) -> int:
    """Returns the number of epochs that make a run about 2,000 steps long.

    Example:
      >>> epochs_for(records=640, batch_size=32), epochs_for(records=10**6, batch_size=32)
      (100, 3)
    """
    fewest, most = _EPOCHS
    return max(fewest, min(most, round(_STEPS * batch_size / max(records, 1))))


def split_of(name: str) -> str | None:
    """Returns the split that a name tells of, by one of its words.

    Example:
      >>> split_of("instances_val2017"), split_of("train-clean-100"), split_of("latest")
      ('validation', 'train', None)
    """
    words = re.findall(r"[a-z]+", name.lower())
    return next((split for split, names in _SPLITS.items() if set(names) & set(words)), None)


def splits_in(path: str) -> dict[str, str]:
    """Returns the folders of the splits in a folder, by split; empty where it has none for training.

    Args:
      path: a file or a folder.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> for name in ("train", "val"):
      ...     (folder / name).mkdir()
      >>> {split: Path(found).name for split, found in splits_in(str(folder)).items()}
      {'train': 'train', 'validation': 'val'}
    """
    found = {
        split: str(Path(path, name))
        for split, names in _SPLITS.items()
        for name in reversed(names)
        if Path(path, name).is_dir()
    }
    return found if "train" in found else {}


def quoted(text: str) -> str:
    """Returns a text as YAML has it: as it is where that is plain, otherwise in double quotes.

    Example:
      >>> quoted("wine.csv"), quoted("no"), quoted("a: b")
      ('wine.csv', '"no"', '"a: b"')
    """
    text = os.fspath(text)
    plain = _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "yes", "no", "on", "off")
    return text if plain else json.dumps(text, ensure_ascii=False)
