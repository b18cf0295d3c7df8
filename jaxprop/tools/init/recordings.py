"""Configurations for recordings with transcripts: LibriSpeech folders, audio with `.txt` beside, and manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from jaxprop.data import records
from jaxprop.data.readers.audio.waves import SUFFIXES
from jaxprop.errors import UsageError
from jaxprop.tools.init.written import quoted, split_of, splits_in

_TRANSCRIPTS = ".trans.txt"  # how LibriSpeech names the files of a chapter's transcripts
_MOST = 20_000  # files of a folder that are looked at


def recordings(path: str, name: str) -> str:
    """Returns the text of a configuration for a folder of recordings; see `jaxprop.tools.init.starter`.

    Raises:
      UsageError: there are no transcripts, or several lists of them.
    """
    files = _files(Path(path).expanduser())
    if _lists(path) and any(file.suffix.lower() in SUFFIXES for file in files):
        return configured(_manifests(path), name)  # which say more than what lies below
    if any(file.name.endswith(_TRANSCRIPTS) for file in files):
        return configured(_by_split(path) or {"train": path}, name)
    heard = {file.with_suffix("") for file in files if file.suffix.lower() in SUFFIXES}
    if any(file.suffix == ".txt" and file.with_suffix("") in heard for file in files):
        return configured(splits_in(path) or {"train": path}, name)
    return configured(_manifests(path), name)


def configured(places: Mapping[str, str], name: str, delimiter: str | None = None) -> str:
    """Returns the text of a configuration.

    Args:
      places: the manifest or the folder of each split; `train` is among them.
      name: of the configuration.
      delimiter: between the columns of a CSV file, where that is no comma.
    """
    return "\n".join(
        [
            f"# Made by 'jaxprop init' of {quoted(Path(places['train']).name)}.",
            "#",
            "#     pip install soundfile soxr jiwer",
            f"#     jaxprop train {name}.yaml",
            "",
            "task: {name: transcribe}      # audio to text",
            "",
            "data:",
            "  name: speech",
            *[f"  {split}: {quoted(place)}" for split, place in places.items()],
            *([] if delimiter is None else [f"  delimiter: {json.dumps(delimiter)}"]),
            *([] if "validation" in places else ["  validation: 0.1            # chooses the best checkpoint"]),
            "  buckets: 4",
            "  batch_size: 32",
            "",
            "model: {name: conformer}",
            "",
            "optimizer: {name: adamw, lr: 1e-3, weight_decay: 1e-2}",
            "",
            "run: {epochs: 50}",
            "",
        ]
    )


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(place, name) for name in names if not name.startswith(".")]
        if len(found) > _MOST:
            break
    return found


def _by_split(path: str) -> dict[str, str]:
    """The folders of LibriSpeech by split, such as `train-clean-100` and `dev-clean`; empty without one to train on."""
    folders = sorted(entry.name for entry in Path(path).expanduser().iterdir() if entry.is_dir())
    found: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        chosen = next((folder for folder in folders if split_of(folder) == split), None)
        if chosen is not None:
            found[split] = str(Path(path, chosen))
    return found if "train" in found else {}


def _manifests(path: str) -> dict[str, str]:
    """The lists of recordings in a folder, by split."""
    names = _lists(path)
    found = {split: str(Path(path, name)) for name in reversed(names) if (split := split_of(Path(name).stem))}
    if "train" in found:
        return {split: found[split] for split in ("train", "validation", "test") if split in found}
    if len(names) == 1:
        return {"train": str(Path(path, names[0]))}
    if names:
        raise UsageError(
            f"{path}: has several lists of recordings ({', '.join(names[:3])}); name one of them: jaxprop init "
            f"{Path(path, names[0])}"
        )
    raise UsageError(
        f"{path}: has recordings without transcripts; put a .txt file beside each, or a list of them, CSV, TSV or "
        "JSONL, with the columns audio and text"
    )


def _lists(path: str) -> list[str]:
    """The names of files in a folder that may list recordings."""
    return sorted(
        entry.name
        for entry in Path(path).expanduser().iterdir()
        if entry.is_file() and records.KINDS.get(entry.suffix.lower()) in ("csv", "tsv", "jsonl")
    )
