"""What looks like a fault to a detector and is none."""

import numpy as np
import pytest

from jaxprop.health import Watch
from tests.health.records import FULL, LAYERS, ROWS, record


def noisy(steps, change):
    """Kinds of the alerts of a run with a constant loss and gradient, and some noise in both."""
    rng = np.random.default_rng(0)
    watch, found = Watch(LAYERS), []
    for step in range(1, steps + 1):
        values = {"loss": 1 + 0.02 * rng.standard_normal(), "grad_norm": np.exp(0.2 * rng.standard_normal())}
        layout = FULL if step % 10 == 0 else ROWS
        values["output_max"], values["output_logsumexp"] = (10.0, 9.0) if layout is FULL else (np.nan, np.nan)
        change(step, values)
        kept = {name: value for name, value in values.items() if layout is FULL or not name.startswith("output")}
        found += [(alert.step, alert.kind, alert.severity) for alert in watch.update(step, record(layout, **kept))]
    return found


def spikes(norm, steps, loss=None):
    """Sets the gradient norm, and perhaps the loss, of some steps."""

    def change(step, values):
        if step in steps:
            values.update({"grad_norm": norm} | ({} if loss is None else {"loss": loss}))

    return change


def test_a_gradient_that_stands_out_alone_has_to_be_larger():
    assert noisy(320, spikes(2.8, [300])) == []  # 5.1 standard deviations
    assert noisy(320, spikes(5.5, [300]))[0] == (300, "gradient_spike", "advice")
    assert noisy(320, spikes(2.8, [300, 301]))[0] == (301, "gradient_spike", "advice")  # not alone
    with_loss = noisy(320, spikes(2.8, [300], loss=2.0))
    assert "gradient_spike" in {kind for _, kind, _ in with_loss}


def test_a_loss_near_zero_that_is_multiplied_makes_no_spike_severe():
    def change(rise):
        def of(step, values):
            values["loss"] = 2.0 * 0.5 ** (step / 20) + 1e-4 * (1 + 0.1 * np.sin(step)) if step != 400 else rise
            values["grad_norm"] *= 5.5 if step == 400 else 1.0

        return of

    small, large = noisy(420, change(0.01)), noisy(420, change(2.0))
    assert {severity for _, kind, severity in small if kind == "gradient_spike"} == {"advice"}
    assert "act" in {severity for _, _, severity in large}


def growing(loss, scale=1.0):
    """A gradient that starts at 1, is at `scale` for 300 steps, and then grows by 1 % a step."""

    def change(step, values):
        level = 1.0 if step <= 100 else scale * 1.01 ** max(step - 400, 0)
        values.update(loss=loss(step) * values["loss"], grad_norm=level * values["grad_norm"] ** 0.25)

    return change


@pytest.mark.parametrize(
    ("loss", "scale", "told"),
    [
        (lambda step: 1.0, 1.0, True),
        (lambda step: 1.0, 1e-3, False),  # next to nothing is left of the gradient
        (lambda step: 1.0 if step < 400 else 0.995 ** (step - 400), 1.0, False),  # a plateau ends
    ],
    ids=["flat", "converged", "falling"],
)
def test_a_trend_of_the_gradient(loss, scale, told):
    found = noisy(560, growing(loss, scale))
    assert ("gradient_trend" in {kind for _, kind, _ in found}) == told


@pytest.mark.parametrize(("loss", "told"), [(lambda _: 1.0, True), (lambda step: 0.9**step, False)])
def test_outputs_that_grow_while_the_loss_falls_to_nothing_are_no_drift(loss, told):
    def change(step, values):
        values["loss"] *= loss(step)
        values["output_logsumexp"] = (3.0 + 0.06 * step) ** 2

    found = noisy(250, change)
    assert ("output_drift" in {kind for _, kind, _ in found}) == told
