"""What each task is: its losses, figures, data and models, entered once. Imports no jax.

The checks and the JSON Schema of a config, the opening of data, and the tasks themselves read this table; the functions
behind the names are in `jaxprop.losses.LOSSES`, `jaxprop.metrics.METRICS`, `jaxprop.data.READERS`,
`jaxprop.models.MODELS` and `jaxprop.tasks.TASKS`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple


class Figure(NamedTuple):
    """A figure of an evaluation.

    Args:
      better: whether smaller (min) or larger (max) is better.
      metric: its name in `jaxprop.metrics.METRICS`; None for the loss, and for what is derived from other figures.
    """

    better: Literal["min", "max"]
    metric: str | None = None


class TaskEntry(NamedTuple):
    """What belongs to a task.

    Args:
      summary: what is learned, for the schema.
      losses: names of the losses that fit; the first is the usual one.
      figures: what an evaluation reports, by name.
      data: names of the sources it can learn from.
      models: names of the built-in models that fit.
      divergence: how far outputs are from those of a teacher, by its name in `jaxprop.losses.DIVERGENCES`; None where
        the task cannot be learned from one.
    """

    summary: str
    losses: tuple[str, ...]
    figures: Mapping[str, Figure]
    data: tuple[str, ...]
    models: tuple[str, ...]
    divergence: Literal["softmax", "sigmoid", "squared"] | None = None


TASK_TABLE: dict[str, TaskEntry] = {
    "classify": TaskEntry(
        summary="one class for each example",
        losses=("softmax_cross_entropy",),
        figures={"loss": Figure("min"), "accuracy": Figure("max", "accuracy")},
        data=("digits", "reviews", "text", "arrays", "table", "images", "huggingface", "mixture", "random"),
        models=("mlp", "cnn", "resnet", "vit", "rnn", "transformer"),
        divergence="softmax",
    ),
    "multilabel": TaskEntry(
        summary="any number of classes for each example",
        losses=("sigmoid_cross_entropy",),
        figures={"loss": Figure("min"), "accuracy": Figure("max", "multilabel_accuracy")},
        data=("text", "arrays", "table", "images", "huggingface", "mixture"),
        models=("mlp", "cnn", "resnet", "vit", "rnn", "transformer"),
        divergence="sigmoid",
    ),
    "regress": TaskEntry(
        summary="numbers",
        losses=("squared_error", "huber"),
        figures={"loss": Figure("min"), "mean_absolute_error": Figure("min", "mean_absolute_error")},
        data=("text", "arrays", "table", "images", "huggingface", "mixture"),
        models=("mlp", "cnn", "resnet", "vit", "rnn", "transformer"),
        divergence="squared",
    ),
    "language": TaskEntry(
        summary="the next token",
        losses=("softmax_cross_entropy",),
        figures={
            "loss": Figure("min"),
            "accuracy": Figure("max", "accuracy"),
            "perplexity": Figure("min"),
            "bits_per_byte": Figure("min"),
        },
        data=("stdlib_text", "text", "pairs", "huggingface", "mixture", "random"),
        models=("rnn", "transformer"),
        divergence="softmax",
    ),
    "translate": TaskEntry(
        summary="a text for each text",
        losses=("softmax_cross_entropy",),
        figures={
            "loss": Figure("min"),
            "bleu": Figure("max"),
            "chrf": Figure("max"),
            "exact_match": Figure("max"),
            "accuracy": Figure("max", "accuracy"),
        },
        data=("pairs", "number_words", "mixture", "random"),
        models=("seq2seq_transformer", "seq2seq_rnn"),
    ),
    "detect": TaskEntry(
        summary="boxes with classes",
        losses=("focal_iou",),
        figures={"loss": Figure("min"), "map": Figure("max", "average_precision"), "map_50": Figure("max")},
        data=("digit_scenes", "coco", "mixture", "random"),
        models=("detector",),
    ),
    "transcribe": TaskEntry(
        summary="audio to text",
        losses=("ctc",),
        figures={
            "loss": Figure("min"),
            "wer": Figure("min"),
            "cer": Figure("min"),
            "infeasible": Figure("min", "infeasible"),
        },
        data=("speech", "tones", "espeak", "mixture", "random"),
        models=("conv_bilstm", "conformer"),
    ),
}


def tasks_for(source: str) -> list[str]:
    """Returns the tasks that can learn from a source of data.

    Example:
      >>> tasks_for("digits")
      ['classify']
    """
    return [name for name, entry in TASK_TABLE.items() if source in entry.data]


# Names of metrics of which more is better, where no task lists them.
MORE_IS_BETTER = re.compile(r"accuracy|precision|recall|score|f1|auc|bleu|chrf|exact|iou|map\b|r2|top_?\d")


def better(metric: str, task: str | None = None) -> Literal["min", "max"]:
    """Returns whether a smaller or a larger value of a metric is better.

    Args:
      metric: its name.
      task: the task whose figure it is; for a metric that it does not list, the name decides.

    Example:
      >>> better("accuracy", "classify"), better("loss"), better("my_recall")
      ('max', 'min', 'max')
    """
    entry = TASK_TABLE.get(task or "")
    if entry is not None and metric in entry.figures:
        return entry.figures[metric].better
    return "max" if MORE_IS_BETTER.search(metric) else "min"


def known_better(metric: str, task: str | None = None) -> Literal["min", "max"] | None:
    """Returns whether a smaller or a larger value of a metric is better; None for a name that no task has.

    Args:
      metric: its name.
      task: the task whose figures alone count; None where there is no task.

    Example:
      >>> known_better("accuracy"), known_better("loss", "regress"), known_better("f1")
      ('max', 'min', None)
    """
    entries = TASK_TABLE.values() if task is None else [TASK_TABLE[task]]
    return next((entry.figures[metric].better for entry in entries if metric in entry.figures), None)


def best_mode(config: Any) -> Literal["min", "max"]:
    """Returns whether the smallest or the largest value of `checkpoint.best` is the best one.

    Args:
      config: of `jaxprop train`, or the settings of `jaxprop.fit`, which have no task.
    """
    section, task = config.checkpoint, getattr(config, "task", None)
    return section.mode or better(section.best or "loss", task.name if task else None)


def untold_mode(metric: str, key: str) -> str:
    """Says that only the author of a metric knows whether more of it is better.

    Args:
      metric: its name.
      key: where that is said.

    Example:
      >>> untold_mode("f1", "checkpoint.mode")
      'whether a larger f1 is better only you know; add checkpoint.mode: max, or min'
    """
    return f"whether a larger {metric} is better only you know; add {key}: max, or min"


def main_metric(task: str | None, measured: Collection[str], best: str | None = None) -> str:
    """Returns the metric by which runs of a task are ranked.

    Args:
      task: its name, or None where it is not known.
      measured: the metrics of its evaluations.
      best: `checkpoint.best` of the configuration, which goes first.

    Returns:
      `best`, the first figure of the task besides the loss, or the loss.

    Example:
      >>> main_metric("classify", ["loss", "accuracy"]), main_metric("language", ["loss", "accuracy", "perplexity"])
      ('accuracy', 'loss')
    """
    entry = TASK_TABLE.get(task or "")
    if best is not None:
        return best
    if entry is not None and "perplexity" in entry.figures:
        return "loss"  # what perplexity says, too
    names = measured if entry is None else entry.figures
    return next((name for name in names if name != "loss" and name in measured), "loss")
