"""`jaxprop eval`: a run's checkpoint on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxprop.config.load import load
from jaxprop.config.locate import SUFFIXES, locate
from jaxprop.errors import EXIT_DONE, UsageError


def evaluate(run_or_config: str, overrides: Sequence[str], run: Path | None, best: bool, json: bool) -> int:
    """Evaluates a checkpoint and prints its metrics; returns the exit code."""
    folder = run_folder(run_or_config, run)
    # Only now, so that a name written wrong is told before jax has loaded.
    from jaxprop.sinks import print_summary
    from jaxprop.sinks.jsonl import encode
    from jaxprop.tools.eval import evaluate_run

    result = evaluate_run(folder, overrides, best=best)
    if json:
        print(encode(result))
    else:
        print_summary(result)
        print(f"run folder: {folder}")
    return EXIT_DONE


def run_folder(run_or_config: str, run: Path | None) -> Path:
    """Returns the run's folder that a folder, a config, and `--run` stand for.

    Args:
      run_or_config: a run's folder, the `config.yaml` in it, or a config whose run is in `runs/`.
      run: what `--run` names; it goes before a config's own folder.

    Raises:
      UsageError: two folders are given.
      ConfigError: there is no such config.
    """
    path = Path(run_or_config).expanduser()
    if path.is_dir():
        if run is not None:
            raise UsageError(f"{path} is a folder and --run {run} another; give one of them")
        return path
    if run is not None:
        locate(run_or_config)
        return run
    if path.name == "config.yaml" and (path.parent / "checkpoints").is_dir():
        return path.parent
    if path.parent != Path() and not path.exists() and path.suffix not in SUFFIXES:
        return path  # meant as a folder: the error is to tell which runs there are
    return Path("runs") / load(run_or_config).name
