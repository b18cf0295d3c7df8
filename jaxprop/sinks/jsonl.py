"""JSON Lines files of a run's folder: `metrics.jsonl`, `layers.jsonl` and `alerts.jsonl`."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from jaxprop.errors import RunFolderError
from jaxprop.sinks.sink import Record, Sink
from jaxprop.untrusted.files import bounded_lines, open_to_read, parse_json
from jaxprop.untrusted.writes import create_beside, open_to_append


def open_jsonl(folder: str | Path, *, start_step: int | None = None, alerts: int | None = None) -> Sink:
    """Opens a run's JSONL files for appending.

    Every call flushes the file, so that a killed process loses at most the line it was writing.

    Args:
      folder: the run's folder.
      start_step: records and rows of later steps are dropped from existing files; None drops all of them.
      alerts: number of lines of `alerts.jsonl` to keep, whatever their steps. After a rollback the file holds alerts of
        later steps that must stay, so that the step cannot decide there.

    Returns:
      A sink.

    Raises:
      RunFolderError: a file cannot be written; also later, from the sink.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     sink = open_jsonl(folder)
      ...     sink.layers([{"step": 5, "layer": "head", "grad_norm": math.inf}])
      ...     sink.close()
      ...     print((Path(folder) / "layers.jsonl").read_text())
      {"step": 5, "layer": "head", "grad_norm": null}
      <BLANKLINE>
    """
    paths = {name: Path(folder) / f"{name}.jsonl" for name in ("metrics", "layers", "alerts")}
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(_Appended(path, start_step, alerts if name == "alerts" else None))
            for name, path in paths.items()
        }
        opened = stack.pop_all()

    def rewind(step: int) -> None:
        files["metrics"].rewind(step)
        files["layers"].rewind(step)

    return Sink(
        write=lambda record: files["metrics"].append([record]),
        layers=files["layers"].append,
        alert=lambda record: files["alerts"].append([record]),
        rewind=rewind,
        close=lambda: _close(opened, Path(folder)),
    )


class _Appended:
    """A JSONL file that is truncated when it is opened, and then appended to."""

    def __init__(self, path: Path, start_step: int | None, lines: int | None):
        self._path = path
        with self._reporting():
            truncate_after(path, start_step, lines)
            self._stream = self._open()

    def append(self, records: Sequence[Record]) -> None:
        with self._reporting():
            self._stream.write("".join(encode(record) + "\n" for record in records))
            self._stream.flush()

    def rewind(self, step: int) -> None:
        with self._reporting():
            self._stream.close()
            truncate_after(self._path, step)
            self._stream = self._open()

    def __enter__(self) -> _Appended:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _open(self) -> TextIO:
        return open_to_append(self._path)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unwritable(self._path, error) from error


def encode(record: Record) -> str:
    """Returns a record as one line of strict JSON: NaN and infinities become null, and every float keeps all its bits.

    Args:
      record: strings, numbers (Python numbers, or scalars of NumPy and jax), lists and dicts.

    Example:
      >>> encode({"step": 1, "loss": 0.1 + 0.2, "grad_norm": math.nan})
      '{"step": 1, "loss": 0.30000000000000004, "grad_norm": null}'
    """
    return json.dumps(_json_value(record), allow_nan=False, ensure_ascii=False)


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def truncate_after(path: str | Path, step: int | None, lines: int | None = None) -> None:
    """Drops the lines of later steps from a JSONL file, and an incomplete last line.

    The file is replaced atomically, so that a killed process leaves either the old or the new one.

    Args:
      path: the file; it need not exist.
      step: the last step to keep; None empties the file.
      lines: number of lines to keep, whatever their steps; None decides by `step`.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "metrics.jsonl"
      ...     _ = path.write_text('{"step": 1}\\n{"step": 2}\\n{"step": 3}\\n{"st')
      ...     truncate_after(path, 2)
      ...     path.read_text()
      '{"step": 1}\\n{"step": 2}\\n'
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    last = math.inf if lines is not None else step
    new, kept = create_beside(path)
    try:
        with kept, open_to_read(path) as old:  # as bytes, since the last character may be incomplete
            taken = itertools.islice(bounded_lines(old), lines)
            kept.writelines(line for line in taken if last is not None and _is_kept(line, last))
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _is_kept(line: bytes, step: float) -> bool:
    try:
        record = parse_json(line)
    except ValueError:
        return False
    at = record.get("step", 0) if isinstance(record, dict) else None
    return line.endswith(b"\n") and isinstance(at, int | float) and at <= step


def _close(opened: contextlib.ExitStack, folder: Path) -> None:
    try:
        opened.close()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path} cannot be written ({error.strerror}); make it writable, free space on its disk, "
        "or choose another run folder with --run DIR"
    )
