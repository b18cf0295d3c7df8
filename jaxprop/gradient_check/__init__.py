"""Gradients checked: reverse mode against central differences and forward mode, and every rule of its own."""

from jaxprop.gradient_check.check import gradcheck
from jaxprop.gradient_check.report import Entry, Leaf, Report, Rule, Stop

__all__ = ["Entry", "Leaf", "Report", "Rule", "Stop", "gradcheck"]
