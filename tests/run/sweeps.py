"""Sweeps' folders made by hand."""

import json
from pathlib import Path

from jaxprop.run.swept import Ended, Results, write_results
from jaxprop.tools.sweep.ranking import rank, verdict


def make_sweep(folder, runs, *, metric="accuracy", better="max", left=0, keys=None, **about):
    """Writes `sweep.json` and `results.json` of runs, each a setting, a seed, and a value or how it was lost."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ended = []
    for setting, seed, value in runs:
        lost = isinstance(value, str)
        name = ",".join([*(f"{key.rpartition('.')[2]}={what}" for key, what in setting.items()), f"seed={seed}"])
        metrics, status = ({}, "diverged") if lost else ({metric: value}, "completed")
        ended.append(Ended(setting, seed, name, status, metrics, value if lost else "", 1.0))
    ranked = rank(ended, metric, better)
    good = [one for one in ranked if one.values]
    keys = tuple(dict.fromkeys(key for one in ended for key in one.setting)) if keys is None else keys
    said = verdict(good[0], good[1]) if len(good) > 1 else None
    write_results(folder, Results(metric, better, keys, ranked, ended, said, left, 1.0))
    listed = [{"folder": one.folder, "setting": one.setting, "seed": one.seed} for one in ended]
    own = {"run.seed": 0, "health.every": "auto", "health.rare_every": "auto"}
    told = {"config": "digits", "fixed": [], "keys": list(keys), "name": "digits", "own": own, "runs": listed}
    (folder / "sweep.json").write_text(json.dumps({**told, **about}))
    return folder
