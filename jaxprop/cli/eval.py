"""`jaxprop eval`: evaluates a checkpoint of a run on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import (
    CodeOption,
    DistOption,
    JsonOption,
    OverridesArgument,
    QuietOption,
    RunOption,
    split_config,
)
from jaxprop.cli.output import own_stdout, print_result, say
from jaxprop.errors import EXIT_DONE, ConfigError, UsageError

CHOSEN_HERE = {
    "test": "the best checkpoint was chosen on this split, so its figures flatter; data.validation: 0.1 holds examples "
    "out for the choice, and --newest evaluates the newest",
    "validation": "the best checkpoint was chosen on this split, so its figures flatter; data.test names examples that "
    "no choice has seen, and --newest evaluates the newest",
}


def evaluate(
    config: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CONFIG",
            help="a run, by its folder, its name in runs/ or champion:NAME, or a config",
            autocompletion=completion.configs,
        ),
    ],
    overrides: OverridesArgument = None,
    run: RunOption = None,
    newest: Annotated[bool, typer.Option("--newest", help="evaluate the newest checkpoint")] = False,
    best: Annotated[bool, typer.Option("--best", help="evaluate the best checkpoint; the default")] = False,
    quiet: QuietOption = False,
    code: CodeOption = None,
    dist: DistOption = "auto",
    json: JsonOption = False,
) -> int:
    """Evaluate a checkpoint of a run on the test split."""
    if newest and best:
        raise UsageError("--newest and --best name two checkpoints; give one of them")
    run_or_config, changes = split_config(config, overrides)
    folder = run_folder(run_or_config, run)
    # Imported late, so that a misspelled name is reported before jax has loaded.
    from jaxprop.run.opened import Which
    from jaxprop.run.processes import start_processes
    from jaxprop.sinks import print_summary, summary_line
    from jaxprop.tools.eval import evaluate_run

    which: Which | None = "newest" if newest else "best" if best else None
    with start_processes(dist) as hosts, own_stdout(hosts):
        result = evaluate_run(folder, changes, which=which, code=code_named(run_or_config, code))
    if hosts.process_index:
        return EXIT_DONE  # process 0 prints
    if json:
        print_result("eval", folder, result)
    elif quiet:
        print(summary_line(result, folder))
    else:
        print_summary(result)
        if result.get("chosen_on") == result["split"]:
            print(CHOSEN_HERE[result["split"]])
        say(f"run folder: {folder}")
    return EXIT_DONE


def run_folder(run_or_config: str, run: Path | None) -> Path:
    """Returns the folder of the run that the arguments name.

    Args:
      run_or_config: folder of a run, the `config.yaml` in it, or a config whose run is in `runs/`.
      run: the folder given by `--run`; it takes precedence over the folder that belongs to a config.

    Raises:
      UsageError: two folders are given.
      ConfigError: there is no such config.
    """
    from jaxprop.config.load import load
    from jaxprop.config.locate import SUFFIXES, locate
    from jaxprop.run.folder import is_run

    path = Path(run_or_config).expanduser()
    if run is None and len(path.parts) == 1 and not is_run(path) and is_run(Path("runs") / path):
        return Path("runs") / path
    if path.is_dir():
        if run is not None:
            raise UsageError(f"{path} and --run {run} are two folders; give one of them")
        return path
    if run is not None:
        locate(run_or_config)
        return run
    if path.name == "config.yaml" and (path.parent / "checkpoints").is_dir():
        return path.parent
    if path.parent != Path() and not path.exists() and path.suffix not in SUFFIXES:
        return path  # taken as a folder, so that the error lists the existing runs
    return Path("runs") / load(run_or_config).name


def code_named(run_or_config: str, code: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the code of their own that the user names: with `--code`, and in a config on the command line.

    Args:
      run_or_config: as `run_folder` takes it; a run names nothing that may be run.
      code: given by `--code`.
    """
    from jaxprop.config.custom import custom_sections
    from jaxprop.config.load import load

    given, path = tuple(code or ()), Path(run_or_config).expanduser()
    if path.is_dir() or (path.parent == Path() and (Path("runs") / path / "config.yaml").is_file()):
        return given
    try:
        config = load(run_or_config).config
    except ConfigError:  # with --run, the config need not be valid
        return given
    named = [section.target.where for section in custom_sections(config).values() if section.permitted]
    return given + tuple(dict.fromkeys(named))
