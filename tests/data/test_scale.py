"""Inputs far from unit scale are told with a line that brings them there."""

import numpy as np
import pytest

from jaxprop.data.scale import scale_notes

RNG = np.random.default_rng(0)
UNIT = RNG.normal(size=(64, 3))


def applied(note, inputs):
    """Runs the line that a note ends in."""
    held = {"inputs": inputs}
    exec(note.rsplit(": ", 1)[1], {}, held)
    return held["inputs"]


@pytest.mark.parametrize(
    "inputs",
    [UNIT, UNIT * 5, UNIT / 20, RNG.random((8, 8, 8, 1)), np.zeros((4, 3)), np.zeros((0, 3)), UNIT * np.nan],
    ids=["unit", "five", "a twentieth", "images", "zero", "empty", "nan"],
)
def test_nothing_is_said_of_inputs_near_unit_scale_or_without_one(inputs):
    assert scale_notes("x", inputs) == []


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (UNIT * [1, 1000, 1], "1 of 3 columns is far from unit scale, such as column 1 with mean"),
        (UNIT * [1e-4, 1000, 1], "2 of 3 columns are far from unit scale"),
        (UNIT + [0, 0, 1e5], "such as column 2 with mean 1e+05 and standard deviation"),
        (UNIT[:, :1] * 50, "1 of 1 column is far"),
        (RNG.integers(0, 256, (8, 8, 8, 1)), "the values are far from unit scale"),
        (RNG.normal(size=(8, 8, 8)) * 300, "the values are far from unit scale"),
    ],
)
def test_the_line_of_the_note_brings_the_inputs_to_unit_scale(inputs, said):
    (note,) = scale_notes("train.npz:inputs", inputs)
    assert note.startswith("train.npz:inputs: ")
    assert said in note
    assert scale_notes("x", applied(note, inputs)) == []
