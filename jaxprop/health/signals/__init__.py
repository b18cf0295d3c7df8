"""What a step measures of itself, inside jit."""

from jaxprop.health.signals.settings import Signals

__all__ = ["Signals"]
