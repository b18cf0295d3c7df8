"""Arrays in and out of files through Orbax."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Orbax subtracts readings of the wall clock from this. A clock that is set forward by years must not end a save, and
# how long a save is waited for is decided by `background`.
_ORBAX_SECONDS = 2_000_000_000
_BEGINNING = threading.Lock()  # Orbax numbers the saves of a process, and mixes up two that begin at once


def writer() -> Any:
    """Returns what writes arrays in the background, by `save(path, args=arguments(...))`."""
    ocp = import_orbax()
    handler = ocp.CompositeCheckpointHandler(state=ocp.PyTreeCheckpointHandler())
    return ocp.AsyncCheckpointer(handler, timeout_secs=_ORBAX_SECONDS)


def arguments(arrays: Mapping[str, Any]) -> Any:
    """Returns the arguments with which arrays are handed to the writer."""
    ocp = import_orbax()
    return ocp.args.Composite(state=ocp.args.PyTreeSave(dict(arrays)))


def write_arrays(
    writer: Any, path: Path, held: list[Mapping[str, Any]], begun: Callable[[], None], *, own: bool
) -> None:
    """Writes arrays and returns when they are on the disk.

    Orbax gives up a save during whose beginning the clock is set forward; then it is begun once more.

    Args:
      writer: what `writer` returns.
      path: of the checkpoint.
      held: the arrays, the last reference to them; unless they are `own`, they are freed as early as can be.
      begun: called once the arrays may be changed.
      own: nobody but the save has these arrays.
    """
    again = held[0] if own else None
    try:
        _write(writer, path, held, begun)
    except TimeoutError:
        if again is None:
            raise
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(mode=0o700)
        _write(writer, path, [again], begun)


def _write(writer: Any, path: Path, held: list[Mapping[str, Any]], begun: Callable[[], None]) -> None:
    with _BEGINNING:
        writer.save(path, args=arguments(held.pop()))
    begun()
    writer.wait_until_finished()


def read_arrays(path: Path, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arrays of a checkpoint, on the devices of the abstract ones.

    Args:
      path: of the checkpoint.
      abstract: by their names, what shall take their place: arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      Exception: of any kind, where they cannot be read.
    """
    ocp = import_orbax()
    how = {name: _restore_args(ocp, leaf) for name, leaf in abstract.items()}
    state = ocp.args.PyTreeRestore(item=dict.fromkeys(abstract, 0), restore_args=how)
    with contextlib.closing(ocp.Checkpointer(ocp.CompositeCheckpointHandler())) as reader:
        return reader.restore(path, args=ocp.args.Composite(state=state))["state"]


def _restore_args(ocp: Any, abstract: Any) -> Any:
    sharding = getattr(abstract, "sharding", None)
    if sharding is None or not getattr(abstract, "committed", True):
        # An uncommitted array moves to the device of the arrays it is used with; a sharding would commit it to one.
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=sharding)


def import_ahead() -> None:
    """Imports in another thread what the first save needs, so that this does not come between two steps."""
    threading.Thread(target=import_orbax, name="jaxprop-import", daemon=True).start()


@functools.cache
def import_orbax() -> Any:
    """Imported by runs that save or restore only: it takes most of a second."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_not_orbax)
    logging.getLogger("asyncio").addFilter(_is_no_write)
    warnings.filterwarnings("ignore", "coroutine '.*(serialize|_write_metadata|cancellable)", RuntimeWarning)
    sys.unraisablehook = functools.partial(_pass_on, sys.unraisablehook)
    return ocp


# Every failure is raised as a `CheckpointError`, and what Orbax, TensorStore and asyncio print besides only repeats it:
# the traceback, a "closed event loop" for each array that was being written when the first one failed, and a warning
# for each array that failed after it.


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _is_no_write(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    text = f"{record.getMessage()} {error} {getattr(error, 'filename', '')}"
    return not any(mark in text for mark in ("orbax-checkpoint-tmp", "tensorstore_spec"))


def _pass_on(shown: Callable[[Any], object], unraisable: Any) -> None:
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        shown(unraisable)
