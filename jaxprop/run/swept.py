"""A sweep's folder, for all who read it: `sweep.json` says what its runs are, `results.json` how they rank.

Settings are lists of keys with values, and need not be a full grid. Loads no jax.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from jaxprop.config.locate import RUNS
from jaxprop.errors import RunFolderError, UsageError, did_you_mean
from jaxprop.run.folder import expanded, is_run, write_text
from jaxprop.sinks.jsonl import encode
from jaxprop.untrusted.files import read_json

FILE, RESULTS = "sweep.json", "results.json"
# What runs of a sweep have otherwise than their configuration: seeds, and in lanes steps that are measured by their
# number alone. `sweep.json` says what the configuration has.
OWN = ("run.seed", "health.every", "health.rare_every")
NAME = r"[\w.+=,@-]*[\w+=,@-][\w.+=,@-]*"  # no path, and not only dots
HALVED = "halved"  # the status of a run that was ended since others are better
LEVEL = 0.05  # of p, below which a difference is more than the spread of the seeds
AGAIN = "the same 'jaxprop sweep' command writes it anew"


class Ended(NamedTuple):
    """What has become of one run of a sweep.

    Args:
      setting: key -> value.
      seed: of the run.
      folder: its name.
      status: as in `summary.json`, or `failed`.
      metrics: of its best evaluation, which chooses its best checkpoint.
      problem: why it has no metrics, one sentence; empty for a run that has.
      seconds: that it took.
    """

    setting: Mapping[str, Any]
    seed: int
    folder: str
    status: str
    metrics: Mapping[str, float]
    problem: str
    seconds: float | None


class Ranked(NamedTuple):
    """A setting among the others.

    Args:
      setting: key -> value.
      values: of the metric, one for each seed that has ended well, in the order of the seeds.
      seeds: these.
      mean: of the values; NaN where none has ended well.
      spread: their standard deviation; NaN for fewer than two.
      margin: half the width of the interval of 95 % for the mean, by Student's t; NaN for fewer than two.
      lost: how many of its runs have diverged or failed.
    """

    setting: Mapping[str, Any]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    mean: float
    spread: float
    margin: float
    lost: int


class Verdict(NamedTuple):
    """How the best setting compares with the next.

    Args:
      difference: of the means, best less next.
      pairs: seeds that both have.
      p: of the paired t-test, two-sided; NaN for fewer than two pairs.
    """

    difference: float
    pairs: int
    p: float


class Results(NamedTuple):
    """What has come of a sweep, as `results.json` has it.

    Args:
      metric: by which settings are ranked.
      better: whether smaller or larger is better.
      keys: that are varied.
      settings: the best first.
      runs: in their order.
      verdict: the best setting against the next; None where fewer than two have a value.
      left: how many runs have not been begun or not been finished.
      seconds: that the last call of the command took.
      warning: why the figures do not tell which is best, one sentence; None where nothing is known against it.
    """

    metric: str
    better: Literal["min", "max"]
    keys: tuple[str, ...]
    settings: list[Ranked]
    runs: list[Ended]
    verdict: Verdict | None
    left: int
    seconds: float
    warning: str | None = None

    @property
    def good(self) -> list[Ranked]:
        """The settings that have a value, the best first."""
        return [one for one in self.settings if one.values]


def written(value: Any) -> str:
    """Returns a value as an override writes it.

    Example:
      >>> written(0.001), written([64, 64]), written(None), written("adam"), written(True)
      ('0.001', '[64, 64]', 'null', 'adam', 'true')
    """
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][\w/.-]*", value) else json.dumps(value)
    return json.dumps(value)


def label(setting: Mapping[str, Any], seed: int | None = None) -> str:
    """Returns a setting in few words: the last part of each key with its value.

    Example:
      >>> label({"optimizer.lr": 0.001, "model.dropout": 0.5}, 2)
      'lr=0.001, dropout=0.5, seed=2'
    """
    lasts = [key.rpartition(".")[2] for key in setting]
    names = [last if lasts.count(last) == 1 else key for last, key in zip(lasts, setting, strict=True)]
    words = [f"{name}={written(value)}" for name, value in zip(names, setting.values(), strict=True)]
    return ", ".join([*words, *([] if seed is None else [f"seed={seed}"])])


def sure(found: Results) -> str | None:
    """Returns how the best setting compares with the next, in words; None where there is no next.

    Args:
      found: what has come of a sweep.
    """
    said = found.verdict
    if said is None:
        return None
    if not math.isfinite(said.p):
        return "with one seed nobody can tell the best from the next; --seeds 3 repeats each setting"
    spread = "more than" if said.p < LEVEL else "no more than"
    return (
        f"best against next ({label(found.good[1].setting)}): {said.difference:+.3g}, p = {said.p:.2g} over "
        f"{said.pairs} seeds, which is {spread} the spread of the seeds"
    )


def on_other_data(runs: Sequence[Ended], root: Path = Path()) -> str | None:
    """Returns a sentence where runs were evaluated on different examples, so that their figures do not compare.

    Args:
      runs: those that are ranked, whose folders have `prepared.json`.
      root: in which the folders lie.
    """
    seen: dict[str, str] = {}
    for one in runs:
        if one.metrics and (split := _evaluated(root / one.folder)):
            seen.setdefault(split, one.folder)
    if len(seen) < 2:
        return None
    first, other, *_ = seen.values()
    return f"{first} and {other} were evaluated on different examples, so their figures do not tell which is better"


def _evaluated(folder: Path) -> str | None:
    """The fingerprint of the split that a run's evaluations have used; None where nobody has kept it."""
    try:
        splits = read_json(folder / "prepared.json")["splits"]
        return str(splits.get("validation") or splits.get("test") or "") or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


