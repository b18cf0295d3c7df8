"""Columns of numbers by index: as NumPy would index the whole array, while only what is asked for is read."""

from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxprop.data.readers import shards as module
from jaxprop.data.readers.shard_arrays import ShardArray
from jaxprop.data.readers.shards import open_shards
from jaxprop.errors import DataError

N = 23
COLUMNS = {
    "a": np.arange(N, dtype=np.int32),
    "b": np.linspace(0, 1, N).astype(np.float32),
    "yes": np.arange(N) % 3 == 0,
    "pair": np.arange(2 * N, dtype=np.float32).reshape(N, 2),
    "image": np.arange(6 * N, dtype=np.uint8).reshape(N, 2, 3),
}
KINDS = ["parquet", "arrow"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, columns, rows):
    table = pa.table({key: pa.array(values[rows].tolist(), _type(values)) for key, values in columns.items()})
    if name.endswith("parquet"):
        pq.write_table(table, name, row_group_size=4)
    else:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    return Path(name)


def _type(values):
    kind = pa.from_numpy_dtype(values.dtype)
    for axis in range(values.ndim - 1, 0, -1):
        kind = pa.list_(kind, values.shape[axis]) if axis == 2 else pa.list_(kind)
    return kind


def made(kind, *names, keep=0):
    files = [write(f"{i}.{kind}", COLUMNS, part) for i, part in enumerate((slice(0, 10), slice(10, N)))]
    return ShardArray("made", open_shards("made", files), names, keep)


WANTED = [
    (("a",), COLUMNS["a"][:, None]),
    (("a", "b", "yes"), np.stack([COLUMNS["a"], COLUMNS["b"].astype(np.float64), COLUMNS["yes"]], 1)),
    (("pair",), COLUMNS["pair"]),
    (("image",), COLUMNS["image"]),
]


@pytest.mark.parametrize("keep", [0, 10**6], ids=["read each time", "kept"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("names", "expected"), WANTED, ids=["one", "several", "lists", "lists of lists"])
def test_it_is_indexed_as_an_array_is(kind, names, expected, keep):
    found = made(kind, *names, keep=keep)
    assert found.digest == made(kind, *names).digest
    assert (found.shape, found.ndim, found.size, found.dtype) == (
        expected.shape, expected.ndim, expected.size, expected.dtype,
    )  # fmt: skip
    for key in (slice(None), slice(3, 14), slice(20, 100), [22, 0, 9, 10, 10], [-1, 2], 7, (12, 0), []):
        assert np.array_equal(found[key], expected[key if not isinstance(key, list) else np.array(key, int)])
    rows = np.array([21, 3, 4, 11])
    assert np.array_equal(found.chosen(rows)[1:3], expected[rows][1:3])
    assert np.array_equal(cloudpickle.loads(cloudpickle.dumps(found))[[5, 17]], expected[[5, 17]])


@pytest.mark.parametrize("kind", KINDS)
def test_of_rows_and_files_the_digest_is_another_one(kind):
    found = made(kind, "a", "b")
    assert found.digest == made(kind, "a", "b").digest != made(kind, "b", "a").digest
    assert found.digest != found.chosen(np.arange(N)).digest


def test_of_parquet_only_the_groups_that_are_asked_for_are_read(monkeypatch):
    found = made("parquet", "a", "b")
    read = []
    monkeypatch.setattr(module, "_ROW_GROUPS", module._RowGroups())
    row_group = module._row_group
    monkeypatch.setattr(module, "_row_group", lambda group, columns: read.append(group) or row_group(group, columns))
    assert found[[0, 13]][:, 0].tolist() == [0, 13]
    assert {(Path(group.path).name, group.number) for group in read} == {("0.parquet", 0), ("1.parquet", 0)}
    read.clear()
    assert np.array_equal(found[[1, 12]][:, 0], [1, 12])
    assert not read  # both groups are still in memory
    monkeypatch.setattr(module, "_KEPT", 40)
    for row in (5, 9, 15, 22, 5):
        assert found[row][0] == row
    assert sum(one.nbytes for one in module._ROW_GROUPS._held.values()) <= 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1.0, 2.0, None], r"x\[2\]: has no number in the column 'v'; use the reader table"),
        ([[1, 2], [3], [4, 5]], r"x\[1\]: the column 'v' holds lists of different lengths; pad them"),
        ([[1, 2], [3, 4], None], r"x\[2\]: has no number"),
        ([[1, 2], [3, None]], r"x\[1\]: has no number"),
        ([[[1], [2]], [[3], [4, 5]]], r"x\[1\]: the column 'v' holds lists of different lengths"),
        ([[[1], [2, 3]]], r"x\[0\]: the column 'v' holds lists of different lengths"),
        ([None, [1]], r"x\[0\]: has no number"),
        (["a", "b"], r"x: the column 'v' holds values of the type string, not numbers"),
    ],
)
def test_what_is_no_array_is_told_with_its_row(kind, values, why):
    name = f"x.{kind}"
    table = pa.table({"v": values})
    if kind == "parquet":
        pq.write_table(table, name, row_group_size=1)
    else:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    with pytest.raises(DataError, match=why):
        ShardArray("x", open_shards("x", [Path(name)]), ["v"])
