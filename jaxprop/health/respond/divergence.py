"""When a run has diverged: steps in a row that were not finite. Pure."""

from __future__ import annotations

INTACT = "Such steps change nothing, so what was saved before them is intact"
NEARLY_ALL = 0.9  # share of a run's steps that have changed nothing, above which there is no trained model
AT_THE_END = 0.25  # share of a run's steps, all of the last ones, after which it has not recovered


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


def lost(skips: int, step: int, in_row: int = 0) -> str | None:
    """Says that nearly all steps of a run were not finite, or all at its end; None if they were not.

    Args:
      skips: how many were not.
      step: the last step.
      in_row: how many of the last were not, without one between them that was.

    Example:
      >>> lost(12, 12), lost(3, 12)
      ('loss or gradients were not finite in 12 of 12 steps. Such steps change nothing, so nothing was learned', None)
      >>> lost(5, 12, in_row=4).partition(".")[0], lost(5, 12, in_row=2)
      ('loss or gradients were not finite in the last 4 of 12 steps', None)
    """
    if in_row > 1 and AT_THE_END * step <= in_row < NEARLY_ALL * step:
        return f"loss or gradients were not finite in the last {in_row} of {step} steps. {INTACT}"
    if not skips or skips < NEARLY_ALL * step:
        return None
    how_many = f"loss or gradients were not finite in {skips} of {step} steps"
    return f"{how_many}. Such steps change nothing, so nothing was learned"
