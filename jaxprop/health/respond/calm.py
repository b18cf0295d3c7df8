"""When a rate that was cut is given back: once, after steps without a sign of the fault. Pure."""

from __future__ import annotations

from dataclasses import dataclass

CALM = 100  # steps without a sign after which a rate that was cut is given back, once


@dataclass
class Calm:
    """How long there has been no trouble.

    Args:
      trouble: the last step with a sign, while a cut is in force.
      cut_due: the step at which the last cut takes effect.
      gave_back: a rate has been given back.

    Example:
      >>> calm = Calm(cut_due=8)
      >>> calm.lasts(100, acted_at=-1), calm.lasts(108, acted_at=-1), calm.lasts(108, acted_at=50)
      (False, True, False)
    """

    trouble: int = 0
    cut_due: int = 0
    gave_back: bool = False

    def lasts(self, step: int, acted_at: int) -> bool:
        """Whether a step is far enough from the last sign, the last cut and the last action."""
        return step - max(self.trouble, acted_at, self.cut_due) >= CALM
