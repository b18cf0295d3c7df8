"""Arrays that a traced function reads are those that it is handed, inside `handing` alone."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.core.handed import handed, handing

HELD = (np.arange(3.0, dtype=np.float32),)


def test_inside_a_trace_the_arguments_are_read():
    def program(x, arrays):
        with handing(arrays):
            return x + handed(HELD)[0].sum()

    jaxpr = jax.make_jaxpr(program)(jnp.float32(1), HELD)
    assert not jaxpr.consts
    assert jax.jit(program)(jnp.float32(1), (jnp.ones(3),)) == 4
    assert handed(HELD) is HELD


def test_with_none_the_arrays_of_the_closure_are_read():
    with handing(None):
        assert handed(HELD) is HELD
