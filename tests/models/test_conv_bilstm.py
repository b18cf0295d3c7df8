"""Strides and channels of convolutions before LSTM layers."""

import math

import pytest

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError
from tests.models import audio


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 2)])
def test_the_strides_multiply(strides):
    model, batch = audio.model_of("conv_bilstm", strides=strides), audio.batch_of()
    params, extras = audio.drawn(model, batch)
    found = audio.outputs_of(model, params, extras, batch)
    frames = 24  # of 400 samples, each 32 long and 16 apart
    assert found["lengths"][0] == found["logits"].shape[1] == math.ceil(math.ceil(frames / strides[0]) / strides[1])
    assert schema.ConvBilstm(name="conv_bilstm", strides=strides).stride == strides[0] * strides[1]


def test_each_convolution_needs_a_stride():
    with pytest.raises(ConfigError, match="expected one for each of the 2 convolutions, got 3"):
        audio.model_of("conv_bilstm", strides=(1, 1, 2))
