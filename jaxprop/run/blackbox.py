"""The black box: what a step that was not finite was given, on disk, so that it can be looked into afterwards."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from jaxprop.checkpoint import leaves
from jaxprop.config.dump import dump
from jaxprop.config.schema.config import Config
from jaxprop.errors import RunFolderError
from jaxprop.health.watch.advice import Setup
from jaxprop.parallel.hosts import decided, is_first, process_count
from jaxprop.parallel.placement import gathered
from jaxprop.run.folder import refuse_links, shown
from jaxprop.run.own_code import code_of
from jaxprop.sinks.jsonl import encode
from jaxprop.types import TrainState
from jaxprop.untrusted.files import check_safetensors, read_json
from jaxprop.untrusted.writes import make_folder, write_whole
from jaxprop.version import __version__, versions

FORMAT = 1
CALLS = 4  # whose batches are held: the newest two may not have been read yet
RECORDS = 16  # steps whose figures go into a box
VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
FIGURES = ("loss", "grad_norm", "learning_rate", "loss_scale", "skipped", "skips")
ABOUT = ("step", "updates", "leaves", "key_impls", "versions", "flags", "device", "sources", "records")  # of box.json
FILES = ("state.safetensors", "batch.safetensors", "config.yaml", "box.json", "repro.py")
REPRO = '''"""Replays a step that was not finite, from this folder alone: python repro.py [FILES WITH YOUR CODE]"""

import os
import sys
from pathlib import Path

for name, value in {flags!r}.items():
    os.environ.setdefault(name, value)  # before jax is imported

from jaxprop.errors import JaxpropError
from jaxprop.tools.replay import replay

try:
    print(replay(Path(__file__).parent, code=sys.argv[1:]).message)
except JaxpropError as error:
    raise SystemExit(f"error: {{error}}") from None
'''


class Box(NamedTuple):
    """A black box, read back.

    Args:
      folder: where it lies.
      step: the step that was not finite.
      updates: updates that the state has seen since that step began; 0: it is the very state.
      arrays, key_impls: of the state, as `jaxprop.checkpoint.leaves` packs it.
      batch: what the step was given.
      about: versions, flags, records and sources' fingerprints, as `box.json` holds them.
    """

    folder: Path
    step: int
    updates: int
    arrays: dict[str, np.ndarray]
    key_impls: dict[str, str]
    batch: dict[str, np.ndarray]
    about: dict[str, Any]


class Recorder:
    """Holds the newest batches and records of a run, and writes them when a step fails.

    Nothing is copied until then: what it costs a step is the reference to its batch.

    Args:
      folder: of the run.
      config: its configuration.
      mesh: what its arrays lie on, if several devices.
    """

    def __init__(self, folder: Path, config: Config, mesh: Mesh | None = None):
        self._run, self._config, self._mesh = folder, config, mesh
        self._batches: deque[tuple[int, int, Any]] = deque(maxlen=CALLS)
        self._records: deque[tuple[int, Any]] = deque(maxlen=RECORDS)  # steps and measurements
        self._row = 0  # failed steps in a row
        self._written = False  # a box of this row
        self.began = ""  # a sentence on the first step that failed
        # Steps that float16 skips with a finite loss are how its loss scale is found.
        self._expected = config.health.max_skips // 2 if config.precision.scaled else 0

    def take(self, step: int, size: int, batch: Any) -> None:
        """Remembers the batch of a call: its last step, how many it takes, and what it was given."""
        self._batches.append((step, size, batch))

    def read(self, step: int, m: Any, newest: Callable[[], TrainState], now: int) -> str | None:
        """Takes in the record of a step; writes a box at the first of a row that failed.

        Args:
          step: its number.
          m: its measurements, on the host.
          newest: returns the newest state there is.
          now: that one's step.

        Returns:
          What to tell a person, or None.
        """
        self._records.append((step, m))
        if not m.skipped:
            self._row, self._written = 0, False
            return None
        self._row += 1
        self.began = self.began or f"The first of them was step {step}"
        due = self._row > self._expected or not np.isfinite(float(m.loss))
        held = next((held for held in self._batches if held[0] - held[1] < step <= held[0]), None)
        if not due or self._written or held is None:
            return None
        if decided("a black box", lambda: len(boxes(self._run)) >= self._config.health.blackboxes):
            return None
        self._written = True
        last, _, batch = held
        if self._config.run.per_call > 1:
            batch = {name: array[step - last - 1] for name, array in batch.items()}
        state = newest()
        updates = (now - step) - (int(state.health.skips) - int(m.skips))  # steps that are skipped make none
        try:
            self._write(step, state, batch, updates)
        except OSError as error:  # the run is worth more than its black box
            return f"step {step} was not finite; its black box cannot be written ({error.strerror})"
        command = Setup("yaml", {}, shown(self._run), code_of(self._config)).command("replay")
        return f"step {step} was not finite; '{command}' finds the operation, layer and line"

    def _write(self, step: int, state: TrainState, batch: Mapping[str, Any], updates: int) -> None:
        if process_count() > 1:
            state, batch = gathered((state, batch), self._mesh)
            if not is_first():
                return
        arrays, manifest = leaves.pack(state)
        about = {
            "format": FORMAT, "step": step, "updates": updates, "jaxprop": __version__, **manifest,
            "versions": versions(), "flags": flags(), "device": jax.devices()[0].device_kind,
            "sources": fingerprints(), "records": [_figures(*record) for record in self._records],
        }  # fmt: skip
        folder = self._run / "blackbox" / str(step)
        make_folder(folder.parent)
        partial = folder.with_name(f".{step}.{secrets.token_hex(8)}.partial")
        partial.mkdir(mode=0o700)  # a batch of the data
        try:
            save_file({name: _contiguous(array) for name, array in arrays.items()}, partial / "state.safetensors")
            save_file({name: _contiguous(array) for name, array in batch.items()}, partial / "batch.safetensors")
            write_whole(partial / "config.yaml", dump(self._config, folder))
            write_whole(partial / "box.json", encode(about) + "\n")
            write_whole(partial / "repro.py", REPRO.format(flags=about["flags"]))
            partial.rename(folder)  # whole or not at all
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _figures(step: int, m: Any) -> dict[str, float]:
    return {"step": step, **{name: float(getattr(m, name)) for name in FIGURES}}


def boxes(run: Path) -> list[Path]:
    """Returns the folders of a run's black boxes, by their steps; what lies behind a link is none of them."""
    room = run / "blackbox"
    within = room.iterdir() if room.is_dir() and not room.is_symlink() else ()
    found = [path for path in within if path.name.isdecimal() and path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: int(path.name))


