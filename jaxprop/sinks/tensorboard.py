"""Records as TensorBoard scalars, in the event files of tensorboardX."""

from __future__ import annotations

import contextlib
import math
import numbers
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxprop.errors import RunFolderError
from jaxprop.sinks.sink import Record, Sink
from jaxprop.untrusted.writes import make_folder

_FLUSH_SECONDS = 10
_BIN = 0.25  # of a power of ten, in histograms of norms


def open_tensorboard(folder: str | Path, *, start_step: int | None = None) -> Sink:
    """Opens a folder of TensorBoard events: `train/loss`, `eval/accuracy`, `layers/<layer>/grad_norm`, ...

    The histograms `layers/log10_grad_norm` are over the layers: each counts how many have a gradient norm of a size.

    Args:
      folder: the folder of the event files; a resumed run adds a file.
      start_step: TensorBoard hides what earlier files hold of later steps; None hides everything in them.

    Returns:
      A sink.

    Raises:
      RunFolderError: the folder cannot be written; also later, from the sink.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     sink = open_tensorboard(folder)
      ...     sink.write({"step": 5, "split": "train", "loss": 0.1})
      ...     sink.close()
      ...     len(list(Path(folder).glob("events.out.tfevents.*")))
      1
    """
    events = _Events(Path(folder), 0 if start_step is None else start_step + 1)

    def layers(rows: Sequence[Record]) -> None:
        norms = [row["grad_norm"] for row in rows if "layer" in row and "grad_norm" in row]
        # What is zero or not finite has no place on the axis.
        exponents = [math.log10(norm) for norm in norms if math.isfinite(norm) and norm > 0]
        if len(exponents) > 1:
            events.add_histogram("layers/log10_grad_norm", rows[0]["step"], exponents)
        for row in rows:
            events.add(f"taps/{row['tap']}" if "tap" in row else f"layers/{row['layer']}", row)

    return Sink(
        write=lambda record: events.add(record["split"], record),
        layers=layers,
        rewind=lambda step: events.begin(step + 1),
        close=events.close,
    )


class _Events:
    """An event file, written by the thread that calls.

    tensorboardX's own `SummaryWriter` writes in a thread behind a queue of bounded length: once that thread has failed,
    on a full disk or a clock that was set, whoever adds to the queue waits for ever.
    """

    def __init__(self, folder: Path, first_step: int):
        self._folder, self._flushed = folder, 0.0
        self._file: Any = None
        self.begin(first_step)

    def begin(self, first_step: int) -> None:
        """Begins a file that replaces what earlier ones hold from a step on."""
        from tensorboardX.event_file_writer import EventsWriter  # here because it takes a quarter of a second
        from tensorboardX.proto.event_pb2 import SessionLog

        with self._reporting():
            if self._file is not None:
                self._file.close()
            make_folder(self._folder)
            # The usual name has a resolution of one second, so a run resumed within it would overwrite the file.
            self._file = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, prefix: str, record: Record) -> None:
        """Writes the numbers of a record."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{prefix}/{name}", simple_value=float(value))
            for name, value in record.items()
            if name != "step" and isinstance(value, numbers.Real)
        ]
        if values:
            self._write(step=record["step"], summary=Summary(value=values))

    def add_histogram(self, tag: str, step: int, values: Sequence[float]) -> None:
        """Writes how many of the values lie between two multiples of a quarter."""
        from tensorboardX.proto.summary_pb2 import HistogramProto, Summary

        counts = Counter(math.floor(value / _BIN) for value in values)
        bins = range(min(counts), max(counts) + 1)
        histogram = HistogramProto(
            min=min(values), max=max(values), num=len(values), sum=math.fsum(values),
            sum_squares=math.fsum(value**2 for value in values),
            # The first bucket is empty: TensorBoard needs a limit below the values.
            bucket_limit=[bins[0] * _BIN, *((one + 1) * _BIN for one in bins)],
            bucket=[0, *(counts[one] for one in bins)],
        )  # fmt: skip
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, histo=histogram)]))

    def close(self) -> None:
        """Closes the file."""
        with self._reporting():
            self._file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with self._reporting():
            self._file.write_event(Event(wall_time=time.time(), **fields))
            if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
                self._file.flush()
                self._flushed = time.monotonic()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"cannot write TensorBoard events to {self._folder} ({error.strerror}); make it writable or its disk "
                "less full, or choose another run folder with --run DIR"
            ) from error
