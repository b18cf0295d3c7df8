"""What commands print. Imports only the standard library, because `doctor` also runs where packages are broken."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxprop.errors import printable
from jaxprop.parallel.launchers import Hosts
from jaxprop.sinks.streams import Lasting


@contextlib.contextmanager
def own_stdout(hosts: Hosts) -> Iterator[None]:
    """Leaves stdout to process 0 for the length of a `with` block, and there to Python.

    Gloo, which connects the processes on CPUs, prints a line on it that nobody has asked for.

    Args:
      hosts: the processes; of one, nothing changes.
    """
    if hosts.process_count == 1:
        yield
        return
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        own = os.fdopen(null if hosts.process_index else os.dup(kept), "w", encoding="utf-8")
        with own, contextlib.redirect_stdout(Lasting(own)):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Prints a value as strict JSON: NamedTuples become objects, and NaN and infinities become null.

    Args:
      value: strings, numbers (of Python or scalars of NumPy and jax), lists, tuples, dicts and NamedTuples.
      indent: spaces a level, as in `summary.json`; None prints one line, as in `metrics.jsonl`.

    Example:
      >>> from typing import NamedTuple
      >>> class Pair(NamedTuple):
      ...     a: int
      ...     b: tuple
      >>> print_json([Pair(1, (2, math.nan))])
      [{"a": 1, "b": [2, null]}]
    """
    # The files in a run folder are written with the same settings. A terminal would act on some other characters.
    ascii_only = indent is not None or sys.stdout.isatty()
    print(json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=ascii_only))


def say(text: str, *, flush: bool = False) -> None:
    """Prints one line without control characters: what it quotes may come from a file, whose author is anyone.

    Example:
      >>> say("run folder: runs/a\\x1b[2J\\nerror: none")
      run folder: runs/a?[2J?error: none
    """
    print(printable(text), flush=flush)


def print_result(command: str, run: Path | None, values: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Prints what a command has found in the shape that `--json` has for every command.

    Args:
      command: its name.
      run: folder of the run that it is about, printed as an absolute path; None where there is none.
      values: its own keys, which follow `command` and `run`.
      indent: see `print_json`.

    Example:
      >>> print_result("doctor", None, {"findings": []})
      {"command": "doctor", "run": null, "findings": []}
    """
    own = {name: value for name, value in values.items() if name not in ("command", "run")}
    print_json({"command": command, "run": None if run is None else str(run.absolute()), **own}, indent=indent)


def run_of(config: Path) -> Path | None:
    """Returns the folder of the run whose configuration a file is; None of another file.

    Args:
      config: path of the configuration.

    Example:
      >>> run_of(Path("configs/digits_mlp.yaml")) is None
      True
    """
    beside = (config.parent / name for name in ("metrics.jsonl", "checkpoints"))
    return config.parent if config.name == "config.yaml" and any(path.exists() for path in beside) else None


def can_print(text: str) -> bool:
    """Whether stdout has the characters of a text, which a terminal of another encoding has not.

    Example:
      >>> can_print("ascii")
      True
    """
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
