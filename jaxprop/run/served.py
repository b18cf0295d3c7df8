"""Which version of a champion serves, and whether it is whole. Reads only, takes no lock, and imports no jax.

A champion is a name under which the versions of one model are kept, of which exactly one serves:

    <root>/<NAME>/champion.json      the only thing that says which version serves, and how it came to that
    <root>/<NAME>/versions/0003/     the folder of a run, with `promotion.json`: why it was promoted or kept aside
    <root>/<NAME>/making/run/        the run of a challenger that is not settled yet, and is never served
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.errors import CheckpointError, JaxpropError, RunFolderError, UsageError, did_you_mean, printable
from jaxprop.untrusted.files import open_to_read, read_bytes, read_json

PREFIX = "champion:"
VARIABLE = "JAXPROP_CHAMPIONS"  # of the environment: the root, in the place of runs/champions
CHAMPION, PROMOTION, VERSIONS = "champion.json", "promotion.json", "versions"
ADOPTED, PROMOTED, KEPT_ASIDE = "adopted", "promoted", "kept aside"
NEEDED = (
    "config.yaml",
    "code.json",
    "prepared.json",
    "summary.json",
)  # besides the checkpoints, for a version to serve
_NO_STEP = re.compile(r"^(todelete|damaged|\.saving-.*)$|\.orbax-checkpoint-tmp")  # among the checkpoints
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBER = re.compile(r"[0-9]{4,9}")


class Version(NamedTuple):
    """One version of a champion.

    Args:
      name: of the champion.
      number: 1 for the run it began with.
      folder: of the version's run.
      record: its `promotion.json`: `decision`, `reason`, `parent`, `data`, `figures` and what else was written of it.
      serving: whether it is the one that `champion:NAME` means.
      problem: what is wrong with it, one sentence; empty for a version that is whole.
    """

    name: str
    number: int
    folder: Path
    record: Mapping[str, Any]
    serving: bool = False
    problem: str = ""

    @property
    def decision(self) -> str:
        """`adopted`, `promoted` or `kept aside`; empty where the record cannot be read."""
        return str(self.record.get("decision", ""))

    @property
    def has_served(self) -> bool:
        """Whether it serves, or has served before."""
        return self.decision in (ADOPTED, PROMOTED)


def default_root() -> Path:
    """Returns the folder of all champions: the environment's `JAXPROP_CHAMPIONS`, otherwise `runs/champions`."""
    return Path(os.environ.get(VARIABLE) or Path("runs") / "champions").expanduser()


