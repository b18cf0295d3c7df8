"""The signatures and help of all commands but `train`, on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli.app import ConfigArgument, JsonOption, OverridesArgument, RunOption, app, call, split

__all__ = ["app"]


@app.command("eval")
def evaluate(
    config: Annotated[str, typer.Argument(metavar="RUN|CONFIG", help="a run's folder, or a config")],
    overrides: OverridesArgument = None,
    run: RunOption = None,
    best: Annotated[bool, typer.Option("--best", help="the best checkpoint instead of the newest")] = False,
    json: JsonOption = False,
) -> None:
    """Evaluate a run's checkpoint on the test split."""
    config, changes = split(config, overrides)
    call("eval", run_or_config=config, overrides=changes, run=run, best=best, json=json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs' folders; several are overlaid")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="the page; default: report.html in the first RUN")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="serve the page to this machine, kept up to date")] = False,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="default: 8765 or the next free one")
    ] = None,
    no_html: Annotated[bool, typer.Option("--no-html", help="print the summary here, and write no page")] = False,
) -> None:
    """Draw runs as one page: verdict, curves, and every layer at every step."""
    call("report", runs=runs, out=out, serve=serve, port=port, html=not no_html)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder")],
    step: Annotated[int | None, typer.Option("--step", help="which failing step; default: the first")] = None,
    json: JsonOption = False,
) -> None:
    """Find the operation, layer, line and examples behind a run's NaN."""
    call("replay", run=run, step=step, json=json)


@app.command()
def lesson(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="a lesson; without one, they are listed")] = None,
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="default: runs/lessons/NAME")] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="runs of each variant")] = 3,
    fresh: Annotated[bool, typer.Option("--fresh", help="repeat runs that are complete, too")] = False,
    json: JsonOption = False,
) -> None:
    """Run a lesson's variants and print what they show."""
    call("lesson", name=name, run=run, seeds=seeds, fresh=fresh, json=json)


@app.command()
def validate(config: ConfigArgument, overrides: OverridesArgument = None) -> None:
    """Check a config and list everything that is wrong with it."""
    config, changes = split(config, overrides)
    call("validate", config=config, overrides=changes)


@app.command()
def schema() -> None:
    """Print the JSON Schema of configs, for editors."""
    call("schema")


@app.command()
def configs() -> None:
    """List the packaged configs."""
    call("configs")


@app.command()
def init(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="a packaged config")] = None,
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="the new file; default: NAME.yaml")] = None,
    task: Annotated[str | None, typer.Option("--task", help="take the first packaged config of this task")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite PATH")] = False,
) -> None:
    """Copy a commented config to start from."""
    call("init", name=name, path=path, task=task, force=force)


@app.command()
def info(config: ConfigArgument, overrides: OverridesArgument = None) -> None:
    """Show a model's layers, shapes, parameters, FLOPs and memory."""
    config, changes = split(config, overrides)
    call("info", config=config, overrides=changes)


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Show versions, devices, memory, and which extras are installed."""
    call("doctor", json=json)
