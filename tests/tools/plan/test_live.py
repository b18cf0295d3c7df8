"""`tools/plan/live.py`: what lies in memory at once, against the compiler that tells it."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprop
from jaxprop.tools.plan.hlo import parse
from jaxprop.tools.plan.live import temporary_parts
from jaxprop.train.memory import predict


def test_arrays_are_there_from_their_first_use_to_their_last():
    text = """ENTRY %main (a: f32[4]) -> f32[2] {
  %a = f32[4]{0} parameter(0)
  %b = f32[8]{0} pad(%a), metadata={op_name="jit(step)/jvp(one)/pad"}
  %c = f32[16]{0} pad(%b), metadata={op_name="jit(step)/jvp(two)/pad"}
  %v = f32[16]{0} bitcast(%c)
  %s = f32[32]{0:S(1)} pad(%v)
  %d = f32[4]{0} slice(%v), metadata={op_name="jit(step)/transpose(jvp(two))/slice"}
  ROOT %e = f32[2]{0} slice(%d)
}
"""
    assert temporary_parts(parse(text)) == {"activations": 32 + 64}


def test_near_what_the_compiler_assigns():
    def loss(params, batch, key):
        x = batch
        for i in range(4):
            with jax.named_scope(f"layer/{i}"):
                x = jnp.tanh(x @ params[i])
        return jnp.mean(x**2)

    step = jaxprop.make_train_step(loss, optax.sgd(0.1))
    state = jax.eval_shape(lambda: step.init([jnp.ones((128, 128))] * 4, key=jax.random.key(0)))
    compiled = step.lower(state, jax.ShapeDtypeStruct((4096, 128), jnp.float32)).compile()
    assigned, found = predict(compiled).parts, temporary_parts(parse(compiled.as_text()))
    told = sum(assigned.get(name, 0) for name in ("activations", "gradients", "temporaries"))
    assert sum(found.values()) == pytest.approx(told, rel=0.25)
    assert found["activations"] == pytest.approx(assigned["activations"], rel=0.35)
