"""The sections `precision`, `parallel`, `health`, `checkpoint`, `sinks` and `run`. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from jaxprop.config.schema.base import MAX_INT, NonNegative, Positive, PositiveFloat, Section, Text, defaults
from jaxprop.config.schema.growth import GrowBatchSection
from jaxprop.config.schema.initial import InitFromField
from jaxprop.config.schema.named import Pattern
from jaxprop.config.schema.quantize import QuantizeField
from jaxprop.config.schema.trackers import Mlflow, Trackio, Wandb


class PrecisionOverride(Section):
    """Modules and parameters that are computed in another dtype than the rest of the model."""

    match: Pattern = Field(
        description="regular expression that is searched for in the paths of modules and parameters, such as "
        "norm|head; softmax is that of attention in the built-in models"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="dtype of what matches")


class Precision(Section):
    """Dtypes of parameters, computation and outputs, and the loss scale."""

    policy: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32",
        description="dtype of the computation; the optimizer's state stays float32. On GPUs, float32 multiplies in "
        "full float32, and tf32 in TF32, which needs an NVIDIA GPU of the Ampere generation or newer",
    )
    params: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="dtype that parameters are stored in; updates of bfloat16 are computed in float32 and rounded "
        "stochastically",
    )
    overrides: Annotated[tuple[PrecisionOverride, ...], Strict(False)] = Field(
        (), description="what is computed in another dtype; of several that match, the first counts"
    )
    loss_scale: Annotated[float, Field(ge=1, le=2**24)] = Field(
        32768.0, description="first loss scale; with float16 only"
    )
    growth_interval: Positive = Field(2000, description="good steps in a row before the scale doubles")
    quantize: QuantizeField = Field(
        None, description="products in 8 bits: int8, fp8 or qat_int8, or a section of one of these names; default: none"
    )

    @property
    def scaled(self) -> bool:
        """Whether something is computed in float16, so that the loss is scaled."""
        return "float16" in (self.policy, *(one.dtype for one in self.overrides))


Along = Annotated[int, Field(ge=-1, le=MAX_INT)]
Axis = Literal["data", "fsdp", "sequence", "tensor"]
Entry = Axis | Annotated[tuple[Axis, ...], Strict(False), Field(min_length=1)] | None


class Mesh(Section):
    """How many devices lie along each axis of the mesh; one of them may be -1, as many as there are."""

    data: Along | None = Field(
        None, description="devices that hold copies of the parameters; default: -1, unless another axis has that"
    )
    fsdp: Along = Field(1, description="devices that parameters and optimizer state are split over, and batches too")
    sequence: Along = Field(1, description="devices that the tokens of each sequence are split over; transformers only")
    tensor: Along = Field(1, description="devices that matrix products are split over")


class Rule(Section):
    """Where parameters lie on the mesh; so do their optimizer state and moving averages."""

    match: Text = Field(description="regular expression that the whole path of a parameter matches")
    spec: Annotated[tuple[Entry, ...], Strict(False)] = Field(
        description="for each dimension the axis of the mesh that it is split over, a list of them, or null for none"
    )


class Parallel(Section):
    """The devices that a step runs on, and how arrays are split over them."""

    devices: Positive | None = Field(None, description="number of devices of each process; default: all")
    mesh: Mesh = Field(default_factory=defaults(Mesh), description="devices along each axis")
    deterministic: Literal["across_devices"] | None = Field(
        None,
        description="across_devices: the same bits on 2, 4 and 8 devices of a kind, and on 1 for the built-in models, "
        "at a cost in speed and memory; batches are taken in 8 parts, and the mesh has data alone",
    )
    offload_optimizer: bool = Field(
        False,
        description="keep the optimizer's state in the host's memory between steps: frees that of the devices, and "
        "costs the time to copy it there and back",
    )
    rules: Annotated[tuple[Rule, ...], Strict(False)] = Field(
        (),
        description="where parameters lie, of which the first that matches counts; default: as fits the built-in "
        "layers, and along the largest dimension that fsdp divides",
    )


Response = Literal["log", "skip", "clip", "cut_lr", "raise_scale", "lower_scale", "rollback", "stop"]


class Health(Section):
    """Signals measured inside the step, the watch that raises alerts on them, and the responses to alerts."""

    layers: bool = Field(True, description="measure signals of every layer: norms, update ratio, Adam lag, ...")
    every: Literal["auto"] | Positive = Field(
        "auto",
        description="steps between records with the gradient norm of every layer; auto: every step",
    )
    rare_every: Literal["auto"] | Positive = Field(
        "auto",
        description="steps between full records (all signals); auto: 10, 20, 50 or 100, chosen by the budget, "
        "or 10 if `every` is a number",
    )
    budget: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="fraction of the time that full records may take if `rare_every` is auto"
    )
    taps: bool = Field(True, description="measure the tapped activations in full records")
    curvature: bool = Field(
        False, description="measure curvature along the gradient and the largest Hessian eigenvalue in full records"
    )
    watch: bool = Field(True, description="watch for early signs of trouble and write alerts to alerts.jsonl")
    on_alert: Response | Annotated[tuple[Response, ...], Strict(False), Field(min_length=1)] = Field(
        "log",
        description="responses to alerts of severity act, in this order; skip and clip also act inside the step",
    )
    tries: Positive = Field(3, description="largest number of rollbacks in a run")
    max_skips: Positive = Field(25, description="consecutive non-finite steps after which the run has diverged")

    blackboxes: Annotated[int, Field(ge=0)] = Field(3, description="largest number of failing steps saved for replay")

    @property
    def responses(self) -> tuple[str, ...]:
        """The actions in `on_alert`, without `log`, which is always done."""
        listed = (self.on_alert,) if isinstance(self.on_alert, str) else self.on_alert
        return tuple(name for name in listed if name != "log")


class Checkpoint(Section):
    """When the run is saved, and which checkpoints are kept."""

    enabled: bool = Field(True, description="save checkpoints; without them a run cannot be resumed")
    every_steps: Positive | None = Field(None, description="steps between checkpoints; default: at every evaluation")
    keep: Positive = Field(2, description="number of newest checkpoints kept, besides the best")
    best: Text | None = Field(None, description="evaluation metric to keep the best of; default: loss")
    mode: Literal["min", "max"] | None = Field(
        None,
        description="whether the smallest or the largest value of `best` is the best; default: as the metric is known "
        "to be, so it is needed for a metric of your own alone",
    )


class Sinks(Section):
    """Destinations of records; any number may be on."""

    console: bool = Field(True, description="progress on the terminal")
    jsonl: bool = Field(True, description="metrics.jsonl, layers.jsonl and alerts.jsonl in the run's folder")
    tensorboard: bool = Field(False, description="event files in the run's folder")
    wandb: bool | Wandb = Field(False, description="a run of Weights & Biases; true: with the defaults below")
    trackio: bool | Trackio = Field(False, description="a run of Trackio; true: with the defaults below")
    mlflow: bool | Mlflow = Field(False, description="a run of MLflow; true: with the defaults below")


class Stop(Section):
    """When a run ends before its last step; whatever comes first."""

    metric: Text | None = Field(
        None, description="evaluation metric of patience and target; default: that of checkpoint.best"
    )
    patience: Positive | None = Field(
        None, description="number of evaluations in a row without a better value, after which the run ends"
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="whether smaller or larger values of the metric are better; default: as of checkpoint.mode"
    )
    target: float | None = Field(None, description="value of the metric at which the run ends")
    minutes: PositiveFloat | None = Field(
        None,
        description="minutes after which the run ends, with an evaluation; of a resumed run, all its parts together",
    )


class Swa(Section):
    """Stochastic weight averaging: the mean of parameters over the last part of a run."""

    start: Annotated[float, Field(ge=0, lt=1)] = Field(0.75, description="fraction of the run's steps before the first")
    every_steps: Positive = Field(1, description="steps between two of the mean; with restarts, those of a cycle")


Decay = Annotated[float, Field(gt=0, lt=1)]
Seconds = Literal["auto"] | PositiveFloat | None


class Timeout(Section):
    """Seconds without progress after which a run that hangs is ended; null: never."""

    data: Seconds = Field(
        "auto",
        description="waiting for one batch; auto: 20 times the longest so far, at least 600, and 3,600 for the first",
    )
    step: Seconds = Field(
        "auto",
        description="one call of the compiled step; auto: 20 times the longest so far, at least 600, and as `compile` "
        "for the first",
    )
    save: Seconds = Field(
        "auto", description="writing one checkpoint; auto: 20 times the longest so far, at least 600 and 1 for 10 MB"
    )
    evaluation: Seconds = Field(
        "auto", description="one batch of an evaluation, and what is made of them at its end; auto: as of `step`"
    )
    compile: Seconds = Field("auto", description="compiling one program; auto: 21,600")


class Run(Section):
    """Length, seed and intervals of the run, and how its steps are taken."""

    steps: Positive | None = Field(None, description="number of train steps; give this or epochs")
    epochs: Positive | None = Field(None, description="number of passes over the training data; give this or steps")
    seed: NonNegative = Field(0, description="seed of the initial parameters, the order of the data, and dropout")
    log_every: Positive = Field(50, description="steps between logged records")
    eval_every: Positive | None = Field(
        None, description="steps between evaluations; default: after each epoch; the end of a run is always evaluated"
    )
    eval_batches: Positive | None = Field(None, description="largest number of batches in an evaluation; default: all")
    accumulate: Positive = Field(1, description="number of microbatches over which a gradient is accumulated")
    grow_batch: GrowBatchSection = Field(
        None,
        description="how the batch becomes larger in the course of the run: by steps or by the measured noise scale; "
        "default: it does not",
    )
    steps_per_call: Literal["auto"] | Positive = Field(
        1,
        description="number of steps in one call of the compiled step; auto: as many as keep the cost of a call small, "
        "measured before the first step and stored with the run",
    )
    remat: Literal["none", "full", "dots", "dots_no_batch"] = Field(
        "none",
        description="activations of each block that the backward pass computes again instead of keeping them: none, "
        "all (full), all but the outputs of matrix products and convolutions (dots), or all but those of products "
        "without a batch axis (dots_no_batch)",
    )
    scan_layers: Literal["auto", "none"] | Positive = Field(
        "auto",
        description="number of layers that are alike up to which they are compiled one by one; more are a scan, whose "
        "body is compiled once, and which takes more memory; none: never a scan; auto: 24, for layers with at most "
        "262144 parameters each, and never for larger ones, whose steps would take longer",
    )
    vocabulary_chunks: Literal["auto", "none"] | Positive = Field(
        "auto",
        description="number of stretches of tokens in which the logits of a language model are made, in the backward "
        "pass again, which saves their memory; auto: none where the logits in float32 take at most 1/8 of the device's "
        "memory, otherwise as many as make those of one stretch take at most 1/64",
    )
    ema_decay: Decay | Annotated[tuple[Decay, ...], Strict(False), Field(min_length=1, max_length=8)] | None = Field(
        None,
        description="decay of an exponential moving average of the parameters, which evaluations then use; a list "
        "keeps one average for each, and every evaluation takes the best of them",
    )
    swa: Swa | None = Field(
        None,
        description="stochastic weight averaging: the mean of the parameters over the last part of the run, as a "
        "further average",
    )
    average: Text | None = Field(
        None,
        description="which of several averages evaluations use: swa, or ema_ and its decay; default: the best by "
        "checkpoint.best at each evaluation",
    )
    init_from: InitFromField = Field(
        None, description="weights that the run starts from: a run, a .safetensors file, or a mapping; default: drawn"
    )
    stop: Stop | None = Field(None, description="when the run ends early; default: it takes all of its steps")
    timeout: Timeout | Literal[False] | None = Field(
        None, description="when a run that hangs is ended; default: all automatic; false: never"
    )

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of the averages of the parameters that the run keeps."""
        decays = self.ema_decay if isinstance(self.ema_decay, tuple) else (self.ema_decay,) if self.ema_decay else ()
        return (*(f"ema_{decay:g}" for decay in decays), *(("swa",) if self.swa else ()))

    @property
    def per_call(self) -> int:
        """S, the steps in one call; 1 for `auto` until the run has chosen."""
        return 1 if self.steps_per_call == "auto" else self.steps_per_call

    @property
    def scanned_beyond(self) -> int | None:
        """The number of `scan_layers`; 0 for `none` and None for `auto`."""
        if self.scan_layers == "auto":
            return None
        return 0 if self.scan_layers == "none" else self.scan_layers

    @property
    def limits(self) -> Timeout | None:
        """The limits of `timeout`, automatic where it does not say; None where nothing is ended."""
        return None if self.timeout is False else self.timeout or Timeout.model_validate({})