# -- the best setting ---------------------------------------------------------------------------------


class Best(NamedTuple):
    """The best setting of a sweep, to be trained or shown.

    Args:
      run: the folder of its run with the first seed that ended well.
      name: that its own run has: the one of the sweep's configuration.
      overrides: what the run's `config.yaml` has otherwise than the sweep's configuration, besides the setting.
    """

    run: Path
    name: str
    overrides: tuple[str, ...]


def best_of(folder: Path) -> Best:
    """Returns the best setting of a sweep.

    The run's own resolved configuration is what was ranked, also where the file that the sweep was made of has changed.

    Args:
      folder: of the sweep; anyone may have written what is in it, so that no override is taken from it but numbers.

    Raises:
      RunFolderError: no run has ended well, or a file is damaged.
    """
    found = read_results(folder)
    if not found.good:
        problem = next((one.problem for one in found.runs if one.problem), AGAIN)
        raise RunFolderError(f"{folder}: no run of the sweep has ended well: {problem}")
    setting, seed = found.good[0].setting, found.good[0].seeds[0]
    run = next((one for one in found.runs if one.setting == setting and one.seed == seed), None)
    about = read_sweep(folder) or {}
    name, own = about.get("name"), about.get("own")
    if run is None or not isinstance(name, str) or not re.fullmatch(NAME, name) or not isinstance(own, dict):
        raise RunFolderError(f"{folder} does not say what its best run is; {AGAIN}")
    values = {key: setting.get(key, own.get(key)) for key in OWN}
    return Best(folder / run.folder, name, tuple(f"{key}={value}" for key, value in values.items() if _is_plain(value)))


def _is_plain(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int) and not isinstance(value, bool))


# -- the files ----------------------------------------------------------------------------------------


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / FILE).is_file()


def sweep_named(folder: Path) -> Path | None:
    """Returns the sweep's folder that a path or a name in `runs/` means; None where it is none."""
    folder = expanded(folder)
    if is_sweep(folder):
        return folder
    return Path(RUNS) / folder if len(folder.parts) == 1 and is_sweep(Path(RUNS) / folder) else None


