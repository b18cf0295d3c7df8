"""Bytes a token: sums that add up over batches, without padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.metrics import add_up, bytes_per_token, finished
from jaxprop.metrics.totals import measure

FIRST = {
    "labels": jnp.zeros((2, 3), jnp.int32),
    "mask": jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    "bytes": jnp.array([9.0, 2.0]),
}
LAST = FIRST | {"weight": jnp.array([1.0, 0.0])}


def test_padding_counts_for_nothing():
    totals = {}
    for batch in (FIRST, LAST):
        add_up(totals, measure({"bytes_per_token": bytes_per_token}, None, batch))
    assert finished(totals, {"bytes_per_token": bytes_per_token}) == {"bytes_per_token": pytest.approx(20 / 7)}


def test_nothing_has_no_figure():
    assert np.isnan(bytes_per_token.finish({"bytes": 0.0, "tokens": 0.0}))
