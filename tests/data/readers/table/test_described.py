"""The description of the features says what the reader computes."""

import json

import numpy as np
import pytest

from jaxprop.config.schema.data import Table
from jaxprop.data.readers.table import open_splits, rows_to_predict
from jaxprop.data.readers.table.described import described, encoded, sample
from jaxprop.data.readers.table.targets import Learned

NAMES = ["size", "color", "weight", "shape", "kind"]
ROWS = [
    [1.0, "red", None, "round", "a"], [2.5, "green", 7.0, None, "b"], [3.0, "red", 8.0, "long", "a"],
    [4.0, "blue", 9.5, "long", "b"], [4.5, "blue", 9.5, "long", "b"],
]  # fmt: skip
NEW = [[1.5, "blue", None, None], [9.0, "violet", 3.0, "long"], [None, "green", 3.0, "flat"]]


@pytest.mark.parametrize("categories", ["one_hot", "integers"])
@pytest.mark.parametrize("most", [2, 50])
def test_it_gives_what_the_reader_gives(write, categories, most):
    path = write("fruit", "csv", NAMES, ROWS)
    section = Table(name="table", train=path, target="kind", max_categories=most, categories=categories)
    prepared = open_splits(section, "classify")["train"].prepared
    new = write("new", "csv", NAMES[:4], NEW)
    source = rows_to_predict(section, "classify", prepared, [new])
    wanted = source.take(np.arange(source.length))
    learned = Learned.restored(prepared)
    entries = json.loads(json.dumps(described(learned.columns, one_hot=learned.one_hot)))
    assert [entry["at"] for entry in entries if entry["array"] == "inputs"] == list(range(wanted["inputs"].shape[1]))
    for i, row in enumerate(NEW):
        found = encoded(entries, dict(zip(NAMES, row, strict=False)))
        assert found.keys() == wanted.keys()
        for name, values in found.items():
            np.testing.assert_allclose(values[0], wanted[name][i], rtol=1e-6)
    assert set(sample(entries)) == set(NAMES[:4])
