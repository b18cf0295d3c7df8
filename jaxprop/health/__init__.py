"""Gradient health: signals inside the step, early warning on the host, the response to it, and where a NaN began.

Names load on first use, so that `import jaxprop.health` costs nothing and `Watch` never loads jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprop.health.nonfinite.find import Finding, find_nonfinite
    from jaxprop.health.signals.settings import Signals
    from jaxprop.health.watch.watch import Alert, Watch, WatchConfig

__all__ = ["Alert", "Finding", "Signals", "Watch", "WatchConfig", "find_nonfinite"]


def __getattr__(name: str) -> Any:
    if name in ("Alert", "Watch", "WatchConfig"):
        from jaxprop.health.watch import watch

        return getattr(watch, name)
    if name in ("Finding", "find_nonfinite"):
        from jaxprop.health.nonfinite import find

        return getattr(find, name)
    if name == "Signals":
        from jaxprop.health.signals.settings import Signals

        return Signals
    raise AttributeError(f"module 'jaxprop.health' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
