"""Signals of the outputs, against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.outputs import joined_outputs, output_parts

RNG = np.random.default_rng(0)
LOGITS = (10 * RNG.normal(size=(4, 3))).astype(np.float32)
LABELS = np.array([0, 1, 2, 0], np.int32)
OUTPUTS = {
    "logits": (LOGITS, {"labels": LABELS}, True),
    "logits in half": (LOGITS.astype(jnp.bfloat16), {"labels": LABELS}, True),
    "no labels": (LOGITS, {}, False),
    "targets": (LOGITS, {"labels": LOGITS}, False),
    "float labels": (LOGITS, {"labels": LABELS.astype(np.float32)}, False),
}


def output_sums(outputs, batch):
    return joined_outputs(*output_parts(outputs, batch))


@pytest.mark.parametrize("case", OUTPUTS)
def test_output_signals(case):
    outputs, batch, classes = OUTPUTS[case]
    found = output_sums(jnp.asarray(outputs), batch)
    wide = np.asarray(outputs, np.float64)
    expected = {"_output_max": np.abs(wide).max()}
    if classes:
        expected["_output_logsumexp"] = np.mean(np.log(np.exp(wide).sum(-1)) ** 2)
    assert {name: float(count) for name, (_, count) in found.items()} == dict.fromkeys(expected, 1)
    for name, (total, _) in found.items():
        np.testing.assert_allclose(total, expected[name], rtol=1e-6)


@pytest.mark.parametrize("outputs", [(LOGITS,), {"a": LOGITS}, jnp.zeros((0, 3)), LOGITS])
def test_outputs_that_are_no_device_array_are_not_measured(outputs):
    assert output_sums(outputs, {}) == {}


@pytest.mark.parametrize("key", ["weight", "mask"])
def test_outputs_that_count_for_nothing_are_left_out(key):
    outputs = jnp.asarray([[3.0, -4.0], [1e3, 0.0]])
    found = output_sums(outputs, {"labels": jnp.array([0, 1]), key: jnp.array([1.0, 0.0])})
    expected = output_sums(outputs[:1], {"labels": jnp.array([0])})
    assert {name: float(x) for name, (x, _) in found.items()} == {name: float(x) for name, (x, _) in expected.items()}
