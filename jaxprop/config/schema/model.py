"""The section `model`: the network. Imports no jax."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jaxprop.config.schema.base import Fraction, NonNegative, Part, Positive, PositiveFloat, Section, Sizes
from jaxprop.config.schema.custom import Chosen, Custom


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"expected an odd number, got {value}; write {value + 1}")
    return value


Odd = Annotated[int, Field(gt=0, le=2**15), AfterValidator(_odd)]
Activation = Literal["relu", "gelu", "gelu_exact", "silu", "tanh", "sigmoid", "elu", "leaky_relu"]  # gelu is by tanh
Init = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
    "orthogonal", "normal", "truncated_normal", "zeros",
]  # fmt: skip


class Mlp(Section):
    """Multi-layer perceptron over flattened inputs, and over categories where the data have them."""

    name: Literal["mlp"]
    hidden: Sizes = Field((128, 128), description="number of units in each hidden layer")
    activation: Activation = Field("relu", description="activation function after every layer except the last")
    init: Init = Field("he_normal", description="initializer of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")
    batch_norm: bool = Field(False, description="use batch normalization in every hidden layer")
    embedding: Literal["one-hot"] | Positive = Field(
        "one-hot", description="how a category enters: one-hot, or the number of features of a learned embedding"
    )


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


class ResNet(Section):
    """Residual network for images: stages of residual blocks, then the mean over all positions."""

    name: Literal["resnet"]
    block: Literal["basic", "bottleneck"] = Field(
        "basic", description="residual block: two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1"
    )
    depths: Sizes = Field((2, 2, 2, 2), min_length=1, description="number of blocks in each stage")
    widths: Sizes = Field(
        (64, 128, 256, 512),
        min_length=1,
        description="number of channels in each stage; the output of a bottleneck block has four times as many",
    )
    stem: Literal["small", "large"] = Field(
        "small",
        description="first layer: small is a 3 x 3 convolution; large, for images of 100 pixels and more, is a 7 x 7 "
        "convolution of stride 2 and 3 x 3 max pooling of stride 2",
    )
    norm: Literal["batch", "group"] = Field("batch", description="normalization after every convolution")
    groups: Positive = Field(32, description="number of groups of channels for norm: group; it divides every width")
    activation: Activation = Field("relu", description="activation function in and after every block")
    init: Init = Field("he_normal", description="initializer of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="fraction of features dropped before the output layer in training")


class Rnn(Section):
    """Recurrent network over a sequence: one output per token for language, otherwise one per sequence."""

    name: Literal["rnn"]
    cell: Literal["elman", "gru", "lstm"] = Field("lstm", description="kind of recurrence")
    width: Positive = Field(128, description="number of units in the hidden state and in token embeddings")
    layers: Positive = Field(1, description="number of stacked recurrent layers")
    bidirectional: bool = Field(
        False, description="let each layer read the sequence in both directions, with width units for each of them"
    )
    pool: Literal["last", "mean"] = Field(
        "last", description="what one output per sequence is computed from: the last state, or the mean of all states"
    )
    activation: Activation = Field("tanh", description="activation function of the candidate state")
    init: Init = Field("glorot_uniform", description="initializer of the kernels on inputs; biases start at zero")
    recurrent_init: Init = Field("orthogonal", description="initializer of the kernels on the hidden state")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")


class Blocks(Section):
    """The keys of every model that is a stack of transformer blocks."""

    name: str
    layers: Positive = Field(4, description="number of blocks of attention and feed-forward layers")
    width: Positive = Field(128, description="model dimension D, a multiple of heads")
    heads: Positive = Field(4, description="number of attention heads")
    kv_heads: Positive | None = Field(
        None, description="number of heads of keys and values (grouped-query attention), a divisor of heads; "
        "default: heads"
    )  # fmt: skip
    norm: Literal["layer", "rms"] = Field("layer", description="normalization of each layer: LayerNorm or RMSNorm")
    norm_epsilon: PositiveFloat = Field(
        1e-6, description="number that the normalization adds to the variance or the mean square"
    )
    feed_forward: Literal["mlp", "swiglu"] = Field(
        "mlp", description="feed-forward layer: two dense layers, or the gated unit SwiGLU, which has three"
    )
    ff_multiple: Positive = Field(4, description="width of the feed-forward layer in units of D")
    activation: Activation = Field(
        "gelu",
        description="activation function of feed_forward: mlp; SwiGLU uses SiLU. gelu is the approximation by tanh, "
        "gelu_exact the function itself",
    )
    init: Init = Field("truncated_normal", description="initializer of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")


class Transformer(Blocks):
    """Transformer over tokens: a decoder for language, otherwise an encoder with one output per sequence."""

    name: Literal["transformer"]
    positions: Literal["rope", "learned"] = Field("rope", description="encoding of a token's position")
    tie_embeddings: bool = Field(
        True, description="also use the token embedding as the output layer, where every token has an output"
    )
    norm_order: Literal["pre", "post"] = Field(
        "pre",
        description="where normalization is: pre, before each layer and after the last; or post, after each residual "
        "sum and after the embeddings, as in BERT",
    )
    pool: Literal["mean", "first"] = Field(
        "mean",
        description="what one output per sequence is computed from: the mean over the tokens; or the first token, "
        "after a dense layer and tanh, as in BERT",
    )
    token_types: NonNegative = Field(
        0,
        description="number of types of tokens with an embedding each, such as the two texts of a pair in BERT; they "
        "are the batch's `token_types`, and all 0 without it",
    )
    causal: bool | None = Field(
        None, description="let each token attend only to itself and to earlier tokens; default: true for language, "
        "otherwise false"
    )  # fmt: skip


class Seq2SeqTransformer(Blocks):
    """Encoder and decoder of transformer blocks, pre-LN, for pairs of texts; the decoder attends to the encoder."""

    name: Literal["seq2seq_transformer"]
    layers: Positive = Field(4, description="number of blocks of the encoder, and of the decoder")
    positions: Literal["rope", "learned"] = Field("rope", description="encoding of a token's position")
    tie_embeddings: bool = Field(True, description="also use the token embedding as the output layer")


class Seq2SeqRnn(Section):
    """Bidirectional GRU that reads a text, and a GRU with additive attention to it that writes another one."""

    name: Literal["seq2seq_rnn"]
    cell: Literal["gru"] = Field("gru", description="kind of recurrence")
    width: Positive = Field(128, description="number of units in each hidden state and in token embeddings")
    layers: Positive = Field(1, description="number of stacked layers that read, each in both directions")
    activation: Activation = Field("tanh", description="activation function of the candidate state")
    init: Init = Field("glorot_uniform", description="initializer of the kernels on inputs; biases start at zero")
    recurrent_init: Init = Field("orthogonal", description="initializer of the kernels on the hidden state")
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")


class Vit(Blocks):
    """Vision transformer: transformer blocks over the patches of an image, pre-LN."""

    name: Literal["vit"]
    patch: Positive = Field(4, description="width and height of a patch in pixels, a divisor of those of the image")
    positions: Literal["learned", "sincos"] = Field(
        "learned", description="encoding of a patch's position: learned, or fixed sines and cosines of row and column"
    )
    pool: Literal["token", "mean"] = Field(
        "token", description="what the output is computed from: a class token, or the mean over all patches"
    )
    init: Init = Field("glorot_uniform", description="initializer of the kernels; biases start at zero")


class Detector(Section):
    """Anchor-free detector: stages of convolutions, a feature pyramid, and a class and a box at every point."""

    name: Literal["detector"]
    widths: Sizes = Field(
        (32, 64, 96), min_length=1, description="number of channels in each stage; a stage halves height and width"
    )
    depth: Positive = Field(2, description="number of convolutions in each stage")
    levels: Positive = Field(2, description="number of stages, counted from the last, that boxes are found on")
    pyramid: Positive = Field(64, description="number of channels in the feature pyramid and in the heads")
    head_depth: Positive = Field(2, description="number of convolutions in each of the two heads, which levels share")
    groups: Positive = Field(8, description="number of groups of channels of GroupNorm; it divides every width")
    activation: Activation = Field("relu", description="activation function after every convolution")
    init: Init = Field("he_normal", description="initializer of the kernels; biases start at zero")
    prior: Part = Field(0.01, description="score of every class at every point before the first step")
    iou: Part = Field(0.6, description="overlap (IoU) from which the lower one of two boxes is dropped; see nms")
    nms: Literal["class", "all"] = Field(
        "class",
        description="boxes that non-maximum suppression compares: those of one class, as COCO measures; or all of an "
        "image. What a person is shown has one class for each object either way",
    )
    most: Positive = Field(100, description="largest number of boxes that are told of an image")


class Acoustic(Section):
    """The keys of every model that reads the samples of audio: its log-mel features, which are part of the model."""

    name: str
    mels: Positive = Field(40, description="number of mel bands")
    window_ms: PositiveFloat = Field(25.0, description="length of a frame of audio in ms")
    hop_ms: PositiveFloat = Field(10.0, description="distance of two frames in ms")
    strides: Sizes = Field(
        (2, 2), min_length=1, description="stride of each convolution over time; an output stands for their product"
    )
    dropout: Fraction = Field(0.0, description="fraction of activations dropped in training")

    @property
    def stride(self) -> int:
        """Frames of audio for each output."""
        return math.prod(self.strides)


class ConvBilstm(Acoustic):
    """Convolutions over time with a stride, then bidirectional LSTM layers: one output a frame that is left."""

    name: Literal["conv_bilstm"]
    channels: Sizes = Field((128, 128), min_length=1, description="number of channels of each convolution")
    kernel: Odd = Field(5, description="length of the convolutions in frames, an odd number")
    width: Positive = Field(128, description="number of units of an LSTM layer in each direction")
    layers: Positive = Field(2, description="number of bidirectional LSTM layers")
    activation: Activation = Field("relu", description="activation function of the convolutions")
    init: Init = Field("he_normal", description="initializer of the convolutions' kernels; biases start at zero")


class Conformer(Acoustic):
    """Conformer: blocks of attention and of convolution between two half steps of feed-forward layers."""

    name: Literal["conformer"]
    layers: Positive = Field(4, description="number of blocks")
    width: Positive = Field(144, description="model dimension D, a multiple of twice the heads")
    heads: Positive = Field(4, description="number of attention heads")
    ff_multiple: Positive = Field(4, description="width of the feed-forward layers in units of D")
    kernel: Odd = Field(15, description="length of the depthwise convolutions in outputs, an odd number")
    activation: Activation = Field("silu", description="activation function of feed-forward layers and convolutions")
    init: Init = Field("glorot_uniform", description="initializer of the kernels; biases start at zero")


class CustomModel(Custom):
    """A model of your own: a module class of Flax or Equinox, or a function that returns a model."""


ModelSection = Annotated[
    Mlp
    | Cnn
    | ResNet
    | Rnn
    | Transformer
    | Seq2SeqTransformer
    | Seq2SeqRnn
    | Vit
    | Detector
    | ConvBilstm
    | Conformer
    | CustomModel,
    Chosen(),
]
