"""`jaxprop lesson`: runs the variants of a lesson with several seeds and compares them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import JsonOption, home
from jaxprop.cli.output import print_result, say
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME

if TYPE_CHECKING:
    from jaxprop.tools.lesson import Taught


def lesson(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="a lesson; without it, all are listed")] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", parser=home, help="folder of the runs; default: runs/lessons/NAME"),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="number of runs of each variant")] = 3,
    fresh: Annotated[bool, typer.Option("--fresh", help="also repeat completed runs")] = False,
    json: JsonOption = False,
) -> int:
    """Run the variants of a lesson with several seeds, and compare them."""
    from jaxprop.tools.lesson import LESSONS, teach

    if name is None:
        questions = [(name, lesson.question) for name, lesson in LESSONS.items()]
        if json:
            listed = [{"lesson": name, "question": question} for name, question in questions]
            print_result("lesson", None, {"lessons": listed})
        else:
            show(["lesson", "question"], questions)
        return EXIT_DONE
    folder = run if run is not None else Path("runs") / "lessons" / name
    taught = teach(name, folder, seeds=seeds, fresh=fresh)
    if json:
        print_result("lesson", folder, {"lesson": name, "figures": taught.measured, "holds": taught.held})
    else:
        _print(taught)
    return EXIT_DONE if all(taught.held) else EXIT_RUNTIME


def _print(taught: Taught) -> None:
    asked, count = taught.lesson, len(taught.held)
    shown = {label: [_span([run[f] for run in runs]) for f in asked.figures] for label, runs in taught.measured.items()}
    of = f"{count} seeds: median (range)" if count > 1 else "1 seed"
    print(asked.question)
    show([of, *asked.figures], [(label, *cells) for label, cells in shown.items()])
    say(f"{'Found' if all(taught.held) else 'Claimed'}: {asked.claim} ({sum(taught.held)} of {count} seeds).")
    say(f"Look at {asked.look}:")
    say(f"  jaxprop report {' '.join(shlex.quote(str(path)) for path in taught.folders[: len(taught.measured)])}")


def _span(values: list[float]) -> str:
    ordered = sorted(values)
    middle = ordered[(len(ordered) - 1) // 2]
    return f"{middle:.3g} ({ordered[0]:.3g} to {ordered[-1]:.3g})" if len(ordered) > 1 else f"{middle:.3g}"