def read_box(folder: Path) -> Box:
    """Reads a black box.

    Raises:
      RunFolderError: it is not one, is of another version, or is damaged.
    """
    missing = [name for name in FILES[:4] if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(f"{folder} is not a whole black box: it has no {missing[0]}")
    try:
        about = read_json(folder / "box.json")
        if about["format"] != FORMAT:
            raise RunFolderError(
                f"{folder} was written by jaxprop {about.get('jaxprop', 'of another version')} in format "
                f"{about['format']}, and this is jaxprop {__version__}, which reads format {FORMAT}; replay it "
                "with that version"
            )
        refuse_links(folder, FILES)
        arrays, batch = (_arrays(folder / name) for name in FILES[:2])
        missing = [name for name in ABOUT if name not in about]
        if missing:
            raise ValueError(f"box.json has no {missing[0]!r}")
        return Box(folder, about["step"], about["updates"], arrays, about["key_impls"], batch, about)
    except RunFolderError:
        raise
    except Exception as error:  # safetensors has errors of its own for each way a file can be damaged
        raise RunFolderError(f"{folder} is damaged and cannot be replayed ({type(error).__name__}: {error})") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    check_safetensors(path)
    return load_file(path)


def flags() -> dict[str, str]:
    """Returns the environment's settings that change what jax computes."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def fingerprints() -> dict[str, str]:
    """Returns the SHA-256 of every source file that computes the loss, by its path in the package."""
    package = Path(__file__).parents[1]
    rooms = ("data/augment", "models", "losses", "tasks")
    files = sorted(path for room in rooms for path in (package / room).rglob("*.py"))
    return {path.relative_to(package).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed_sources(box: Box) -> list[str]:
    """Returns the source files that compute the loss and are not what they were when the box was written."""
    now = fingerprints()
    return [path for path, digest in box.about["sources"].items() if now.get(path) != digest]


def _contiguous(array: Any) -> np.ndarray:
    return np.array(array, order="C")
