"""`metrics/infeasible.py`: weights, and what the loss leaves out."""

import numpy as np

from jaxprop.losses.ctc import ctc
from jaxprop.metrics.infeasible import infeasible


def test_it_counts_what_the_loss_leaves_out():
    rng = np.random.default_rng(0)
    batch = {"labels": rng.integers(1, 4, (40, 5)), "label_lengths": rng.integers(0, 6, 40)}
    outputs = {"logits": rng.normal(size=(40, 6, 4)).astype(np.float32), "lengths": rng.integers(1, 7, 40)}
    told, count = infeasible.update(outputs, batch)
    left_out = int((np.asarray(ctc(outputs, batch)[1]) == 0).sum())
    assert (float(told), float(count)) == (left_out, 40)
    assert left_out > 0
    weighted = infeasible.update(outputs, batch | {"weight": np.zeros(40, np.float32)})
    assert [float(x) for x in weighted] == [0, 0]
