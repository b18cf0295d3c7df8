"""Arrow and Parquet files by index: wherever the process stands, and nothing kept of what has changed."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxprop.data.readers import shards as module
from jaxprop.data.readers.shards import open_shards
from jaxprop.errors import DataError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(values, name="x.parquet"):
    held = pa.table({"x": values, "words": [f"w{value}" for value in values]})
    if name.endswith(".parquet"):
        pq.write_table(held, name, row_group_size=3)
    else:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, held.schema) as writer:
            writer.write_table(held, max_chunksize=3)
    return Path(name)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_of_several_files_by_index(kind):
    files = [write(list(range(7)), f"a.{kind}"), write(list(range(7, 12)), f"b.{kind}")]
    shards = open_shards("folder", files)
    assert (shards.length, shards.columns) == (12, ["x", "words"])
    assert [shards.cell("x", row) for row in (0, 2, 3, 6, 7, 11)] == [0, 2, 3, 6, 7, 11]
    assert shards.values("words") == [f"w{row}" for row in range(12)]
    assert (shards.holds_text("words"), shards.holds_text("x"), shards.holds_bytes("words")) == (True, False, False)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_nothing_is_kept_of_a_file_that_has_changed_or_lies_elsewhere(kind):
    name = f"x.{kind}"
    shards = open_shards(name, [write([1, 2, 3, 4], name)])
    assert shards.cell("x", 0) == 1
    Path("down").mkdir()
    os.chdir("down")
    assert shards.cell("x", 3) == 4
    assert open_shards(name, [write([5, 6, 7], name)]).values("x") == [5, 6, 7]
    Path(name).unlink()
    assert open_shards(name, [write([8, 9, 10], name)]).values("x") == [8, 9, 10]


def test_what_does_not_belong_together_or_expands_too_far_is_refused(monkeypatch):
    pq.write_table(pa.table({"y": [1]}), "y.parquet")
    with pytest.raises(
        DataError, match=r"y.parquet: has other columns than x.parquet; all files of both need the same"
    ):
        open_shards("both", [write([1]), Path("y.parquet")])
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), "empty.parquet")
    with pytest.raises(DataError, match="empty: has no rows"):
        open_shards("empty", [Path("empty.parquet")])
    monkeypatch.setattr(module, "_MAX_GROUP", 10)
    with pytest.raises(DataError, match=r"x.parquet: has a group of rows that expands to .* row_group_size=1000"):
        open_shards("x.parquet", [write([1])])


def test_text_that_is_no_utf8_is_missing():
    binary = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"x": binary}), "x.parquet")
    assert open_shards("x.parquet", [Path("x.parquet")]).values("x") == ["good", None]


@pytest.mark.parametrize("name", [b"words", b"bytes"])
def test_a_damaged_name_of_a_column_or_of_a_field_is_told(name):
    held = pa.table({"words": [{"bytes": b"x"}]})
    with pa.OSFile("x.arrow", "wb") as sink, pa.ipc.new_stream(sink, held.schema) as writer:
        writer.write_table(held)
    content = Path("x.arrow").read_bytes()
    assert content.count(name) == 1
    Path("x.arrow").write_bytes(content.replace(name, b"\xff\xfe\xff\xfe\xff"))
    with pytest.raises(DataError, match=r"x.arrow: is damaged, cut short, or no Parquet or Arrow file"):
        open_shards("x.arrow", [Path("x.arrow")])


@pytest.mark.parametrize(
    ("key", "refused"), [("_indices_data_files", True), ("_indices_files", True), ("_split", False)]
)
def test_a_data_set_of_selected_rows_is_refused(key, refused):
    """`datasets` saves all rows, and which of them are meant, where `select` came before `save_to_disk`."""
    file = write(list(range(7)), "data.arrow")
    Path("state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], key: [{"filename": "i"}]}))
    if refused:
        with pytest.raises(
            DataError, match=r"state.json: says that only some rows .*; save it again with .*flatten_ind"
        ):
            open_shards("x", [file])
    else:
        assert open_shards("x", [file]).length == 7
