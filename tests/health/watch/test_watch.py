"""The watch on records made by hand: each fault alarms, health does not, and state comes back bit for bit."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from jaxprop.errors import UsageError
from jaxprop.health import Alert, Watch, WatchConfig
from jaxprop.health.watch.advice import ADVICE
from jaxprop.health.watch.alerts import TITLES
from tests.health.records import FULL, LAYERS, LEAN, PLAIN, ROWS, TAPS, alerts_of, healthy, record

KINDS = {  # what a run of this kind has, besides its seed
    "plain": {},
    "wild": {"sigma": 0.5},
    "calm": {"sigma": 0.2},
    "restarts": {"restart": 500},
    "batch size": {"resize": 600},
    "sgd": {"adam": False, "warmup": 0},
    "small loss": {"floor": 0.001},
    "negative loss": {"floor": -3.0},
}


def plant(change, steps=420, config=None, **kinds):
    return alerts_of(Watch(LAYERS, config, source="yaml"), healthy(steps, **kinds), change)


def tapped(kind):
    """Full records whose taps are of a kind."""
    return FULL._replace(taps=tuple((name, kind) for name, _ in TAPS))


TAP_KINDS = {"saturated": "tanh", "attention": "attention", "collapse": "attention"}


# -- health -------------------------------------------------------------------------------------


def test_healthy_runs_hardly_alarm():
    """Targets: at most 0.2 alerts to act and 1 of advice in 1,000 steps; here over 24,000."""
    steps, counts = 1000, Counter()
    for seed in range(3):
        for kind in KINDS.values():
            counts.update(alert.severity for alert in plant(None, steps, seed=seed, **kind))
    total = steps * 3 * len(KINDS) / 1000
    assert total == 24
    assert counts["act"] <= 0.2 * total
    assert counts["advice"] <= total


@pytest.mark.parametrize("layout", [LEAN, ROWS._replace(layers=(), sizes=()), FULL._replace(taps=())])
def test_records_without_rows_or_taps_are_read(layout):
    watch = Watch(LAYERS)
    for step in range(1, 301):
        noise = np.exp(0.2 * np.random.default_rng(step).standard_normal())
        assert watch.update(step, record(layout, loss=1.0, grad_norm=noise)) == []
    (alert,) = watch.update(301, record(layout, loss=np.nan, grad_norm=np.nan, skipped=1.0))
    assert alert.kind == "nonfinite"


# -- faults -------------------------------------------------------------------------------------


def scaled(name, factor):
    """From step 300 on, `name` is multiplied by `factor(step - 300)`."""

    def change(step, values):
        if step >= 300 and name in values:
            values[name] = values[name] * factor(step - 300)

    return change


def given(**changes):
    """From step 300 on, values are what they are given as, or what a function of the steps since makes of them."""

    def change(step, values):
        if step >= 300:
            values |= {
                name: value(step - 300) if callable(value) else value
                for name, value in changes.items()
                if not name.startswith("tap_") or step % 10 == 0
            }

    return change


def together(*changes):
    return lambda step, values: [change(step, values) for change in changes]


def once(at, **changes):
    return lambda step, values: values.update(changes) if step == at else None


def jump(size):
    return lambda step, values: values.update(loss=values["loss"] + size) if step >= 300 else None


def one_layer(name, row, value, usual):
    def column(_):
        values = np.full(len(LAYERS), float(usual))
        values[row] = value
        return values

    return given(**{name: column})


FAULTS = {
    "rate ramp": (scaled("learning_rate", lambda t: 1.02 ** min(t, 200)), "rate", "rate_too_high", None),
    "rate x40": (scaled("learning_rate", lambda t: 40), "rate", "rate_too_high", None),
    "nan": (once(333, loss=np.nan, grad_norm=np.nan, skipped=1.0), "nonfinite", "not_finite", None),
    "outlier": (
        once(333, loss=500.0, grad_norm=900.0, output_max=800.0, rows_grad_norm=400.0), "loss_jump", "bad_batch", None,
    ),
    "labels": (jump(3.0), "loss_jump", "label_shift", None),
    "slow rise": (
        lambda step, values: values.update(loss=values["loss"] + 0.004 * max(step - 300, 0)),
        "loss_rise", "label_shift", None,
    ),
    "spike": (once(333, grad_norm=30.0, rows_grad_norm=12.0), "gradient_spike", "bad_batch", None),
    "lag": (given(rows_adam_lag=3.5), "adam_lag", "label_shift", None),
    "vanishing": (given(tap_grad_rms=10.0 ** np.arange(-9, -3)), "vanishing", "vanishing", LAYERS[0]),
    "exploding": (given(tap_grad_rms=10.0 ** -np.arange(-2, 4)), "exploding", "bad_init", LAYERS[0]),
    "dead": (
        given(tap_dead=lambda t: np.array([0.1, 0.1, min(0.1 + t / 100, 1.0), 0.1, 0.1, 0.1])),
        "dead", "dead_relu", LAYERS[2],
    ),
    "saturated": (given(tap_saturated=0.8), "saturated", "vanishing", LAYERS[0]),
    "attention": (given(tap_attention_max=90.0), "attention", "logit_drift", LAYERS[0]),
    "collapse": (given(tap_attention_entropy=0.005), "entropy", "logit_drift", LAYERS[0]),
    "logits": (given(output_max=lambda t: 12 + 0.5 * t), "output_trend", "logit_drift", None),
    "frozen": (one_layer("rows_update_norm", 3, 0.0, 0.01), "frozen", "frozen_layer", LAYERS[3]),
    "no gradient": (one_layer("rows_grad_norm", 1, 0.0, 0.4), "frozen", "frozen_layer", LAYERS[1]),
    "flushed": (lambda step, values: values.update(flushed=0.4) if step % 10 == 0 else None, "flushed",
                "no_loss_scaling", LAYERS[0]),
    "swallowed": (lambda step, values: values.update(swallowed=0.9) if step % 10 == 0 else None, "swallowed",
                  "rounded", LAYERS[0]),
    "epsilon": (lambda step, values: values.update(tiny_second_moment=0.9) if step % 10 == 0 else None,
                "tiny_second_moment", "adam_eps", LAYERS[0]),
    "all zero": (given(rows_zero_fraction=0.95), "zero_gradient", "vanishing", None),
    "large updates": (given(rows_update_norm=4.0), "update_ratio", "rate_too_high", LAYERS[0]),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_alarms_once_with_kind_cause_and_layer(name):
    change, kind, cause, layer = FAULTS[name]
    found = plant(change, full=tapped(TAP_KINDS.get(name, "relu")))
    assert found, "no alert"
    of_kind = [alert for alert in found if alert.kind == kind]
    assert Counter((alert.kind, alert.severity) for alert in of_kind).most_common(1)[0][1] == 1
    alert = of_kind[0]
    if name != "large updates":
        assert alert.cause == cause
    if layer is not None:
        assert alert.layer == layer
    assert kind in TITLES
    assert alert.cause in ADVICE
    assert min(alert.since, alert.step) <= alert.step
    assert alert.step >= 300 or name in ("flushed", "swallowed", "epsilon")


@pytest.mark.parametrize("name", ["rate ramp", "dead", "logits", "slow rise"])
def test_gradual_faults_are_told_in_time(name):
    """Within 100 steps, and `since` reaches no further back than the window of a trend."""
    first = plant(FAULTS[name][0])[0]
    assert 200 <= first.since <= first.step
    assert 300 <= first.step <= 400


def test_sudden_faults_are_told_at_once():
    assert plant(FAULTS["nan"][0])[0].step == 333
    assert plant(FAULTS["outlier"][0])[0].step <= 336
    assert plant(FAULTS["rate x40"][0])[0].step == 300
    assert plant(FAULTS["labels"][0])[0].step <= 303


def untold(step, values):
    values["learning_rate"] = np.nan


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (together(untold, jump(3.0), scaled("rows_update_norm", lambda t: 40)), "rate_too_high"),
        (together(untold, jump(3.0)), "label_shift"),  # step 300 has a full record
        (together(untold, lambda step, values: jump(3.0)(step - 1, values)), "rate_or_data"),  # step 301 has none
    ],
)
def test_a_jump_of_the_loss_at_a_rate_that_is_not_known(change, cause):
    (alert,) = [alert for alert in plant(change) if alert.kind == "loss_jump"]
    assert alert.cause == cause
    assert alert.step <= 304


def test_a_layer_that_spikes_alone_is_named():
    row = np.full(6, 0.4)
    row[4] = 60.0
    found = plant(once(333, grad_norm=60.0, rows_grad_norm=row))
    assert (found[0].kind, found[0].layer) == ("gradient_spike", LAYERS[4])


# -- the start ----------------------------------------------------------------------------------


def early(change, steps=60, full=FULL, **kinds):
    return alerts_of(Watch(full.layers), healthy(steps, full=full, **kinds), change)


def test_a_cold_start_with_large_updates_is_too_high_a_rate():
    found = early(lambda step, values: values.update(rows_update_norm=1.5), warmup=0)
    assert (found[0].kind, found[0].cause, found[0].step) == ("update_ratio", "rate_too_high", 10)
    assert early(None, warmup=0) == []


def test_a_loss_that_rises_from_its_start_is_told_before_histories_are_armed():
    found = early(lambda step, values: values.update(loss=2.3 + 0.2 * step), warmup=0)
    assert found[0].kind == "loss_start"
    assert found[0].cause == "rate_too_high"
    assert found[0].step < 20


def test_a_layer_out_of_proportion_is_named():
    def change(step, values):
        values["rows_param_norm"] = np.array([10.0, 10, 10, 1000, 10, 10])
        values["rows_grad_norm"] = values["rows_grad_norm"] * np.array([1, 1, 1, 0.01, 1, 1])

    found = early(change)
    assert (found[0].kind, found[0].cause, found[0].layer, found[0].step) == ("init", "bad_init", LAYERS[3], 10)
    embedded = FULL._replace(layers=(*LAYERS[:3], "embed", *LAYERS[4:]))
    assert early(change, full=embedded) == []


def test_a_gradient_that_explodes_through_time_names_the_recurrent_layer():
    full = FULL._replace(layers=("head", "rnn/input", "rnn/recurrent"), sizes=(512, 512, 4096), taps=TAPS[:1])

    def change(step, values):
        values["rows_grad_norm"] = values["rows_grad_norm"] * np.array([1, 20, 20])

    found = early(change, full=full)
    assert [(a.kind, a.cause, a.layer, a.step) for a in found] == [
        ("exploding", "exploding_recurrence", "rnn/recurrent", 10)
    ]
    assert early(None, full=full) == []


@pytest.mark.parametrize(
    "layers",
    [
        ("embed", "encoder/recurrent", "decoder/query", "decoder/recurrent", "mix", "head"),
        ("embed", "head", "mix", "decoder/recurrent"),  # in the order of their names
    ],
)
def test_what_is_small_by_nature_does_not_make_a_recurrence_explode(layers):
    full = FULL._replace(layers=layers, sizes=(4096,) * len(layers), taps=TAPS[:1])
    small = np.array([0.01 if name in ("embed", "decoder/query") else 1 for name in layers])

    def change(recurrent):
        factors = small * np.array([recurrent if name.endswith("recurrent") else 1 for name in layers])
        return lambda step, values: values.update(rows_grad_norm=values["rows_grad_norm"] * factors)

    assert [a for a in early(change(1), full=full) if a.kind == "exploding"] == []
    found = early(change(20), full=full)
    assert [(a.kind, a.cause, a.step) for a in found if a.kind == "exploding"] == [
        ("exploding", "exploding_recurrence", 10)
    ]


def test_first_outputs_that_are_too_large_are_a_bad_start():
    found = early(lambda step, values: values.update(output_max=300.0 if step == 10 else 20.0))
    assert (found[0].kind, found[0].cause) == ("init_output", "bad_init")


def test_outputs_that_are_no_logits_may_be_of_any_size():
    assert early(lambda step, values: values.update(output_max=3000.0, output_logsumexp=np.nan)) == []


def test_an_adam_step_below_the_rate_is_an_epsilon():
    def change(share):
        def at(step, values):
            values["rows_update_norm"] = share * values["learning_rate"] * np.sqrt(4096 * 0.9)

        return at

    def alerts(share, adam=True):
        run = [(step, values, FULL) for step, values, _ in healthy(5, adam=adam)]  # where every record is a full one
        return alerts_of(Watch(LAYERS), run, change(share))

    found = alerts(0.1)
    assert (found[0].kind, found[0].cause, found[0].step) == ("damped", "adam_eps", 1)
    assert alerts(0.9) == []
    assert alerts(0.1, adam=False) == []


def test_updates_are_compared_with_the_lowest_rate_of_all_groups():
    full = FULL._replace(metrics=("lr/head/.*",))

    def change(step, values):
        values["rows_update_norm"] = 0.1 * values["learning_rate"] * np.sqrt(4096 * 0.9)
        values["lr/head/.*"] = (0.1 * values["learning_rate"], 1.0)

    run = [(step, values, full) for step, values, _ in healthy(5, adam=True)]
    assert alerts_of(Watch(LAYERS), run, change) == []


def test_a_gradient_tilted_to_the_head_of_an_attention_stack_is_a_post_norm():
    full = FULL._replace(taps=(*((f"layers/{i}", "") for i in range(6)), ("attn", "attention")))

    def change(step, values):
        if step % 10 == 0:
            values["tap_grad_rms"] = np.append(10.0 ** np.linspace(-6, -4.5, 6), np.nan)

    found = early(change, full=full)
    assert (found[0].kind, found[0].cause, found[0].layer, found[0].step) == ("depth_tilt", "post_norm", LAYERS[5], 10)


# -- non-finite ---------------------------------------------------------------------------------


def test_one_alert_a_streak():
    watch = Watch()
    steps = {50: 3, 60: 1, 90: 2}
    bad = {first + i for first, length in steps.items() for i in range(length)}
    found = []
    for step in range(1, 120):
        broken = step in bad
        found += watch.update(step, record(loss=np.nan if broken else 1.0, grad_norm=1.0, skipped=float(broken)))
    assert [(alert.step, alert.since, alert.severity) for alert in found] == [(s, s, "act") for s in steps]


def test_a_loss_scale_may_come_down_without_alarm():
    watch = Watch()
    overflow = {"loss": 1.0, "grad_norm": np.inf, "skipped": 1.0}
    for step in range(1, 9):
        assert watch.update(step, record(**overflow, loss_scale=2.0 ** (16 - step))) == []
    (alert,) = watch.update(9, record(**overflow, loss_scale=2.0**7))
    assert (alert.kind, alert.since) == ("nonfinite", 1)
    assert [a.kind for a in Watch().update(1, record(**overflow))] == ["nonfinite"]
    assert [a.kind for a in Watch().update(1, record(**(overflow | {"loss": np.nan}), loss_scale=4.0))] == ["nonfinite"]


def test_the_layer_nearest_the_loss_is_named():
    watch = Watch(LAYERS)
    watch.update(1, record(FULL, loss=1.0, grad_norm=1.0))
    norms = np.array([np.nan, np.inf, np.nan, np.nan, 1.0, 1.0])
    (alert,) = watch.update(2, record(ROWS, loss=1.0, grad_norm=np.nan, skipped=1.0, rows_grad_norm=norms))
    assert alert.layer == LAYERS[3]
    assert alert.value == 4


def test_a_forward_pass_that_broke_names_no_layer():
    (alert,) = Watch(LAYERS).update(1, record(ROWS, loss=np.nan, grad_norm=np.nan, skipped=1.0, rows_grad_norm=np.nan))
    assert alert.layer is None


# -- what may enter a history -------------------------------------------------------------------


def histories(watch):
    """The state without what counts and notes: all that a later record is compared with."""
    state = watch.state()["detectors"]
    return json.dumps(
        [state["LossLevel"]["means"], state["LossLevel"]["levels"], state["Output"]["means"], state["Output"]["trend"],
         state["AdamLag"], *(state["GradientNorm"][name] for name in ("all", "layers", "trend", "level"))]
    )  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"loss": np.nan, "grad_norm": np.nan, "skipped": 1.0},
        {"loss": 1.0, "grad_norm": np.inf, "skipped": 1.0},
        {"loss": 9e9, "grad_norm": 9e9, "skipped": 1.0},
        {"loss": 9e9, "grad_norm": 9e9, "guard": 0.0},
    ],
)
@pytest.mark.parametrize("layout", [LEAN, ROWS, FULL])
def test_skipped_values_enter_no_history(values, layout):
    watch = Watch(LAYERS)
    alerts_of(watch, healthy(230))
    before = histories(watch)
    rows = {"rows_grad_norm": values["grad_norm"], "output_max": 1e9, "rows_adam_lag": 10.0} if layout.layers else {}
    watch.update(231, record(layout, **values, **rows))
    assert histories(watch) == before
    good = {"loss": 0.5, "grad_norm": 0.5}
    watch.update(232, record(layout, **good, rows_grad_norm=0.2) if layout.layers else record(layout, **good))
    assert histories(watch) != before


def test_one_outlier_does_not_move_the_history_far():
    watch = Watch()
    run = [record(loss=1.0 + 0.01 * (step % 3), grad_norm=1.0 + 0.1 * (step % 5)) for step in range(300)]
    for step, m in enumerate(run, 1):
        assert watch.update(step, m) == []
    found = watch.update(301, record(loss=1.0, grad_norm=1e6))
    assert [alert.kind for alert in found] == ["gradient_spike"]
    for step, m in enumerate(run[:100], 302):
        assert watch.update(step, m) == []


# -- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rate ramp", "labels", "nan", "dead", "logits", "lag", "no rate"])
@pytest.mark.parametrize("at", [7, 130, 301, 334])
def test_state_through_json_continues_bit_for_bit(name, at):
    change = together(untold, jump(3.0)) if name == "no rate" else FAULTS[name][0]
    whole, first = Watch(LAYERS), Watch(LAYERS)
    second = Watch(LAYERS)
    for step, values, layout in healthy(400, seed=5, restart=180):
        change(step, values)
        m = record(layout, **values)
        expected = whole.update(step, m)
        if step == at:
            assert first.update(step, m) == expected
            second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
        else:
            assert (first if step < at else second).update(step, m) == expected
    assert second.state() == whole.state()


def test_state_of_something_else_is_refused():
    with pytest.raises(UsageError, match=r"Watch.state\(\)"):
        Watch().restore({"detectors": {}})


# -- how long an alert lasts --------------------------------------------------------------------


def test_an_alert_is_given_once_while_it_lasts_and_again_after():
    def change(step, values):
        if 300 <= step < 330 or 600 <= step < 630:
            values["grad_norm"] = 100.0 * (1 + 0.1 * (step % 7))

    spikes = [alert.step for alert in plant(change, 700) if alert.kind == "gradient_spike"]
    assert spikes == [300, 600]


def test_advice_may_become_act_but_not_the_other_way():
    found = [a for a in plant(scaled("learning_rate", lambda t: 1.02 ** min(t, 120)), 700) if a.kind == "rate"]
    assert [alert.severity for alert in found] == ["advice", "act"]


def test_rearm_ends_lasting_alerts_and_holds_sensitive_ones_for_a_while():
    change = one_layer("rows_update_norm", 3, 0.0, 0.01)
    watch, found = Watch(LAYERS), []
    for step, values, layout in healthy(420):
        change(step, values)
        if step == 400:
            watch.rearm(step)
        if step == 410:
            values["grad_norm"] = values["grad_norm"] * 8
        found += [(alert.step, alert.kind) for alert in watch.update(step, record(layout, **values))]
    assert found == [(320, "frozen"), (400, "frozen")]


def test_restarts_and_new_batch_sizes_start_a_grace_period():
    for kind, at in (({"restart": 250}, 250), ({"resize": 250}, 254), ({"warmup": 100}, 101)):
        watch = Watch(LAYERS)
        for step, values, layout in healthy(300, **kind):
            watch.update(step, record(layout, **values))
            if step == at + 1:
                assert watch.state()["trail"]["grace_until"] == pytest.approx(at + 50, abs=2)


def test_the_last_and_smaller_batch_of_an_epoch_starts_none():
    watch = Watch()
    for step in range(1, 200):
        watch.update(step, record(loss=1.0, grad_norm=1.0, weight=13.0 if step % 20 == 0 else 64.0))
    assert watch.state()["trail"]["grace_until"] == 0


# -- interface ----------------------------------------------------------------------------------


def test_alerts_are_sentences_and_json():
    (alert,) = [a for a in plant(FAULTS["dead"][0]) if a.severity == "act"]
    assert json.loads(json.dumps(alert.record(), allow_nan=False))["message"] == alert.message
    assert list(alert.record())[:10] == list(Alert._fields)
    for part in (LAYERS[2], "0.75", "dead_relu", "model.activation=gelu"):
        assert part in alert.message


def test_several_steps_in_one_record_are_refused():
    m = record(loss=1.0, grad_norm=1.0)
    both = type(m)(np.stack([m.packed, m.packed]), m.layout)
    with pytest.raises(UsageError, match=r"m\.at\(i\)"):
        Watch().update(1, both)


def test_thresholds_are_settings():
    change = scaled("learning_rate", lambda t: 2)
    assert plant(change) == []
    assert plant(change, config=WatchConfig(rate=1.5))[0].kind == "rate"


def test_the_watch_never_loads_jax():
    code = "import sys, jaxprop.health; jaxprop.health.Watch; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_records_made_by_hand_say_what_they_were_given():
    m = record(FULL, loss=2.0, grad_norm=3.0, tap_dead=0.7, flushed=0.2, rows_adam_lag=1.5)
    assert (float(m.loss), float(m.grad_norm), float(m.weight)) == (2.0, 3.0, PLAIN["weight"])
    assert m.taps.dead.tolist() == [np.float32(0.7)] * len(TAPS)
    assert m.rare.flushed.tolist() == [np.float32(0.2)] * len(LAYERS)
    assert m.layers.adam_lag.tolist() == [1.5] * len(LAYERS)


# -- what the watch is told -----------------------------------------------------------------------


def test_a_loss_that_moves_by_nature_gives_no_alarm():
    change = together(jump(3.0), lambda step, values: values.update(loss=values["loss"] + 0.01 * max(step - 350, 0)))
    kinds = {alert.kind for alert in plant(change, 700)}
    assert kinds & {"loss_jump", "loss_rise"}
    assert alerts_of(Watch(LAYERS, stationary=False), healthy(700), change) == []
    moving = alerts_of(Watch(LAYERS, stationary=False), healthy(420), FAULTS["rate x40"][0])
    assert [alert.kind for alert in moving] == ["rate"]


def test_advice_is_in_the_language_of_its_reader():
    change = FAULTS["dead"][0]
    (told,) = [a for a in alerts_of(Watch(LAYERS), healthy(420), change) if a.severity == "act"]
    assert "model." not in told.message
    assert "gelu" in told.message
    known = {"model": {"activation": "gelu"}}
    (told,) = [
        a for a in alerts_of(Watch(LAYERS, source="yaml", run=known), healthy(420), change) if a.severity == "act"
    ]
    assert "model.activation=gelu" not in told.message
    with pytest.raises(UsageError, match="source"):
        Watch(source="toml")


def test_the_names_of_a_record_with_rows_are_its_own():
    watch = Watch(tuple(reversed(LAYERS)))
    found = alerts_of(watch, healthy(420), FAULTS["frozen"][0])
    assert [alert.layer for alert in found] == [LAYERS[3]]


@pytest.mark.parametrize("every", [10, 50, 100])
def test_records_of_everything_may_be_rare(every):
    """A layer that is not updated is named after three of them, whatever their interval."""
    watch, found = Watch(LAYERS), []
    for step, values, _ in healthy(700):
        layout = FULL if step % every == 0 else ROWS
        values = {name: value for name, value in values.items() if layout is FULL or not name.startswith("tap_")}
        if step >= 300:
            values["rows_update_norm"] = np.array([0.01, 0.01, 0.01, 0.0, 0.01, 0.01])
        found += watch.update(step, record(layout, **values))
    assert [(alert.step, alert.kind) for alert in found] == [(300 + 2 * every, "frozen")]


# -- explosions ---------------------------------------------------------------------------------------


def blown_up(losses, start=1, **options):
    """The alerts of a run of these losses."""
    watch = Watch(LAYERS, **options)
    found = []
    for step, loss in enumerate(losses, start):
        broken = not np.isfinite(loss)
        values = {"loss": loss, "grad_norm": loss, "skipped": float(broken), "learning_rate": 50.0}
        found += watch.update(step, record(ROWS, **values))
    return found, watch


EXPLODING = [1.35, 18177.0, 2.6e10, 4e16, 1.3e30, np.nan]


def test_a_rate_that_explodes_at_once_is_told_before_the_first_nan_and_as_its_cause():
    found, watch = blown_up(EXPLODING)
    assert [(alert.step, alert.kind, alert.severity, alert.cause) for alert in found] == [
        (3, "loss_start", "act", "rate_too_high"),
        (6, "nonfinite", "act", "rate_too_high"),
    ]
    assert watch.exploded
    assert found[0].fix == found[1].fix
    found, _ = blown_up(EXPLODING, source="yaml", folder="runs/sgd", code=("net.py",))
    assert found[0].message.endswith(
        "likely rate_too_high: run jaxprop lr-find runs/sgd --code net.py, and set optimizer.lr to what it suggests; a "
        "run that starts with a warmup bears a higher one"
    )


def test_one_step_of_explosion_is_enough_for_the_cause_of_an_early_nan():
    found, _ = blown_up([1.35, 3e25, np.nan])
    assert [(alert.kind, alert.cause) for alert in found] == [("nonfinite", "rate_too_high")]


@pytest.mark.parametrize(
    "losses",
    [
        [1.35, 1.3, 1.2, 1.1, 1.0, np.nan],
        [1.35, np.nan],
        [np.nan],
        [1.35, 1.2] + [1.0] * 150 + [9e4, np.nan],  # one bad batch, late
        [1e-6, 1.0, 1e-6, 1.2, 1e-6, np.nan],
    ],
)
def test_a_nan_without_an_explosion_is_left_to_the_replay(losses):
    found, watch = blown_up(losses)
    last = next(alert for alert in found if alert.kind == "nonfinite")
    assert last.cause == "not_finite"
    assert not watch.exploded


def test_a_nan_after_an_explosion_is_judged_anew_the_next_time():
    found, watch = blown_up([*EXPLODING, 1.3, 1.2, 1.1, *[1.0] * 30, np.nan])
    assert [alert.cause for alert in found if alert.kind == "nonfinite"] == ["rate_too_high", "not_finite"]
    assert not watch.exploded


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("yaml", "run jaxprop replay runs/nan --code net.py, which names the operation and the values it was given"),
        ("fit", "see what the run says of step 1, which names the operation and the line"),
        (
            "python",
            "call step.find_nonfinite(state, batch) with this step's batch, which names the operation and the line",
        ),
    ],
)
def test_what_is_advised_about_a_nan_can_be_done(source, fix):
    found, _ = blown_up([np.nan], source=source, folder="runs/nan", code=["net.py"])
    assert [alert.fix for alert in found] == [fix]
