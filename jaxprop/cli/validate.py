"""`jaxprop validate`: check a config without importing jax."""

from __future__ import annotations

from collections.abc import Sequence

from jaxprop.config.load import load
from jaxprop.errors import EXIT_DONE


def validate(config: str, overrides: Sequence[str]) -> int:
    """Prints one line on a valid config; raises a `ConfigError` with all problems of any other."""
    loaded = load(config, overrides)
    found = loaded.config
    length = f"{found.run.epochs} epochs" if found.run.epochs else f"{found.run.steps} steps"
    what = f"{found.task.name} {found.data.name} with {found.model.name}, {found.optimizer.name}, {length}"
    print(f"OK {loaded.path}: {what}")
    return EXIT_DONE
