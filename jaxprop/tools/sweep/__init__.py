"""Sweeps: many runs that differ in some keys, trained as lanes of shared programs, and ranked."""

from jaxprop.tools.sweep.grid import Axis, axes_of
from jaxprop.tools.sweep.plan import Plan, Trial, plan
from jaxprop.tools.sweep.ranking import Ranked, rank
from jaxprop.tools.sweep.sweep import Swept, sweep

__all__ = ["Axis", "Plan", "Ranked", "Swept", "Trial", "axes_of", "plan", "rank", "sweep"]
