"""How the settings of a sweep rank, as a table and a few sentences: of `jaxprop sweep` and of `jaxprop report`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxprop.cli.tables import show
from jaxprop.sinks.streams import tell

if TYPE_CHECKING:
    from jaxprop.run.swept import Ranked, Results

SHOWN = 30  # settings in the table


def print_table(found: Results) -> None:
    """Prints the settings, the best first.

    Args:
      found: what has come of a sweep.
    """
    from jaxprop.run.swept import written

    keys = found.keys
    rows = [
        [str(place), *(written(one.setting[key]) if key in one.setting else "" for key in keys), *_figures(one),
         str(len(one.values)), str(one.lost) if one.lost else ""]
        for place, one in enumerate(found.settings[:SHOWN], 1)
    ]  # fmt: skip
    show(["", *keys, found.metric, "95 %", "seeds", "lost"], rows, right=[0, *range(len(keys) + 1, len(keys) + 5)])


def _figures(one: Ranked) -> tuple[str, str]:
    return "" if one.mean != one.mean else f"{one.mean:.4g}", "" if one.margin != one.margin else f"± {one.margin:.2g}"


def warn(found: Results) -> None:
    """Tells on standard error why the ranking may say nothing.

    Args:
      found: what has come of a sweep.
    """
    if found.warning is not None:
        tell(f"warning: {found.warning}")


def last_lines(found: Results, use: str) -> Iterator[str]:
    """Yields what a person is told below the table: how sure the first place is, and how to use it.

    Args:
      found: what has come of a sweep.
      use: the command that trains the best setting; empty where nothing is varied.
    """
    from jaxprop.run.swept import sure

    if len(found.settings) > SHOWN:
        yield f"and {len(found.settings) - SHOWN} more settings; --json has all of them"
    if found.left:
        runs = "1 run is" if found.left == 1 else f"{found.left} runs are"
        yield f"{runs} left; the same command goes on with {'it' if found.left == 1 else 'them'}"
    if not found.good:
        problem = next((one.problem for one in found.runs if one.problem), "no run has ended")
        yield f"no setting can be recommended: {problem}"
        return
    if (said := sure(found)) is not None:
        yield said
    if use:
        yield f"use it with: {use}"
