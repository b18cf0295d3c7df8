"""What the circumstances make of a symptom, and that every line a cause asks for is one the configuration takes."""

from types import SimpleNamespace

import pytest

from jaxprop.config.load import load
from jaxprop.health.watch.causes import CAUSES, RECENT, TESTS, likeliest
from jaxprop.health.watch.detectors import Symptom
from jaxprop.health.watch.reading import Trail


def judge(kind, step=1000, layer=None, scale=1.0, trail=None, **seen):
    trail = Trail(start=1, rate=1e-3, first=1e-5, settled=1e-3) if trail is None else trail
    trail.note(step, **seen)
    return likeliest(Symptom(kind, layer, "act", 1.0, 0.0, step), SimpleNamespace(step=step, scale=scale), trail)


CASES = [
    ("gradient_spike", {"rise": 3.0}, "rate_too_high"),
    ("gradient_spike", {"loss_z": 20.0, "output_z": 50.0}, "bad_batch"),
    ("gradient_spike", {"loss_z": 20.0, "output_z": 0.5}, "label_shift"),
    ("gradient_spike", {"loss_z": 0.5}, "bad_batch"),
    ("loss_jump", {"stayed": 0}, "bad_batch"),
    ("loss_jump", {"stayed": 2}, "label_shift"),
    ("nonfinite", {"z": 1.0}, "nan_batch"),
    ("nonfinite", {"z": 8.0}, "unstable"),
    ("nonfinite", {"z": 8.0, "rise": 5.0}, "rate_too_high"),
    ("zero_gradient", {"dead": 0.9, "flushed": 0.0}, "no_loss_scaling"),
    ("frozen", {"dead": 0.9}, "dead_relu"),
    ("frozen", {"dead": 0.1}, "frozen_layer"),
    ("output_trend", {}, "logit_drift"),
    ("adam_lag", {"tiny_second_moment": 0.8}, "adam_eps"),
    ("swallowed", {}, "unstable"),
]


@pytest.mark.parametrize(("kind", "seen", "cause"), CASES)
def test_the_evidence_decides(kind, seen, cause):
    assert judge(kind, **seen)[0] == cause


def test_old_evidence_of_a_rise_is_forgotten():
    trail = Trail(start=1, rate=1e-3, first=1e-5, settled=1e-3)
    trail.note(100, rise=4.0)
    assert judge("adam_lag", step=100 + RECENT, trail=trail)[0] == "rate_too_high"
    assert judge("adam_lag", step=101 + RECENT, trail=trail)[0] == "label_shift"


def test_a_cold_start_takes_the_blame_for_what_it_breaks():
    cold = Trail(start=1, rate=1e-2, first=1e-2)
    assert judge("dead", step=60, trail=cold, ratio_peak=0.2)[0] == "no_warmup"
    assert judge("dead", step=60, trail=Trail(start=1, rate=1e-2, first=1e-4), ratio_peak=0.2)[0] == "dead_relu"
    assert judge("gradient_spike", step=60, trail=Trail(start=1, rate=1e-2, first=1e-2))[0] == "no_warmup"


def test_recurrent_layers_explode_through_time():
    assert (
        judge("gradient_spike", layer="layers/0/recurrent", trail=Trail(start=1, recurrent=True))[0]
        == "exploding_recurrence"
    )
    assert judge("gradient_spike", layer="layers/0/input", trail=Trail(start=1, recurrent=True))[0] == "bad_batch"
    assert judge("exploding", trail=Trail(start=1))[0] == "bad_init"


def test_the_lower_rate_undoes_the_rise():
    trail = Trail(start=1, rate=4e-2, first=1e-5, settled=1e-3)
    assert judge("rate", trail=trail, rise=40.0)[1] == "optimizer.lr=0.001"


def test_every_cause_can_be_found_and_nothing_else():
    assert {name for name, _ in TESTS} | {"unstable"} == set(CAUSES)


@pytest.mark.parametrize("cause", CAUSES)
def test_the_fix_is_a_line_the_configuration_takes(cause):
    """In a configuration that has the section's choice: float16 for the loss scale, a transformer for the rest."""
    case = SimpleNamespace(trail=Trail(rate=1e-3), seen=lambda name, default=0.0: default)
    fix = CAUSES[cause](case)
    needs = ["precision.policy=float16"] if "loss_scale" in fix else []
    assert load("stdlib_lm", [*needs, fix]) is not None
