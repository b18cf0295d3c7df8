"""Configurations for folders that hold images or text, for arrays, and for data sets of Hugging Face."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from jaxprop.data.readers.huggingface import training_rows
from jaxprop.data.readers.shards import Shards
from jaxprop.errors import UsageError
from jaxprop.tools.init.written import TARGETS, quoted, splits_in


def images(path: str, name: str) -> str:
    """Returns the text of a configuration for a folder of images by class; see `jaxprop.tools.init.starter`."""
    return folder(
        path,
        name,
        kind="images",
        task="task: {name: classify}        # each folder is a class",
        data=["  validation: 0.15           # chooses the best checkpoint"],
        model="model: {name: cnn, channels: [32, 64]}",
        run="run: {epochs: 20}",
    )


def text(path: str, name: str) -> str:
    """Returns the text of a configuration for text files; see `jaxprop.tools.init.starter`."""
    return folder(
        path,
        name,
        kind="text",
        task="task: {name: language}        # the next byte",
        data=["  sequence_length: 128", "  validation: 0.1            # chooses the best checkpoint"],
        model="model: {name: transformer, layers: 4, width: 128, heads: 4}",
        run="run: {steps: 2000, eval_every: 200}",
    )


def folder(path: str, name: str, *, kind: str, task: str, data: list[str], model: str, run: str) -> str:
    """Returns the text of a configuration for a path, or for the folders of its splits.

    Args:
      path: what is trained on.
      name: of the configuration.
      kind: its `data.name`.
      task, model, run: lines of the configuration.
      data: lines of its section `data`.
    """
    return "\n".join(
        [
            f"# Made by 'jaxprop init' of {quoted(Path(path).name)}.",
            "#",
            f"#     jaxprop train {name}.yaml",
            "",
            task,
            "",
            "data:",
            f"  name: {kind}",
            *[f"  {split}: {quoted(place)}" for split, place in (splits_in(path) or {"train": path}).items()],
            *[line for line in data if not (line.strip().startswith("validation") and "validation" in splits_in(path))],
            "  batch_size: 32",
            "",
            model,
            "",
            "optimizer: {name: adamw, lr: 1e-3, weight_decay: 1e-2}",
            "",
            run,
            "",
        ]
    )


def arrays(path: str, name: str) -> str:
    """Returns the text of a configuration for a `.npz` file; see `jaxprop.tools.init.starter`."""
    if Path(path).suffix.lower() == ".npy":
        raise UsageError(
            f"{path}: holds one array, and a configuration needs inputs and labels; write data: {{name: arrays, "
            f"train_inputs: {path}, train_labels: LABELS.npy}}"
        )
    try:
        with Path(path).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as archive:
            integers = archive["labels"].dtype.kind in "iu" if "labels" in archive.files else True
            several = archive["labels"].ndim > 1 if "labels" in archive.files else False
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read as a .npz file ({type(error).__name__}); write it again") from error
    task = "classify" if integers and not several else "regress"
    return folder(
        path,
        name,
        kind="arrays",
        task=f"task: {{name: {task}}}        # by the dtype of the labels",
        data=["  validation: 0.15           # chooses the best checkpoint"],
        model="model: {name: mlp, hidden: [64, 64]}",
        run="run: {epochs: 20}",
    )


def huggingface(path: str, name: str) -> str:
    """Returns the text of a configuration for a data set of Hugging Face; see `jaxprop.tools.init.starter`.

    Of the columns, the label is guessed by its type or its name, and the inputs by what they hold.
    """
    rows = training_rows(splits_in(path).get("train", path))
    label = _label_of(rows)
    others = [column for column in rows.columns if column != label]
    images = [column for column in others if rows.holds_bytes(column)]
    texts = [column for column in others if rows.holds_text(column)]
    numbers = [column for column in others if rows.holds_number(column)]
    if not images and not texts and not numbers:
        raise UsageError(f"{path}: has no column of images, text or numbers beside {label!r}; name another file")
    task = "regress" if rows.holds_fraction(label) else "classify"
    data, model = [], "model: {name: mlp, hidden: [64, 64]}"
    if images:
        inputs, data = quoted(images[0]), ["  size: [32, 32]"]
        model = "model: {name: cnn, channels: [32, 64]}"
    elif texts:
        inputs, data = quoted(texts[0]), ["  max_length: 256"]
        model = "model: {name: transformer, layers: 2, width: 64, heads: 4}"
    else:
        inputs, data = f"[{', '.join(map(quoted, numbers))}]", ["  standardize: true"]
    return folder(
        path,
        name,
        kind="huggingface",
        task=f"task: {{name: {task}}}        # by the type of {quoted(label)}",
        data=[
            f"  inputs: {inputs}        # guessed, of the columns {', '.join(map(quoted, rows.columns))}",
            f"  label: {quoted(label)}",
            *data,
            "  validation: 0.15           # chooses the best checkpoint",
        ],
        model=model,
        run="run: {epochs: 20}",
    )


def _label_of(rows: Shards) -> str:
    lower = {column.lower(): column for column in reversed(rows.columns)}
    classes = [column for column in rows.columns if rows.class_names(column)]
    return next(iter(classes), None) or next((lower[name] for name in TARGETS if name in lower), rows.columns[-1])
