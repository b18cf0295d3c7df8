"""What files show beside the tables."""

import pytest

from jaxprop.bench.document import Row
from jaxprop.bench.render.cells import all_figures, circumstances, figure, number, readings, right, spread, text, title
from jaxprop.bench.render.tables import Table
from tests.bench.documents import device_document, make_document, make_row


def test_every_figure_has_a_line_and_empty_columns_are_left_out():
    document = device_document()
    table = all_figures(document)
    assert len(table.rows) == len(document.rows)
    assert table.headers == ["section", "what", "figure", "±", "A/A", "device while measured", "remarks"]
    assert table.rows[-1][1:3] == ["int8 256", "unsupported"]
    assert all_figures(make_document()).rows == []


def test_devices_have_a_column_where_there_are_several():
    table = all_figures(make_document(make_row(device="0"), make_row(device="1", status="noisy")))
    assert [row[2] for row in table.rows] == ["0", "1"]
    assert table.rows[1][-1] == "noisy"


def test_what_could_be_read_of_the_device():
    facts = {"clock_mhz": 1980.4, "temperature_c": 61.0, "power_w": 312.9, "throttled": "power limit"}
    assert readings(make_row(facts=facts)) == "1,980 MHz, 61 °C, 313 W, throttled: power limit"
    assert readings(make_row()) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.000"),
        (0.00012345, "0.0001234"),
        (1.5e-7, "1.500e-07"),
        (999.99, "1000."),
        (12345.6, "12,346"),
        (3e12, "3.000e+12"),
    ],
)
def test_numbers(value, expected):
    assert number(value) == expected


def test_figures():
    assert figure(Row(section="a", name="b", status="out_of_memory")) == "out of memory"
    assert figure(Row(section="a", name="b")) == ""
    assert spread(Row(section="a", name="b", value=2.0, low=1.9, high=2.1)) == "5.0%"
    assert spread(Row(section="a", name="b", value=2.0)) == ""
    assert (text(None), text(True), text(1234), text(0.5)) == ("none", "True", "1,234", "0.5")


def test_titles_name_the_machine():
    assert title(make_document(kinds=("cpu",))) == "AMD EPYC 9554: train steps"
    assert title(make_document(kinds=("cpu",), host={"cpu": None})) == "CPU: train steps"
    assert title(make_document(kinds=("TPU v4",) * 4, command="device")) == "4 x TPU v4: what the device can do"


def test_circumstances_tell_what_is_there():
    found = dict(circumstances(make_document(make_row(), complete=False, flags={"XLA_FLAGS": "--a"}, commit=None)))
    assert found["complete"] == "no: the command was ended before all was measured"
    assert found["settings"] == "XLA_FLAGS=--a"
    assert found["commit"] == "none"
    assert "arguments" not in found


def test_the_first_column_names_and_is_never_aligned_as_a_number():
    assert right(Table("", ["a", "b", "c"], [["1", "2", "x"], ["3", "", "4"]])) == {1}
    assert right(Table("", ["a"], [])) == set()
