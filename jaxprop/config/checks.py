"""Checks that need more than one section of a configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from jaxprop.config.methods import METHODS
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.data import (
    PATHS,
    Arrays,
    CustomData,
    DataSection,
    Digits,
    DigitScenes,
    Espeak,
    Mixture,
    NumberWords,
    Pairs,
    Reviews,
    StdlibText,
    Table,
    Tones,
)
from jaxprop.config.schema.model import Blocks, Conformer, Mlp, ResNet, Rnn, Transformer
from jaxprop.config.schema.optimizer import schedules_of
from jaxprop.config.tasks import TASK_TABLE, untold_mode
from jaxprop.config.tree import Path, Problem
from jaxprop.config.weight_maps import unknown
from jaxprop.config.widths import base_of
from jaxprop.errors import ConfigError, one_of

# Data that always have a test split.
_WITH_TEST = (CustomData, Digits, DigitScenes, Espeak, NumberWords, Reviews, StdlibText, Tones)
DIGITS_TRAIN = 1437  # 80 % of the 1,797 digits, by class


def check(config: Config) -> list[Problem]:
    """Returns every contradiction between keys of a configuration that can be found without reading the data.

    Args:
      config: a configuration in which each key is valid by itself.

    Returns:
      The problems in a fixed order.

    Example:
      >>> from jaxprop.config.schema.data import Digits
      >>> from jaxprop.config.schema.model import Mlp
      >>> from jaxprop.config.schema.run import Run
      >>> from jaxprop.config.schema.task import Task
      >>> from jaxprop.config.schema.optimizer import optimizer_model
      >>> config = Config(
      ...     task=Task(name="classify"), data=Digits(name="digits"), model=Mlp(name="mlp"),
      ...     optimizer=optimizer_model("sgd")(name="sgd", lr=0.1), run=Run(epochs=1, steps=2),
      ... )
      >>> [problem.what for problem in check(config)]
      ['both steps and epochs are given; remove one']
    """
    return [problem for rule in RULES for problem in rule(config)]


def known_steps(config: Config) -> int | None:
    """Returns the number of train steps if it follows from the configuration alone, otherwise None."""
    if config.run.epochs is None or config.data.name != "digits":
        return config.run.steps
    size = config.data.batch_size
    length = _digits_to_train_on(config)
    an_epoch = length // size if config.data.drop_last else math.ceil(length / size)
    return config.run.epochs * an_epoch


def _digits_to_train_on(config: Config) -> int:
    part = config.data.validation
    return DIGITS_TRAIN - math.ceil(part * DIGITS_TRAIN if isinstance(part, float) else 0)


def has_split_to_evaluate(config: Config) -> bool:
    """Returns whether there are data to evaluate on."""
    data = config.data
    return any(_has_split(one) for one in (data, *(data.sources if isinstance(data, Mixture) else ())))


def _has_split(data: DataSection) -> bool:
    if isinstance(data, _WITH_TEST) or data.validation is not None:
        return True
    return any(getattr(data, key, None) is not None for key in PATHS if key.startswith(("validation", "test")))


def _fits_task(config: Config) -> Iterator[Problem]:
    task, loss = config.task.name, config.task.loss
    entry = TASK_TABLE[task]
    if not isinstance(config.data, Custom) and config.data.name not in entry.data:
        yield _unfit(("data", "name"), task, config.data.name, entry.data)
    if not isinstance(config.model, Custom) and config.model.name not in entry.models:
        yield _unfit(("model", "name"), task, config.model.name, entry.models)
    if loss is not None and not isinstance(loss, Custom) and loss.name not in entry.losses:
        yield _unfit(("task", "loss", "name"), task, loss.name, entry.losses)


def _pairs(config: Config) -> Iterator[Problem]:
    if config.task.name != "language" or not isinstance(config.data, Pairs):
        return
    if config.model.name in TASK_TABLE["language"].models:
        what = (
            f"the built-in {config.model.name} reads no pairs: it takes inputs, and not targets beside them; "
            "write task.name: translate and model.name: seq2seq_transformer, or give a model of your own"
        )
        yield Problem(("model", "name"), what)


def _unfit(path: Path, task: str, name: str, fitting: tuple[str, ...]) -> Problem:
    return Problem(path, f"{name} does not fit the task {task}; expected {' or '.join(fitting)}")


def _length(config: Config) -> Iterator[Problem]:
    run = config.run
    if run.steps is None and run.epochs is None:
        yield Problem(("run",), "expected steps or epochs, such as 'run: {epochs: 10}'; got neither")
    if run.steps is not None and run.epochs is not None:
        yield Problem(("run", "epochs"), "both steps and epochs are given; remove one")


def _schedule(config: Config) -> Iterator[Problem]:
    steps = known_steps(config)
    for path, schedule in schedules_of(config.optimizer).items():
        what = schedule.problem(steps) if steps is not None else None
        if what is not None:
            key = what.split()[0]
            yield Problem((*path, key) if key in type(schedule).model_fields else path, what)


def _base_model(config: Config) -> Iterator[Problem]:
    try:
        base_of(config)
    except ConfigError as error:
        what = str(error)
        key = next((key for key in ("base_width", "base") if what.startswith(f"optimizer.{key}: ")), "base_width")
        yield Problem(("optimizer", key), what.removeprefix(f"optimizer.{key}: "))


def _rhythm(config: Config) -> Iterator[Problem]:
    """Nothing can happen between the steps of one call, so intervals must be multiples of `steps_per_call`."""
    per_call = config.run.per_call
    counts: dict[Path, int | None] = {
        ("run", "steps"): config.run.steps,
        ("run", "log_every"): config.run.log_every,
        ("run", "eval_every"): config.run.eval_every,
        ("checkpoint", "every_steps"): config.checkpoint.every_steps,
    }
    for path, count in counts.items():
        if count is not None and count % per_call:
            near = -(-count // per_call) * per_call
            what = f"expected a multiple of run.steps_per_call ({per_call}), such as {near}; got {count}"
            yield Problem(path, what)


def _batches(config: Config) -> Iterator[Problem]:
    size, parts = config.data.batch_size, config.run.accumulate
    path = ("data", "batch_size")
    if config.data.name == "digits" and size > (length := _digits_to_train_on(config)):
        yield Problem(path, f"{size} is larger than the data set, which has {length} training examples")
    if size % parts:
        yield Problem(path, f"expected a multiple of run.accumulate ({parts}), got {size}")
    devices = config.parallel.devices or 1
    if size % parts == 0 and (size // parts) % devices:
        of = "data.batch_size / run.accumulate" if parts > 1 else "data.batch_size"
        what = f"a microbatch ({of} = {size // parts}) cannot be divided over {devices} devices"
        yield Problem(("parallel", "devices"), what)


def _arrays(config: Config) -> Iterator[Problem]:
    data = config.data
    if not isinstance(data, Arrays):
        return
    for split in ("train", "validation", "test"):
        archive, inputs, labels = (getattr(data, split + suffix) for suffix in ("", "_inputs", "_labels"))
        if archive is not None and (inputs is not None or labels is not None):
            what = f"give {split} (one .npz) or {split}_inputs and {split}_labels (two .npy), not both"
            yield Problem(("data", split), what)
        elif (inputs is None) != (labels is None):
            absent = "inputs" if inputs is None else "labels"
            given = "labels" if inputs is None else "inputs"
            yield Problem(("data", f"{split}_{given}"), f"{split}_{absent} is missing; the two go together")
        elif split == "train" and archive is None and inputs is None:
            yield Problem(("data",), "expected train (one .npz), or train_inputs and train_labels (two .npy); got none")


def _mixture(config: Config) -> Iterator[Problem]:
    data = config.data
    if not isinstance(data, Mixture):
        return
    fitting = tuple(name for name in TASK_TABLE[config.task.name].data if name != "mixture")
    for i, source in enumerate(data.sources):
        if source.name not in fitting:
            yield _unfit(("data", "sources", i, "name"), config.task.name, source.name, fitting)
    if len(data.sources) == 1 and data.prepared_by is None:
        yield Problem(("data", "sources"), "expected 2 sources or more; write a single one as the section data itself")
    if data.new_classes and data.prepared_by is None:
        yield Problem(("data", "new_classes"), "classes beside those of data.prepared_by, which is not set; set it")
    before = -1
    for i, (after, weights) in enumerate(data.phases()):
        path: Path = ("data", "weights")
        if len(weights) != len(data.sources):
            yield Problem(path, f"expected {len(data.sources)} weights, one for each source, got {len(weights)}")
        elif not sum(weights):
            yield Problem(path, "all weights are 0, so that no source is drawn from; make one of them positive")
        if (i == 0 and after) or after <= before:
            yield Problem(path, f"expected `after: 0` first, and then ever larger numbers, got {after}")
        before = after


def _table(config: Config) -> Iterator[Problem]:
    data = config.data
    if not isinstance(data, Table):
        return
    targets = (data.target,) if isinstance(data.target, str) else data.target
    if not targets:
        yield Problem(("data", "target"), "expected the name of a column, got an empty list")
    if config.task.name == "classify" and len(targets) > 1:
        what = "classify has one target; name one, or set task.name: multilabel where each is 0 or 1"
        yield Problem(("data", "target"), what)
    for key in ("features", "ignore"):
        both = next((name for name in getattr(data, key) or () if name in targets), None)
        if both is not None:
            yield Problem(("data", key), f"{both} is the target; remove it here")
    parts = [part for part in (data.test, data.validation) if isinstance(part, float)]
    if sum(parts) >= 1:
        yield Problem(("data", "test"), "test and validation leave no rows to train on; use smaller fractions")


def _evaluation(config: Config) -> Iterator[Problem]:
    best, mode = config.checkpoint.best, config.checkpoint.mode
    if not has_split_to_evaluate(config):
        what = "there is no split to evaluate on; add data.validation or data.test, or remove this"
        wanted = {
            ("run", "eval_every"): config.run.eval_every,
            ("run", "eval_batches"): config.run.eval_batches,
            ("checkpoint", "best"): best,
        }
        yield from (Problem(path, what) for path, value in wanted.items() if value is not None)
    metrics = {name: figure.better for name, figure in TASK_TABLE[config.task.name].figures.items()}
    own = config.task.metrics or {}
    if best in own and best not in metrics:
        if mode is None:  # only its author knows
            yield Problem(("checkpoint", "best"), untold_mode(f"{best}", "checkpoint.mode"))
        return
    if best is not None and best not in metrics:
        yield Problem(("checkpoint", "best"), one_of(best, [*metrics, *own], f"metric of the task {config.task.name}"))
    elif mode not in (None, metrics[best or "loss"]):
        better = {"max": "larger", "min": "smaller"}[metrics[best or "loss"]]
        what = f"{best or 'loss'} is better when {better}; write 'mode: {metrics[best or 'loss']}'"
        yield Problem(("checkpoint", "mode"), what)


def _stop(config: Config) -> Iterator[Problem]:
    stop, path = config.run.stop, ("run", "stop")
    if stop is None:
        return
    by_metric = [name for name in ("patience", "target") if getattr(stop, name) is not None]
    if not by_metric and stop.minutes is None:
        yield Problem(path, "expected patience, target or minutes, as in {patience: 5}; got none of them")
    if stop.metric is not None and not by_metric:
        yield Problem((*path, "metric"), "the metric of patience and target, of which none is given; remove it")
    if by_metric and not has_split_to_evaluate(config):
        what = "there is no split to evaluate on; add data.validation or data.test, or remove this"
        yield from (Problem((*path, name), what) for name in by_metric)
    figures, own = TASK_TABLE[config.task.name].figures, config.task.metrics or {}
    if stop.metric is not None and stop.metric not in {**figures, **own}:
        names = [*figures, *own]
        yield Problem((*path, "metric"), one_of(stop.metric, names, f"metric of the task {config.task.name}"))
    elif stop.metric in own and stop.mode is None and stop.metric != config.checkpoint.best:
        yield Problem((*path, "metric"), untold_mode(f"{stop.metric}", "run.stop.mode"))
    known = figures.get(stop.metric or config.checkpoint.best or "loss")
    if known is not None and stop.mode not in (None, known.better):
        yield Problem((*path, "mode"), f"expected {known.better}, as this metric is known to be; remove it")


def _responses(config: Config) -> Iterator[Problem]:
    health, path = config.health, ("health", "on_alert")
    listed = (health.on_alert,) if isinstance(health.on_alert, str) else health.on_alert
    twice = [name for i, name in enumerate(listed) if name in listed[:i]]
    if twice:
        yield Problem(path, f"{twice[0]} is listed twice; remove one, since the last action is repeated anyway")
    elif "log" in listed and len(listed) > 1:
        yield Problem(path, "log cannot be combined with other actions, since every alert is logged anyway; remove it")
    elif "skip" in listed and "clip" in listed:
        yield Problem(path, "skip and clip both guard against spikes of the gradient; remove one")
    elif "stop" in listed[:-1]:
        after = listed[listed.index("stop") + 1]
        yield Problem(path, f"{after} comes after stop, which ends the run; put stop last")
    scales = [name for name in listed if name in ("raise_scale", "lower_scale")]
    if scales and not config.precision.scaled:
        fix = "remove it, or set precision.policy: float16"
        yield Problem(path, f"{scales[0]} sets the loss scale, and precision {config.precision.policy} has none; {fix}")
    if "rollback" in listed and not config.checkpoint.enabled:
        yield Problem(path, "rollback needs checkpoints; remove it, or set checkpoint.enabled: true")
    if not health.watch and (acting := [name for name in listed if name not in ("log", "skip", "clip")]):
        yield Problem(path, f"{acting[0]} acts on alerts, but the watch is off; remove it, or set health.watch: true")


def _augmentation(config: Config) -> Iterator[Problem]:
    if config.data.augment and config.task.name in ("language", "translate"):
        what = (
            f"augmentation changes images and other numbers, but the inputs of the task {config.task.name} are tokens"
        )
        yield Problem(("data", "augment"), f"{what}; remove it")


def _attention(config: Config) -> Iterator[Problem]:
    model = config.model
    if not isinstance(model, Blocks):
        return
    heads, positions = model.heads, getattr(model, "positions", None)
    if model.width % heads:
        yield Problem(("model", "width"), f"expected a multiple of heads ({heads}), got {model.width}")
    elif positions == "rope" and (model.width // heads) % 2:
        what = f"rope rotates pairs of features: expected an even width / heads, got {model.width // heads}"
        yield Problem(("model", "width"), what)
    elif positions == "sincos" and model.width % 4:
        what = f"sincos fills quarters of the features: expected a multiple of 4, got {model.width}"
        yield Problem(("model", "width"), what)
    if model.kv_heads is not None and heads % model.kv_heads:
        yield Problem(("model", "kv_heads"), f"expected a divisor of heads ({heads}), got {model.kv_heads}")


def _stages(config: Config) -> Iterator[Problem]:
    model = config.model
    if not isinstance(model, ResNet):
        return
    if len(model.depths) != len(model.widths):
        what = f"expected one number for each of the {len(model.widths)} widths, got {len(model.depths)}"
        yield Problem(("model", "depths"), what)
    odd = [width for width in model.widths if width % model.groups]
    if model.norm == "group" and odd:
        what = f"expected a divisor of every width, got {model.groups}, which does not divide {odd[0]}"
        yield Problem(("model", "groups"), what)


def _order(config: Config) -> Iterator[Problem]:
    """The next token must not be read before it is predicted."""
    model = config.model
    if config.task.name != "language":
        return
    if isinstance(model, Transformer) and model.causal is False:
        what = "the task language predicts the next token, which a token must not attend to; write causal: true"
        yield Problem(("model", "causal"), what)
    if isinstance(model, Rnn) and model.bidirectional:
        what = "the task language predicts the next token, which must not be read before; write bidirectional: false"
        yield Problem(("model", "bidirectional"), what)


def _weights(config: Config) -> Iterator[Problem]:
    """The map of initial weights is a known one, and rules say what is transposed."""
    section = config.run.init_from
    if section is None or isinstance(section.map, dict):
        return
    if isinstance(section.map, str) and (what := unknown(section.map)):
        yield Problem(("run", "init_from", "map"), what)
    if section.transpose:
        what = "is for a map of patterns and names; rules have a transpose of their own, so remove it"
        yield Problem(("run", "init_from", "transpose"), what)


def _mesh(config: Config) -> Iterator[Problem]:
    """Devices along an axis that the model does not split would do each other's work."""
    sequence = config.parallel.mesh.sequence
    if sequence != 1 and not isinstance(config.model, Blocks | Conformer | Custom):
        what = f"{config.model.name} is not split over tokens, as transformers are; use fsdp or data in its place"
        yield Problem(("parallel", "mesh", "sequence"), what)


