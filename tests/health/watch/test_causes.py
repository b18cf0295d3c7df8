"""What the circumstances make of a symptom."""

from types import SimpleNamespace

import pytest

from jaxprop.health.watch.advice import ADVICE, Setup
from jaxprop.health.watch.causes import RECENT, TESTS, likeliest
from jaxprop.health.watch.detectors import Symptom
from jaxprop.health.watch.reading import Trail

PYTHON = Setup()
HALF = Setup("yaml", {"precision": {"policy": "float16"}})


def judge(kind, step=1000, layer=None, scale=1.0, trail=None, setup=PYTHON, **seen):
    trail = Trail(start=1, rate=1e-3, first=1e-5, settled=1e-3) if trail is None else trail
    trail.note(step, **seen)
    return likeliest(Symptom(kind, layer, "act", 1.0, 0.0, step), SimpleNamespace(step=step, scale=scale), trail, setup)


CASES = [
    ("gradient_spike", {"rise": 3.0}, "rate_too_high"),
    ("gradient_spike", {"loss_z": 20.0, "output_z": 50.0}, "bad_batch"),
    ("gradient_spike", {"loss_z": 20.0, "output_z": 0.5}, "label_shift"),
    ("gradient_spike", {"loss_z": 20.0, "stayed": 0}, "bad_batch"),
    ("gradient_spike", {"loss_z": 20.0, "stayed": 3}, "label_shift"),
    ("gradient_spike", {"loss_z": 0.5}, "bad_batch"),
    ("loss_jump", {"stayed": 0}, "bad_batch"),
    ("loss_jump", {"stayed": 2}, "label_shift"),
    ("nonfinite", {"z": 1.0}, "not_finite"),
    ("nonfinite", {"z": 8.0, "rise": 5.0}, "not_finite"),
    ("zero_gradient", {"dead": 0.9, "flushed": 0.0}, "dead_relu"),
    ("zero_gradient", {"dead": 0.1}, "vanishing"),
    ("zero_gradient", {"flushed": 0.4}, "no_loss_scaling"),
    ("flushed", {"flushed": 0.4}, "no_loss_scaling"),
    ("frozen", {"dead": 0.99, "frozen_gradient": 1.0}, "dead_relu"),
    ("frozen", {"dead": 0.99, "frozen_gradient": 0.0}, "frozen_layer"),
    ("frozen", {"dead": 0.5, "frozen_gradient": 1.0}, "frozen_layer"),
    ("output_trend", {}, "logit_drift"),
    ("gradient_trend", {"output_growth": 2.0}, "logit_drift"),
    ("loss_rise", {"dead_grown": 0.5}, "dead_relu"),
    ("loss_rise", {}, "label_shift"),
    ("adam_lag", {"tiny_second_moment": 0.8}, "adam_eps"),
    ("swallowed", {}, "rounded"),
]


@pytest.mark.parametrize(("kind", "seen", "cause"), CASES)
def test_the_evidence_decides(kind, seen, cause):
    assert judge(kind, **seen)[0] == cause


def test_a_loss_that_never_had_a_gradient_cannot_be_differentiated():
    def judged(since, share=1.0, setup=PYTHON, **seen):
        trail = Trail(start=1, rate=1e-3, first=1e-5, settled=1e-3)
        trail.note(40, rise=3.0, **seen)  # a warmup raises the rate all the while
        symptom = Symptom("zero_gradient", None, "act", share, 0.5, since)
        return likeliest(symptom, SimpleNamespace(step=40, scale=1.0), trail, setup)[:2]

    cause, fix = judged(since=1)
    assert cause == "no_gradient"
    assert fix.endswith("make_train_step(..., gradient='spsa')")
    assert judged(since=1, setup=Setup("yaml"))[1].endswith("gradient.estimator=spsa")
    assert judged(since=1, dead=0.9)[0] == "dead_relu"
    assert judged(since=30)[0] != "no_gradient"  # it had one at first
    assert judged(since=1, share=0.8)[0] != "no_gradient"


def test_float32_is_never_told_to_scale_its_loss():
    """Only what float16 has flushed, or a configuration that says float16, makes a loss scale the cause."""
    for kind in ("zero_gradient", "loss_start", "tiny_second_moment"):
        assert judge(kind, step=40)[0] != "no_loss_scaling"
        assert judge(kind, step=40, setup=HALF)[0] == "no_loss_scaling"
        assert judge(kind, step=40, setup=HALF, scale=1024.0)[0] != "no_loss_scaling"


def unknown(step, **seen):
    """The trail of a run whose records hold no learning rate, with evidence of a step."""
    trail = Trail(start=1)
    trail.note(step, **seen)
    return trail


