"""The configuration as frozen pydantic models: one class a top-level key. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

MAX_INT = 2**31 - 1  # steps and sizes are int32 on the device
Positive = Annotated[int, Field(gt=0, le=MAX_INT)]
NonNegative = Annotated[int, Field(ge=0, le=MAX_INT)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# YAML has lists only; a frozen config holds tuples, so this one conversion is allowed.
Sizes = Annotated[tuple[Positive, ...], Strict(False)]
Text = Annotated[str, Field(min_length=1)]

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu"]
Init = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
    "orthogonal", "normal", "truncated_normal", "zeros",
]  # fmt: skip


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are strict, instances are frozen."""

    # defer_build: a section is built with the one configuration that holds it, not once more by itself
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


# -- task ---------------------------------------------------------------------------------------


class SoftmaxCrossEntropy(Section):
    """Softmax cross-entropy for classes or tokens."""

    name: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    label_smoothing: Fraction = Field(0.0, description="share of the target spread evenly over all classes")
    z_loss: NonNegativeFloat = Field(0.0, description="weight of logsumexp(logits)^2")


class SigmoidCrossEntropy(Section):
    """Independent binary cross-entropies, for labels that may hold together."""

    name: Literal["sigmoid_cross_entropy"]
    label_smoothing: Fraction = Field(0.0, description="how far the targets 0 and 1 are moved towards 0.5")


class SquaredError(Section):
    """Half the squared error, averaged over targets."""

    name: Literal["squared_error"]


class Huber(Section):
    """Huber loss, averaged over targets."""

    name: Literal["huber"]
    delta: PositiveFloat = Field(1.0, description="error at which the loss turns from square to linear")


LossSection = Annotated[SoftmaxCrossEntropy | SigmoidCrossEntropy | SquaredError | Huber, Field(discriminator="name")]


class Task(Section):
    """What is learned: binds data, model, loss and metrics."""

    name: Literal["classify", "multilabel", "regress", "language"] = Field(
        description="classify: one class an example; multilabel: any number; regress: numbers; language: the next token"
    )
    loss: LossSection | None = Field(None, description="default: the task's usual loss")


# What fits each task; the first loss is its usual one.
TASK_LOSSES = {
    "classify": ("softmax_cross_entropy",),
    "multilabel": ("sigmoid_cross_entropy",),
    "regress": ("squared_error", "huber"),
    "language": ("softmax_cross_entropy",),
}
# What each task's evaluation reports, and whether smaller (min) or larger (max) is better.
TASK_METRICS = {
    "classify": {"loss": "min", "accuracy": "max"},
    "multilabel": {"loss": "min", "accuracy": "max"},
    "regress": {"loss": "min", "mean_absolute_error": "min"},
    "language": {"loss": "min", "accuracy": "max", "perplexity": "min"},
}


# -- data ---------------------------------------------------------------------------------------


class DataSection(Section):
    """What every data source shares."""

    batch_size: Positive = Field(64, description="examples a train step sees, all microbatches and devices together")
    eval_batch_size: Positive | None = Field(None, description="default: batch_size")
    shuffle: bool = Field(True, description="a new order every epoch, from run.seed")
    drop_last: bool = Field(False, description="training: drop an epoch's partial batch, not pad it")
    prefetch: NonNegative = Field(2, description="batches prepared ahead in the background; 0 turns it off")


class Digits(DataSection):
    """1,797 real handwritten digits of 8 x 8 pixels (UCI, shipped inside scikit-learn)."""

    name: Literal["digits"]


class StdlibText(DataSection):
    """Source and documentation text of the running Python's own standard library, as bytes."""

    name: Literal["stdlib_text"]
    sequence_length: Positive = Field(128, description="bytes a training example predicts")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of the files held out")
    max_bytes: Positive | None = Field(None, description="use at most this many bytes")


class Arrays(DataSection):
    """Your own arrays: `.npz` with `inputs` and `labels`, or a `.npy` for each; paths from the working directory."""

    name: Literal["arrays"]
    train: Text | None = Field(None, description=".npz holding arrays `inputs` and `labels`")
    test: Text | None = Field(None, description=".npz like train; leave out to train without evaluation")
    train_inputs: Text | None = Field(None, description=".npy, with train_labels instead of train")
    train_labels: Text | None = Field(None, description=".npy, with train_inputs")
    test_inputs: Text | None = Field(None, description=".npy, with test_labels instead of test")
    test_labels: Text | None = Field(None, description=".npy, with test_inputs")
    classes: Positive | None = Field(None, description="number of classes; default: the largest training label + 1")


Data = Annotated[Digits | StdlibText | Arrays, Field(discriminator="name")]


# -- model --------------------------------------------------------------------------------------


