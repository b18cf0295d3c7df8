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
def gradcheck(
    target: Annotated[str, typer.Argument(metavar="CONFIG|MODULE:FUNCTION", help="a config, or a loss of your own")],
    overrides: OverridesArgument = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="examples of a config's batch to check on")] = 4,
    entries: Annotated[int, typer.Option("--entries", min=1, help="entries to check of each parameter")] = 4,
    json: JsonOption = False,
) -> None:
    """Check gradients against differences and forward mode.

    In float64, entry by entry, and each custom_vjp and custom_jvp against its own function. FUNCTION takes nothing and
    returns (loss_fn, params, batch, key); or it is the loss_fn(params, batch, key) itself, and example() in the same
    module returns (params, batch, key). Exit code 1 if anything disagrees.
    """
    target, changes = split(target, overrides)
    call("gradcheck", target=target, overrides=changes, examples=examples, entries=entries, json=json)


@app.command()
def explain(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    layer_limit: Annotated[int, typer.Option("--layer-limit", min=1, help="rows a table shows at most")] = 30,
    json: JsonOption = False,
) -> None:
    """Show one training step, layer by layer: forward, loss, backward, update.

    The figures are checked against the step that trains. Exit code 1 if they disagree beyond rounding.
    """
    config, changes = split(config, overrides)
    call("explain", config=config, overrides=changes, layer_limit=layer_limit, json=json)


@app.command("lr-find")
def lr_find(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="where the curve goes; default: runs/NAME-lr-find")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find a learning rate: a sweep over rates, its curve, and a suggestion with its reason."""
    config, changes = split(config, overrides)
    call("lr-find", config=config, overrides=changes, run=run, json=json)


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Show versions, devices, memory, and which extras are installed."""
    call("doctor", json=json)
