"""`jaxprop coord-check`: compares how much layers change in a step at several widths of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import CodeOption, ConfigArgument, JsonOption, OverridesArgument, home, split_config
from jaxprop.cli.output import print_result, say
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from jaxprop.tools.coord_layers import Checked


def coord_check(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    widths: Annotated[
        str | None,
        typer.Option("--widths", metavar="N,N,...", help="widths to compare; default: 1, 2, 4 and 8 times base_width"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="steps that each model takes; default: 20")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="models of each width; default: 3")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", parser=home, help="folder for the picture; default: runs/NAME-coord-check"
        ),
    ] = None,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Check that a step changes every layer by as much at every width, so that learning rates transfer (muP)."""
    config, changes = split_config(config, overrides)
    from jaxprop.config.load import load

    chosen = None if widths is None else _widths(widths)
    loaded = load(config, changes, code or ())
    folder = run if run is not None else Path("runs") / f"{loaded.name}-coord-check"
    # Imported late, so that a mistake in the file is reported before jax has loaded.
    from jaxprop.tools import coord_check as tool
    from jaxprop.tools.coord_layers import as_json

    found = tool.coord_check(loaded.config, chosen, steps=steps or tool.STEPS, seeds=seeds or tool.SEEDS)
    tool.write(found, folder)
    if json:
        print_result("coord-check", folder, {"checks": [as_json(one) for one in found]})
        return EXIT_DONE
    for one in found:
        _print(one)
    say(f"picture: {folder / 'coord_check.svg'}")
    return EXIT_DONE


def _widths(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--widths: expected whole numbers with commas between them, such as 64,128,256; got {text!r}")
    return [int(part) for part in parts]


def _print(one: Checked) -> None:
    rows = [[layer.name, *(f"{change:.3g}" for change in layer.changes), f"{layer.power:.2f}"] for layer in one.layers]
    columns = ["change of", *(str(width) for width in one.widths), "power of the width"]
    show(columns, rows, right=range(1, len(columns)))
    say(one.verdict)
    say("")
