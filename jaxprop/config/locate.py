"""Locates config files: packaged ones by name, others by path. Imports only the standard library."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

from jaxprop.errors import ConfigError

SUFFIXES = (".yaml", ".yml")
SCHEMA_NAME = "schema.json"
RUNS, RUN_CONFIG = "runs", "config.yaml"  # where runs are, and the file in a run's folder that holds its config
MAX_BYTES = 1_000_000


def packaged_folder() -> Path:
    """Returns the folder of the packaged configs, in the installed package or in the source checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "packaged_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def packaged() -> dict[str, Path]:
    """Returns the packaged configs, `name -> file`, sorted by name; one in a subfolder is named `folder/name`."""
    folder = packaged_folder()
    files = [*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]
    return dict(sorted((path.relative_to(folder).with_suffix("").as_posix(), path) for path in files))


def schema_comment(folder: Path | None = None) -> str:
    """Returns the comment that tells an editor's YAML language server where the JSON Schema is.

    Args:
      folder: the folder of the config. A `schema.json` in it or in its parent is given by a relative path, because a
        config that is committed must not contain the path of one machine.

    Returns:
      A comment without a newline.

    Example:
      >>> schema_comment(packaged_folder())
      '# yaml-language-server: $schema=schema.json'
    """
    near = [] if folder is None else [name for name in (SCHEMA_NAME, f"../{SCHEMA_NAME}") if (folder / name).is_file()]
    target = near[0] if near else (packaged_folder() / SCHEMA_NAME).as_posix()
    return f"# yaml-language-server: $schema={target}"


def locate(name: str | os.PathLike[str], beside: Path | None = None) -> Path:
    """Returns the file of a config that is given by name or path.

    Args:
      name: a path, the name of a packaged config without `.yaml`, or a run: its folder, or its name in `runs/`.
      beside: the folder that a relative path is relative to; by default the working directory.

    Returns:
      A path that exists and is not a directory.

    Raises:
      ConfigError: there is no such config; the message names the most similar one.
    """
    text = os.fspath(name)
    if not text.strip():
        raise ConfigError("the config's name is empty; give a YAML file or one of: " + ", ".join(packaged()))
    path = (beside or Path()) / Path(text).expanduser()
    if text in packaged() and (_is_bare(text) or not path.is_file()):
        return packaged()[text]
    try:
        folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise ConfigError(f"{text[:80]}: cannot be looked up: {error.strerror}") from None
    if beside is None and (folder or not exists) and (stored := config_of_run(text)) is not None:
        return stored
    if folder:
        raise ConfigError(f"{path}: is a directory{_inside(path)}")
    if not exists:
        raise ConfigError(f"{path}: no such config{_nearest(text, path)}")
    return path


def locate_base(name: str, folder: Path) -> Path:
    """Returns the file that a config in a folder inherits from.

    Args:
      name: a path relative to the folder, or the name of a packaged config.
      folder: of the config.

    Returns:
      A file in that folder, in the working directory or among the packaged configs.

    Raises:
      ConfigError: there is no such config, or it lies elsewhere: a config may be anyone's, and the file is the user's.
    """
    path = locate(name, folder)
    if not any(path.resolve().is_relative_to(place.resolve()) for place in (folder, Path(), packaged_folder())):
        raise ConfigError(
            f"{path} lies outside of the config's folder and of the working directory; copy it there, or run the "
            "command in a folder that holds both"
        )
    return path


def config_of_run(text: str) -> Path | None:
    """Returns the `config.yaml` of a run that is given by its folder or its name in `runs/`; None if there is none.

    Example:
      >>> config_of_run("nowhere") is None
      True
    """
    named = [Path(RUNS) / text] if _is_bare(text) else []
    found = (folder / RUN_CONFIG for folder in (Path(text).expanduser(), *named))
    # In a run's folder, which may be anyone's, a link leads to no configuration of that run.
    return next((path for path in found if path.is_file() and not path.is_symlink()), None)


def read(path: Path) -> str:
    """Returns the text of a config file.

    Raises:
      ConfigError: it cannot be read, is empty, is not UTF-8, or is too large to be a config.
    """
    try:
        with open(path, "rb", opener=None if _is_open(path) else _open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) and not _is_open(path):
                raise ConfigError(f"{path}: is no regular file; expected a YAML config")
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1000} kB; expected a YAML config")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; 'jaxprop init' writes a commented one to start from")
    return text


def _is_open(path: Path) -> bool:
    """Whether a path names what this process has open, as `/dev/stdin` and a shell's `<(command)` do."""
    return path.parent in map(Path, ("/dev", "/dev/fd", "/proc/self/fd"))


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, and a pipe without waiting for who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _is_bare(text: str) -> bool:
    return "/" not in text and os.sep not in text and not text.endswith(SUFFIXES)


def _inside(folder: Path) -> str:
    files = _yaml_files(folder)
    preferred = [file for file in files if file.name == RUN_CONFIG] or files
    return f"; did you mean '{preferred[0]}'?" if preferred else "; give a YAML file"


def _nearest(text: str, path: Path) -> str:
    """Compares names instead of paths, because all paths in one folder are similar."""
    if not _is_bare(text) and path.stem in packaged():
        return f"; did you mean the packaged config {path.stem!r}?"
    near = {file.stem: str(file) for file in _yaml_files(path.parent)}
    if _is_bare(text):
        near |= {name: name for name in packaged()}
    for name in difflib.get_close_matches(path.stem, list(near), n=1):
        return f"; did you mean {near[name]!r}?"
    return f" (packaged: {', '.join(packaged())})" if packaged() else ""


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    except OSError:
        return []