class Mlp(Section):
    """Multi-layer perceptron over flattened inputs."""

    name: Literal["mlp"]
    hidden: Sizes = Field((128, 128), description="units of each hidden layer")
    activation: Activation = Field("relu", description="after every layer but the last")
    init: Init = Field("he_normal", description="of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="share of activations dropped in training")
    batch_norm: bool = Field(False, description="normalize every hidden layer over the batch")


class Cnn(Section):
    """Convolution blocks with 2 x 2 max pooling between them, then dense layers."""

    name: Literal["cnn"]
    channels: Sizes = Field((32, 64), min_length=1, description="channels of each block")
    convs_per_block: Positive = Field(1, description="convolutions between two poolings")
    kernel: Positive = Field(3, description="side of the convolution kernels, pixels")
    hidden: Sizes = Field((128,), description="units of each dense layer after the blocks")
    activation: Activation = Field("relu", description="after every layer but the last")
    init: Init = Field("he_normal", description="of the kernels; biases start at zero")
    dropout: Fraction = Field(0.0, description="share of activations dropped in training")
    batch_norm: bool = Field(True, description="normalize after every convolution over the batch")


class Rnn(Section):
    """Recurrent network over a sequence; one output a step for tokens, else from the last step."""

    name: Literal["rnn"]
    cell: Literal["elman", "gru", "lstm"] = Field("lstm", description="kind of recurrence")
    width: Positive = Field(128, description="units of the hidden state, and of token embeddings")
    layers: Positive = Field(1, description="recurrent layers, one over the other")
    activation: Activation = Field("tanh", description="of the candidate state")
    init: Init = Field("glorot_uniform", description="of the kernels on inputs; biases start at zero")
    recurrent_init: Init = Field("orthogonal", description="of the kernels on the hidden state")
    dropout: Fraction = Field(0.0, description="share of activations dropped in training")


class Transformer(Section):
    """Decoder-only transformer, pre-LN, causal."""

    name: Literal["transformer"]
    layers: Positive = Field(4, description="blocks of attention and feed-forward")
    width: Positive = Field(128, description="model dimension D, a multiple of heads")
    heads: Positive = Field(4, description="attention heads")
    ff_multiple: Positive = Field(4, description="width of the feed-forward layer in units of D")
    positions: Literal["rope", "learned"] = Field("rope", description="how a token knows its place")
    tie_embeddings: bool = Field(True, description="use the token embedding as the output layer too")
    activation: Activation = Field("gelu", description="of the feed-forward layers")
    init: Init = Field("truncated_normal", description="of kernels and embeddings; biases start at zero")
    dropout: Fraction = Field(0.0, description="share of activations dropped in training")


ModelSection = Annotated[Mlp | Cnn | Rnn | Transformer, Field(discriminator="name")]


# -- precision, parallel, health, checkpoint, sinks, run -----------------------------------------


class Precision(Section):
    """Dtypes of parameters, computation and outputs, and the loss scale."""

    policy: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of the computation; parameters and optimizer state stay float32"
    )
    loss_scale: PositiveFloat = Field(32768.0, description="first loss scale; float16 only")
    growth_interval: Positive = Field(2000, description="good steps in a row before the scale doubles")


class Parallel(Section):
    """Devices a step runs on."""

    devices: Positive | None = Field(None, description="how many local devices; default: all")


Response = Literal["log", "skip", "clip", "cut_lr", "rollback", "stop"]


class Health(Section):
    """Signals measured inside the step, the watch over them, and what it may do."""

    layers: bool = Field(True, description="signals of every layer: norms, update ratio, Adam lag, ...")
    every: Literal["auto"] | Positive = Field(
        "auto", description="steps between the rows of the layers; auto: as often as the budget allows"
    )
    rare_every: Literal["auto"] | Positive = Field(
        "auto", description="steps between records of all signals; auto: by the budget, or 10 where `every` is a number"
    )
    budget: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="share of a step's time that auto may spend on each of the two"
    )
    taps: bool = Field(True, description="signals of the tapped activations, with all signals")
    curvature: bool = Field(
        False, description="curvature along the gradient and the largest eigenvalue, with all signals"
    )
    watch: bool = Field(True, description="look for early signs of trouble and write them to alerts.jsonl")
    on_alert: Response | Annotated[tuple[Response, ...], Strict(False), Field(min_length=1)] = Field(
        "log",
        description="what is done about an alert to act on, in the order given; skip and clip also act inside the step",
    )
    tries: Positive = Field(3, description="rollbacks a run may take")
    max_skips: Positive = Field(25, description="non-finite steps in a row after which the run counts as diverged")

    blackboxes: Annotated[int, Field(ge=0)] = Field(3, description="failing steps that a run keeps, to be replayed")

    @property
    def responses(self) -> tuple[str, ...]:
        """What `on_alert` lists; `log`, which is always done, left out."""
        listed = (self.on_alert,) if isinstance(self.on_alert, str) else self.on_alert
        return tuple(name for name in listed if name != "log")


class Checkpoint(Section):
    """When the run is saved and what is kept."""

    enabled: bool = Field(True, description="save at all; without it a run cannot be resumed")
    every_steps: Positive | None = Field(None, description="default: at every evaluation")
    keep: Positive = Field(2, description="newest checkpoints kept, besides the best")
    best: Text | None = Field(None, description="evaluation metric to keep the best of; default: loss")
    mode: Literal["min", "max"] = Field("min", description="whether the smallest or largest `best` wins")


class Sinks(Section):
    """Where records go. Several at once."""

    console: bool = Field(True, description="progress on the terminal")
    jsonl: bool = Field(True, description="metrics.jsonl, layers.jsonl and alerts.jsonl in the run's folder")
    tensorboard: bool = Field(False, description="event files in the run's folder")


class Run(Section):
    """Length, seed and rhythm of the run, and what the step does besides one update."""

    steps: Positive | None = Field(None, description="train steps; give this or epochs")
    epochs: Positive | None = Field(None, description="passes over the training data; give this or steps")
    seed: NonNegative = Field(0, description="of the initial parameters, the order of the data, and dropout")
    log_every: Positive = Field(50, description="steps between records")
    eval_every: Positive | None = Field(None, description="steps between evaluations; default: an epoch, and the end")
    eval_batches: Positive | None = Field(None, description="evaluate on at most this many batches; default: all")
    accumulate: Positive = Field(1, description="microbatches one update is accumulated over")
    steps_per_call: Positive = Field(1, description="steps taken in one call of the compiled step")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="keep and evaluate an exponential moving average of the parameters"
    )
