"""Scales: the statistics of features, whatever the chunks; and what is said of inputs far from unit scale."""

import numpy as np
import pytest

from jaxprop.data.scale import Scale, as_json, far_from_unit, from_json, scale_of, standardize


@pytest.mark.parametrize("shape", [(50,), (50, 3), (50, 4, 3), (50, 4, 4, 3)])
@pytest.mark.parametrize("parts", [1, 7])
def test_statistics_are_those_of_numpy_whatever_the_chunks(shape, parts):
    values = np.random.default_rng(0).normal(1e6, 2.0, shape)
    scale = scale_of(np.array_split(values, parts))
    flat = values.reshape(-1, shape[-1] if len(shape) > 1 else 1)
    np.testing.assert_allclose(scale.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale.std, flat.std(0), rtol=1e-9)
    out = standardize(values, scale)
    assert (out.shape, out.dtype) == (shape, np.float32)
    assert abs(out.mean()) < 1e-5
    assert abs(out.std() - 1) < 1e-5


def test_a_constant_feature_becomes_zero_and_integers_floats():
    values = np.array([[7, 1], [7, 3]], np.uint8)
    assert standardize(values, scale_of([values])).tolist() == [[0, -1], [0, 1]]


def test_a_scale_survives_json():
    scale = Scale(np.array([0.1, 2.0]), np.array([3.0, 0.0]))
    again = from_json(as_json(scale))
    assert np.array_equal(again.mean, scale.mean)
    assert np.array_equal(again.std, scale.std)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([0.0], [1.0], None),
        ([0.5], [0.3], None),
        ([0.0], [0.0], None),
        ([0.001, 0.5], [0.001, 0.1], None),
        ([128.0], [70.0], "x: the values have the mean 128 and the standard deviation 70"),
        ([0.0, -50.0], [1.0, 2.0], "x: feature 1 has the mean -50 and the standard deviation 2"),
        ([1e-4, 0.0], [1e-4, 1e-5], "x: feature 0 has the mean 0.0001 and the standard deviation 0.0001"),
    ],
)
def test_inputs_far_from_unit_scale_are_said_with_the_line_that_fixes_it(mean, std, said):
    note = far_from_unit(Scale(np.array(mean), np.array(std)), "x", "data.standardize: true")
    assert note == (said and f"{said}, far from unit scale; set data.standardize: true")


def test_features_are_named_where_they_have_names():
    note = far_from_unit(Scale(np.array([1.0, 900.0]), np.ones(2)), "x", "y", features=["age", "income"])
    assert "feature income" in note
