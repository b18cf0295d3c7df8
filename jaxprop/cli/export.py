"""`jaxprop export`: writes a run's model as files that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli.arguments import CodeOption, JsonOption, home
from jaxprop.cli.output import print_result, say
from jaxprop.cli.tables import size
from jaxprop.errors import EXIT_DONE


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", parser=home, help="a run: its folder, its name in runs/, or champion:NAME")
    ],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="safetensors: weights; stablehlo or onnx: predictions")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", parser=home, help="folder to write to; default: RUN/exports/FORMAT"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", min=1, help="examples the program takes; default: any number"),
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="export the newest checkpoint instead of the best")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="export the trained parameters instead of their moving average")
    ] = False,
    average: Annotated[
        str | None, typer.Option("--average", metavar="NAME", help="which of several averages; default: the best")
    ] = None,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="export the adapters of a run with lora alone, instead of their sum")
    ] = False,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Export a trained run for use without jaxprop, with a model card."""
    from jaxprop.run.loaded import load
    from jaxprop.tools.export import export_run

    loaded = load(run, which="newest" if newest else None, ema=not raw, code=code or (), average=average)
    made = export_run(loaded, format, out, batch_size=batch_size, adapters=adapters)
    if json:
        print_result("export", loaded.folder, made, indent=2)
    else:
        files = ", ".join(f"{name} ({size(count)})" for name, count in made["files"].items())
        say(f"the {made['checkpoint']} checkpoint, step {made['step']}: {files}")
        say(f"folder: {made['folder']}")
    return EXIT_DONE
