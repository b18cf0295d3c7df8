"""`jaxprop lr-find`: tries a range of learning rates and suggests one."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import CodeOption, ConfigArgument, JsonOption, OverridesArgument, home, split_config
from jaxprop.cli.output import print_result, say
from jaxprop.errors import EXIT_DONE

if TYPE_CHECKING:
    from jaxprop.tools.lr_find import Found

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 75  # columns of the curve


def lr_find(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", parser=home, help="folder for the curve; default: runs/NAME-lr-find"),
    ] = None,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Try a range of learning rates, draw the curve of the loss, and suggest a rate."""
    config, changes = split_config(config, overrides)
    from jaxprop.config.load import load

    loaded = load(config, changes, code or ())
    folder = run if run is not None else Path("runs") / f"{loaded.name}-lr-find"
    # Imported late, so that a mistake in the file is reported before jax has loaded.
    from jaxprop.tools.lr_find import check_folder, find_rate, write

    check_folder(folder)
    found = find_rate(loaded.config)
    write(found, loaded.config, folder)
    if json:
        print_result("lr-find", folder, found._asdict())
    else:
        _print(found, config, changes, folder)
    return EXIT_DONE


def _print(found: Found, config: str, overrides: Sequence[str], folder: Path) -> None:
    curve, mark = sparkline(found.smoothed, found.lr, found.suggested)
    print(curve)
    print(mark)
    ends = f"learning rate {found.lr[0]:.0e}", f"{found.lr[-1]:.1e}"
    say(f"{ends[0]}{ends[1]:>{max(len(curve) - len(ends[0]), len(ends[1]) + 1)}}")
    say(f"smoothed loss from {min(found.smoothed):.4g} to {max(found.smoothed):.4g}; the mark is the suggested rate")
    if found.suggested is None:
        say(f"no suggestion: {found.why}")
    else:
        say(f"suggested: {found.suggested:.2g}, because {found.why}")
        others = [word for word in overrides if not word.startswith("optimizer.lr=")]
        words = ["jaxprop", "train", config, *others, f"optimizer.lr={found.suggested:.2g}"]
        say(f"use it with: {shlex.join(words)}")
    say(f"curve: {folder / 'lr_find.json'}")


def sparkline(values: Sequence[float], rates: Sequence[float], marked: float | None) -> tuple[str, str]:
    """Returns a curve in one line of text, and a line with a mark under one of the rates.

    Args:
      values: one for each rate; they are averaged if there are more of them than columns.
      rates: increasing.
      marked: the rate to mark, or None.

    Example:
      >>> sparkline([1.0, 2.0, 3.0, 8.0], [0.1, 0.2, 0.4, 0.8], 0.4)
      ('▁▂▃█', '  ^')
    """
    count = min(WIDTH, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    curve = "".join(BARS[round((value - low) * scale)] for value in means)
    if marked is None:
        return curve, ""
    at = min(range(len(rates)), key=lambda i: abs(rates[i] - marked))
    return curve, " " * sum(edge <= at for edge in edges[1:]) + "^"
