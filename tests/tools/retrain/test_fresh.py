"""Which classes of new data a champion does not know."""

import pytest

from jaxprop.config.schema.data import Table
from jaxprop.data import open_sources
from jaxprop.data.alike import alike_of
from jaxprop.tools.retrain.fresh import unknown_classes


def write(path, classes):
    path.write_text("x,k\n" + "".join(f"{i},{kind}\n" for i, kind in enumerate(classes)))
    return str(path)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ("cba", "abc", []),
        ("dcb", "dc", ["d"]),
        ("dcb", "dca", ["d"]),  # fault: a class that only the new test data had hid the others
        ("dce", "a", ["d", "e"]),
    ],
)
def test_classes_are_those_of_the_new_training_data(tmp_path, train, test, expected):
    old = Table(name="table", train=write(tmp_path / "old.csv", "abcabc"), target="k")
    champion = open_sources(old, "classify")["train"]
    alike = alike_of(champion.info, champion.prepared)
    files = {"train": write(tmp_path / "train.csv", 3 * train), "test": write(tmp_path / "test.csv", test)}
    assert unknown_classes(Table(name="table", target="k", **files), "classify", alike) == expected
