"""The user's own code in a run: checked before anything is built, recorded in `code.json`, and compared afterwards."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from jaxprop.checkpoint.manifest import read_manifests
from jaxprop.code.digest import differences, record, with_digests
from jaxprop.code.load import check_code
from jaxprop.config.build import build
from jaxprop.config.custom import custom_sections
from jaxprop.config.schema.config import Config
from jaxprop.run.folder import shown, write_text
from jaxprop.sinks.streams import tell

NAME = "code.json"


def checked(config: Config) -> Config:
    """Loads the code that a configuration names and checks its arguments; tells of files that have changed.

    Args:
      config: the configuration; its digests, if it has any, are those that a run has stored.

    Returns:
      The configuration with the digests of what was loaded.

    Raises:
      ConfigError: code cannot be loaded, or its arguments do not fit.
      UsageError: a run names it, and the user has not repeated it.
    """
    check_code(config)
    found = with_digests(config)
    _tell_differences(config, found)
    return found


def code_of(config: Config) -> tuple[str, ...]:
    """Returns the files and modules of the user's own that a configuration names, as `--code` takes them.

    Args:
      config: the configuration.
    """
    targets = [section.target for section in custom_sections(config).values()]
    return tuple(dict.fromkeys(shown(Path(one.where)) if one.is_file else one.where for one in targets))


def tell_changes(folder: Path, config: Config) -> None:
    """Tells of each file that has changed since the newest checkpoint of a run, if it has one.

    Args:
      folder: of the run.
      config: with the digests of now.
    """
    manifests = read_manifests(folder / "checkpoints")
    if manifests:
        _tell_differences(build(manifests[max(manifests)]["config"]), config)


def write(folder: Path, config: Config) -> None:
    """Writes `code.json`: the user's files with their digests and texts, which are a record and are never run.

    Args:
      folder: of the run.
      config: with digests.
    """
    held = record(config)
    if held:
        write_text(folder / NAME, json.dumps(held, indent=1) + "\n")
    else:
        (folder / NAME).unlink(missing_ok=True)


def _tell_differences(before: Config, after: Config) -> None:
    for difference in differences(before, after):
        _tell_once(difference)


@functools.cache
def _tell_once(text: str) -> None:
    tell(text)  # a command may compose a configuration more than once
