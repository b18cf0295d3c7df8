"""The file of results: its schema, and how it is written and read.

It is written anew, whole, after every figure, so that what was measured is kept whatever ends the command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jaxprop.errors import UsageError
from jaxprop.untrusted.writes import write_whole

SCHEMA: Final = "jaxprop.bench/1"

Status = Literal["ok", "noisy", "unsupported", "out_of_memory", "failed"]
Fact = str | int | float | bool | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True)


class Row(_Part):
    """One measured figure.

    Args:
      section: what it belongs to, such as `matmul`.
      name: what was measured; a section has no name twice for one device.
      device: index of the device in `environment.devices`, or `all`.
      status: `ok`; `noisy`: measured, but its interval is wider than the aim; or why there is no figure.
      message: one sentence, where there is something to say.
      unit: of `value`, such as `TFLOP/s` or `ms`.
      better: whether a higher or a lower value is better.
      value, low, high: the figure and its interval of 95 %.
      per_call: a rate is `per_call / seconds`; a time is `per_call * seconds`.
      samples: seconds of one call, a list a round, none left out.
      processes: rounds of each process, where several have measured; empty for one.
      calls: calls that one sample is the mean of.
      drift: relative difference between even and odd rounds (the A/A pair).
      facts: what belongs to the figure: sizes, dtype, share of the datasheet, clock, temperature and so on.
    """

    section: str
    name: str
    device: str = "0"
    status: Status = "ok"
    message: str = ""
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    per_call: float = 1.0
    samples: list[list[float]] = []
    processes: list[int] = []
    calls: int = 1
    drift: float | None = None
    facts: dict[str, Fact] = {}

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the same figure in another document."""
        return self.section, self.name, self.device


class Environment(_Part):
    """Where the figures come from.

    Args:
      devices: `kind`, `platform` and `counts_as` (what one device of JAX is of the hardware) of each.
      host: `cpu`, `cores`, `affinity`, `memory_bytes`, `system`, `allocator`.
      versions: of Python and the packages, and `driver` and `runtime` where they can be read.
      flags: environment variables and settings of JAX that change what is measured.
      commit: of the project in whose folder the command ran, with `+` if files were changed; None without one.
    """

    devices: list[dict[str, Fact]]
    host: dict[str, Fact]
    versions: dict[str, str | None]
    flags: dict[str, str]
    commit: str | None = None


class Document(_Part):
    """All results of one command.

    Args:
      schema_: `jaxprop.bench/1`; `schema` in the file.
      command: `device` or `train`.
      arguments: of the command.
      started: UTC time, ISO 8601.
      seconds: how long the command has measured.
      complete: whether it came to its end.
      environment: where the figures come from.
      notes: sentences about the measurement as a whole.
      rows: the figures, in the order of their first measurement.
    """

    schema_: Literal["jaxprop.bench/1"] = Field(
        "jaxprop.bench/1", validation_alias="schema", serialization_alias="schema"
    )
    command: Literal["device", "train"]
    arguments: dict[str, Fact] = {}
    started: str
    seconds: float = 0.0
    complete: bool = False
    environment: Environment
    notes: list[str] = []
    rows: list[Row] = []


def write(path: str | Path, document: Document) -> None:
    """Writes a document whole.

    Args:
      path: of the file.
      document: the results so far.

    Raises:
      UsageError: the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(as_json(document), indent=1) + "\n")
    except OSError as error:
        raise UsageError(
            f"the results cannot be written to {path} ({error.strerror}); name another file with --out"
        ) from None


def as_json(document: Document) -> dict[str, Any]:
    """Returns a document as JSON has it."""
    return document.model_dump(by_alias=True)


def read(path: str | Path) -> Document:
    """Reads a document.

    Args:
      path: of the file.

    Raises:
      UsageError: there is no such file, it is cut off, or it is of another schema.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); give a file that `jaxprop bench` has written"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not a text file; give a file that `jaxprop bench` has written") from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "its nesting"
        raise UsageError(f"{path}: is cut off or is not JSON ({where}); measure again, or take another file") from None
    schema = found.get("schema") if isinstance(found, Mapping) else None
    if schema != SCHEMA:
        raise UsageError(f"{path}: has the schema {schema!r}, expected {SCHEMA!r}; measure again with this version")
    try:
        return Document.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {place}: {first['msg'].lower()}; measure again, or take another file") from None
