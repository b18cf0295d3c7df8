"""Tells of champions: which version serves, why each was promoted or kept aside, and on what. Imports no jax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.config.diff import differences
from jaxprop.config.locate import read
from jaxprop.config.yaml_loader import parse
from jaxprop.errors import JaxpropError, UsageError
from jaxprop.run.served import Version, current, default_root, folder_of, home_of, names, stored_champion, versions
from jaxprop.untrusted.files import read_json

_SHORT = 12  # characters of a fingerprint that a person is shown
_SET = ("data.", "run.init_from")  # begin the keys that a retraining sets
_MOST_CHANGES = 12
_WIDEST = 110  # characters of a change


class Line(NamedTuple):
    """A champion in a list.

    Args:
      name: of the champion.
      serving: number of the version that serves; None where none can.
      promoted: how many versions have served, this one included.
      kept_aside: how many have not.
      since: when the version that serves began to.
      act: how it came to serve: `adopted`, `promoted` or `rolled back`.
      reason: why.
      problem: what is wrong, with the way out; empty for a champion that is whole.
    """

    name: str
    serving: int | None
    promoted: int
    kept_aside: int
    since: str
    act: str
    reason: str
    problem: str


class Told(NamedTuple):
    """One version, as it is told.

    Args:
      version: its number.
      serving: whether it is the one that `champion:NAME` means.
      decision: `adopted`, `promoted` or `kept aside`.
      reason: for that.
      time: of the decision.
      parent: number of the version that it challenged.
      folder: of its run.
      data: fingerprints by name.
      config: what differs from the parent's configuration, one `key: old -> new` each.
      figures: of champion and challenger by split, as `promotion.json` has them.
      suspects: labels among the new ones that may be wrong, `count` of `examples`; empty where none were looked for.
      new_data: path of the data that it was retrained on; empty for one that no retraining has made.
      replay: share of old examples among those that it was trained on; None where it is not known.
      problem: what is wrong with it; empty for one that is whole.
    """

    version: int
    serving: bool
    decision: str
    reason: str
    time: str
    parent: int | None
    folder: Path
    data: dict[str, Any]
    config: list[str]
    figures: dict[str, Any]
    suspects: dict[str, Any]
    new_data: str
    replay: float | None
    problem: str


def list_champions(root: Path | None = None) -> list[Line]:
    """Lists all champions below a root, the damaged ones among them with their `problem`.

    Args:
      root: of all champions; None for the default, which need not exist.

    Raises:
      UsageError: the root that is given does not exist, or is no folder.
    """
    if root is not None and not root.is_dir():
        raise UsageError(f"{root}: there is no such folder of champions; the default is {default_root()}")
    return [_line(root, name) for name in names(root)]


def tell(root: Path | None, name: str) -> tuple[list[Told], list[dict[str, Any]], str]:
    """Returns what is known of a champion.

    Args:
      root: of all champions; None for the default.
      name: of the champion.

    Returns:
      Its versions, ascending; the history of what has served; and what is wrong, with the way out, if anything is.

    Raises:
      UsageError: there is no champion of that name.
    """
    found = versions(root, name)
    try:
        current(root, name)
        problem = ""
    except JaxpropError as error:
        problem = str(error)
    return [_told(version) for version in found], _history(root, name), problem


def text_of(name: str, told: list[Told], history: list[dict[str, Any]]) -> str:
    """Returns what a person is shown of a champion: a paragraph for each version, then the history.

    Args:
      name: of the champion.
      told: its versions.
      history: as `tell` returns it.
    """
    serving = next((one for one in told if one.serving), None)
    head = f"champion {name}: " + (f"version {serving.version} serves" if serving else "no version serves")
    blocks = ["\n".join(_paragraph(one)) for one in told]
    acts = [f"  {_when(act.get('time'))}  {_act(act)}" for act in history]
    return "\n\n".join([head, *blocks, "\n".join(["history", *acts]) if acts else "no history can be read"])


def compared(figure: Any) -> str:
    """Returns the figures of champion and challenger on one split as a person reads them.

    Args:
      figure: `metric`, `champion` and `challenger`; `difference`, positive where the challenger is better, its
        `interval` with a `level`, and `examples`, where they are known. Or figures by name, or one.

    Example:
      >>> figure = {"metric": "wer", "champion": 0.5, "challenger": 0.25, "difference": 0.25, "examples": 90}
      >>> compared({**figure, "interval": [0.2, 0.3], "level": 0.95})
      'wer 0.5 -> 0.25, gain +0.25 (95% interval +0.2 to +0.3), 90 examples'
      >>> compared({"accuracy": 0.5, "loss": 1.25})
      'accuracy 0.5, loss 1.25'
    """
    if not isinstance(figure, Mapping):
        return _number(figure)
    if "challenger" not in figure:
        return ", ".join(f"{name} {_number(value)}" for name, value in figure.items() if not isinstance(value, Mapping))
    parts = [f"{figure.get('metric', '')} {_number(figure.get('champion'))} -> {_number(figure['challenger'])}".strip()]
    if (difference := figure.get("difference")) is not None:
        parts.append(f"gain {_number(difference, '+.4g')}{_interval(figure)}")
    if (examples := figure.get("examples")) is not None:
        parts.append(f"{_number(examples, ',')} examples")
    return ", ".join(parts)


# -- parts ----------------------------------------------------------------------------------------


def _line(root: Path | None, name: str) -> Line:
    found = versions(root, name)
    served = sum(version.has_served for version in found)
    try:
        number, problem = current(root, name).number, ""
    except JaxpropError as error:
        number, problem = None, str(error)
    last: dict[str, Any] = next(reversed(_history(root, name)), {})
    since, act, reason = (str(last.get(key, "")) for key in ("time", "act", "reason"))
    return Line(name, number, served, len(found) - served, since, act, reason, problem)


def _history(root: Path | None, name: str) -> list[dict[str, Any]]:
    """The history; empty where it cannot be read, which is told elsewhere."""
    try:
        return stored_champion(home_of(root, name))["history"]
    except JaxpropError:
        return []


def _told(version: Version) -> Told:
    record, parent = version.record, version.record.get("parent")
    before = folder_of(version.folder.parent.parent, parent) if type(parent) is int else None
    return Told(
        version=version.number,
        serving=version.serving,
        decision=version.decision,
        reason=str(record.get("reason", "")),
        time=str(record.get("time", "")),
        parent=parent if type(parent) is int else None,
        folder=version.folder,
        data=_mapping(record.get("data")) or _data_of(version.folder),
        config=[] if before is None else _changes(before, version.folder),
        figures=_mapping(record.get("figures")),
        suspects=_mapping(record.get("suspects")),
        new_data=str(record.get("new_data") or ""),
        replay=replay if isinstance(replay := record.get("replay"), int | float) else None,
        problem=version.problem,
    )


def _changes(before: Path, folder: Path) -> list[str]:
    """What differs between the configurations of two runs; that one cannot be read is said in the place of it."""
    trees = []
    for path in (before / "config.yaml", folder / "config.yaml"):
        try:
            trees.append(parse(read(path), str(path)).value)
        except JaxpropError:
            return [f"cannot be read: {path}"]
    return [str(change) for change in differences(*trees)]


def _data_of(folder: Path) -> dict[str, Any]:
    """The fingerprint of its training data that a run has kept, where the record of a version has none."""
    try:
        kept = read_json(folder / "prepared.json")
    except (OSError, ValueError):
        return {}
    fingerprint = kept.get("fingerprint") if isinstance(kept, dict) else None
    return {"train": fingerprint} if isinstance(fingerprint, str) else {}


def _paragraph(one: Told) -> Iterator[str]:
    mark = "*" if one.serving else " "
    challenged = "" if one.parent is None else f", against version {one.parent}"
    yield f"{mark} version {one.version}: {one.decision or 'no decision can be read'} {_when(one.time)}{challenged}"
    if one.problem:
        yield f"    problem  {one.problem}"
    if one.reason:
        yield f"    why      {one.reason}"
    for split, figure in one.figures.items():
        yield f"    figures  {split}: {compared(figure)}"
    if (count := one.suspects.get("count")) is not None:
        of = _number(one.suspects.get("examples"), ",")
        yield f"    labels   {_number(count, ',')} of {of} new ones may be wrong"
    if one.data:
        yield "    data     " + ", ".join(f"{key} {_short(value)}" for key, value in one.data.items())
    if one.new_data:
        old = "" if one.replay is None else f", with {one.replay:.3g} of old examples"
        yield f"    trained  {one.new_data}{old}"
    # What every retraining sets says nothing that the lines above do not.
    changes = [change for change in one.config if not (one.new_data and change.startswith(_SET))]
    for change in changes[:_MOST_CHANGES]:
        yield f"    config   {change if len(change) <= _WIDEST else change[:_WIDEST] + '...'}"
    if len(changes) > _MOST_CHANGES:
        yield f"    config   and {len(changes) - _MOST_CHANGES} more keys"
    yield f"    run      {one.folder}"


def _interval(figure: Mapping[str, Any]) -> str:
    interval, level = figure.get("interval"), figure.get("level")
    if not isinstance(interval, list) or len(interval) != 2:
        return ""
    share = f"{_number(level, '.0%')} " if level is not None else ""
    return f" ({share}interval {_number(interval[0], '+.4g')} to {_number(interval[1], '+.4g')})"


def _act(act: Mapping[str, Any]) -> str:
    before, reason = act.get("before"), act.get("reason")
    instead = "" if before is None else f", in the place of version {before}"
    return f"version {act.get('version')} {act.get('act')}{instead}" + (f": {reason}" if reason else "")


def _when(time: Any) -> str:
    return str(time or "")[:16].replace("T", " ")


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(_short, value))
    return value[:_SHORT] if isinstance(value, str) else str(value)


def _number(value: Any, form: str = ".4g") -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "unknown" if value is None else str(value)
    return format(value, form)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
