"""What a task is: data, model, loss, metrics and predictions bound together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop import models
from jaxprop.code.load import load_code
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.model import CustomModel
from jaxprop.config.schema.task import CustomLoss, usual_loss
from jaxprop.config.tasks import TASK_TABLE
from jaxprop.config.widths import base_of
from jaxprop.core.overrides import cast_params, computing
from jaxprop.core.precision import Policy, cast_floating, cast_keys
from jaxprop.data.augment import make_augmentation
from jaxprop.errors import ConfigError, UsageError
from jaxprop.losses import DIVERGENCES, make_loss, own_loss
from jaxprop.metrics import METRICS
from jaxprop.models.arguments import masks_tokens
from jaxprop.models.lora import with_adapters
from jaxprop.models.quantized import with_products
from jaxprop.tasks.panels import Panel
from jaxprop.tasks.tokens import divergence_of_sequences, loss_of_sequences, metric_of_sequences
from jaxprop.tasks.words import usual_words
from jaxprop.train.distillation import Teacher
from jaxprop.train.objective import as_objective, loss_from, without_padding
from jaxprop.types import Batch, Loss, Metric, Model, Objective, PyTree, Source, Spec

# What a source may say in `info` and a model may need.
SIZES = ("classes", "targets", "vocabulary", "categories", "sample_rate")
COMPUTED = ("inputs",)  # what of a batch is computed with, and so cast; answers, masks and weights are not


def nothing_derived(_: Mapping[str, float]) -> dict[str, float]:
    """What a task reports besides its metrics if there is nothing more to say."""
    return {}


def no_predictions(_outputs: Any, _batch: Batch) -> dict[str, jax.Array]:
    """What is predicted where nobody has said what outputs mean."""
    return {}


class Raw(NamedTuple):
    """Inputs as a file holds them, from which a program that stands alone makes those of the model.

    Args:
      example: shape and dtype of one example, by name.
      prepare: `batch of raw inputs -> batch`. Pure.
      notes: sentences on what goes in and what comes out.
    """

    example: Mapping[str, jax.ShapeDtypeStruct]
    prepare: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]
    notes: tuple[str, ...]


Answer = Callable[..., dict[str, jax.Array]]  # (params, extras, batch, **options) -> {name: [B, ...]}
Describe = Callable[..., dict[str, Any]]  # (answers, i, info, **options) -> {name: JSON value}


class Task(NamedTuple):
    """A problem ready to be trained on.

    Args:
      model: the network; None where the objective is a plain function.
      objective: its loss and metrics, as the train step and the eval step want them.
      spec: what the data look like to the model.
      predict: `(outputs, batch) -> {name: [B, ...]}`, arrays that a person can be shown. Pure.
      derived: metrics of an evaluation -> further figures that follow from them.
      reference: figures of a trivial predictor on the same split, such as the most frequent class or an empty answer;
        printed beside the result.
      panels: what the report shows of its predictions, each `(predictions, batch) -> Drawable`.
      shown: keys of a batch that the panels look at beside `labels` and `mask`, as far as it has them.
      answer: where an answer is searched for with the model, rather than read from its outputs by `predict`:
        `(params, extras, batch, *, **options) -> {name: [B, ...]}`. Its options are asked for by name, such as `beams`.
        The option `detail` asks for what panels need. Pure.
      describe: `(answers, i, info, *, **options) -> {name: JSON value}`, what a person is told of example i; `info` is
        that of the training data. Its options are asked for by name, too, such as `top`.
      raw: what an exported program takes in the place of prepared inputs; None for these.
    """

    model: Model | None
    objective: Objective
    spec: Spec
    predict: Callable[[Any, Batch], dict[str, jax.Array]]
    derived: Callable[[Mapping[str, float]], dict[str, float]] = nothing_derived
    reference: Mapping[str, float] = {}
    panels: tuple[Panel, ...] = ()
    shown: tuple[str, ...] = ()
    answer: Answer | None = None
    describe: Describe = usual_words
    raw: Raw | None = None


def options_of(function: Callable[..., Any] | None) -> tuple[str, ...]:
    """Returns the names of a function's options: its keyword-only arguments that nothing is bound to.

    Example:
      >>> def answer(params, *, length, beams=1): ...
      >>> options_of(partial(answer, length=8))
      ('beams',)
    """
    if function is None:
        return ()
    bound: set[str] = set()
    while isinstance(function, partial):
        bound |= function.keywords.keys()
        function = function.func
    parameters = inspect.signature(function).parameters.values()
    return tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in bound)


def predictions(
    task: Task, policy: Policy, *, padded: bool = True, **options: Any
) -> Callable[[PyTree, PyTree, Batch], dict[str, jax.Array]]:
    """Returns `(params, extras, batch) -> predictions` of a task, in evaluation and with the policy's casts. Pure.

    Args:
      task: the task.
      policy: of the precision that it is trained in.
      padded: whether batches may hold examples that are padding.
      **options: of the task's `answer`, such as `beams=4`.

    Raises:
      UsageError: the task has no such option.
    """
    unknown = [name for name in options if name not in options_of(task.answer)]
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no option of this task; remove it")

    def predict(params: PyTree, extras: PyTree, batch: Batch) -> dict[str, jax.Array]:
        params, seen = cast_params(params, policy), without_padding(batch) if padded else batch
        narrow = cast_keys(seen, policy.compute, _computed(task.spec))
        assert task.model is not None
        with computing(policy):
            if task.answer is not None:
                return task.answer(params, extras, narrow, **options)
            outputs, _ = task.model.apply(params, extras, narrow, key=None, train=False)
        return task.predict(cast_floating(outputs, policy.output), batch)

    return predict


def bind(
    config: Config, train: Source, instead: Mapping[str, Metric] | None = None, teacher: Teacher | None = None
) -> tuple[Model, Objective, Spec]:
    """Builds the model for the data's shapes and binds it to augmentation and to the task's loss and metrics.

    Args:
      config: the run's configuration; its `task.loss` goes before the task's usual one, and `run.vocabulary_chunks` is
        a number where logits are not made whole.
      train: the training split; one record of it is read, and the sizes its `info` names.
      instead: metrics that the data make possible, beside those of the table or in the place of one of the same name.
      teacher: that the model learns from, or None.

    Returns:
      The model, the objective, and the spec the model was built for.

    Raises:
      ConfigError: code of the user's own does not fit.
    """
    example = train.take(np.zeros(1, np.int64))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), example)
    spec = Spec(shapes, {name: train.info[name] for name in SIZES if name in train.info})
    model = _model(config, spec)
    if isinstance(model, models.LossFunction):
        if teacher is not None:
            raise ConfigError("task.teacher: the model is a loss function, which has no outputs; remove this")
        return model.model(), _own_objective(config, model, spec), spec
    metrics, augment = _metrics(config, spec, instead or {}), make_augmentation(config.data.augment, spec)
    chunks = config.run.vocabulary_chunks
    objective = loss_from(
        model, _loss(config, spec), metrics, cast=_computed(spec), augment=augment,
        vocabulary_chunks=chunks if isinstance(chunks, int) else 1, teacher=_of_task(teacher, config, spec),
    )  # fmt: skip
    return model, objective, spec


def _of_task(teacher: Teacher | None, config: Config, spec: Spec) -> Teacher | None:
    """The teacher with the divergence of the task."""
    name = TASK_TABLE[config.task.name].divergence
    if teacher is None or name is None:
        return None
    divergence = DIVERGENCES[name]
    return teacher._replace(divergence=divergence_of_sequences(divergence) if masks_tokens(spec) else divergence)


def _computed(spec: Spec) -> tuple[str, ...]:
    """The keys of a batch that are computed with; in one of the user's own, all that are no answers and no weights."""
    if "sample_rate" in spec.sizes:
        return ()  # audio is read in full precision: bfloat16 has 8 bits a sample
    if set(COMPUTED) <= spec.batch.keys():
        return COMPUTED
    return tuple(name for name in spec.batch if name not in ("labels", "mask", "weight"))