def find_sweep(folder: Path) -> Path:
    """Returns the sweep's folder that is meant: the path, or the sweep of that name in `runs/`.

    Args:
      folder: a path, or a name.

    Raises:
      UsageError: there is none; names those that are near.
    """
    found = sweep_named(folder)
    if found is not None:
        return found
    folder = expanded(folder)
    if not folder.is_dir():
        what = "is a file, not a sweep's folder" if folder.exists() else "there is no such folder of a sweep"
    else:
        what = "is a run, not a sweep" if is_run(folder) else f"is not a sweep's folder: it has no {FILE}"
    sweeps = sorted(path.parent.name for path in Path(RUNS).glob(f"*/{FILE}"))
    listed = f"{did_you_mean(folder.name, sweeps)} (sweeps in {RUNS}: {', '.join(sweeps[:20])})" if sweeps else ""
    raise UsageError(f"{folder}: {what}{listed or '; jaxprop sweep makes one'}")


def read_sweep(folder: Path) -> dict[str, Any] | None:
    """Returns what a sweep is, from its folder; None where there is none."""
    try:
        found = read_json(folder / FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise UsageError(f"{folder / FILE} is damaged; start over with --fresh") from None
    return found if isinstance(found, dict) else None


def as_json(results: Results) -> dict[str, Any]:
    """Returns what `results.json` and `--json` have of a sweep."""
    return {
        **results._asdict(),
        "keys": list(results.keys),
        "settings": [one._asdict() for one in results.settings],
        "runs": [one._asdict() for one in results.runs],
        "verdict": None if results.verdict is None else results.verdict._asdict(),
    }


def write_results(folder: Path, results: Results) -> None:
    """Writes `results.json`, whole or not at all; raises RunFolderError where that cannot be."""
    plain = json.loads(encode(as_json(results)))  # what is not finite is null
    write_text(folder / RESULTS, json.dumps(plain, indent=2) + "\n")


def read_results(folder: Path) -> Results:
    """Returns what has come of a sweep.

    Args:
      folder: of the sweep; anyone may have written what is in it.

    Raises:
      RunFolderError: no run of it has ended yet, or the file is damaged.
    """
    path = folder / RESULTS
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise RunFolderError(f"{folder} has no {RESULTS}: none of its runs has ended; {AGAIN}") from None
    except (OSError, ValueError):
        raise RunFolderError(f"{path} is damaged; {AGAIN}") from None
    try:
        verdict = found["verdict"]
        return Results(
            metric=_text(found["metric"]),
            better=cast('Literal["min", "max"]', {"min": "min", "max": "max"}[found["better"]]),
            keys=tuple(_text(key) for key in found["keys"]),
            settings=[_ranked(one) for one in found["settings"]],
            runs=[_ended(one) for one in found["runs"]],
            verdict=None
            if verdict is None
            else Verdict(_number(verdict["difference"]), _whole(verdict["pairs"]), _number(verdict["p"])),
            left=_whole(found["left"]),
            seconds=_number(found["seconds"]),
            warning=None if found.get("warning") is None else _text(found["warning"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise RunFolderError(f"{path} is damaged; {AGAIN}") from None


def _ranked(one: Mapping[str, Any]) -> Ranked:
    values, seeds = tuple(map(_number, one["values"])), tuple(map(_whole, one["seeds"]))
    if len(values) != len(seeds) or not all(map(math.isfinite, values)):
        raise ValueError
    mean, spread, margin = (_number(one[name]) for name in ("mean", "spread", "margin"))
    return Ranked(_setting(one["setting"]), values, seeds, mean, spread, margin, _whole(one["lost"]))


def _ended(one: Mapping[str, Any]) -> Ended:
    metrics = {name: _number(value) for name, value in one["metrics"].items() if value is not None}
    seconds = None if one["seconds"] is None else _number(one["seconds"])
    folder = _text(one["folder"])
    if Path(folder).name != folder or folder in ("", ".", ".."):  # of a run in this folder, and nowhere else
        raise ValueError
    return Ended(
        _setting(one["setting"]), _whole(one["seed"]), folder, _text(one["status"]), metrics, _text(one["problem"]),
        seconds,
    )  # fmt: skip


def _setting(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _number(value: Any) -> float:
    """A float; NaN for null."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise TypeError
    return math.nan if value is None else float(value)
