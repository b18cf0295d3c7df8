"""Records as columns: of one length, with NaN or None where a record has nothing."""

import numpy as np
import pytest

from jaxprop.errors import RunFolderError
from jaxprop.run.columns import columns, read_records


def test_a_column_has_the_dtype_of_its_values():
    found = columns([{"step": 1, "loss": 2, "split": "a"}, {"step": 2, "loss": None, "split": "b"}])
    assert found["step"].dtype == np.int64
    assert found["loss"].dtype == np.float64
    assert np.isnan(found["loss"][1])
    assert found["split"] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [([True, False], list), ([None, None], list), ([1, 2.5], np.ndarray), ([1, None], np.ndarray), ([[1], [2]], list)],
)
def test_what_is_no_number_stays_a_list(values, kind):
    column = columns([{"x": value} for value in values])["x"]
    assert isinstance(column, kind)
    assert len(column) == 2


def test_without_records_the_first_columns_are_there():
    assert {name: len(column) for name, column in columns([], first=("step", "loss")).items()} == {"step": 0, "loss": 0}


def test_damaged_and_unfinished_lines_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnoise\n[1]\n{"step": 2}\n{"st')
    assert read_records(path) == [{"step": 1}, {"step": 2}]
    assert read_records(path, lambda record: record["step"] > 1) == [{"step": 2}]
    assert read_records(tmp_path / "nothing.jsonl") == []


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text('{"step": 1}\n')
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be read: it is a link"):
        read_records(tmp_path / "metrics.jsonl")