@pytest.mark.parametrize(
    ("kind", "seen", "at", "cause"),
    [
        ("loss_jump", {"pace": 20.0, "rate_grown": 20.0}, 995, "rate_too_high"),
        ("loss_rise", {"pace": 3.0, "rate_grown": 3.0}, 995, "rate_too_high"),
        ("loss_jump", {"pace": 20.0, "rate_grown": 20.0}, 900, "rate_or_data"),  # of long ago
        ("loss_jump", {"pace": 1.2}, 1000, "label_shift"),  # measured since, and the rate is the same
        ("loss_rise", {"pace": 1.2}, 1000, "label_shift"),
        ("gradient_spike", {"pace": 1.2}, 990, "rate_or_data"),  # not measured since
        ("loss_jump", {"pace": 2.0}, 1000, "rate_or_data"),  # too near to tell
        ("gradient_spike", {}, 990, "rate_or_data"),  # never measured
        ("dead", {}, 990, "dead_relu"),  # seen directly
        ("output", {}, 990, "logit_drift"),
    ],
)
def test_a_rate_that_is_not_known_is_judged_by_the_updates(kind, seen, at, cause):
    assert judge(kind, trail=unknown(at, **seen), loss_z=20.0)[0] == cause


def test_what_has_passed_is_no_rate_even_if_that_is_not_known():
    assert judge("loss_jump", trail=unknown(990), stayed=0, loss_z=1.0)[0] == "bad_batch"
    assert judge("loss_jump", trail=unknown(990), stayed=0, loss_z=5.0)[0] == "rate_or_data"
    assert judge("loss_jump", trail=unknown(990), stayed=3, loss_z=20.0)[0] == "rate_or_data"


def test_updates_say_nothing_where_the_rate_is_known():
    seen = {"pace": 20.0, "rate_grown": 20.0, "loss_z": 20.0, "stayed": 3}
    assert judge("loss_jump", **seen)[0] == "label_shift"


def test_old_evidence_of_a_rise_is_forgotten():
    trail = Trail(start=1, rate=1e-3, first=1e-5, settled=1e-3)
    trail.note(100, rise=4.0)
    assert judge("adam_lag", step=100 + RECENT, trail=trail)[0] == "rate_too_high"
    assert judge("adam_lag", step=101 + RECENT, trail=trail)[0] == "label_shift"


@pytest.mark.parametrize("kind", ["loss_jump", "loss_rise", "gradient_trend", "gradient_spike", "adam_lag"])
def test_what_breaks_while_the_rate_still_rises_is_the_rate(kind):
    seen = {"loss_z": 20.0, "stayed": 3}
    rising = Trail(start=1, rate=1e-1, first=1e-4, warming=True, risen_at=1000)
    assert judge(kind, trail=rising, **seen)[0] == "rate_too_high"
    assert judge(kind, **seen)[0] == "label_shift"


def test_a_jump_that_has_passed_while_the_rate_rises_is_a_bad_batch():
    rising = Trail(start=1, rate=1e-1, first=1e-4, warming=True, risen_at=1000)
    assert judge("loss_jump", trail=rising, loss_z=1.0, stayed=0)[0] == "bad_batch"


def test_a_cold_start_takes_the_blame_for_what_it_breaks():
    cold, warm = Trail(start=1, rate=1e-2, first=1e-2), Trail(start=1, rate=1e-2, first=1e-4)
    assert judge("dead", step=60, trail=cold, ratio_peak=0.2)[0] == "rate_too_high"
    assert judge("dead", step=60, trail=warm, ratio_peak=0.2)[0] == "dead_relu"
    assert judge("gradient_spike", step=60, trail=Trail(start=1, rate=1e-2, first=1e-2))[0] == "rate_too_high"
    assert judge("gradient_spike", step=200, trail=Trail(start=1, rate=1e-2, first=1e-2))[0] == "bad_batch"


def test_first_weights_take_the_blame_before_the_rate_does():
    cold = Trail(start=1, rate=1e-2, first=1e-2)
    assert judge("dead", step=20, trail=cold, ratio_peak=0.2, init_scale=1.5)[0] == "bad_init"
    assert judge("init_output", step=10, trail=Trail(start=1), inputs=80.0)[0] == "unscaled_inputs"
    assert judge("init_output", step=10, trail=Trail(start=1), inputs=80.0, init_scale=1.5)[0] == "bad_init"


def test_recurrent_layers_explode_through_time():
    assert (
        judge("gradient_spike", layer="layers/0/recurrent", trail=Trail(start=1, recurrent=True))[0]
        == "exploding_recurrence"
    )
    assert (
        judge("gradient_spike", layer="layers/0/input", trail=Trail(start=1, rate=1e-3, recurrent=True))[0]
        == "bad_batch"
    )
    assert judge("exploding", trail=Trail(start=1))[0] == "bad_init"


def test_every_cause_can_be_found_and_nothing_else():
    assert {name for name, _ in TESTS} | {"unstable"} == set(ADVICE)
