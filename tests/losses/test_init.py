"""Losses by name: none is without a test, and the test of gradients can fail."""

import jax
import jax.numpy as jnp
import pytest

from jaxprop.losses import LOSSES
from tests.gradients import check
from tests.losses.cases import CASES


def test_the_check_sees_a_wrong_gradient(x64):
    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2.00001 * primals[0] * tangents[0]))
    with pytest.raises(AssertionError):
        check(lambda x, _: square(x).sum(), jnp.arange(1.0, 4.0))


def test_every_section_has_its_loss():
    others = {"ctc", "focal_iou"}  # whose outputs are no array; see test_ctc.py and test_detection.py
    assert {section.name for section, *_ in CASES.values()} | others == set(LOSSES)