def _own_code(config: Config) -> Iterator[Problem]:
    for name in config.task.metrics or {}:
        if name in TASK_TABLE[config.task.name].figures:
            what = f"the task {config.task.name} has a metric of this name; give yours another one"
            yield Problem(("task", "metrics", name), what)
    if isinstance(config.model, Custom) and config.run.remat != "none":
        what = (
            "remat is for the models of jaxprop; wrap a block of yours in jax.checkpoint or nnx.remat, and remove this"
        )
        yield Problem(("run", "remat"), what)
    if isinstance(config.run.scan_layers, int) and not isinstance(config.model, Blocks | Conformer | Mlp):
        model = "a model of your own" if isinstance(config.model, Custom) else config.model.name
        what = f"{model} has no layers that jaxprop could take as a scan; remove this"
        yield Problem(("run", "scan_layers"), what)


def makes_chunks(config: Config) -> str | None:
    """Returns why logits cannot be made a stretch of tokens at a time, with the fix; None where they can."""
    if config.task.name not in ("language", "translate"):
        return f"the task {config.task.name} has no answer for each token, whose logits would be large; remove this"
    if isinstance(config.model, Custom):
        return "vocabulary_chunks is for the models of jaxprop, and yours hands out whole logits; remove this"
    if isinstance(config.task.loss, Custom):
        return "a loss of your own is given whole logits; remove this or task.loss"
    if config.task.metrics:
        return "a metric of your own is given whole logits; remove this or task.metrics"
    if config.task.teacher is not None:
        return "a teacher's logits are made whole; remove this or task.teacher"
    if config.precision.quantize is not None:
        return "the products of chunks are not quantized, as the head's is; remove this or precision.quantize"
    if config.parallel.mesh.sequence != 1:
        return "the tokens of a stretch would lie on one device; remove this or parallel.mesh.sequence"
    return None


def _vocabulary(config: Config) -> Iterator[Problem]:
    chunks = config.run.vocabulary_chunks
    if isinstance(chunks, int) and chunks > 1 and (what := makes_chunks(config)) is not None:
        yield Problem(("run", "vocabulary_chunks"), what)


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _fits_task,
    _pairs,
    _augmentation,
    _own_code,
    _arrays,
    _mixture,
    _table,
    _attention,
    _stages,
    _order,
    _weights,
    _mesh,
    _schedule,
    _base_model,
    _batches,
    _length,
    _rhythm,
    _evaluation,
    _stop,
    _responses,
    _vocabulary,
    *METHODS,
)
