"""The text of an explained step: every stage, what is not known, and tables that fit."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprop
from jaxprop.train.explanation import Clip, Example, text


@pytest.fixture(scope="module")
def found():
    step = jaxprop.make_train_step(
        lambda p, b, key: sum(jnp.sum(jaxprop.tap(b * w, f"layer{i}")) for i, w in enumerate(p)), optax.sgd(0.1)
    )
    return step.explain(step.init([jnp.ones(())] * 5, key=jax.random.key(0)), jnp.ones(4))


def test_stages_in_order(found):
    places = [str(found).index(f"\n{stage}") for stage in ("1. F", "2. L", "3. B", "4. C", "5. U", "6. A", "Check")]
    assert places == sorted(places)
    assert str(found).startswith("Training step 1 on one batch of 4 examples.")
    assert "layer4" in str(found)
    assert "No clipping is known here" in str(found)
    assert max(map(len, str(found).splitlines())) <= 120


def test_a_limit_leaves_out_the_middle(found):
    short = text(found, limit=2)
    assert "(3 activations between them are not shown" in short
    assert "layer2" not in short.partition("Check")[0]


def test_what_is_unknown_and_what_is_special_is_said(found):
    other = found._replace(layers=(), batch_size=None, clip=Clip(2.0, 1.0), factor=0.5, taken=False, notes=("a note",))
    lines = str(other)
    assert lines.startswith("Training step 1 on one batch.\nNote: a note.\n")
    assert "jaxprop.tap(x, name)" in lines
    assert "a factor of 0.5" in lines
    assert "the guard multiplies the gradient by 0.5" in lines
    assert "The train step skips this update" in lines


def test_a_column_that_no_example_has_a_label_for_is_left_out(found):
    one, other = Example(3.0, 0.25, 1.0), Example(None, 0.5, 1.0)
    mixed, none = (text(found._replace(examples=examples)) for examples in ((one, other), (other, other)))
    assert "example  label  loss  weight\n" in mixed
    assert "example  loss  weight\n" in none
    assert "0         0.5       1\n" in none


def test_control_characters_stay_out_of_the_terminal(found):
    evil = found._replace(parameters=(found.parameters[0]._replace(path="a\x1b[2J"),))
    assert "\x1b" not in str(evil)
