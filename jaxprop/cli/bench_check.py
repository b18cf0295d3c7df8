"""`jaxprop bench check`: whether documents can be published in docs/results/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli.arguments import JsonOption, home
from jaxprop.cli.output import print_result
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME, printable


def bench_check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", parser=home, help="files that `jaxprop bench` has written")
    ],
    json: JsonOption = False,
) -> int:
    """Check documents before they are published: complete, possible, and without names of people or computers."""
    from jaxprop.bench.submitted import check

    found = {str(path): check(path) for path in files}
    if json:
        print_result("bench check", None, {"files": found}, indent=2)
    else:
        for path, problems in found.items():
            print(f"OK {printable(path)}" if not problems else f"{printable(path)}: not ready")
            for problem in problems:
                print(f"  {printable(problem)}")
    return EXIT_RUNTIME if any(found.values()) else EXIT_DONE
