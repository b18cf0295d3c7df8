"""`jaxprop gradcheck`: configs, functions of one's own, tables, JSON, exit codes."""

import json
import sys

import pytest

from jaxprop.tools.gradcheck import Report

LOSSES = """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def double(x):
    return 2 * x

double.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))

def loss_fn(params, batch, key):
    return jnp.sum(batch["x"] * params["w"] ** 2)

def wrong_fn(params, batch, key):
    return jnp.sum(double(batch["x"] * params["w"]))

def example():
    return {"w": jnp.ones(2)}, {"x": jnp.ones(2)}, jax.random.key(0)

def right():
    return (loss_fn, *example())

def wrong():
    return (wrong_fn, *example())

def short():
    return loss_fn, {}

NUMBER = 3
"""


@pytest.fixture
def module(jaxprop, tmp_path):
    """A module in the working directory, under a name of its own."""
    (tmp_path / "work" / "my_losses.py").write_text(LOSSES)
    sys.modules.pop("my_losses", None)
    path = list(sys.path)
    yield "my_losses"
    sys.path[:] = path
    sys.modules.pop("my_losses", None)


def test_a_function_that_returns_all_there_is(jaxprop, module):
    ran = jaxprop("gradcheck", f"{module}:right")
    assert (ran.code, ran.err) == (0, "")
    assert " w " in ran.out
    assert " 2 of 2 " in ran.out
    assert ran.out.splitlines()[-1].startswith("gradients agree: entries 2, parameters 1, rules 0, ")


def test_a_loss_function_beside_an_example(jaxprop, module):
    assert jaxprop("gradcheck", f"{module}:loss_fn").code == 0


def test_a_wrong_rule_is_an_exit_code_and_a_sentence(jaxprop, module):
    ran = jaxprop("gradcheck", f"{module}:wrong")
    assert ran.code == 1
    assert "wrong: the custom_vjp of 'double' (my_losses.py:9) is not the derivative of its function: " in ran.out
    assert "1.5 times its function's gradient" in ran.out
    assert "wrong: w[0]: reverse mode gives 3, central differences 2, forward mode 2" in ran.out
    assert ran.out.splitlines()[-1].startswith("gradients disagree: ")


def test_json(jaxprop, module):
    ran = jaxprop("gradcheck", f"{module}:wrong", "--json")
    found = json.loads(ran.out)
    assert ran.code == 1
    assert (found["ok"], found["worst"]["agrees"], found["rules"][0]["agrees"]) == (False, False, False)
    assert found["leaves"][0]["worst"]["reverse"] == pytest.approx(3)


def test_a_config(jaxprop):
    ran = jaxprop("gradcheck", "digits", "model.hidden=[3]", "--entries", "1", "--examples", "2")
    assert (ran.code, ran.err) == (0, "")
    assert "layers/0/dense/kernel" in ran.out


def test_options_of_a_config(jaxprop, monkeypatch):
    from jaxprop.tools.gradcheck import configured

    calls = []

    def check_config(config, **options):
        calls.append((config.model.hidden, options))
        return Report(True, 1.0, (), (), (), (), (), ())

    monkeypatch.setattr(configured, "check_config", check_config)
    jaxprop("gradcheck", "digits", "model.hidden=[3]")
    jaxprop("gradcheck", "digits", "model.hidden=[3]", "--examples", "2", "--entries", "5")
    assert calls == [((3,), {"examples": 4, "entries": 4}), ((3,), {"examples": 2, "entries": 5})]


def test_options_of_a_function(jaxprop, module):
    ran = jaxprop("gradcheck", f"{module}:right", "--entries", "1", "--json")
    assert [leaf["checked"] for leaf in json.loads(ran.out)["leaves"]] == [1]


BAD = [
    (["gradcheck", "digit"], "digit: no such config; did you mean 'digits'?"),
    (["gradcheck", "my_loses:right"], "there is no module 'my_loses'; write module:function"),
    (["gradcheck", "my_losses:rigt"], "module 'my_losses' has no 'rigt'; did you mean 'right'?"),
    (
        ["gradcheck", "my_losses:NUMBER"],
        "expected my_losses:NUMBER to be a function, got int; give it a function without",
    ),
    (["gradcheck", "my_losses:short"], "expected my_losses:short() to return (loss_fn, params, batch, key), got 2 val"),
    (["gradcheck", "my_losses:right", "a=1"], "my_losses:right is a function and has no key 'a' to override"),
    (["gradcheck", "json:loads"], "json:loads takes arguments, and json has no example() that returns (params, batch"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_what_is_told(jaxprop, module, line, sentence):
    ran = jaxprop(*line)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {sentence}")