def home_of(root: Path | None, name: str) -> Path:
    """Returns the folder of a champion, which need not exist.

    Args:
      root: of all champions; None for the default.
      name: of the champion.

    Raises:
      UsageError: this cannot be a name.

    Example:
      >>> home_of(Path("kept"), "digits").as_posix()
      'kept/digits'
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:100]!r} cannot be the name of a champion: expected letters, digits, '.', '_' and '-', such as "
            f"{re.sub('[^A-Za-z0-9._-]+', '-', name).strip('-._')[:100] or 'digits'!r}"
        )
    return (default_root() if root is None else root) / name


def names(root: Path | None = None) -> list[str]:
    """Returns the names of all champions below a root, in their order; none where the root does not exist."""
    place = default_root() if root is None else root
    try:
        found = sorted(path.name for path in place.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{place} cannot be read as a folder of champions ({error.strerror})") from None
    return [name for name in found if (place / name / CHAMPION).exists() or numbers(place / name)]


def numbers(home: Path) -> list[int]:
    """Returns the numbers of all versions of a champion, ascending, whatever is in them."""
    try:
        entries = list((home / VERSIONS).iterdir())
    except OSError:
        return []
    return sorted(int(path.name) for path in entries if _NUMBER.fullmatch(path.name))


def folder_of(home: Path, number: int) -> Path:
    """Returns the folder of a version."""
    return home / VERSIONS / f"{number:04d}"


# -- what serves ----------------------------------------------------------------------------------


def current(root: Path | None, name: str) -> Version:
    """Returns the version that serves, every file of which has been compared with its digest.

    Args:
      root: of all champions; None for the default.
      name: of the champion.

    Raises:
      UsageError: there is no champion of that name.
      RunFolderError: `champion.json` cannot be read, or names a version that is not there.
      CheckpointError: that version is damaged. Each message names a version that can serve instead.
    """
    home = home_of(root, name)
    number = serving_number(home)
    version = read_version(home, number, serving=True, deep=True)
    if version.problem:
        raise CheckpointError(f"{version.problem}; {way_out(home, number)}")
    return version


def serving_number(home: Path) -> int:
    """Returns the number of the version that serves, unless `champion.json` cannot be read or names none that is there.

    Args:
      home: folder of a champion.

    Raises:
      UsageError: there is no champion here.
      RunFolderError: see above.
    """
    stored = stored_champion(home)
    number = stored["version"]
    if not folder_of(home, number).is_dir():
        raise RunFolderError(f"{home / CHAMPION} names version {number}, which is not there; {way_out(home, number)}")
    return number


def stored_champion(home: Path) -> dict[str, Any]:
    """Returns what `champion.json` holds: the `version` that serves, the last one `settled` by then, and the `history`.

    Raises:
      UsageError: there is no champion here.
      RunFolderError: the file is missing although there are versions, or cannot be read.
    """
    path = home / CHAMPION
    try:
        stored = _read_json(path)
    except FileNotFoundError:
        if not numbers(home):
            raise _no_champion(home) from None
        raise RunFolderError(f"{path} is missing, so no version serves; {way_out(home)}") from None
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or "it is not JSON, or only a part of it"
        raise RunFolderError(f"{path} cannot be read ({why}), so no version serves; {way_out(home)}") from None
    if not _is_champion(stored):
        raise RunFolderError(f"{path} does not say which version serves; {way_out(home)}")
    return stored


def versions(root: Path | None, name: str) -> list[Version]:
    """Returns all versions, ascending, the damaged ones among them with their `problem`.

    The files of the one that serves are compared with their digests; of the others the sizes alone are.

    Args:
      root: of all champions; None for the default.
      name: of the champion.

    Raises:
      UsageError: there is no champion of that name.
    """
    home = home_of(root, name)
    found = numbers(home)
    if not found and not (home / CHAMPION).exists():
        raise _no_champion(home)
    try:
        serving = stored_champion(home)["version"]
    except RunFolderError:
        serving = 0
    return [read_version(home, number, serving=number == serving, deep=number == serving) for number in found]


def resolve(text: str, root: Path | None = None) -> Path:
    """Returns the folder of the run that `champion:NAME` or `champion:NAME@VERSION` means.

    Args:
      text: such as `champion:digits`, the version that serves, or `champion:digits@3`, one that need not.
      root: of all champions; None for the default.

    Raises:
      UsageError: there is no such champion or version.
      JaxpropError: it is damaged.

    Example:
      >>> resolve("champion:nobody", Path("nowhere"))
      Traceback (most recent call last):
      jaxprop.errors.UsageError: there is no champion 'nobody' in nowhere; ...
    """
    name, at, wanted = text.removeprefix(PREFIX).partition("@")
    if not at:
        return current(root, name).folder
    return find_version(home_of(root, name), wanted).folder


def find_version(home: Path, wanted: str | int) -> Version:
    """Returns one version of a champion, every file of which has been compared with its digest.

    Args:
      home: folder of the champion.
      wanted: its number.

    Raises:
      UsageError: there is no such version.
      CheckpointError: it is damaged.
    """
    found = numbers(home)
    if not found:
        stored_champion(home)  # raises an error: there is none, or it has lost its versions
    number = int(wanted) if re.fullmatch("[0-9]{1,9}", str(wanted)) else None
    if number not in found:
        known = ", ".join(map(str, found)) or "none"
        raise UsageError(f"the champion {home.name!r} has no version {str(wanted)[:20]!r}; versions: {known}")
    version = read_version(home, number, deep=True)
    if version.problem:
        raise CheckpointError(f"{version.problem}; {way_out(home, number)}")
    return version


def way_out(home: Path, number: int = 0) -> str:
    """Returns what a person can do about a damaged champion: the newest other version that has served and is whole."""
    restore = f"restore {folder_of(home, number)} from a copy" if number else f"restore {home / CHAMPION} from a copy"
    for other in reversed(numbers(home)):
        if other != number and (version := read_version(home, other, deep=True)).has_served and not version.problem:
            root = "" if home.parent == default_root() else f" --root {home.parent}"
            return f"'jaxprop champions {home.name}{root} --rollback {other}' lets version {other} serve, or {restore}"
    return f"no other version can serve; {restore}"


# -- one version ----------------------------------------------------------------------------------


def read_version(home: Path, number: int, *, serving: bool = False, deep: bool) -> Version:
    """Reads one version, and what is wrong with it.

    Args:
      home: folder of the champion.
      number: of the version.
      serving: to be noted.
      deep: whether to compare the contents of its files, or their sizes alone.
    """
    folder = folder_of(home, number)
    record: Mapping[str, Any] = {}
    try:
        record = _read_json(folder / PROMOTION)
        problem = _problem(folder, record, deep)
    except FileNotFoundError as error:
        problem = f"{error.filename} is missing"
    except (OSError, ValueError, RecursionError) as error:
        file = getattr(error, "filename", None) or folder / PROMOTION
        problem = f"{file} cannot be read ({getattr(error, 'strerror', None) or 'it is not JSON'})"
    said = printable(f"version {number} of the champion {home.name!r} is damaged ({problem})") if problem else ""
    return Version(home.name, number, folder, record if isinstance(record, dict) else {}, serving, said)


def digests(folder: Path, *, deep: bool = True) -> dict[str, str]:
    """Returns bytes and SHA-256 of every file of a run that an answer may depend on: config, summary and checkpoints.

    Args:
      folder: of the run.
      deep: whether to read the files; otherwise the digests are empty.

    Returns:
      `{"config.yaml": "23 8f9d6e7d...", ...}` by path in the folder.

    Raises:
      OSError: one cannot be read, or is a link.
    """
    found = {}
    for name in answering(folder):
        with open_to_read(folder / name) as file:
            size = os.fstat(file.fileno()).st_size
            found[name] = f"{size} {hashlib.file_digest(file, 'sha256').hexdigest() if deep else ''}"
    return found


def is_run_of(folder: Path, version: Version) -> bool:
    """Whether a folder still holds the run that a version is a copy of, by its small files: it may be trained anew.

    Args:
      folder: of the run.
      version: made of it.
    """
    files = version.record.get("files")
    kept = files if isinstance(files, dict) else {}
    for name in NEEDED:
        if name in kept and (folder / name).is_file():
            content = read_bytes(folder / name)
            if kept[name] != f"{len(content)} {hashlib.sha256(content).hexdigest()}":
                return False
    return True


def answering(folder: Path) -> Iterator[str]:
    """The files of a run that its answers may depend on, as paths in its folder; a link counts as a file."""
    yield from (name for name in NEEDED if os.path.lexists(folder / name))
    for place, folders, files in os.walk(folder / "checkpoints"):
        folders[:] = sorted(name for name in folders if not _NO_STEP.search(name))
        links = [name for name in folders if stat.S_ISLNK(os.lstat(os.path.join(place, name)).st_mode)]
        yield from (Path(place, name).relative_to(folder).as_posix() for name in sorted([*files, *links]))


def _problem(folder: Path, record: Any, deep: bool) -> str:
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict) or not all(isinstance(one, str) for one in files.values()):
        return f"{folder / PROMOTION} does not list its files"
    if record.get("decision") not in (ADOPTED, PROMOTED, KEPT_ASIDE):
        return f"{folder / PROMOTION} has no decision"
    there = digests(folder, deep=deep)
    for name in files:
        if name not in there:
            return f"{folder / name} is missing"
        # Without their digests, the sizes alone are compared.
        if not (files[name] == there[name] if deep else files[name].startswith(there[name])):
            return f"{folder / name} has changed since the version was made"
    added = [name for name in there if name not in files]
    return f"{folder / added[0]} was added after the version was made" if added else ""


def _is_champion(stored: Any) -> bool:
    return (
        isinstance(stored, dict)
        and all(type(stored.get(key)) is int and stored[key] > 0 for key in ("version", "settled"))
        and isinstance(stored.get("history"), list)
        and all(isinstance(act, dict) for act in stored["history"])
    )


def _read_json(path: Path) -> Any:
    return read_json(path)


def _no_champion(home: Path) -> JaxpropError:
    known = names(home.parent)
    listed = f" (champions: {', '.join(known[:20])})" if known else ""
    return UsageError(
        f"there is no champion {home.name!r} in {home.parent}{did_you_mean(home.name, known)}{listed}; "
        "'jaxprop retrain RUN --data NEW' makes one of a run"
    )
