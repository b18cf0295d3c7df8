"""A full record of step 1, as the command line makes it: what can be known then is told then."""

import numpy as np

from jaxprop.health import Watch
from tests.health.records import FULL, healthy, record

FANS = FULL._replace(fans=((64, 64),) * 6)


def run(change, full=FANS, steps=40, opening=True, **kinds):
    watch, found = Watch(full.layers), []
    for step, values, layout in healthy(steps, full=full, warmup=0, **kinds):
        held = layout
        if opening and step == 1:
            held = full
            values |= {"tap_grad_rms": 1e-4, "tap_dead": 0.1}
        values["rows_param_norm"] = 8.0
        change(step, values)
        kept = values if held.rare else {k: v for k, v in values.items() if not k.startswith("tap_")}
        found += watch.update(step, record(held, **kept))
    return [(alert.step, alert.kind, alert.cause) for alert in found]


def test_first_weights_out_of_scale_are_told_in_step_1():
    def change(step, values):
        values["rows_param_norm"] = np.array([8.0, 8, 800, 8, 8, 8])

    assert run(change)[0] == (1, "init_scale", "bad_init")
    assert run(change, opening=False)[0][0] == 10


def test_a_float16_gradient_that_is_flushed_is_told_in_step_1():
    def change(step, values):
        values["loss_scale"] = 2.0
        if step == 1:
            values["flushed"] = 0.5

    assert (1, "flushed", "no_loss_scaling") in run(change)


def test_the_first_update_of_adam_says_nothing_about_the_rate():
    def change(step, values):
        values["rows_update_norm"] = 0.5 if step == 1 else 0.01

    assert run(change) == []

    def stays(step, values):
        values["rows_update_norm"] = 0.5

    assert run(stays)[0] == (10, "update_ratio", "rate_too_high")


def test_the_ratio_of_gradient_to_weights_waits_for_three_records():
    def change(step, values):
        if step == 1:
            values["rows_grad_norm"] = values["rows_grad_norm"] * np.array([1, 1, 1, 1e-4, 1, 1])

    assert run(change) == []

    def stays(step, values):
        values["rows_grad_norm"] = values["rows_grad_norm"] * np.array([1, 1, 1, 1e-4, 1, 1])

    assert run(stays)[0][:2] == (10, "init")


def test_a_layer_that_starts_at_zero_is_meant_to():
    """The scale that ends a residual block: its weights are what its updates have made of them."""

    def change(start):
        def changed(step, values):
            values["rows_update_norm"] = 0.5 if step == 1 else 0.01
            values["rows_param_norm"] = np.array([8.0, 8, 8, start + 0.5 + 0.01 * (step - 1), 8, 8])
            values["rows_grad_norm"] = values["rows_grad_norm"] * np.array([1, 1, 1, 5, 1, 1])

        return changed

    full = FANS._replace(fans=((64, 64),) * 3 + ((0, 0),) + ((64, 64),) * 2)
    assert run(change(0.0), full=full) == []
    assert run(change(0.2), full=full)[0][:2] == (10, "init")


def test_a_recurrent_layer_that_is_saturated_in_step_1_has_inputs_out_of_scale():
    full = FULL._replace(
        layers=("rnn/recurrent", "rnn/input", "head"), sizes=(4096,) * 3, fans=((64, 64),) * 3, taps=(("rnn", "tanh"),)
    )

    def change(saturated):
        return lambda step, values: values.update(tap_saturated=saturated if step == 1 else 0.99)

    assert (10, "saturated", "unscaled_inputs") in run(change(0.97), full=full)
    assert (10, "saturated", "exploding_recurrence") in run(change(0.4), full=full)
