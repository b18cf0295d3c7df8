"""The section `model`: the network. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxprop.config.schema.base import Fraction, Positive, Section, Sizes
from jaxprop.config.schema.custom import Chosen, Custom

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu"]
Init = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
    "orthogonal", "normal", "truncated_normal", "zeros",
]  # fmt: skip


class Mlp(Section):
    """Multi-layer perceptron over flattened inputs."""

    name: Literal["mlp"]
    hidden: Sizes = Field((128, 128), description="number of units in each hidden layer")
    activation: Activation = Field("relu", description="activation function after every layer except the last")
    init: Init = Field("he_normal", description="initializer of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")
    batch_norm: bool = Field(False, description="use batch normalization in every hidden layer")


class Cnn(Section):
    """Convolution blocks with 2 x 2 max pooling between them, then dense layers."""

    name: Literal["cnn"]
    channels: Sizes = Field((32, 64), min_length=1, description="number of channels in each block")
    convs_per_block: Positive = Field(1, description="number of convolutions between two poolings")
    kernel: Positive = Field(3, description="width and height of the convolution kernels in pixels")
    hidden: Sizes = Field((128,), description="number of units in each dense layer after the blocks")
    activation: Activation = Field("relu", description="activation function after every layer except the last")
    init: Init = Field("he_normal", description="initializer of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")
    batch_norm: bool = Field(True, description="use batch normalization after every convolution")


class Rnn(Section):
    """Recurrent network over a sequence; one output per step for tokens, otherwise one from the last step."""

    name: Literal["rnn"]
    cell: Literal["elman", "gru", "lstm"] = Field("lstm", description="kind of recurrence")
    width: Positive = Field(128, description="number of units in the hidden state and in token embeddings")
    layers: Positive = Field(1, description="number of stacked recurrent layers")
    activation: Activation = Field("tanh", description="activation function of the candidate state")
    init: Init = Field("glorot_uniform", description="initializer of the kernels on inputs; biases start at zero")
    recurrent_init: Init = Field("orthogonal", description="initializer of the kernels on the hidden state")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")


class Transformer(Section):
    """Decoder-only transformer, pre-LN, causal."""

    name: Literal["transformer"]
    layers: Positive = Field(4, description="number of blocks of attention and feed-forward layers")
    width: Positive = Field(128, description="model dimension D, a multiple of heads")
    heads: Positive = Field(4, description="number of attention heads")
    ff_multiple: Positive = Field(4, description="width of the feed-forward layer in units of D")
    positions: Literal["rope", "learned"] = Field("rope", description="encoding of a token's position")
    tie_embeddings: bool = Field(True, description="also use the token embedding as the output layer")
    activation: Activation = Field("gelu", description="activation function of the feed-forward layers")
    init: Init = Field("truncated_normal", description="initializer of kernels and embeddings; biases start at zero")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")


class CustomModel(Custom):
    """A model of your own: a module class of Flax or Equinox, or a function that returns a model."""


ModelSection = Annotated[Mlp | Cnn | Rnn | Transformer | CustomModel, Chosen()]
