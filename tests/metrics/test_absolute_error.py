"""The mean absolute error against NumPy, with weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.metrics.absolute_error import mean_absolute_error

WEIGHT = np.array([1, 2, 0], np.float32)
LOGITS = np.array([[0, 1], [2, 1], [5, 1]], np.float32)


@pytest.mark.parametrize(
    ("metric", "outputs", "batch", "expected"),
    [
        (mean_absolute_error, LOGITS, {"labels": LOGITS + np.array([1, -3], np.float32), "weight": WEIGHT}, (6, 3)),
        (mean_absolute_error, LOGITS[:, :1], {"labels": np.zeros(3, np.float32), "weight": WEIGHT}, (4, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sum_and_count(metric, outputs, batch, expected, dtype):
    total, count = metric(jnp.asarray(outputs, dtype), batch)
    assert total.dtype == count.dtype == jnp.float32
    assert (float(total), float(count)) == expected
