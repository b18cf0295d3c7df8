"""Advice: a line that the configuration takes, never one in force already, and Python for who has no configuration."""

import re

import pytest

from jaxprop.config.dump import to_builtins
from jaxprop.config.load import load
from jaxprop.health.watch.advice import ADVICE, Plea, Setup
from jaxprop.health.watch.alerts import LINE
from jaxprop.health.watch.reading import Trail


def trail(**values):
    return Trail(**{"start": 1, "rate": 1e-3, "first": 1e-3} | values)


def plea(setup, kind="gradient_spike", step=1000, **changed):
    return Plea(kind, step, step, trail(**changed), setup)


def config(*overrides, name="stdlib_lm"):
    return to_builtins(load(name, list(overrides)).config)


SET = {  # cause -> a configuration in which its line is in force, or contradicts it
    "no_loss_scaling": ["precision.policy=float16"],
    "bad_batch": ["optimizer.grad_clip={norm: 1.0}"],
    "exploding_recurrence": ["optimizer.grad_clip={norm: 1.0}"],
    "label_shift": ["health.on_alert=[rollback, stop]"],
    "dead_relu": ["model.activation=gelu"],
    "vanishing": ["model.activation=relu"],
    "logit_drift": ["task.loss={name: softmax_cross_entropy, z_loss: 0.001}"],
    "post_norm": ["optimizer.schedule={name: warmup_cosine, warmup_steps: 50}"],
}


@pytest.mark.parametrize("cause", ADVICE)
def test_lines_are_ones_the_configuration_takes_and_does_not_have(cause):
    overrides = ["precision.policy=float16"] if cause == "no_loss_scaling" else []
    known = config("optimizer.grad_clip=null", *overrides)
    fix = ADVICE[cause](plea(Setup("yaml", known)))
    if not LINE.match(fix):
        assert " " in fix  # words
        return
    after = config("optimizer.grad_clip=null", *overrides, fix)
    assert after != known


@pytest.mark.parametrize("cause", SET)
def test_what_is_in_force_is_not_advised(cause):
    known = config(*SET[cause])
    fix = ADVICE[cause](plea(Setup("yaml", known)))
    assert not LINE.match(fix) or fix.partition("=")[0] != SET[cause][0].partition("=")[0] or cause == "no_loss_scaling"
    assert not LINE.match(fix) or config(*SET[cause], fix) != known


@pytest.mark.parametrize("cause", ADVICE)
def test_a_loop_of_ones_own_is_told_python(cause):
    for setup in (Setup(), Setup("python", {})):
        fix = ADVICE[cause](plea(setup))
        assert not LINE.match(fix)
        assert not re.search(r"optimizer\.|model\.|health\.on|precision\.|jaxprop lr-find|jaxprop replay", fix)


def test_code_of_ones_own_is_not_told_keys_of_the_models_of_jaxprop():
    own = {
        "model": {"class": "n.py:Net", "activation": "tanh"},
        "optimizer": {"class": "o.py:make"},
        "task": {"loss": {"class": "l.py:x"}},
    }
    for cause in ("dead_relu", "vanishing", "bad_init", "logit_drift", "adam_eps"):
        assert LINE.match(ADVICE[cause](plea(Setup("yaml", {"model": {"activation": "tanh"}}))))
        assert not LINE.match(ADVICE[cause](plea(Setup("yaml", own))))


def test_a_rate_fault_is_answered_by_a_search_or_by_the_rate_that_was_stable():
    yaml_run = Setup("yaml", {"optimizer": {"lr": 0.1}})
    assert ADVICE["rate_too_high"](plea(yaml_run)).startswith("run jaxprop lr-find")
    risen = plea(yaml_run, rate=0.04)
    risen.trail.note(1000, rise=40.0)
    assert ADVICE["rate_too_high"](risen) == "optimizer.lr=0.0025"
    assert "0.001" in ADVICE["rate_too_high"](risen._replace(setup=Setup()))


def test_a_rate_that_is_not_known_is_to_be_set_back_or_to_be_told():
    grown = plea(Setup(), rate=float("nan"))
    grown.trail.note(1000, rate_grown=12.3)
    assert "about 12 times" in ADVICE["rate_too_high"](grown)
    said = ADVICE["rate_or_data"](plea(Setup(), rate=float("nan")))
    assert "schedule=" in said
    assert "data from step 1000 on" in said


def test_a_gradient_that_is_clipped_is_not_told_to_be():
    assert "clip" in ADVICE["bad_batch"](plea(Setup()))
    assert "clip" not in ADVICE["bad_batch"](plea(Setup(), clipped=True))
    assert ADVICE["bad_batch"](plea(Setup("yaml", {"optimizer": {"grad_clip": {"norm": 1.0}}}))) == (
        "look at the data of step 1000"
    )


def test_an_epsilon_is_made_smaller_than_it_is():
    assert ADVICE["adam_eps"](plea(Setup("yaml", {"optimizer": {"eps": 0.1}}))) == "optimizer.eps=1e-8"
    assert ADVICE["adam_eps"](plea(Setup("yaml", {"optimizer": {"eps": 1e-8}}))) == "optimizer.eps=1e-12"
    groups = [{"match": "head/.*", "optimizer": {"name": "adam", "eps": 1e-3}}]
    advice = ADVICE["adam_eps"](plea(Setup("yaml", {"optimizer": {"eps": 0.1, "groups": groups}})))
    assert advice == "give the optimizer that trains the layer, that of the run or of its group, a smaller eps"
