"""The table of commands, and the application made from it.

A command is one function in a file of its own: its signature and docstring are the command's options and help, and it
returns the exit code. `--help` imports all of these files, so they import jax and other large packages only inside
their functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from jaxprop.cli.bench_check import bench_check
from jaxprop.cli.bench_compare import bench_compare
from jaxprop.cli.bench_device import bench_device
from jaxprop.cli.bench_history import bench_history
from jaxprop.cli.bench_train import bench_train
from jaxprop.cli.champions import champions
from jaxprop.cli.compare import compare
from jaxprop.cli.configs import configs
from jaxprop.cli.coord_check import coord_check
from jaxprop.cli.doctor import doctor
from jaxprop.cli.eval import evaluate
from jaxprop.cli.explain import explain
from jaxprop.cli.export import export
from jaxprop.cli.generate import generate
from jaxprop.cli.gradcheck import gradcheck
from jaxprop.cli.info import info
from jaxprop.cli.init import init
from jaxprop.cli.lesson import lesson
from jaxprop.cli.lr_find import lr_find
from jaxprop.cli.plan import plan
from jaxprop.cli.predict import predict
from jaxprop.cli.replay import replay
from jaxprop.cli.report import report
from jaxprop.cli.retrain import retrain
from jaxprop.cli.runs import runs
from jaxprop.cli.schema import schema
from jaxprop.cli.sweep import sweep
from jaxprop.cli.train import train
from jaxprop.cli.validate import validate
from jaxprop.version import __version__

COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "generate": generate,
    "export": export,
    "retrain": retrain,
    "sweep": sweep,
    "runs": runs,
    "compare": compare,
    "champions": champions,
    "report": report,
    "replay": replay,
    "lesson": lesson,
    "validate": validate,
    "schema": schema,
    "configs": configs,
    "init": init,
    "info": info,
    "plan": plan,
    "gradcheck": gradcheck,
    "explain": explain,
    "lr-find": lr_find,
    "coord-check": coord_check,
    "doctor": doctor,
}
# `jaxprop bench` is a group of commands.
BENCH: dict[str, Callable[..., int]] = {
    "device": bench_device,
    "train": bench_train,
    "compare": bench_compare,
    "history": bench_history,
    "check": bench_check,
}

app = typer.Typer(
    name="jaxprop",
    help="Train neural networks from one YAML file, and measure how gradients behave in every layer.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # importing rich would double the time of --help
    pretty_exceptions_enable=False,
)
for _name, _command in COMMANDS.items():
    # Given as the short help, the sentence is wrapped; otherwise typer cuts it.
    app.command(_name, short_help=(_command.__doc__ or "").partition("\n")[0])(_command)
_bench = typer.Typer(
    help="Measure what a device can do and what a train step gets out of it, and compare results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for _name, _command in BENCH.items():
    _bench.command(_name, short_help=(_command.__doc__ or "").partition("\n")[0])(_command)
app.add_typer(_bench, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jaxprop {__version__}")
        raise typer.Exit


def _leave(code: int, **_: Any) -> None:
    """Ends with the code that a command returns; typer by itself would always end with 0."""
    raise typer.Exit(code)


@app.callback(result_callback=_leave)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="show the traceback of an error; may stand anywhere on the line")
    ] = False,
) -> None:
    """Declares the options before a command; `main` has already handled --verbose."""
