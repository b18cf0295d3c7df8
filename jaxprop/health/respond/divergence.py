"""When a run has diverged: steps in a row that were not finite. Pure."""

from __future__ import annotations


class SkipLimit:
    """Counts non-finite steps in a row.

    Args:
      max_skips: as many are one too many.

    Example:
      >>> skips = SkipLimit(2)
      >>> [skips.reached_by(skipped) for skipped in (True, False, True, True)], skips.why(4)
      ([False, False, False, True], 'loss or gradients were not finite for 2 steps in a row, up to step 4')
    """

    def __init__(self, max_skips: int):
        self._max_skips = max_skips
        self.in_row = 0

    def reached_by(self, skipped: bool) -> bool:
        """Counts a step; returns whether there have been too many."""
        self.in_row = self.in_row + 1 if skipped else 0
        return self.in_row >= self._max_skips

    def why(self, step: int) -> str:
        """What has happened, for a person."""
        return f"loss or gradients were not finite for {self._max_skips} steps in a row, up to step {step}"

    def diagnosis(self, step: int) -> str:
        """What has happened, and what to do."""
        return (
            f"{self.why(step)}. Such steps change nothing, so what was saved before them is intact. If the learning "
            "rate is too high, set optimizer.lr to what 'jaxprop lr-find' suggests and start over with --fresh; "
            "otherwise 'jaxprop replay' names the operation to repair"
        )
