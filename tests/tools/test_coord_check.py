"""Which parametrization changes layers by as much at every width, and what cannot be checked."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.errors import ConfigError, UsageError
from jaxprop.tools.coord_check import coord_check, power, write
from jaxprop.tools.coord_layers import LIMIT, Checked, Layer
from jaxprop.tools.coord_picture import picture

SECTIONS = {
    "task": {"name": "language"}, "data": {"name": "stdlib_text", "sequence_length": 16, "batch_size": 8},
    "model": {"name": "transformer", "width": 16, "heads": 2, "layers": 1}, "run": {"epochs": 1},
    "optimizer": {"name": "adam", "lr": 0.01, "parametrization": "mup", "base_width": 16},
}  # fmt: skip


def test_the_power_is_the_slope_of_logarithms():
    assert power([10, 100, 1000], [3.0, 0.3, 0.03]) == pytest.approx(-1)
    assert np.isnan(power([10, 100], [0.0, 1.0]))


def test_mup_holds_where_standard_does_not():
    ours, usual = coord_check(build(SECTIONS), [16, 64, 256], steps=10, seeds=2)
    assert (ours.parametrization, ours.holds) == ("mup", True)
    assert "no layer's change depends on the width" in ours.verdict
    assert (usual.parametrization, usual.holds) == ("standard", False)
    assert [layer.name for layer in ours.layers] == ["blocks/0/attn", "blocks/0/mlp", "blocks/0", "head"]
    assert max(layer.power for layer in usual.layers) > 0.5
    # At the base width both are one model.
    assert [layer.changes[0] for layer in ours.layers] == [layer.changes[0] for layer in usual.layers]


def test_one_that_is_standard_is_checked_alone_at_its_own_width_and_below():
    sections = SECTIONS | {"optimizer": {"name": "adam", "lr": 0.01}, "model": SECTIONS["model"] | {"width": 32}}
    found = coord_check(build(sections), steps=1, seeds=1)
    assert [(one.parametrization, one.widths) for one in found] == [("standard", (4, 8, 16, 32))]


def test_what_cannot_be_checked_is_said():
    config = build(SECTIONS)
    with pytest.raises(UsageError, match="give two or more, as in --widths 64,128,256"):
        coord_check(config, [16])
    with pytest.raises(ConfigError, match="heads"):
        coord_check(config, [16, 17], steps=1, seeds=1)


LAYERS = Layer("a<b", (1.0, 2.0), 1.0, (1.0, 1.0)), Layer("c", (0.5, 0.0), float("nan"), (1.0, 0.0))
FOUND = Checked("mup", (8, 16), 2, 1, LAYERS, False, "no")


def test_the_picture_has_a_line_for_each_layer_and_the_file_its_figures(tmp_path):
    write([FOUND], tmp_path / "new")
    root = ElementTree.fromstring((tmp_path / "new/coord_check.svg").read_text())
    lines = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert [len(one.attrib["points"].split()) for one in lines] == [2, 1]
    held = json.loads((tmp_path / "new/coord_check.json").read_text())
    assert held["checks"][0]["layers"][1] == {"name": "c", "changes": [0.5, 0.0], "power": None, "sizes": [1.0, 0.0]}


def test_many_layers_are_counted_in_the_picture():
    many = FOUND._replace(layers=tuple(Layer(f"layer {i}", (1.0, 1.0), 0.0, (1.0, 1.0)) for i in range(40)))
    assert "and 24 more" in picture([many])
    assert LIMIT < 0.5
