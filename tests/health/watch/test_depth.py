"""Gradients over depth and over time: what explodes, and what is only read by fewer examples."""

import numpy as np
import pytest

from jaxprop.health.watch.watch import Watch
from tests.health.records import FULL, alerts_of, healthy


@pytest.mark.parametrize(("factor", "kinds"), [(1, set()), (100, {"exploding"})])
def test_fewer_examples_at_late_times_are_no_explosion_through_time(factor, kinds):
    layers = ("embed", "decoder/input", "decoder/recurrent", "head")
    taps = (*((f"decoder[{i}]", "") for i in range(6)), ("head", "output"))
    full = FULL._replace(layers=layers, sizes=(4096,) * 4, taps=taps)

    def change(step, values):
        if step > 200:
            values["rows_grad_norm"] = values["rows_grad_norm"] * np.array([1, factor, factor, 1])
        if step > 200 and step % 10 == 0:
            values["tap_grad_rms"] = np.append(10.0 ** np.linspace(-4, -9, 6), 1e-4)

    found = alerts_of(Watch(layers), healthy(300, full=full), change)
    assert {alert.kind for alert in found if alert.kind in ("exploding", "vanishing", "depth_tilt")} == kinds
