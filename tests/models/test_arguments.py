"""What a model is handed besides its inputs, and what it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.errors import ShapeError
from jaxprop.models import MODELS
from jaxprop.models.arguments import arguments_of, caller, expect_read, masks_tokens, token_mask
from jaxprop.types import Spec

TOKENS = np.zeros((2, 3), np.int32)
MASK = np.array([[1, 0, 0], [1, 1, 1]], np.float32)


def test_every_model_says_by_its_call_what_it_reads():
    assert {name: arguments_of(make) for name, make in MODELS.items()} == {
        "mlp": ("weight", "categories"),
        "cnn": ("weight",),
        "resnet": ("weight",),
        "vit": (),
        "detector": (),
        "conv_bilstm": ("input_lengths", "masked_bands", "masked_times"),
        "conformer": ("input_lengths", "masked_bands", "masked_times"),
        "rnn": ("mask",),
        "transformer": ("mask", "token_types"),
        "seq2seq_transformer": ("targets", "mask"),
        "seq2seq_rnn": ("targets", "mask"),
    }


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"inputs": TOKENS}, None),
        ({"inputs": TOKENS, "mask": MASK}, MASK),
        ({"inputs": TOKENS, "lengths": np.array([1, 3])}, MASK),
        ({"inputs": TOKENS, "mask": MASK, "lengths": np.array([3, 3])}, MASK),
        ({"inputs": TOKENS, "input_mask": MASK, "mask": np.ones((2, 3))}, MASK),  # the other one is of the labels
        ({"inputs": TOKENS, "mask": MASK[:, 0]}, None),  # of the examples' answers
        ({"inputs": np.zeros((2, 3), np.float32), "mask": MASK}, None),  # no tokens
        ({"inputs": np.zeros((2, 3, 4), np.float32), "lengths": np.array([1, 3])}, MASK),
    ],
)
def test_which_positions_are_real(batch, expected):
    found = token_mask(batch)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(found, expected != 0)


TOKEN = jax.ShapeDtypeStruct((5,), jnp.int32)
FLOATS = jax.ShapeDtypeStruct((5,), jnp.float32)


@pytest.mark.parametrize(
    ("inputs", "mask", "sizes", "expected"),
    [
        (TOKEN, FLOATS, {"vocabulary": 9, "classes": 2}, True),
        (TOKEN, FLOATS, {"vocabulary": 9, "targets": 1}, True),
        (TOKEN, FLOATS, {"vocabulary": 9}, False),  # of the labels of a language
        (TOKEN, jax.ShapeDtypeStruct((), jnp.float32), {"vocabulary": 9, "classes": 2}, False),
        (TOKEN, None, {"vocabulary": 9, "classes": 2}, False),
        (FLOATS, FLOATS, {"classes": 5}, False),  # of the labels
    ],
)
def test_which_masks_are_of_tokens(inputs, mask, sizes, expected):
    batch = {"inputs": inputs} | ({} if mask is None else {"mask": mask})
    assert masks_tokens(Spec(batch, sizes)) == expected


@pytest.mark.parametrize("lengths", [np.array([1]), np.ones((2, 3), np.int32)])
def test_lengths_of_another_number_of_sequences(lengths):
    with pytest.raises(ShapeError, match=r"expected lengths \[2\], one for each sequence of the inputs \[2, 3\]"):
        token_mask({"inputs": TOKENS, "lengths": lengths})


def test_a_model_gets_what_it_asks_for_and_nothing_else():
    def module(x, **given):
        return given

    batch = {"inputs": jnp.zeros((2, 3), jnp.int32), "categories": jnp.ones((2, 1), jnp.int32), "weight": jnp.ones(2)}
    assert caller(())(module, batch) == {}
    assert sorted(caller(("weight", "categories"))(module, batch)) == ["categories", "weight"]
    assert caller(("mask",))(module, batch) == {"mask": None}


def test_nothing_is_left_unread():
    with pytest.raises(ShapeError, match=r"model rnn does not read categories, and the data have 2 columns of them"):
        expect_read(("mask",), Spec({}, {"categories": (3, 5)}), "rnn")
    expect_read(("mask",), Spec({}, {"classes": 2}), "rnn")
    padded = Spec({"inputs": TOKEN, "mask": FLOATS}, {"vocabulary": 9, "classes": 2})
    with pytest.raises(ShapeError, match=r"model mlp does not read tokens, .* use model.name: rnn or transformer"):
        expect_read(("weight", "categories"), padded, "mlp")
    expect_read(("mask",), padded, "rnn")
