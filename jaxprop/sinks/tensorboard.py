"""Records as TensorBoard scalars, through tensorboardX."""

from __future__ import annotations

import numbers
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprop.errors import RunFolderError
from jaxprop.sinks.sink import Record, Sink
from jaxprop.untrusted.writes import make_folder

_FLUSH_SECONDS = 10


def open_tensorboard(folder: str | Path, *, start_step: int | None = None) -> Sink:
    """Opens a folder of TensorBoard events: `train/loss`, `eval/accuracy`, `layers/<layer>/grad_norm`, ...

    Args:
      folder: the folder of the event files; a resumed run adds a file.
      start_step: TensorBoard hides what earlier files hold of later steps; None hides everything in them.

    Returns:
      A sink.

    Raises:
      RunFolderError: the folder cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     sink = open_tensorboard(folder)
      ...     sink.write({"step": 5, "split": "train", "loss": 0.1})
      ...     sink.close()
      ...     len(list(Path(folder).glob("events.out.tfevents.*")))
      1
    """
    writer = _writer(folder, 0 if start_step is None else start_step + 1)

    def write(record: Record) -> None:
        _add(writer, record["split"], record)

    def layers(rows: Sequence[Record]) -> None:
        for row in rows:
            _add(writer, f"taps/{row['tap']}" if "tap" in row else f"layers/{row['layer']}", row)

    def rewind(step: int) -> None:
        nonlocal writer
        writer.close()
        writer = _writer(folder, step + 1)

    return Sink(write=write, layers=layers, rewind=rewind, close=lambda: writer.close())


def _writer(folder: str | Path, first_step: int) -> Any:
    """Opens a new event file that replaces the earlier ones from `first_step` on."""
    from tensorboardX import SummaryWriter  # imported here because it takes a quarter of a second

    try:
        make_folder(folder)
        # The default file name has a resolution of one second, so a run resumed within it would overwrite the file.
        suffix = f".{time.time_ns()}"
        return SummaryWriter(
            logdir=str(folder), purge_step=first_step, flush_secs=_FLUSH_SECONDS, filename_suffix=suffix
        )
    except OSError as error:
        raise RunFolderError(
            f"cannot write TensorBoard events to {folder} ({error.strerror}); "
            "make it writable, or choose another run folder with --run DIR"
        ) from error


def _add(writer: Any, prefix: str, record: Record) -> None:
    for name, value in record.items():
        if name != "step" and isinstance(value, numbers.Real):
            writer.add_scalar(f"{prefix}/{name}", float(value), record["step"])
