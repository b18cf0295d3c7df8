"""The trackers that a configuration asks for, and what they need to go on with the same run of theirs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxprop.errors import RunFolderError
from jaxprop.sinks.mlflow import begin_mlflow, check_mlflow
from jaxprop.sinks.sink import Sink
from jaxprop.sinks.tracker import Began, Tracker, guarded
from jaxprop.sinks.trackio import begin_trackio, check_trackio
from jaxprop.sinks.wandb import begin_wandb, check_wandb
from jaxprop.untrusted.files import read_json
from jaxprop.untrusted.writes import write_whole

if TYPE_CHECKING:
    from jaxprop.config.schema.run import Sinks

FILE = "tracker.json"


class _Kind(NamedTuple):
    check: Callable[[Any], None]
    begin: Callable[[Any, Began], Tracker]


TRACKERS = {
    "wandb": _Kind(check_wandb, begin_wandb),
    "trackio": _Kind(check_trackio, begin_trackio),
    "mlflow": _Kind(check_mlflow, begin_mlflow),
}


def check_trackers(section: Sinks) -> None:
    """Raises UsageError where a tracker is not installed, or nobody is logged in to it.

    Args:
      section: the config's `sinks`.
    """
    for name, asked in _asked(section):
        TRACKERS[name].check(asked)


def open_trackers(
    section: Sinks,
    folder: Path,
    config: Mapping[str, Any],
    *,
    resumed: bool,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> list[Sink]:
    """Begins a run of every tracker that a config asks for, or goes on with it.

    Args:
      section: the config's `sinks`.
      folder: the run's folder, whose `tracker.json` says which runs of the trackers it is.
      config: the resolved configuration, as JSON values.
      resumed: whether to go on with those.
      say: takes a line on where a run can be seen.
      warn: takes a sentence on a tracker that has failed.

    Returns:
      A sink for each.

    Raises:
      UsageError: a tracker refuses the run.
      RunFolderError: `tracker.json` cannot be written.
    """
    known, opened = _read(folder) if resumed else {}, []
    identities = dict(known)  # also of one that is off this time
    try:
        for name, asked in _asked(section):
            run_name = folder.resolve().name or "run"
            tracker = TRACKERS[name].begin(asked, Began(folder, run_name, config, known.get(name, {})))
            opened.append(guarded(f"sinks.{name}", tracker, layers=asked.layers, warn=warn))
            identities[name] = dict(tracker.identity)
            _write(folder, identities)
            say(tracker.where)
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    return opened


def _asked(section: Sinks) -> Iterator[tuple[str, Any]]:
    from jaxprop.config.schema.trackers import Mlflow, Trackio, Wandb

    for name, kind in (("wandb", Wandb), ("trackio", Trackio), ("mlflow", Mlflow)):
        asked = getattr(section, name)
        if asked is not False:
            yield name, kind.model_validate({}) if asked is True else asked


def _read(folder: Path) -> dict[str, dict[str, str]]:
    """What `tracker.json` says, without whatever is not as it was written."""
    with contextlib.suppress(OSError, ValueError):
        said = read_json(folder / FILE)
        if isinstance(said, dict):
            found = {name: said[name] for name in TRACKERS if isinstance(said.get(name), dict)}
            return {
                name: {key: value for key, value in values.items() if isinstance(value, str) and 0 < len(value) < 200}
                for name, values in found.items()
            }
    return {}


def _write(folder: Path, identities: Mapping[str, Any]) -> None:
    try:
        write_whole(folder / FILE, json.dumps(identities, indent=2) + "\n")
    except OSError as error:
        raise RunFolderError(
            f"{folder / FILE} cannot be written ({error.strerror}); choose another folder with --run DIR"
        ) from error
