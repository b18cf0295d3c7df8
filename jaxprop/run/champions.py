"""Changes which version of a champion serves, so that a kill at any moment leaves exactly one that is whole.

`champion.json` is replaced whole, after the version that it names is on the disk; `jaxprop.run.served` has the layout
and reads it. Every change is made under a lock of its name. What a killed process has left is finished or removed by
the next change, which says so. Imports no jax.

    with champions.begin(root, "digits", about={"data": fingerprint}) as making:
        train(config, making.folder)
        champions.settle(making, record={"reason": "better on the new data", ...}, promote=True)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.errors import JaxpropError, RunFolderError, UsageError
from jaxprop.run.folder import is_of_fit, read_summary
from jaxprop.run.lock import Words, hold
from jaxprop.run.served import (
    ADOPTED,
    CHAMPION,
    KEPT_ASIDE,
    PREFIX,
    PROMOTED,
    PROMOTION,
    VERSIONS,
    Version,
    answering,
    current,
    default_root,
    digests,
    find_version,
    folder_of,
    home_of,
    names,
    numbers,
    read_version,
    resolve,
    serving_number,
    stored_champion,
    versions,
)
from jaxprop.run.status import Status
from jaxprop.sinks.jsonl import encode
from jaxprop.untrusted.files import open_to_read, read_bytes, read_json
from jaxprop.untrusted.writes import make_folder, sync, write_whole
from jaxprop.version import __version__

__all__ = [
    "Making", "Version", "adopt", "begin", "current", "default_root", "names", "require_free", "resolve", "rollback",
    "settle", "versions",
]  # fmt: skip

MAKING, ABOUT, RUN = "making", "about.json", "run"
RECORDS = ("metrics.jsonl", "layers.jsonl", "alerts.jsonl", "panels.json")  # copied with what a run's answers need
WORDS = Words(
    "the champion in",
    "stop that process, which loses nothing that has been saved",
    "make that folder writable, or choose another with --root DIR",
)


class Making(NamedTuple):
    """A place for the run of a challenger, while the champion is held.

    Args:
      home: folder of the champion.
      number: that the challenger will have as a version.
      folder: for its run; it holds what a killed process has left of the same one, and otherwise does not exist.
      parent: the version that serves now, which has been found whole.
      resumed: whether something of the same challenger is there to go on with.
      notes: what to tell a person of what a killed process had left.
    """

    home: Path
    number: int
    folder: Path
    parent: Version
    resumed: bool
    notes: tuple[str, ...]


def adopt(root: Path | None, name: str, run: Path, record: Mapping[str, Any] | None = None) -> Version:
    """Makes a copy of a completed run the first version of a new champion, which serves from then on.

    Args:
      root: of all champions; None for the default.
      name: of the champion.
      run: folder of the run, which stays as it is.
      record: for `promotion.json`: `reason`, `data`, `figures`, and whatever else tells of it.

    Returns:
      The version.

    Raises:
      UsageError: there is a champion of that name, or the run has not been completed with a checkpoint, or is a
        version of a champion.
      RunFolderError: another process is changing this champion, or something cannot be read or written.
    """
    home = home_of(root, name)
    _check_run(run)
    if (run / PROMOTION).exists():
        raise UsageError(f"{run} is a version of a champion already; give {PREFIX}NAME, or the run that it was made of")
    with hold(home, WORDS):
        finished = bool(_recover(home))
        if numbers(home):
            # An adoption of this run that was killed just before its end is finished by now.
            if finished and read_version(home, 1, deep=False).record.get("from") == str(run.absolute()):
                return current(root, name)
            raise UsageError(
                f"there is a champion {name!r} in {home.parent} already; 'jaxprop retrain' challenges it with new data"
            )
        with _writing(home):
            given = {"reason": f"the first version: a copy of {run.absolute()}", "from": str(run.absolute())}
            made = {**given, **(record or {})}
            _write_record(home, 1, made, decision=ADOPTED, parent=None, files=_copy(run, home))
            _install(home, 1)
            _serve(home, 1, act=ADOPTED, reason=str(made["reason"]))
    return current(root, name)


def require_free(root: Path | None, name: str) -> None:
    """Refuses at once where another process holds a champion; `begin` is what keeps it from others.

    Args:
      root: of all champions; None for the default.
      name: of the champion, which need not exist.

    Raises:
      RunFolderError: another process holds it.
    """
    home = home_of(root, name)
    if home.is_dir():
        with hold(home, WORDS):
            pass


@contextlib.contextmanager
def begin(root: Path | None, name: str, about: Mapping[str, Any]) -> Iterator[Making]:
    """Holds a champion for the length of a `with` block, and gives a place for the run of a challenger.

    A block that ends without `settle`, or a killed process, leaves the run as it is, and the next one with the same
    `about` and the same champion goes on with it. One with another removes it, and says so in `notes`.

    Args:
      root: of all champions; None for the default.
      name: of the champion.
      about: what the challenger is, as JSON values: fingerprints of its data, its configuration.

    Raises:
      UsageError: there is no champion of that name.
      RunFolderError: another process holds it, or it cannot be read or written.
      CheckpointError: the version that serves is damaged.
    """
    home = home_of(root, name)
    if not home.is_dir():
        stored_champion(home)  # raises the error, before a folder is made for the lock
    with hold(home, WORDS):
        notes = _recover(home)
        parent = current(root, name)
        with _writing(home):
            wanted = _plain({"about": about, "parent": parent.number})
            place, number = home / MAKING, max(numbers(home)) + 1
            resumed = _read(place / ABOUT) == wanted and (place / RUN).is_dir()
            if resumed:
                # A record means that the process was killed while it settled, which is decided anew.
                (place / RUN / PROMOTION).unlink(missing_ok=True)
                notes.append(f"going on with the challenger that was left in {place / RUN}")
            else:
                if (place / RUN).exists():
                    notes.append(
                        f"removed {place}: a challenger of other data, another configuration or another champion"
                    )
                _clear(home)
                make_folder(place)
                write_whole(place / ABOUT, json.dumps(wanted), durable=True)
        yield Making(home, number, place / RUN, parent, resumed, tuple(notes))


def settle(making: Making, record: Mapping[str, Any], *, promote: bool) -> Version:
    """Makes the challenger's run a version: the one that serves, or one that is kept aside.

    Args:
      making: from `begin`, in its `with` block; nothing may write to its folder any more.
      record: for `promotion.json`, JSON values: `reason` (one sentence), `data` (fingerprints by name), `figures`
        (`{split: {"metric", "champion", "challenger", "difference", "interval": [low, high], "examples"}}`), `examples`
        that decided, `suspects` among the labels, and whatever else tells of it.
      promote: whether it serves from now on.

    Returns:
      The version.

    Raises:
      UsageError: it is to be promoted, and has not been completed with a checkpoint.
      RunFolderError: something cannot be written; the champion is the one it was.
    """
    home, number = making.home, making.number
    if promote or not (making.folder / "config.yaml").is_file():  # one that diverged can be kept aside all the same
        _check_run(making.folder)
    with _writing(home):
        decision = PROMOTED if promote else KEPT_ASIDE
        files = digests(making.folder)
        _write_record(home, number, record, decision=decision, parent=making.parent.number, files=files)
        _install(home, number)
        if promote:
            _serve(home, number, act=PROMOTED, reason=str(record.get("reason", "")))
    return read_version(home, number, serving=promote, deep=False)


def rollback(root: Path | None, name: str, version: int, reason: str = "") -> Version:
    """Lets a version serve that has served before.

    Args:
      root: of all champions; None for the default.
      name: of the champion; its `champion.json` may be damaged, and is then kept beside the new one.
      version: the number.
      reason: for the history.

    Returns:
      The version.

    Raises:
      UsageError: there is no such version, it serves already, or it never has.
      CheckpointError: it is damaged.
      RunFolderError: another process holds the champion, or it cannot be written.
    """
    home = home_of(root, name)
    find_version(home, version)  # before a folder is made for the lock
    with hold(home, WORDS):
        finished = bool(_recover(home))
        found = find_version(home, version)
        if not found.has_served:
            served = ", ".join(str(v.number) for v in versions(root, name) if v.has_served) or "none"
            raise UsageError(
                f"version {version} of the champion {name!r} was kept aside and has never served; versions that have: "
                f"{served}"
            )
        with contextlib.suppress(RunFolderError):
            if serving_number(home) == version and not finished:
                raise UsageError(f"version {version} of the champion {name!r} serves already")
        with _writing(home):
            _keep_damaged(home)
            _serve(home, version, act="rolled back", reason=reason)
    return found._replace(serving=True)


# -- steps, in the order in which they are taken --------------------------------------------------


def _check_run(run: Path) -> None:
    """Raises UsageError where a folder is not that of a completed run that answers can be had of."""
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run} is not the folder of a run: it has no config.yaml")
    if is_of_fit(run):
        raise UsageError(f"{run} is a run of jaxprop.fit, whose model is Python code; a champion needs a configuration")
    status = (read_summary(run) or {}).get("status")
    if status != Status.COMPLETED:
        raise UsageError(
            f"{run} is not a completed run ({status or 'it has no summary.json'}); "
            f"'jaxprop train {run}' goes on with it"
        )
    if not any(any((run / "checkpoints").glob(f"[0-9]*/{name}")) for name in ("manifest.json", "run/run.json")):
        raise UsageError(f"{run} has no checkpoint; train it with checkpoint.enabled: true")


def _copy(run: Path, home: Path) -> dict[str, str]:
    """Copies a run into the making, whole or not at all and through no link; returns the digests of the copy."""
    _clear(home)
    folder = home / MAKING / RUN
    try:
        for name in [*answering(run), *(name for name in RECORDS if (run / name).is_file())]:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_to_read(run / name) as read, open(target, "xb") as written:
                shutil.copyfileobj(read, written)
        copied = digests(folder)
        if copied != digests(run):
            raise RunFolderError(f"{run} has changed while it was copied; wait until nothing writes to it")
    except BaseException:
        shutil.rmtree(home / MAKING, ignore_errors=True)
        raise
    return copied


def _write_record(
    home: Path, number: int, record: Mapping[str, Any], *, decision: str, parent: int | None, files: Mapping[str, Any]
) -> None:
    folder = home / MAKING / RUN
    config = hashlib.sha256(read_bytes(folder / "config.yaml")).hexdigest()
    own = {"name": home.name, "version": number, "parent": parent, "decision": decision}
    about = {"time": _now(), "jaxprop": __version__, "config_sha256": config, "files": files}
    write_whole(folder / PROMOTION, json.dumps(_plain({**own, **record, **own, **about}), indent=2) + "\n")


def _install(home: Path, number: int) -> None:
    """Moves the run in the making among the versions, once all of it is on the disk."""
    run, target = home / MAKING / RUN, folder_of(home, number)
    _sync(run)
    make_folder(home / VERSIONS)
    os.rename(run, target)
    sync(home / VERSIONS)
    sync(home)
    shutil.rmtree(home / MAKING, ignore_errors=True)


def _serve(home: Path, number: int, *, act: str, reason: str) -> None:
    """Replaces `champion.json`: before it the old version serves, after it the new one."""
    try:
        stored = stored_champion(home)
    except JaxpropError:
        stored = {"version": None, "history": []}
    made = {"version": number, "act": act, "before": stored["version"], "reason": reason, "time": _now()}
    champion = {"version": number, "settled": max(numbers(home)), "history": [*stored["history"], made]}
    write_whole(home / CHAMPION, json.dumps(champion, indent=2) + "\n", durable=True)


def _recover(home: Path) -> list[str]:
    """Finishes what a killed process was about to do with a champion that this one holds; returns what to tell."""
    with _writing(home):
        for place in (home, home / MAKING):
            for partial in place.glob(".*.partial"):
                partial.unlink(missing_ok=True)
        if not (home / MAKING / RUN).exists():  # what was there is a version by now, or never began
            _clear(home)
        try:
            settled = stored_champion(home)["settled"]
        except JaxpropError:
            # Without the file, and with one version, an adoption was killed just before its end. Everything else is
            # damage, and a person's choice.
            if (home / CHAMPION).exists() or numbers(home) != [1]:
                return []
            settled = 0
        notes = []
        for number in numbers(home):
            if number <= settled:
                continue
            version = read_version(home, number, deep=False)
            if not version.has_served:  # it was kept aside
                continue
            version = read_version(home, number, deep=True)
            if version.problem:
                notes.append(f"{version.problem}, so it does not serve, although it was about to")
            else:
                _serve(home, number, act=version.decision, reason=str(version.record.get("reason", "")))
                notes.append(f"version {number} serves now: the process that had {version.decision} it was killed")
        return notes


def _clear(home: Path) -> None:
    """Removes what is in the making."""
    place = home / MAKING
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        (place / ABOUT).unlink(missing_ok=True)  # first: without it, what is left is not taken for a challenger
        shutil.rmtree(place)


def _keep_damaged(home: Path) -> None:
    """Keeps a `champion.json` that cannot be read beside the one that will replace it."""
    try:
        stored_champion(home)
    except RunFolderError:
        with contextlib.suppress(FileNotFoundError):
            with open_to_read(home / CHAMPION) as file:
                damaged = file.read()
            number = 1 + len(list(home.glob(f"{CHAMPION}.damaged-*")))
            write_whole(home / f"{CHAMPION}.damaged-{number}", damaged, durable=True)


def _sync(folder: Path) -> None:
    """Waits until all files of a folder are on the disk."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                with open(path, "rb+" if os.name == "nt" else "rb") as file:
                    os.fsync(file.fileno())
        sync(Path(place))


@contextlib.contextmanager
def _writing(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"the champion in {home} cannot be changed ({cause_of(error)}), and stays the one it was; free space, or "
            "make that folder writable"
        ) from error


def cause_of(error: OSError) -> str:
    """Returns what the operating system says, and of which file where it is known.

    Example:
      >>> cause_of(OSError(28, "No space left on device"))
      'No space left on device'
    """
    return ": ".join(str(one) for one in (error.strerror, error.filename) if one is not None)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _plain(value: Mapping[str, Any]) -> Any:
    """JSON values as they are read back; what is not finite is null."""
    return json.loads(encode(dict(value)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
