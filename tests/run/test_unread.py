"""Measurements read a call late: in order, one record a step, and no sooner than asked."""

import jax.numpy as jnp
import numpy as np

from jaxprop.core.measurements import Layout, Measurements
from jaxprop.run.unread import Unread

LAYOUT = Layout((), ())


def measured(*losses):
    packed = np.zeros((len(losses), LAYOUT.length), np.float32)
    packed[:, 0] = losses
    return Measurements(jnp.asarray(packed if len(losses) > 1 else packed[0]), LAYOUT)


def test_what_is_kept_is_read_later_and_nothing_twice():
    unread = Unread()
    unread.add(4, measured(1, 2, 3, 4))
    unread.add(8, measured(5, 6, 7, 8))
    unread.add(9, measured(9))
    seen = []
    for keep in (3, 1, 1, 0, 0):
        seen.append([(step, float(m.loss)) for step, m in unread.read(keep)])
    assert seen == [[], [(n, n) for n in range(1, 9)], [], [(9, 9)], []]
    assert all(isinstance(m.packed, np.ndarray) for _, m in unread.read(0))
