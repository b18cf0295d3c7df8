"""Columns: statistics by chunks, categories by frequency, features in their places."""

import numpy as np
import pytest

from jaxprop.data.readers.table import columns as module
from jaxprop.data.readers.table.columns import Column, Features, inputs_of, moments, restored, stored


@pytest.mark.parametrize("chunk", [1, 7, 2**16])
def test_moments_do_not_depend_on_the_chunks_and_leave_missing_values_out(chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    values = np.random.default_rng(0).normal(loc=1e6, size=(50, 3))
    values[::5, 1] = np.nan
    values[:, 2] = 0.1
    train = np.arange(0, 50, 2)
    mean, std, missing = moments([(values, train)])
    np.testing.assert_allclose(mean, np.nanmean(values[train], 0), rtol=1e-11)
    np.testing.assert_allclose(std[:2], np.nanstd(values[train, :2], 0), rtol=1e-6)
    assert std[2] == 1.0
    assert missing == [0, 5, 0]


def test_a_column_without_a_value_in_the_training_rows_has_statistics_that_harm_nothing():
    assert moments([(np.array([[np.nan], [np.nan], [3.0]]), np.arange(2))]) == ([0.0], [1.0], [2])


def test_features_lie_in_the_order_numbers_indicators_categories():
    columns = [
        Column("color", "category", values=("blue", "red"), other=True),
        Column("size", "number", mean=2.0, std=2.0, indicator=True),
        Column("shape", "category", values=("round", None)),
        Column("weight", "number", mean=10.0, std=5.0),
    ]
    features = Features(
        np.array([[4.0, 10.0], [np.nan, 20.0], [2.0, np.nan]]), np.array([[0, 0], [1, 1], [2, -1]], np.int32)
    )
    found = inputs_of(columns, one_hot=True)(features, np.arange(3))
    assert found["inputs"].tolist() == [[1, 0, 0, 1, 0, 0, 1, 0], [0, 2, 1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0, 0]]
    assert sum(column.width for column in columns) == 8
    integers = inputs_of(columns, one_hot=False)(features, np.arange(3))
    assert integers["inputs"].tolist() == [[1, 0, 0], [0, 2, 1], [0, 0, 0]]
    assert integers["categories"].tolist() == [[1, 1], [2, 2], [3, 0]]
    assert restored(stored(columns)) == columns


def test_features_stay_finite_far_from_the_training_rows():
    taking = inputs_of([Column("x", "number", std=1e-30)], one_hot=True)
    assert np.isfinite(taking(Features(np.array([[3e38]]), np.empty((1, 0), np.int32)), np.array([0]))["inputs"]).all()