def _model(config: Config, spec: Spec) -> Model | models.LossFunction:
    made, section = _as_named(config, spec), config.precision.quantize
    if config.lora is not None:
        if isinstance(made, models.LossFunction):
            raise ConfigError(
                "lora: adapters are for a model, and this one is a loss function; remove it, or call jaxprop.lora on "
                "the model inside"
            )
        return with_adapters(made if section is None else with_products(made, section), config.lora)
    if section is None:
        return made
    if isinstance(made, models.LossFunction):
        raise ConfigError(
            "precision.quantize: Qwix quantizes Flax NNX and Linen modules, and the model is a loss function; remove it"
        )
    return with_products(made, section)


def _as_named(config: Config, spec: Spec) -> Model | models.LossFunction:
    if isinstance(config.model, CustomModel):
        code = load_code(config.model, ("model",))
        made = models.own_model(code, spec)
        levels = config.task.name == "detect"  # whose outputs are a tuple
        if isinstance(made, models.LossFunction) or isinstance(config.task.loss, CustomLoss) or levels:
            return made  # whose outputs are what that loss takes
        return models.checked_outputs(made, code)
    return models.make_model(config.model, spec, config.run.remat, config.run.scanned_beyond, base=base_of(config))


def _loss(config: Config, spec: Spec) -> Loss:
    section = config.task.loss or usual_loss(config.task.name)
    if isinstance(section, CustomLoss):
        return own_loss(load_code(section, ("task", "loss")), spec.sizes)
    return loss_of_sequences(make_loss(section)) if masks_tokens(spec) else make_loss(section)


def _metrics(config: Config, spec: Spec, instead: Mapping[str, Metric]) -> dict[str, Any]:
    figures = TASK_TABLE[config.task.name].figures
    own = {
        name: load_code(section, ("task", "metrics", name)).of_outputs(**spec.sizes)
        for name, section in (config.task.metrics or {}).items()
    }
    usual = {name: METRICS[figure.metric] for name, figure in figures.items() if figure.metric is not None}
    if masks_tokens(spec):
        usual = {name: metric_of_sequences(metric) for name, metric in usual.items()}
    return usual | dict(instead) | own


def _own_objective(config: Config, model: models.LossFunction, spec: Spec) -> Objective:
    for key in ("loss", "metrics"):
        if getattr(config.task, key) is not None:
            raise ConfigError(
                f"task.{key}: the model is a loss function, which has no outputs to compute it from; remove it, and "
                "return figures of your own as loss_fn's aux: loss, {name: value}"
            )
    if config.data.augment:
        raise ConfigError("data.augment: the model is a loss function, which takes the batch as it is; remove this")
    return as_objective(model.loss_fn, _computed(spec))
