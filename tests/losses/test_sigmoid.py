"""Sigmoid cross-entropy against its equation."""

import pytest

from tests.losses.cases import check_equation, check_gradient


@pytest.mark.parametrize("case", ["sigmoid", "sigmoid_smoothed"])
def test_equation(case):
    check_equation(case)


@pytest.mark.parametrize("case", ["sigmoid", "sigmoid_smoothed"])
def test_gradient(x64, case):
    check_gradient(case)
