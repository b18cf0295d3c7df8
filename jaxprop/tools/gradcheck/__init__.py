"""Gradients checked: reverse mode against central differences and forward mode, and every rule of its own."""

from jaxprop.tools.gradcheck.check import gradcheck
from jaxprop.tools.gradcheck.report import Entry, Leaf, Report, Rule, Stop

__all__ = ["Entry", "Leaf", "Report", "Rule", "Stop", "gradcheck"]
