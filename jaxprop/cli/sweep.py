"""`jaxprop sweep`: trains a configuration with many values of some keys, and ranks them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxprop.cli.arguments import (
    CodeOption,
    ConfigArgument,
    JsonOption,
    OverridesArgument,
    QuietOption,
    home,
    split_config,
)
from jaxprop.cli.output import print_result, say
from jaxprop.cli.tables import show
from jaxprop.errors import UsageError, printable

if TYPE_CHECKING:
    from jaxprop.tools.sweep import Plan, Swept

SHOWN = 30  # settings in the table


def sweep(
    config: ConfigArgument,
    values: OverridesArgument = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="train each setting with N seeds; default: 1")
    ] = None,
    lanes: Annotated[
        str, typer.Option("--lanes", metavar="N", help="train N runs at a time; auto measures what is faster")
    ] = "auto",
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="rank by this metric; default: that of the task")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", parser=home, help="folder of the sweep; default: runs/NAME-sweep"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="train all runs from their start")] = False,
    quiet: QuietOption = False,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Train a config with many values of some keys, such as 'optimizer.lr=log(1e-4, 1e-1, 8)', and rank them."""
    config, words = split_config(config, values)
    from jaxprop.run.interrupt import leaving_at_once
    from jaxprop.tools.sweep.grid import axes_of
    from jaxprop.tools.sweep.plan import plan

    varied, at_a_time = axes_of(words), _lanes(lanes)
    made = plan(config, varied.axes, varied.fixed, seeds, code or ())
    folder = run if run is not None else Path("runs") / f"{made.name}-sweep"
    with leaving_at_once():
        # Imported late, so that a mistake in the command is reported before jax has loaded.
        from jaxprop.tools.sweep.sweep import sweep as swept

    told = _nothing if quiet else _tell
    found = swept(made, folder, metric=metric, fresh=fresh, lanes=at_a_time, tell=told)
    if json:
        print_result("sweep", folder, _values(found), indent=2)
    elif quiet:
        say(last_lines(found, made)[-1])
    else:
        _print(found, made, folder)
    return found.exit_code


def _lanes(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--lanes: expected auto or a number of runs, at least 1, got {text!r}")
    return int(text)


def _nothing(_line: str) -> None:
    pass


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _values(found: Swept) -> dict[str, Any]:
    return {
        "metric": found.metric,
        "better": found.better,
        "settings": [one._asdict() for one in found.ranked],
        "runs": [one._asdict() for one in found.ended],
        "left": found.left,
        "seconds": found.seconds,
    }


def _print(found: Swept, plan: Plan, folder: Path) -> None:
    keys = [axis.key for axis in plan.axes]
    rows = [
        [str(place), *(_value(one.setting, key) for key in keys), *_figures(one.mean, one.margin), str(len(one.values)),
         str(one.lost) if one.lost else ""]
        for place, one in enumerate(found.ranked[:SHOWN], 1)
    ]  # fmt: skip
    show(["", *keys, found.metric, "95 %", "seeds", "lost"], rows, right=[0, *range(len(keys) + 1, len(keys) + 5)])
    for line in last_lines(found, plan):
        say(line)
    say(f"folder: {folder}")


def _value(setting: Mapping[str, Any], key: str) -> str:
    from jaxprop.tools.sweep.grid import written

    return written(setting[key])


def _figures(mean: float, margin: float) -> tuple[str, str]:
    return "" if mean != mean else f"{mean:.4g}", "" if margin != margin else f"± {margin:.2g}"


def last_lines(found: Swept, plan: Plan) -> list[str]:
    """Returns what a person is told below the table: how sure the first place is, and how to use it.

    Args:
      found: the sweep.
      plan: its runs.
    """
    from jaxprop.tools.sweep.plan import label, overrides
    from jaxprop.tools.sweep.ranking import verdict

    good = [one for one in found.ranked if one.values]
    lines = []
    if len(found.ranked) > SHOWN:
        lines.append(f"and {len(found.ranked) - SHOWN} more settings; --json has all of them")
    if found.left:
        lines.append(f"{found.left} runs are left; the same command goes on with them")
    if not good:
        problem = next((one.problem for one in found.ended if one.problem), "no run has ended")
        return [*lines, f"no setting can be recommended: {problem}"]
    if len(good) > 1:
        said = verdict(good[0], good[1])
        if said.p == said.p:
            sure = "more than" if said.p < 0.05 else "no more than"
            lines.append(
                f"best against next ({label(good[1].setting)}): {said.difference:+.3g}, p = {said.p:.2g} over "
                f"{said.pairs} seeds, which is {sure} the spread of the seeds"
            )
        else:
            lines.append("with one seed nobody can tell the best from the next; --seeds 3 repeats each setting")
    if plan.axes:
        words = [*plan.fixed, *overrides(good[0].setting)]
        lines.append(" ".join(["use it with: jaxprop train", plan.config, *words]))
    return lines
