"""`bench/render/tables.py`: a document as tables."""

from jaxprop.bench.document import Document, Environment, Row
from jaxprop.bench.render.tables import cell, tables

HERE = Environment(devices=[{"kind": "cpu"}], host={"cpu": "any"}, versions={"jax": "1"}, flags={})


def product(dtype, n, value, **more):
    name = f"{dtype} {n} x {n} x {n}"
    low, high = (None, None) if value is None else (0.9 * value, 1.1 * value)
    facts = {"dtype": dtype, "m": n, "k": n, "n": n}
    return Row(section="matmul", name=name, unit="TFLOP/s", value=value, low=low, high=high, facts=facts, **more)


def shown(*rows):
    return tables(Document(command="device", started="now", environment=HERE, rows=[*rows]))


def test_dtypes_stand_beside_each_other_and_the_best_is_marked():
    (table,) = shown(product("float32", 8, 1.0), product("float32", 16, 2.0), product("bfloat16", 8, 5.0))
    assert table.headers == ["", "float32", "bfloat16"]
    assert table.rows == [
        ["8 x 8 x 8", "1 ±10.0%", "5 ±10.0% *"],
        ["16 x 16 x 16", "2 ±10.0% *", ""],
    ]


def test_what_was_not_measured_is_said_apart():
    first, second = shown(product("float32", 8, 1.0), product("tf32", 8, None, status="unsupported", message="no tf32"))
    assert first.headers == ["", "float32"]
    assert second.rows == [["tf32 8 x 8 x 8", "no tf32"]]


def test_several_devices_have_tables_of_their_own():
    titles = [table.title for table in shown(product("float32", 8, 1.0), product("float32", 8, 2.0, device="1"))]
    assert [title.split(" (")[0] for title in titles] == ["matmul, device 0, TFLOP/s", "matmul, device 1, TFLOP/s"]


def test_both_bandwidths_of_a_collective():
    row = Row(
        section="collectives", name="all-reduce 4 KiB", device="all", value=2.0, unit="GB/s", facts={"bus_factor": 1.5}
    )
    (table,) = shown(row)
    assert table.rows == [["all-reduce 4 KiB", "2 ±0.0%", "3", ""]]


def test_a_step_shows_the_columns_that_it_has():
    row = Row(section="train", name="mlp", value=2.0, unit="ms", better="lower", facts={"mfu": 0.5, "host_us": None})
    (table,) = shown(row, row.model_copy(update={"name": "mlp, health off"}))
    assert table.headers == ["", "step", "MFU"]
    assert table.rows == [["mlp", "2 ±0.0%", "50.0%"]]


def test_cells():
    assert cell(None) == ""
    assert cell(Row(section="a", name="b", status="out_of_memory")) == "out of memory"
    assert cell(Row(section="a", name="b", value=3.0, low=2.0, high=4.0, status="noisy")) == "3 ±33.3% noisy"
