"""Labels are checked against the outputs before anything is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.losses.huber import huber
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error


@pytest.mark.parametrize(
    ("loss", "outputs", "labels", "message"),
    [
        (softmax_cross_entropy, (4, 3), np.zeros(5, np.int32), r"expected labels \[4\] .* got \[5\]"),
        (softmax_cross_entropy, (4, 3), np.zeros((4, 3), np.int32), r"expected labels \[4\]"),
        (softmax_cross_entropy, (4, 3), np.zeros(4, np.float32), "expected integer labels"),
        (squared_error, (4, 3), np.zeros((4, 2), np.float32), r"expected labels \[4, 3\]"),
        (huber, (4, 2), np.zeros(4, np.float32), r"expected labels \[4, 2\]"),
    ],
)
def test_shapes_that_disagree(loss, outputs, labels, message):
    with pytest.raises(ShapeError, match=message):
        jax.eval_shape(lambda o: loss(o, {"labels": labels}), jax.ShapeDtypeStruct(outputs, jnp.float32))
