"""Exports a run: the file of a format, a model card beside it, and what prepares its inputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxprop.data.readers.table.described import described
from jaxprop.data.readers.table.targets import Learned
from jaxprop.errors import RunFolderError, UsageError, one_of
from jaxprop.run import prepared
from jaxprop.run.adapted import merged_run
from jaxprop.run.loaded import LoadedRun
from jaxprop.tools.export.adapters import make_adapters
from jaxprop.tools.export.card import card
from jaxprop.tools.export.format import Made
from jaxprop.tools.export.onnx import make_onnx
from jaxprop.tools.export.stablehlo import make_stablehlo
from jaxprop.tools.export.weights import make_safetensors
from jaxprop.untrusted.writes import make_folder, write_whole

FORMATS: dict[str, Callable[[LoadedRun, int | None], Made]] = {
    "safetensors": make_safetensors,
    "stablehlo": make_stablehlo,
    "onnx": make_onnx,
}


def export_run(
    run: LoadedRun,
    name: str,
    out: str | os.PathLike[str] | None = None,
    *,
    batch_size: int | None = None,
    adapters: bool = False,
) -> dict[str, Any]:
    """Writes a run's model in a format, with a model card.

    A model with adapters is written as one without, whose weights are the sums.

    Args:
      run: from `jaxprop.load`, which also says which checkpoint and which parameters.
      name: of the format, one of `FORMATS`.
      out: folder to write to; default: `exports/FORMAT` in the run's folder.
      batch_size: number of examples that the exported program takes; default: any.
      adapters: write the adapters of a run with `lora` alone, as safetensors.

    Returns:
      `format`, `folder`, `files` by name with their bytes, `step` and `checkpoint`.

    Raises:
      UsageError: there is no such format, or the model cannot be written in it.
      MissingExtraError: a package that the format needs is not installed.
      RunFolderError: the folder cannot be written.
    """
    if name not in FORMATS:
        raise UsageError(one_of(name, FORMATS, "format"))
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"expected a batch size of at least 1, got {batch_size}")
    if adapters and name != "safetensors":
        raise UsageError(f"adapters alone are weights, which {name} has none of; use --format safetensors")
    write = make_adapters if adapters else FORMATS[name]
    run = run if adapters else merged_run(run)
    made = write(run, batch_size)
    folder = run.folder / "exports" / ("adapters" if adapters else name) if out is None else Path(out).expanduser()
    features = _features(run)
    files = {made.name: made.content, "README.md": card(run, name, made, features).encode()}
    try:
        make_folder(folder)
        for file, content in files.items():
            write_whole(folder / file, content)
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written ({error.strerror}); name another folder with --out DIR"
        ) from error
    held = run.opened.prepared
    more = {"features": features} if features else {}
    prepared.write(folder, held._replace(prepared={**held.prepared, **more}))
    sizes = {path.name: path.stat().st_size for path in (folder / file for file in [*files, prepared.NAME])}
    return {
        "run": str(run.folder),
        "format": name,
        "folder": str(folder),
        "files": sizes,
        "step": run.step,
        "checkpoint": run.opened.which,
    }


def _features(run: LoadedRun) -> list[dict[str, Any]]:
    """The features of a table, in order; none of other data."""
    if run.opened.config.data.name != "table":
        return []
    learned = Learned.restored(run.opened.prepared.prepared)
    return described(learned.columns, one_hot=learned.one_hot)
