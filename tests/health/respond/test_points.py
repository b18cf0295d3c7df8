"""Rollback points: near enough to any step, and few."""

import pytest

from jaxprop.health.respond.points import Points, kept_points


@pytest.mark.parametrize("every", [1, 7, 200])
def test_there_is_a_point_before_any_step_not_too_far_back(every):
    points = []
    for n in range(0, 400):
        points = kept_points([*points, n * every], every)
        assert points[-1] == n * every
        assert len(points) <= 6
        for back in range(1, min(n, 15)):
            newest = max(p for p in points if p <= (n - back) * every)
            assert (n - newest // every) <= 4 * back + 16


def test_points_that_a_run_has_gone_back_behind_are_dropped():
    points = Points(every=10, wanted=True)
    for step in (0, 10, 20):
        points.saved(step, set())
    points.forget(after=10)
    assert (points.steps, points.before(10), points.before(0)) == ([0, 10], 0, None)
