"""Which steps a run may go back to. Pure."""

from __future__ import annotations

from collections.abc import Iterable

POINT_STEPS = 200  # steps between rollback points, where checkpoints are not saved more often anyway
LEVELS = (1, 2, 4, 8, 16)  # in units of that: the newest two points of each spacing are kept


def point_interval(every_steps: int | None, per_call: int) -> int:
    """Returns the steps between rollback points: whole calls, about 200 steps, or as often as checkpoints are saved.

    Example:
      >>> point_interval(None, 1), point_interval(None, 64), point_interval(50, 10), point_interval(1000, 1)
      (200, 192, 50, 200)
    """
    wanted = min(every_steps or POINT_STEPS, POINT_STEPS)
    return max(wanted // per_call, 1) * per_call


def kept_points(points: Iterable[int], every: int) -> list[int]:
    """Thins rollback points: the newest two of every spacing, so that their gaps grow with their age.

    Args:
      points: steps, ascending.
      every: the smallest spacing.

    Returns:
      The steps to keep; always the newest two.

    Example:
      >>> kept_points(range(0, 4001, 200), 200)
      [0, 1600, 3200, 3600, 3800, 4000]
    """
    points = list(points)
    units = [every * level for level in LEVELS]
    kept = {(points[-1] // unit - back) * unit for unit in units for back in (0, 1)}
    return [point for i, point in enumerate(points) if point in kept or i >= len(points) - 2]


class Points:
    """The steps with a checkpoint that a run may go back to.

    Args:
      every: steps between them.
      wanted: False: none are kept.

    Example:
      >>> points = Points(every=100, wanted=True)
      >>> sorted(points.saved(0, set()) | points.saved(100, set()) | points.saved(150, set())), points.before(100)
      ([0, 100], 0)
    """

    def __init__(self, every: int, wanted: bool):
        self._every, self._wanted = every, wanted
        self.steps: list[int] = []

    def is_point(self, step: int) -> bool:
        """Whether a step is one that the run may later go back to."""
        return self._wanted and step % self._every == 0

    def before(self, step: int) -> int | None:
        """The newest point before a step, or None."""
        return max((point for point in self.steps if point < step), default=None)

    def saved(self, step: int, targets: set[int]) -> frozenset[int]:
        """Takes note of a checkpoint and returns the steps whose checkpoints must not be removed yet.

        Args:
          step: of the checkpoint.
          targets: points that rollbacks are on their way to.
        """
        if not self._wanted:
            return frozenset()
        before = self.steps
        kept = before
        if self.is_point(step):
            kept = kept_points([*(point for point in before if point < step), step], self._every)
        self.steps = sorted({*kept, *targets})
        # The older ones too: the save that makes them unneeded may yet be cut short.
        return frozenset([*before, *self.steps])

    def resumed(self, step: int) -> frozenset[int]:
        """Takes note that the run goes on from a checkpoint; returns the steps whose checkpoints must not be removed.

        Where going back has only now been asked for, this is the first one to go back to.
        """
        if self._wanted and not self.steps:
            self.steps = [step]
        return frozenset(self.steps)

    def forget(self, after: int) -> None:
        """Drops the points after a step that the run is back at."""
        self.steps = [point for point in self.steps if point <= after]
