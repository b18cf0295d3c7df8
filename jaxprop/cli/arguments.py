"""Arguments and options of several commands, and how a config is separated from its overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli import completion
from jaxprop.errors import UsageError
from jaxprop.parallel.launchers import LAUNCHERS
from jaxprop.run.folder import expanded, find_run
from jaxprop.run.served import PREFIX

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")

ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="a YAML file, the name of a packaged config, or a run", autocompletion=completion.configs
    ),
]
OptionalConfigArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CONFIG", help="a YAML file, the name of a packaged config, or a run", autocompletion=completion.configs
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="a run: its folder, its name in runs/, or champion:NAME",
        autocompletion=completion.runs,
    ),
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="override of a key, such as optimizer.lr=3e-4")
]


def home(text: str) -> Path:
    """Reads a path, with a leading `~` expanded, which no shell does in `--run=~/DIR`; a parser of typer's.

    Raises:
      BadParameter: the path is empty, as of a shell variable that is not set, or there is no such user.
    """
    if not text.strip():
        raise typer.BadParameter("the path is empty; give one, or leave the option out")
    try:
        return expanded(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        parser=home,
        help="folder of the run; default: runs/NAME",
        autocompletion=completion.runs,
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        parser=home,
        help="folder of champions; default: $JAXPROP_CHAMPIONS, otherwise runs/champions",
    ),
]
CodeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--code",
        metavar="FILE",
        help="permit code that a run names: a file, or a module; what a config of yours names needs no permission",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout, and nothing else")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="print only errors, warnings and one last line")]

DistOption = Annotated[
    str,
    typer.Option(
        "--dist",
        metavar="LAUNCHER",
        help="who has started the other processes: env, slurm, mpi, k8s, kubeflow, tpu, ray, skypilot or dstack; auto "
        "finds out, and none is one process",
        autocompletion=lambda: ["auto", "none", *LAUNCHERS],
    ),
]


def overrides_only(words: Sequence[str], instead: str) -> tuple[str, ...]:
    """Returns words that are overrides, all of them.

    Args:
      words: of the command line.
      instead: the option that stands in the place of a config.

    Raises:
      UsageError: one names a config.

    Example:
      >>> overrides_only(["run.seed=2"], "--from")
      ('run.seed=2',)
    """
    named = next((word for word in words if not OVERRIDE.match(word)), None)
    if named is not None:
        raise UsageError(f"{instead} takes its own config, and {named!r} names another; leave one of the two out")
    return tuple(words)


def split(config: str, overrides: list[str] | None) -> tuple[str, tuple[str, ...]]:
    """Separates the config from the overrides, which may stand before it.

    Args:
      config: the first word after the command, which may be the config or an override.
      overrides: the other words.

    Returns:
      The config, and the overrides in their order.

    Raises:
      UsageError: no config is named, or more than one.

    Example:
      >>> split("optimizer.lr=1", ["digits_mlp", "run.seed=2"])
      ('digits_mlp', ('optimizer.lr=1', 'run.seed=2'))
    """
    words = [config, *(overrides or [])]
    names = [word for word in words if not OVERRIDE.match(word)]
    if len(names) == 1:
        return names[0], tuple(word for word in words if OVERRIDE.match(word))
    if not names:
        raise UsageError(f"no config is named, only overrides; write it first: CONFIG {words[0]}")
    raise UsageError(f"expected key=value after the config {names[0]!r}, got {names[1]!r}")


def split_config(config: str, overrides: list[str] | None) -> tuple[str, tuple[str, ...]]:
    """Separates the config from the overrides, and finds the run that `champion:NAME` stands for.

    Args:
      config, overrides: as `split` takes them.

    Returns:
      The config, which is the run's folder where a champion is named, and the overrides in their order.

    Raises:
      UsageError: no config is named, or more than one; or there is no such champion.
      JaxpropError: the champion is damaged.
    """
    name, changes = split(config, overrides)
    return str(find_run(Path(name))) if name.startswith(PREFIX) else name, changes
