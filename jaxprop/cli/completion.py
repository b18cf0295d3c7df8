"""What the shell completes: names of configs and of runs. Imports only the standard library until it is asked.

`jaxprop --install-completion` makes the shell start `jaxprop` at each Tab. Where nothing matches, the shell completes
the names of files by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def packaged_names(incomplete: str) -> list[str]:
    """Returns the names of packaged configs that begin with a text.

    Example:
      >>> packaged_names("digits_m")
      ['digits_mlp']
    """
    from jaxprop.config.locate import packaged

    return [name for name in packaged() if name.startswith(incomplete)]


def configs(incomplete: str) -> list[str]:
    """Returns what may stand for CONFIG: packaged configs, YAML files, and runs.

    Args:
      incomplete: the beginning of the word.
    """
    return [*packaged_names(incomplete), *_yaml_files(incomplete), *runs(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Returns the runs that begin with a text: by name for those in `runs/`, and as `FOLDER/NAME` in any other folder.

    Args:
      incomplete: the beginning of the word, such as `wi` or `runs/wi`.
    """
    return _folders(incomplete, _run_files())


def sweeps(incomplete: str) -> list[str]:
    """Returns the sweeps that begin with a text, by the names that `runs` has for runs."""
    from jaxprop.run.swept import FILE

    return _folders(incomplete, (FILE,))


def runs_and_sweeps(incomplete: str) -> list[str]:
    """Returns the runs and sweeps that begin with a text."""
    return sorted({*runs(incomplete), *sweeps(incomplete)})


def _folders(incomplete: str, files: Sequence[str]) -> list[str]:
    """The folders that begin with a text and hold one of some files."""
    from jaxprop.config.locate import RUNS

    typed, _ = os.path.split(incomplete)
    folder = Path(typed).expanduser() if typed else Path(RUNS)
    names = (path.name for path in _entries(folder) if any((path / name).is_file() for name in files))
    return [word for name in names if (word := os.path.join(typed, name)).startswith(incomplete)]


def _run_files() -> tuple[str, ...]:
    from jaxprop.run.folder import RUN_FILES

    return RUN_FILES


def _yaml_files(incomplete: str) -> Iterator[str]:
    from jaxprop.config.locate import SUFFIXES

    typed, _ = os.path.split(incomplete)
    for path in _entries(Path(typed or ".").expanduser()):
        word = os.path.join(typed, path.name)
        if path.suffix in SUFFIXES and word.startswith(incomplete):
            yield word


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing of one that cannot be read, since a Tab must not print an error."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
