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
